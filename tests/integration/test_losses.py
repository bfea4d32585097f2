"""Values that existed and are lost: a mount enabled again, storage restored. The last copies must not be replaced."""

import time
from collections.abc import Iterator

import pytest

from tests.integration.test_healing import SEED
from tests.integration.test_mounts import Engine
from tests.testbed.api import ApiError
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import ESO_POLICY, ESO_RULES
from tests.testbed.vaultsync import VaultsyncProcess

MANY = 30
FOUND = 45.0


@pytest.fixture(params=["events", "audit", "poll"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    made = Engine(place)
    yield made
    try:
        made.disable()
    except ApiError as error:
        if error.status != 400:
            raise
    place.vault.policy(ESO_POLICY, ESO_RULES)


def start(engine: Engine, vaultsync: VaultsyncFactory, source: str) -> VaultsyncProcess:
    env = {"VAULTSYNC_SOURCE": source, "VAULTSYNC_POLL_INTERVAL": "1s", "VAULTSYNC_RESYNC": "10s"}
    made = vaultsync({**env, "VAULT_TOKEN": engine.place.vault.token([engine.name])}, audit=source == "audit")
    made.wait_until_ready()
    return made


def seeded(engine: Engine, number: int) -> dict[str, dict[str, str]]:
    engine.enable("2")
    engine.store("v2")
    names = [f"app{i}" for i in range(number)]
    for name in names:
        engine.place.external_secret(name, {"p": (name, "p")}, annotations=SEED, store="own")
    return {name: engine.place.wait_for_secret(name) for name in names}


def values(engine: Engine, names: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: engine.place.wait_for_secret(name) for name in names}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_mount_that_is_enabled_again_is_not_filled_with_new_values(
    place: Place, source: str, restarted: bool, engine: Engine, vaultsync: VaultsyncFactory
) -> None:
    process = start(engine, vaultsync, source)
    before = seeded(engine, MANY)
    if restarted:
        process.stop()
    engine.disable()
    engine.enable("2")
    if restarted:
        start(engine, vaultsync, source)
    for name in before:
        place.wait_until_reported(
            name, "Vault reports no deletion", f"{MANY} paths of the mount {engine.name}/", "heal-lost"
        )
    time.sleep(3)
    assert values(engine, before) == before
    assert engine.keys("metadata") == []
