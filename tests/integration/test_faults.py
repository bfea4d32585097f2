"""Servers die, hang and return empty, and so does vaultsync: missed changes are caught up, no value is overwritten.

On its own testbeds, because other tests need their servers.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import POLICY
from tests.testbed.place import Place
from tests.testbed.servers import Server
from tests.testbed.testbed import Options, Testbed
from tests.testbed.vaultsync import VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
"""Seconds: the longest backoff of each part is some 10, external-secrets' store check 5; the machine may be busy."""
STOP_SECONDS = 5.0


@pytest.fixture(scope="module")
def testbed() -> Iterator[Testbed]:
    """Overrides the session's; this Vault keeps its data when it is killed."""
    with Testbed(Options(vault_storage="file")) as made:
        yield made


@contextmanager
def away(server: Server) -> Iterator[None]:
    """Kills the server, and starts it again afterwards."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Freezes the server: it keeps its connections and answers nothing."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def seed(place: Place, *names: str) -> dict[str, dict[str, str]]:
    """Creates ExternalSecrets that are seeded, waits for their Secrets and returns these."""
    for name in names:
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
    return {name: place.wait_for_secret(name, PATIENCE) for name in names}


def wait_for_healed(place: Place, name: str, old: dict[str, str], path: str | None = None) -> None:
    """Waits until the Secret has another value, the one that is in Vault now."""

    def is_healed() -> bool:
        found = place.secret(name)
        values = place.read(path or name) or {}
        return found is not None and found != old and values.get("password") == found["p"]

    place.wait_for(is_healed, PATIENCE, f"{name} is healed")


def wait_for_all(place: Place, name: str, data: dict[str, str]) -> dict[str, str]:
    """Waits until the Secret has exactly what Vault has: by the Secret's key, the property."""

    def is_all() -> bool:
        found, values = place.secret(name) or {}, place.read(name) or {}
        return found.keys() == data.keys() and found == {key: values.get(data[key]) for key in data}

    place.wait_for(is_all, PATIENCE, f"{name} has {sorted(data.values())}")
    return place.secret(name) or {}


def subscribed(process: VaultsyncProcess) -> int:
    return process.output().count("subscribed to Vault's event stream")


def settle(place: Place, process: VaultsyncProcess) -> None:
    """Waits until vaultsync receives all events, and has processed the reconnection."""
    place.wait_for(lambda: subscribed(process) > 0, PATIENCE)
    time.sleep(1)


def test_vault_is_killed_while_external_secrets_change(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    process = vaultsync()
    old = seed(place, "untouched", "changed", "removed", "deleted")
    mark = place.annotate("untouched", testing="mark")["metadata"]["annotations"]["force-sync"]
    with away(testbed.vault):
        place.wait_for(lambda: "no event stream from Vault" in process.output(), PATIENCE)
        place.external_secret("created", {"p": ("created", "password")}, annotations=SEED)
        refs = [{"secretKey": key, "remoteRef": {"key": place.path("changed"), "property": key}} for key in ("a", "b")]
        place.patch("changed", {"spec": {"data": refs}})
        place.external_secret("asked", {"p": ("asked", "password")})
        place.annotate("asked", create="true")
        place.delete("removed")
        place.wait_for(lambda: place.get("removed") is None, PATIENCE)
        time.sleep(1)
        assert process.alive
    place.vault.delete(place.path("deleted"))  # possibly before vaultsync receives events again
    place.vault.delete(place.path("removed"))
    place.wait_for_secret("created", PATIENCE)
    place.wait_for_secret("asked", PATIENCE)
    changed = wait_for_all(place, "changed", {"a": "a", "b": "b"})
    assert place.read("changed") == {**changed, "password": old["changed"]["p"]}
    wait_for_healed(place, "deleted", old["deleted"])
    assert place.secret("untouched") == old["untouched"]
    item = place.get("untouched")
    assert item is not None
    assert item["metadata"]["annotations"]["force-sync"] == mark
    assert place.read("removed") is None


def test_the_api_server_is_killed_while_vault_and_external_secrets_change(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    process = vaultsync()
    old = seed(place, "deleted", "written", "removed", "changed")
    with away(testbed.kube_apiserver):
        place.vault.delete(place.path("deleted"))
        place.put("written", password="a person's")
        place.wait_for(lambda: place.read("deleted"), PATIENCE, "known paths are healed in Vault in the meantime")
        place.wait_for(lambda: "waiting for the API server" in process.output(), PATIENCE)
    # possibly before vaultsync watches again
    place.delete("removed")
    place.vault.delete(place.path("removed"))
    place.external_secret("created", {"p": ("created", "password")}, annotations=SEED)
    refs = [{"secretKey": "p", "remoteRef": {"key": place.path("elsewhere"), "property": "password"}}]
    place.patch("changed", {"spec": {"data": refs}})
    place.wait_for_secret("created", PATIENCE)
    place.wait_for_secret("written", PATIENCE, p="a person's")
    wait_for_healed(place, "deleted", old["deleted"])
    wait_for_healed(place, "changed", old["changed"], "elsewhere")
    # once it watches again, deleted ExternalSecrets are not seeded
    place.wait_for(lambda: process.output().count("the API server answers again") >= 4, PATIENCE)
    before = place.version("removed")
    place.vault.delete_metadata(place.path("removed"))
    time.sleep(1)
    assert (place.read("removed"), place.version("removed"), before >= 1) == (None, 0, True)


def test_it_starts_while_vault_is_down_logs_it_and_recovers(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    process = vaultsync(start=False)
    with away(testbed.vault):
        place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
        process.start()
        place.wait_for(lambda: "no event stream from Vault" in process.output(), PATIENCE)
        process.wait_until_ready()
        time.sleep(1)
        lines = process.output().splitlines()
        assert sum("no event stream from Vault" in line for line in lines) == 1
        assert sum("no answer from Vault" in line for line in lines) <= 1
    place.wait_for_secret("app", PATIENCE)


def test_it_starts_while_kubernetes_is_down_logs_it_and_recovers(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    process = vaultsync(start=False)
    with away(testbed.kube_apiserver):
        process.start()
        place.wait_for(lambda: "waiting for Kubernetes" in process.output(), PATIENCE)
        assert process.health.answers("/livez")
        assert process.health.answers("/readyz", 503)
        time.sleep(1)
        assert process.output().count("waiting for Kubernetes") == 1
    place.wait_for(lambda: place.read("app"), PATIENCE)
    assert process.health.answers("/readyz")


def test_it_is_killed_between_the_write_in_vault_and_the_force_sync(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    """Of a deleted value: a new path or property needs an answer of the API server before it is created."""
    process = vaultsync()
    old = seed(place, "app")["app"]
    time.sleep(1)
    testbed.kube_apiserver.freeze()
    place.vault.delete(place.path("app"))
    try:
        place.wait_for(lambda: "password" in (place.read("app") or {}), PATIENCE, "the value is in Vault")
        time.sleep(0.5)  # now the force-sync hangs
        process.kill()
    finally:
        testbed.kube_apiserver.thaw()
    value = place.read("app")
    time.sleep(1)
    process.start()
    wait_for_healed(place, "app", old)
    assert place.read("app") == value
    place.wait_for(lambda: place.ready("app") == ("True", "SecretSynced"), PATIENCE)


def test_an_operator_who_writes_first_wins(place: Place, vaultsync: VaultsyncFactory, testbed: Testbed) -> None:
    """The value is written while vaultsync waits for the response to its read, or right after it."""
    process = vaultsync()
    settle(place, process)
    names = [f"app{number}" for number in range(8)]
    with frozen(testbed.vault), ThreadPoolExecutor(len(names)) as pool:
        for name in names:
            place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
        writes = [pool.submit(place.put, name, password="a person's") for name in names]
        time.sleep(1)
        testbed.vault.thaw()
        for write in writes:
            write.result()
    for name in names:
        place.wait_for_secret(name, PATIENCE, p="a person's")
        assert place.read(name) == {"password": "a person's"}


def test_a_write_without_check_and_set_is_not_overwritten(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    names = [f"app{number}" for number in range(20)]

    def person(name: str) -> None:
        """Overwrites any value; does not contain the key that vaultsync adds."""
        place.put(name, user="a person's")

    def create(name: str) -> None:
        data = {"p": (name, "password"), "u": (name, "user")}
        place.external_secret(name, data, annotations=SEED)

    with ThreadPoolExecutor(8) as pool:
        for first, second in zip(names[::2], names[1::2], strict=True):
            tasks: list[tuple[Callable[[str], None], str]] = [
                (create, first),
                (person, first),
                (person, second),
                (create, second),
            ]
            for task, name in tasks:
                pool.submit(task, name)
    for name in names:
        place.wait_for_secret(name, PATIENCE, u="a person's")
        assert wait_for_all(place, name, {"p": "password", "u": "user"})["u"] == "a person's"


def test_it_recovers_from_a_killed_external_secrets(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    vaultsync()
    old = seed(place, "deleted", "written")
    assert testbed.eso is not None
    with away(testbed.eso):
        place.external_secret("created", {"p": ("created", "password")}, annotations=SEED)
        place.vault.delete(place.path("deleted"))
        place.put("written", password="a person's")
        place.wait_for(lambda: place.read("created") and place.read("deleted"), PATIENCE)
        time.sleep(1)
        assert place.secret("written") == old["written"]
    place.wait_for_secret("created", PATIENCE)
    place.wait_for_secret("written", PATIENCE, p="a person's")
    wait_for_healed(place, "deleted", old["deleted"])


def test_a_silent_vault_counts_as_lost_and_recovers(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
) -> None:
    process = vaultsync()
    old = seed(place, "deleted", "written")
    settle(place, process)
    with frozen(testbed.vault):
        place.wait_for(lambda: "no event stream from Vault" in process.output(), PATIENCE)
        place.external_secret("created", {"p": ("created", "password")}, annotations=SEED)
    place.vault.delete(place.path("deleted"))
    place.put("written", password="a person's")
    place.wait_for_secret("created", PATIENCE)
    place.wait_for_secret("written", PATIENCE, p="a person's")
    wait_for_healed(place, "deleted", old["deleted"])
    place.wait_for(lambda: subscribed(process) >= 2, PATIENCE)


def test_sigterm_stops_it_while_vault_hangs(place: Place, vaultsync: VaultsyncFactory, testbed: Testbed) -> None:
    process = vaultsync()
    settle(place, process)
    with frozen(testbed.vault):
        for number in range(20):
            place.external_secret(f"app{number}", {"p": (f"app{number}", "password")}, annotations=SEED)
        time.sleep(1)
        assert process.stop(STOP_SECONDS) == 0


def test_sigterm_stops_it_while_kubernetes_hangs(place: Place, vaultsync: VaultsyncFactory, testbed: Testbed) -> None:
    process = vaultsync()
    seed(place, "app")
    settle(place, process)
    with frozen(testbed.kube_apiserver):
        place.put("app", password="a person's")
        time.sleep(1)
        assert process.stop(STOP_SECONDS) == 0


def test_a_revoked_token_is_reported_and_recovers_with_a_new_token(place: Place, vaultsync: VaultsyncFactory) -> None:
    token = f"token-{place.name}"
    place.vault.token([POLICY], token)
    process = vaultsync({"VAULT_TOKEN": token})
    old = seed(place, "deleted", "written")
    settle(place, process)
    place.vault.revoke(token)
    place.external_secret("created", {"p": ("created", "password")}, annotations=SEED)
    said = f"Vault returned 403: permission denied on secret/subkeys/{place.path('created')}"
    place.wait_for(lambda: ("SeedFailed", said) in place.events("created", "vaultsync"), PATIENCE)
    place.vault.token([POLICY], token)
    place.put("written", password="a person's")
    place.vault.delete(place.path("deleted"))
    place.wait_for_secret("created", 2 * PATIENCE)
    place.wait_for_secret("written", 2 * PATIENCE, p="a person's")
    wait_for_healed(place, "deleted", old["deleted"])
    assert token not in process.output()


class TestVaultComesBackEmpty:
    @pytest.fixture(scope="class")
    @classmethod
    def testbed(cls) -> Iterator[Testbed]:
        """A Vault in memory."""
        with Testbed() as made:
            yield made

    def test_deletions_while_vaultsync_is_stopped_are_healed(
        self, place: Place, vaultsync: VaultsyncFactory, testbed: Testbed
    ) -> None:
        process = vaultsync()
        old = seed(place, "app", "other")
        settle(place, process)
        process.kill()
        testbed.no_audit_to(process.audit_name)  # Vault enables an audit device only if its address is listening
        testbed.restart_vault_empty()
        process.start()
        for name in ("app", "other"):
            wait_for_healed(place, name, old[name])
