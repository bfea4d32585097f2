"""The response to a write is lost after Vault has applied it: vaultsync still owns the value."""

import json
import time
from collections.abc import Callable

import pytest

from tests.integration.test_network import over, to_vault
from tests.integration.test_rotation import annotate, changed, logged, marked, metadata
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.proxy import Fault, Proxy
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

__all__ = ["to_vault"]

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
QUIET_SECONDS = 5.0
LATE_SECONDS = 0.45
CREATION, ROTATION, MARK = b"POST /v1/secret/data/", b"PATCH /v1/secret/data/", b"PATCH /v1/secret/metadata/"


def ask(place: Place, *names: str) -> None:
    for name in names:
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)


def confirmed(process: VaultsyncProcess, message: str) -> int:
    """How many writes were confirmed by a read."""
    lines = (json.loads(line) for line in process.output().splitlines() if '"confirmed"' in line)
    return sum(line["message"] == message for line in lines)


def read_of(place: Place, testbed: Testbed, path: str) -> Callable[[], bool]:
    """Whether the path has been read in Vault since."""
    log = testbed.work / "logs" / "audit.log"
    line = f'"path":"secret/subkeys/{place.path(path)}"'.encode()
    before = log.read_bytes().count(line)
    return lambda: log.read_bytes().count(line) > before


def test_a_creation_is_reported_marked_and_rotated_on_request(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    process = vaultsync(over(to_vault, testbed))
    process.wait_until_ready(PATIENCE)
    to_vault.set(Fault(lost=CREATION))
    names = [f"app{number}" for number in range(5)]
    ask(place, *names)
    first = {name: place.wait_for_secret(name, PATIENCE) for name in names}
    place.wait_for(lambda: confirmed(process, "seeded") == len(names), PATIENCE)
    assert to_vault.lost == len(names)
    marked(place, *names)
    for name in names:
        annotate(place, name, rotate="now")
    for name in names:
        changed(place, name, first[name])
        assert place.version(name) == 2
        reasons = {event["reason"] for event in place.kube.events_of(name, place.name)}
        assert "Seeded" in reasons
    assert logged(process, "seeded") == len(names)


def test_a_rotation_is_done_once_and_the_next_one_is_done_too(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    process = vaultsync(over(to_vault, testbed))
    ask(place, "app")
    first = place.wait_for_secret("app", PATIENCE)
    marked(place, "app")
    to_vault.set(Fault(lost=ROTATION))
    annotate(place, "app", rotate="once")
    second = changed(place, "app", first)
    place.wait_for(lambda: confirmed(process, "rotated") == 1, PATIENCE)
    to_vault.heal()
    marked(place, "app")
    assert place.version("app") == 2
    annotate(place, "app", rotate="twice")
    changed(place, "app", second)
    marked(place, "app")
    assert place.version("app") == 3


def test_the_ownership_is_recorded_anyway(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    process = vaultsync(over(to_vault, testbed))
    process.wait_until_ready(PATIENCE)
    to_vault.set(Fault(lost=MARK))
    ask(place, "app")
    first = place.wait_for_secret("app", PATIENCE)
    marked(place, "app")
    assert to_vault.lost >= 1
    to_vault.heal()
    annotate(place, "app", rotate="now")
    changed(place, "app", first)
    marked(place, "app")
    assert place.version("app") == 2
    assert process.stop() == 0


def test_a_write_that_times_out_in_a_frozen_vault_is_recorded_as_its_own(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    """Vault may apply the request later, or drop it and apply the next attempt: tests/unit covers both."""
    process = vaultsync({**over(to_vault, testbed), "VAULTSYNC_VAULT_TIMEOUT": "1s"})
    process.wait_until_ready(PATIENCE)
    to_vault.set(Fault(latency=LATE_SECONDS))
    was_read = read_of(place, testbed, "app")
    ask(place, "app")
    place.wait_for(was_read, PATIENCE)
    time.sleep(LATE_SECONDS + 0.1)  # it has the response, and has sent the write
    testbed.vault.freeze()
    try:
        process.wait_until(lambda: "no answer from Vault" in process.output(), PATIENCE)
    finally:
        testbed.vault.thaw()
    to_vault.heal()
    first = place.wait_for_secret("app", PATIENCE)
    marked(place, "app")
    print(f"confirmed by a read: {confirmed(process, 'seeded')}")
    assert place.version("app") == 1
    annotate(place, "app", rotate="now")
    changed(place, "app", first)


@pytest.mark.parametrize("values", [{"password": "theirs", "user": "theirs"}, {"passwort": "theirs"}])
def test_a_value_that_an_operator_wrote_first_is_the_operators(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy, values: dict[str, str]
) -> None:
    """Vault refuses vaultsync's write, and that response is lost."""
    process = vaultsync(over(to_vault, testbed))
    process.wait_until_ready(PATIENCE)
    to_vault.set(Fault(latency=LATE_SECONDS, lost=CREATION))
    was_read = read_of(place, testbed, "app")
    ask(place, "app")
    place.wait_for(was_read, PATIENCE)
    place.put("app", **values)
    place.wait_for(lambda: to_vault.lost == 1, PATIENCE)
    to_vault.heal()
    place.wait_for(lambda: place.secret("app"), PATIENCE) if "password" in values else None
    annotate(place, "app", rotate="now")
    time.sleep(QUIET_SECONDS)
    assert (place.read("app") or {}).items() >= values.items()
    assert confirmed(process, "seeded") == 0
    assert metadata(place, "app").get("managed-by") is None


def test_a_value_that_an_operator_wrote_since_is_the_operators(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    """Vault has applied vaultsync's write, and the operator's after it."""
    process = vaultsync(over(to_vault, testbed))
    process.wait_until_ready(PATIENCE)
    to_vault.set(Fault(latency=LATE_SECONDS, lost=CREATION))
    ask(place, "app")
    place.wait_for(lambda: place.version("app") == 1, PATIENCE)
    place.put("app", password="theirs")
    place.wait_for_secret("app", PATIENCE, p="theirs")
    to_vault.heal()
    annotate(place, "app", rotate="now")
    time.sleep(QUIET_SECONDS)
    assert (place.version("app"), place.read("app")) == (2, {"password": "theirs"})
    assert confirmed(process, "seeded") == 0
    assert metadata(place, "app") == {}
