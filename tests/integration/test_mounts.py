"""A KV mount in use is upgraded, moved, or disabled and enabled again, with each source of changes."""

import asyncio
import time
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from tests.integration.test_healing import SEED, another
from tests.testbed.engine import Engine
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.config.auth import AuthConfig
from vaultsync.core.errors import WriteConflict
from vaultsync.core.paths import VaultPath
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.transport import VaultAccess

QUICKLY = 3.0
"""Seconds from a write to the Secret; 0.1 to 0.3 s are usual, plus the poll's interval of 1 s if that is the source."""
FOUND = 45.0
"""Seconds until a change without a KV event is found: by the poll, an audit entry, or a resync every 10 s."""


@pytest.fixture
def process(source: str, engine: Engine, vaultsync: VaultsyncFactory) -> VaultsyncProcess:
    env = {"VAULTSYNC_SOURCE": source, "VAULTSYNC_POLL_INTERVAL": "1s"}
    if source == "events":  # which reports only changes of KV
        env["VAULTSYNC_RESYNC"] = "10s"
    token = engine.place.vault.token([engine.name])
    made = vaultsync({**env, "VAULT_TOKEN": token}, audit=source == "audit")
    made.wait_until_ready()
    return made


def seeded(engine: Engine) -> dict[str, str]:
    """Creates a KV v2 mount with an ExternalSecret's value; returns the values of its Secret."""
    engine.enable("2")
    engine.store("v2")
    engine.place.external_secret("app", {"p": ("app", "p")}, annotations=SEED, store="own")
    return engine.place.wait_for_secret("app")


def arrives_quickly(engine: Engine, name: str, value: str, *, v1: bool = False) -> None:
    started = time.monotonic()
    (engine.put_v1 if v1 else engine.put)(name, p=value)
    engine.place.wait_for_secret(name, p=value)
    took = time.monotonic() - started
    print(f"{name}={value}: {took:.2f} s")
    assert took < QUICKLY


def test_a_mount_that_is_upgraded_is_read_in_its_new_version(
    place: Place, source: str, engine: Engine, process: VaultsyncProcess
) -> None:
    engine.enable("1")
    engine.store("v1")
    engine.put_v1("app", p="0")
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED, store="own")
    place.wait_for_secret("app", p="0")
    if source != "poll":  # which detects no new value in KV v1
        arrives_quickly(engine, "app", "1", v1=True)
    engine.upgrade()
    if source != "events":
        place.wait_until_reported(
            "app", "the store says version v1", "set the store's spec.provider.vault.version to v2"
        )
    engine.store_says("v2")
    # external-secrets uses the changed store only after a force-sync
    arrives_quickly(engine, "app", "2")
    arrives_quickly(engine, "app", "3")
    place.vault.delete(place.path("app"), engine.name)
    place.wait_for(lambda: another(place, "app", {"p": "3"}), FOUND)


def test_a_moved_mount_is_reported_missing_and_found_again(
    place: Place, source: str, engine: Engine, process: VaultsyncProcess
) -> None:
    seeded(engine)
    engine.move(engine.name, engine.elsewhere)
    place.wait_for(lambda: "route entry not found" in place.annotations("app").get("vaultsync.io/message", ""), FOUND)
    place.vault.put(place.path("app"), engine.elsewhere, p="while it was away")
    engine.move(engine.elsewhere, engine.name)
    place.wait_for_secret("app", FOUND, p="while it was away")
    arrives_quickly(engine, "app", "after")
    assert place.version("app", engine.name) == 3, "nothing was created in between"


def approve(place: Place) -> None:
    """Annotates the ExternalSecret, so that lost values are created again."""
    place.annotate("app", **{"vaultsync.io/heal-lost": datetime.now(UTC).isoformat()})


def test_a_mount_that_is_enabled_again_is_seeded_again_after_an_approval(
    place: Place, source: str, engine: Engine, process: VaultsyncProcess
) -> None:
    first = seeded(engine)
    engine.disable()
    engine.enable("2")
    message = "Vault reports no deletion"
    place.wait_for(lambda: message in place.annotations("app").get("vaultsync.io/message", ""), FOUND)
    assert place.secret("app") == first
    approve(place)
    place.wait_for(lambda: another(place, "app", first), FOUND)
    arrives_quickly(engine, "app", "after")


def test_in_a_mount_enabled_again_as_v1_nothing_is_created_with_the_v2_api(
    place: Place, source: str, engine: Engine, process: VaultsyncProcess
) -> None:
    seeded(engine)
    engine.disable()
    engine.enable("1")
    words = ("the store says version v2", "set the store's spec.provider.vault.version to v1")
    place.wait_for(
        lambda: all(word in place.annotations("app").get("vaultsync.io/message", "") for word in words), FOUND
    )
    assert engine.keys("") == [], "KV v1 accepts a v2 creation as an unreadable secret"
    time.sleep(
        1.1
    )  # in whole seconds, the store is changed after external-secrets' last refresh: its path is a new one
    engine.store_says("v1")
    place.wait_for(lambda: engine.keys(place.name) == ["app"], FOUND)
    engine.store_says("v2")
    engine.disable()
    engine.enable("2")
    approve(place)
    place.wait_for(lambda: place.version("app", engine.name) == 1, FOUND)


def test_a_mount_that_becomes_v1_between_the_read_and_the_write_receives_nothing(engine: Engine) -> None:
    """A Vault administrator's script does so in 10 ms, and KV v1 accepts the write, as a secret of another name."""
    token = engine.place.vault.token([engine.name])
    path = VaultPath("", f"{engine.name}/data/{engine.place.path('app')}")

    async def write() -> None:
        login = Login(VaultAccess(engine.place.testbed.vault.address), AuthConfig(token=SecretStr(token)))
        client = VaultClient(login)
        try:
            engine.enable("2")
            state = await client.look(path, 2)
            engine.disable()
            engine.enable("1")
            with pytest.raises(WriteConflict, match="another mount now, or in one of another version"):
                await client.create(path, state, {"p": SecretStr("new")})
        finally:
            await client.close()
            await login.close()

    asyncio.run(write())
    assert engine.keys("") == []


def test_a_v1_value_at_a_v2_path_is_reported(
    place: Place, source: str, engine: Engine, process: VaultsyncProcess
) -> None:
    """A client that assumed KV v2 wrote there. The developer's store is wrong in any case."""
    engine.enable("1")
    engine.store("v2")
    engine.api.request("POST", f"/v1/{engine.name}/data/{place.path('app')}", {"data": {"p": "0"}})
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED, store="own")
    place.wait_until_reported("app", "the store says version v2", "set the store's spec.provider.vault.version to v1")
