"""Losses that a restored snapshot or an empty storage causes, on each server; other cases of losses on today's servers.

test_losses.py and test_owners.py have these other cases on the session's Vault.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_healing import SEED, another
from tests.integration.test_losses import (
    FOUND,
    RECOVERY,
    force_syncs,
    test_a_mount_that_is_enabled_again_is_not_filled_with_new_values,
)
from tests.integration.test_owners import (
    pushing,
    test_a_deleted_path_of_a_push_secret_is_left_to_it,
    test_a_push_secret_that_comes_later_is_reported_with_the_command_that_hands_the_path_over,
    test_a_value_that_expires_is_announced_and_not_replaced_again_and_again,
    test_nothing_is_created_for_a_namespace_that_is_being_deleted,
)
from tests.manual import adapted, commands, run, section
from tests.testbed.fixtures import VaultsyncFactory, stopped_in_the_end
from tests.testbed.place import Place
from tests.testbed.testbed import Options, Testbed, Vaults
from tests.testbed.vaultsync import VaultsyncProcess

# collected here too, and run with the fixtures of this file
__all__ = [
    "pushing",
    "test_a_deleted_path_of_a_push_secret_is_left_to_it",
    "test_a_mount_that_is_enabled_again_is_not_filled_with_new_values",
    "test_a_push_secret_that_comes_later_is_reported_with_the_command_that_hands_the_path_over",
    "test_a_value_that_expires_is_announced_and_not_replaced_again_and_again",
    "test_nothing_is_created_for_a_namespace_that_is_being_deleted",
]

LOST = 12
"""More than may be created again without an approval."""


@dataclass(frozen=True, slots=True)
class Case:
    """One source on one server with the storage raft.

    Attributes:
        where: a value's lifetime is set.
    """

    vault: Vaults
    source: str
    where: str = ""


TODAY = {
    "vault-1.21-audit": Case("1.21", "audit", where="metadata"),
    "openbao-audit": Case("openbao", "audit", where="config"),
}
CASES = {**TODAY, "vault-1.21-poll": Case("1.21", "poll"), "vault-1.15-events": Case("1.15", "events")}

on_each = pytest.mark.parametrize("case", CASES, indirect=True)


@pytest.fixture(scope="module", params=TODAY)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def testbed(case: Case, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    if case.vault == "1.21":
        yield request.getfixturevalue("todays_vault")
        return
    with Testbed(Options(vault=case.vault, vault_storage="raft")) as made:
        yield made


@pytest.fixture
def source(case: Case) -> str:
    return case.source


@pytest.fixture
def where(case: Case) -> str:
    return case.where


@pytest.fixture
def vaultsync(case: Case, testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[VaultsyncFactory]:
    env = {"VAULTSYNC_SOURCE": case.source, "VAULTSYNC_POLL_INTERVAL": "1s", "VAULTSYNC_RESYNC": "10s"}
    yield from stopped_in_the_end(VaultsyncFactory(testbed, env, audit=case.source == "audit"), request)


def seeded(place: Place, *names: str) -> dict[str, dict[str, str]]:
    for name in names:
        place.external_secret(name, {"p": (name, "p")}, annotations=SEED)
    return {name: place.wait_for_secret(name) for name in names}


def kept(place: Place, process: VaultsyncProcess, lost: dict[str, dict[str, str]], number: int) -> None:
    """All are reported as lost, and external-secrets does not read them again; `number` paths are lost in all."""
    synced = force_syncs(place, lost)
    for name in lost:
        place.wait_for(lambda name=name: is_held(place, name), FOUND, f"{name} is held")  # type: ignore[misc]
    time.sleep(2)
    assert {name: place.secret(name) for name in lost} == lost
    assert {name: place.read(name) for name in lost} == dict.fromkeys(lost)
    assert force_syncs(place, lost) == synced, "a refresh could delete the last copies"
    told = place.annotations(next(iter(lost)))
    assert told["vaultsync.io/created"] == "False NotHealed"
    assert f"{number} paths of the mount secret/" in told["vaultsync.io/message"]
    place.wait_for(lambda: any(reason == "NotHealed" for reason, _ in place.events(next(iter(lost)), "vaultsync")))
    assert f"values are lost in secret/ ({number} paths)" in process.health.text("/readyz")


def is_held(place: Place, name: str) -> bool:
    return "Vault reports no deletion" in place.annotations(name).get("vaultsync.io/message", "")


def created_after_an_approval(place: Place, process: VaultsyncProcess, lost: dict[str, dict[str, str]]) -> None:
    [approve] = commands(section("Have new values created", RECOVERY))
    run(place.testbed, adapted(approve, {"--all": place.name}))
    for name, before in lost.items():
        place.wait_for(lambda name=name, before=before: another(place, name, before), FOUND)  # type: ignore[misc]
        place.wait_until_healthy(name, FOUND)
    place.wait_for(lambda: "healing" not in process.health.text("/readyz"))


@on_each
def test_values_that_are_newer_than_a_restored_snapshot_are_kept_in_kubernetes(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    """The snapshot has a deleted version of one of them: Vault's report of that deletion is older than the value."""
    process = vaultsync()
    process.wait_until_ready()
    older = seeded(place, "older")["older"]
    place.put("deleted", p="a person's")
    place.vault.delete(place.path("deleted"))
    snapshot = place.vault.snapshot()
    newer = seeded(place, "deleted", *(f"app{number}" for number in range(LOST)))
    place.put("older", p="newer")
    place.wait_for_secret("older", p="newer")
    place.vault.restore(snapshot)
    kept(place, process, newer, LOST + 1)
    place.wait_for_secret("older", p=older["p"])
    created_after_an_approval(place, process, newer)
    assert place.read("older") == older


@pytest.mark.parametrize("case", ["vault-1.21-audit"], indirect=True)
def test_a_snapshot_that_is_restored_while_vaultsync_is_stopped_is_recognised(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    """The next process knows from the ExternalSecrets that there was a newer version than the deleted one."""
    process = vaultsync()
    process.wait_until_ready()
    place.put("deleted", p="a person's")
    place.vault.delete(place.path("deleted"))
    snapshot = place.vault.snapshot()
    lost = seeded(place, "deleted", *(f"app{number}" for number in range(LOST)))
    for name in lost:
        place.wait_until_healthy(name)
    process.stop()
    place.vault.restore(snapshot)
    place.wait_for(lambda: place.version("deleted") == 1, FOUND, "the snapshot is restored")
    kept(place, vaultsync(), lost, LOST + 1)


@on_each
def test_values_are_kept_in_kubernetes_when_vault_has_lost_its_storage(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    """One lost path is below the limit: the mounts' new UUIDs show that their values are not deleted.

    A path that nobody has vaultsync create is not counted.
    """
    process = vaultsync()
    process.wait_until_ready()
    lost = seeded(place, "app")
    place.put("theirs", p="a person's")
    place.external_secret("theirs", {"p": ("theirs", "p")})
    place.wait_for_secret("theirs")
    place.testbed.restart_vault_empty()
    kept(place, process, lost, 1)
    assert place.secret("theirs") == {"p": "a person's"}
    assert place.read("theirs") is None
    place.put("theirs", p="again")
    created_after_an_approval(place, process, lost)
    place.wait_for_secret("theirs", p="again")
