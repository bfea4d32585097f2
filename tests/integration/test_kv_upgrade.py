"""A KV mount is upgraded to version 2 while vaultsync uses it: Vault answers 400, or 404 with a warning."""

import secrets
from concurrent.futures import ThreadPoolExecutor

from tests.testbed.api import Api
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.kube import EXTERNAL_SECRETS
from tests.testbed.place import Place
from tests.testbed.testbed import ESO_POLICY, ESO_RULES, Testbed

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
ENTRIES = 8000
READERS = 6
THREADS = 8


def test_external_secrets_stay_ready_after_a_mount_was_upgraded(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    root, mount = testbed.vault_root, f"old-{secrets.token_hex(3)}"
    root.mount(mount, options={"version": "1"})
    rules = f'path "{mount}/*" {{ capabilities = ["create", "read", "update", "patch", "list"] }}\n'
    root.policy(ESO_POLICY, ESO_RULES + rules)
    root.policy("upgrade", testbed.vault_policy + rules)
    process = vaultsync({"VAULT_TOKEN": root.token(["upgrade"]), "VAULTSYNC_SEED_BUDGET": "0"})
    process.wait_until_ready()
    place.store("old", mount, "v1")
    place.external_secret("before", {"p": ("before", "p")}, annotations=SEED, store="old")
    place.wait_for_secret("before", PATIENCE)

    def put(number: int) -> None:
        root.api.request("POST", f"/v1/{mount}/many/{number}", {"p": "x" * 500})

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, range(ENTRIES)))
    for number in range(READERS):  # new ExternalSecrets replace the first ones, at the same paths
        place.external_secret(f"app{number}", {"p": (f"app{number}", "p")}, annotations=SEED, store="old")
        place.wait_for_secret(f"app{number}", PATIENCE)
    root.api.request("POST", f"/v1/sys/mounts/{mount}/tune", {"options": {"version": "2"}})
    change = {"spec": {"provider": {"vault": {"version": "v2"}}}}
    place.kube.patch(EXTERNAL_SECRETS, "SecretStore", "old", change, place.namespace)
    for number in range(READERS):
        place.external_secret(f"new{number}", {"p": (f"new{number}", "p")}, annotations=SEED, store="old")
    where = f"/v1/{mount}/subkeys/{place.path('before')}"
    place.wait_for(lambda: Api(root.api.address, {"X-Vault-Token": "root"}).answers(where), PATIENCE)
    for number in range(READERS):
        place.wait_for_secret(f"new{number}", PATIENCE)
        place.wait_until_healthy(f"new{number}", PATIENCE)
    for name in ("before", "app0"):
        place.wait_for(lambda name=name: not place.annotations(name)["vaultsync.io/created"].startswith("False"))  # type: ignore[misc]
    assert "Traceback" not in process.output()
