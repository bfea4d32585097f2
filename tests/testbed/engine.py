"""A KV mount of a test's own, which it may upgrade, move, disable and enable again."""

import secrets

from tests.testbed.api import ApiError
from tests.testbed.kube import EXTERNAL_SECRETS
from tests.testbed.place import Place
from tests.testbed.testbed import ESO_POLICY, ESO_RULES

RIGHTS = """
path "MOUNT/*" { capabilities = ["create", "list", "subscribe"] subscribe_event_types = ["*"] }
path "MOUNT/data/*" { capabilities = ["create", "update", "patch", "list", "subscribe"] subscribe_event_types = ["*"] }
path "MOUNT/subkeys/*" { capabilities = ["read"] }
path "MOUNT/metadata/*" { capabilities = ["patch", "list", "subscribe"] subscribe_event_types = ["*"] }
"""
SUBSCRIBED = ', "subscribe"] subscribe_event_types = ["*"]'
"""The part of RIGHTS that OpenBao refuses."""


class Engine:
    """A KV mount of the test's own, and vaultsync and external-secrets with rights there."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.name = f"kv-{secrets.token_hex(3)}"
        self.elsewhere = f"{self.name}-moved"
        self.api = place.vault.api
        rules = 'path "MOUNT/*" { capabilities = ["read", "list"] }'.replace("MOUNT", self.name)
        place.vault.policy(ESO_POLICY, ESO_RULES + rules)
        rights = RIGHTS if not place.testbed.options.is_openbao else RIGHTS.replace(SUBSCRIBED, "]")
        place.vault.policy(self.name, place.testbed.vault_policy + rights.replace("MOUNT", self.name))

    def enable(self, version: str) -> None:
        self.place.vault.mount(self.name, options={"version": version})

    def disable(self, name: str = "") -> None:
        self.api.request("DELETE", f"/v1/sys/mounts/{name or self.name}")

    def upgrade(self) -> None:
        self.api.request("POST", f"/v1/sys/mounts/{self.name}/tune", {"options": {"version": "2"}})
        self.place.vault.mount(self.name, options={"version": "2"})  # waits for it

    def move(self, source: str, target: str) -> None:
        moving = self.api.request("POST", "/v1/sys/remount", {"from": source, "to": target})["migration_id"]
        status = f"/v1/sys/remount/status/{moving}"
        self.place.wait_for(
            lambda: self.api.request("GET", status)["data"]["migration_info"]["status"] == "success",
            what=f"{source} is {target}",
        )

    def put_v1(self, path: str, **values: str) -> None:
        self.api.request("POST", f"/v1/{self.name}/{self.place.path(path)}", values)

    def put(self, path: str, **values: str) -> None:
        self.place.vault.put(self.place.path(path), self.name, **values)

    def keys(self, folder: str) -> list[str]:
        """The keys that KV v1 lists there."""
        found = self.api.find(f"/v1/{self.name}/{folder}?list=true")
        keys: list[str] = found["data"]["keys"] if found else []
        return keys

    def store(self, version: str) -> None:
        self.place.store("own", path=self.name, version=version)

    def store_says(self, version: str) -> None:
        change = {"spec": {"provider": {"vault": {"version": version}}}}
        self.place.kube.patch(EXTERNAL_SECRETS, "SecretStore", "own", change, self.place.name)

    def clean(self) -> None:
        """Removes the mount, and external-secrets' rights there."""
        for name in (self.name, self.elsewhere):
            try:
                self.disable(name)
            except ApiError as error:
                if error.status != 400:
                    raise
        self.place.vault.policy(ESO_POLICY, ESO_RULES)
