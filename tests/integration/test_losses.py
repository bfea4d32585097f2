"""Values that existed and are lost: a mount enabled again, storage restored. The last copies must not be replaced."""

import time
from collections.abc import Iterable, Iterator

import pytest

from tests.integration.test_healing import SEED, another
from tests.integration.test_stopping import LEASE, LEASES
from tests.manual import DOCS, adapted, commands, run, section
from tests.testbed import pins
from tests.testbed.engine import Engine
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import NAMESPACE
from tests.testbed.place import Place
from tests.testbed.vaultsync import VaultsyncProcess

RECOVERY = (DOCS / "disaster-recovery.md").read_text()
MANY = 12
"""More than the default limit of 10."""
FOUND = 45.0


@pytest.fixture
def lease(place: Place) -> Iterator[str]:
    yield LEASE
    place.kube.delete(LEASES, "Lease", LEASE, NAMESPACE)


def start(engine: Engine, vaultsync: VaultsyncFactory, source: str) -> VaultsyncProcess:
    env = {"VAULTSYNC_SOURCE": source, "VAULTSYNC_POLL_INTERVAL": "1s", "VAULTSYNC_RESYNC": "10s"}
    made = vaultsync({**env, "VAULT_TOKEN": engine.place.vault.token([engine.name])}, audit=source == "audit")
    made.wait_until_ready()
    return made


def seeded(engine: Engine, number: int, deletion_policy: str = "Retain") -> dict[str, dict[str, str]]:
    engine.enable("2")
    engine.store("v2")
    names = [f"app{i}" for i in range(number)]
    target = {"deletionPolicy": deletion_policy}
    for name in names:
        engine.place.external_secret(name, {"p": (name, "p")}, annotations=SEED, store="own", target=target)
    return {name: engine.place.wait_for_secret(name) for name in names}


def force_syncs(place: Place, names: Iterable[str]) -> dict[str, str]:
    return {name: place.annotations(name).get("force-sync", "") for name in names}


def values(engine: Engine, names: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: engine.place.wait_for_secret(name) for name in names}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_mount_that_is_enabled_again_is_not_filled_with_new_values(
    place: Place, source: str, restarted: bool, engine: Engine, vaultsync: VaultsyncFactory
) -> None:
    process = start(engine, vaultsync, source)
    before = seeded(engine, MANY)
    synced = force_syncs(place, before)
    if restarted:
        process.stop()
    engine.disable()
    engine.enable("2")
    if restarted:
        start(engine, vaultsync, source)
    wait_until_held(engine, before)
    time.sleep(3)
    assert values(engine, before) == before
    assert force_syncs(place, before) == synced, "a refresh could delete the last copies"
    assert engine.keys("metadata") == []


def test_a_reported_loss_has_external_secrets_delete_no_secret(
    place: Place, engine: Engine, vaultsync: VaultsyncFactory
) -> None:
    """With the deletionPolicy Delete it does at its next read, and a changed annotation causes one."""
    start(engine, vaultsync, "poll")
    before = seeded(engine, MANY, "Delete")
    time.sleep(5)  # external-secrets reads each of them again, because of the report of its creation
    engine.disable()
    for name in before:
        place.wait_for(lambda name=name: "SeedFailed" in reasons(place, name), FOUND)  # type: ignore[misc]
    engine.enable("2")
    for name in before:
        place.wait_for(lambda name=name: "NotHealed" in reasons(place, name), FOUND)  # type: ignore[misc]
    time.sleep(3)
    assert {name: place.secret(name) for name in before} == before
    for name, data in before.items():
        place.put(name, engine.name, **data)
    time.sleep(3)
    assert values(engine, before) == before


def reasons(place: Place, name: str) -> list[str]:
    return [reason for reason, _ in place.events(name, "vaultsync")]


def wait_until_held(engine: Engine, names: Iterable[str]) -> None:
    for name in names:
        engine.place.wait_until_reported(
            name, "Vault reports no deletion", f"{MANY} paths of the mount {engine.name}/", "heal-lost", timeout=FOUND
        )


def test_the_last_good_values_are_restored_from_kubernetes_by_the_commands_of_the_manual(
    place: Place, engine: Engine, vaultsync: VaultsyncFactory
) -> None:
    start(engine, vaultsync, "audit")
    before = seeded(engine, MANY)
    engine.disable()
    engine.enable("2")
    wait_until_held(engine, before)
    [restore] = commands(section("Restore the last good values from Kubernetes", RECOVERY))
    here = {"MOUNT=secret": f"MOUNT={engine.name}", "-A ": f"-n {place.name} ", "jq -r": "gojq -r", "jq --": "gojq --"}
    run(place.testbed, adapted(restore, here), programs=[pins.GOJQ])
    for name in before:
        place.wait_until_healthy(name, FOUND)
    assert values(engine, before) == before
    place.vault.delete(place.path("app0"), engine.name)
    place.wait_for(lambda: another(place, "app0", before["app0"]), FOUND)


def test_an_approval_has_new_values_created(place: Place, engine: Engine, vaultsync: VaultsyncFactory) -> None:
    process = start(engine, vaultsync, "poll")
    before = seeded(engine, MANY)
    engine.disable()
    engine.enable("2")
    wait_until_held(engine, before)
    assert f"healing: stopped, as values are lost in {engine.name}/ ({MANY} paths)" in process.health.text("/readyz")
    advice = ("docs/disaster-recovery.md", "kubectl annotate --overwrite namespace NAMESPACE vaultsync.io/heal-lost=")
    for report in (process.health.text("/readyz"), place.annotations("app0")["vaultsync.io/message"], process.output()):
        assert all(words in report for words in advice)
    settings = {"VAULTSYNC_NAMESPACES": place.name, "VAULT_TOKEN": place.vault.token([engine.name])}
    plan = run(place.testbed, f"python -m vaultsync explain {place.name}/app0 || true", env=settings)
    assert f"{MANY} paths of the mount {engine.name}/" in plan
    failed = run(place.testbed, "python -m vaultsync check || true", env=settings)
    assert f"{MANY} paths of the mount {engine.name}/" in failed
    assert all(words in failed for words in advice)
    [approve] = commands(section("Have new values created", RECOVERY))
    run(place.testbed, adapted(approve, {"--all": place.name}))
    for name in before:
        place.wait_for(lambda name=name: another(place, name, before[name]), FOUND)  # type: ignore[misc]
        place.wait_until_healthy(name, FOUND)
    assert "healing" not in process.health.text("/readyz")


def test_a_few_lost_paths_are_created_again(place: Place, engine: Engine, vaultsync: VaultsyncFactory) -> None:
    start(engine, vaultsync, "poll")
    before = seeded(engine, 12)
    for name in list(before)[:3]:
        place.vault.delete_metadata(place.path(name), engine.name)
    for name in list(before)[:3]:
        place.wait_for(lambda name=name: another(place, name, before[name]), FOUND)  # type: ignore[misc]
    assert {name: place.version(name, engine.name) for name in before} == dict.fromkeys(before, 1)


@pytest.mark.parametrize("source", ["audit"])
def test_reported_deletions_are_healed_however_many_there_are(
    place: Place, source: str, engine: Engine, vaultsync: VaultsyncFactory
) -> None:
    start(engine, vaultsync, source)
    before = seeded(engine, MANY)
    for name in before:
        place.vault.delete_metadata(place.path(name), engine.name)
    for name in before:
        place.wait_for(lambda name=name: another(place, name, before[name]), FOUND)  # type: ignore[misc]


def test_another_mount_is_recognised_after_a_restart(
    place: Place, engine: Engine, vaultsync: VaultsyncFactory, lease: str
) -> None:
    """One lost path is below the limit: only the mount's UUID shows that something else is in its place."""
    env = {"VAULTSYNC_LEASE": f"{NAMESPACE}/{lease}", "VAULT_TOKEN": place.vault.token([engine.name])}
    process = vaultsync(env)
    process.wait_until_ready()
    before = seeded(engine, 1)

    def is_recorded() -> bool:
        found = place.kube.get(LEASES, "Lease", lease, NAMESPACE) or {}
        return f"{engine.name}/" in found["metadata"].get("annotations", {}).get("vaultsync.io/mounts", "")

    place.wait_for(is_recorded)
    process.stop()
    engine.disable()
    engine.enable("2")
    vaultsync(env).wait_until_ready()
    held = f"1 paths of the mount {engine.name}/"
    place.wait_until_reported("app0", "Vault reports no deletion", held)
    assert values(engine, before) == before
    settings = env | {"VAULTSYNC_NAMESPACES": place.name}
    assert held in run(place.testbed, f"python -m vaultsync explain {place.name}/app0 || true", env=settings)
    assert held in run(place.testbed, "python -m vaultsync check || true", env=settings)
