"""The testbed's root client for Vault: secrets at paths, policies, tokens, mounts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.testbed.api import Api, ApiError, Json
from tests.testbed.errors import ServerError

KV1_MOUNTS = ("kv1",)
TRIES, SETTLED_SECONDS = 10, 0.1
"""Vault revokes a token that a client uses just when it is created: then the token has no lease yet. After a restart
without data, running clients use the tokens with the old names."""


class VaultRoot:
    """Reads and writes as root. Methods on secrets take a path below a mount (`secret` unless another is named)."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def put(self, path: str, mount: str = "secret", **values: object) -> Json:
        """Writes a secret; in KV v2, a new version."""
        body = values if mount in KV1_MOUNTS else {"data": values}
        return self.api.request("POST", self._data(path, mount), body)

    def get(self, path: str, mount: str = "secret") -> Json | None:
        """The values of the latest version; None if it is missing or deleted."""
        found = self.api.find(self._data(path, mount))
        if found is None:
            return None
        values: Json | None = found["data"] if mount in KV1_MOUNTS else found["data"]["data"]
        return values

    def metadata(self, path: str, mount: str = "secret") -> Json | None:
        found = self.api.find(f"/v1/{mount}/metadata/{path}")
        return found["data"] if found else None

    def version(self, path: str, mount: str = "secret") -> int:
        """The number of the latest version, 0 if there is none."""
        found = self.metadata(path, mount)
        return int(found["current_version"]) if found else 0

    def delete(self, path: str, mount: str = "secret") -> None:
        """Like `vault kv delete`: in KV v2 the latest version can be undeleted."""
        self.api.request("DELETE", self._data(path, mount))

    def undelete(self, path: str, versions: Sequence[int], mount: str = "secret") -> None:
        self.api.request("PUT", f"/v1/{mount}/undelete/{path}", {"versions": list(versions)})

    def destroy(self, path: str, versions: Sequence[int], mount: str = "secret") -> None:
        self.api.request("PUT", f"/v1/{mount}/destroy/{path}", {"versions": list(versions)})

    def delete_metadata(self, path: str, mount: str = "secret") -> None:
        """Like `vault kv metadata delete`: removes all versions."""
        self.api.request("DELETE", f"/v1/{mount}/metadata/{path}")

    def names(self, path: str, mount: str = "secret") -> list[str]:
        folder = f"/v1/{mount}/{path}" if mount in KV1_MOUNTS else f"/v1/{mount}/metadata/{path}"
        found = self.api.find(folder.rstrip("/") + "?list=true")
        keys: list[str] = found["data"]["keys"] if found else []
        return keys

    def policy(self, name: str, text: str) -> None:
        self.api.request("PUT", f"/v1/sys/policies/acl/{name}", {"policy": text})

    def password_policy(self, name: str, text: str) -> None:
        self.api.request("PUT", f"/v1/sys/policies/password/{name}", {"policy": text})

    def token(
        self, policies: Sequence[str], token_id: str | None = None, *, period: str = "24h", default: bool = False
    ) -> str:
        """A token with exactly these policies; with a given id, an existing token is reused."""
        body: dict[str, Any] = {
            "policies": list(policies),
            "no_parent": True,
            "period": period,
            "no_default_policy": not default,
        }
        if not token_id:
            return self._create_token(body)
        for _ in range(TRIES):
            try:
                self._create_token({**body, "id": token_id})
            except ApiError as error:
                if "duplicate" not in error.body:
                    raise
            time.sleep(SETTLED_SECONDS)
            if self._knows(token_id):
                return token_id
        raise ServerError(f"Vault revoked the token {TRIES} times while it was created")

    def _knows(self, token: str) -> bool:
        try:
            self.api.request("POST", "/v1/auth/token/lookup", {"token": token})
        except ApiError as error:
            if error.status in (403, 404):
                return False
            raise
        return True

    def _create_token(self, body: Mapping[str, Any]) -> str:
        token: str = self.api.request("POST", "/v1/auth/token/create", body)["auth"]["client_token"]
        return token

    def revoke(self, token: str) -> None:
        self.api.request("POST", "/v1/auth/token/revoke", {"token": token})

    def audit(self, name: str, kind: str, **options: str) -> None:
        """Enables an audit device if it is not enabled; a socket device's other end must already listen."""
        if f"{name}/" not in self.api.request("GET", "/v1/sys/audit")["data"]:
            self.api.request("PUT", f"/v1/sys/audit/{name}", {"type": kind, "options": options})

    def unaudit(self, name: str) -> None:
        self.api.request("DELETE", f"/v1/sys/audit/{name}")

    def mount(self, path: str, kind: str = "kv", options: Mapping[str, str] | None = None) -> None:
        """Mounts an engine if nothing is mounted there, and waits until it accepts writes."""
        if f"{path}/" not in self.api.request("GET", "/v1/sys/mounts")["data"]:
            self.api.request("POST", f"/v1/sys/mounts/{path}", {"type": kind, "options": dict(options or {})})
        if (options or {}).get("version") == "2":
            self._wait_for_upgrade(path)

    def snapshot(self) -> bytes:
        """A snapshot of Vault's storage, which must be raft."""
        return self.api.send("GET", "/v1/sys/storage/raft/snapshot")

    def restore(self, snapshot: bytes) -> None:
        """Like `vault operator raft snapshot restore -force`; Vault may refuse requests for a moment afterwards."""
        self.api.send("POST", "/v1/sys/storage/raft/snapshot-force", snapshot)

    def _wait_for_upgrade(self, path: str) -> None:
        """A new KV v2 mount refuses requests for a moment while it "upgrades"."""
        for _ in range(500):
            if self.api.answers(f"/v1/{path}/config"):
                return
            time.sleep(0.01)
        raise ApiError("GET", f"/v1/{path}/config", 0, "the mount was not ready within 5 s")

    @staticmethod
    def _data(path: str, mount: str) -> str:
        return f"/v1/{mount}/{path}" if mount in KV1_MOUNTS else f"/v1/{mount}/data/{path}"
