"""Faulty connections between vaultsync and its servers, one at a time; several at once are in tests/faults."""

import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.testbed.fast_lease import SILENCE
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import NAMESPACE
from tests.testbed.kube import EXTERNAL_SECRETS, path_of
from tests.testbed.place import Place
from tests.testbed.proxy import Fault, Proxy
from tests.testbed.servers import kubeconfig_text
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0
MANY = 100
THREADS = 8


@pytest.fixture
def to_vault(testbed: Testbed) -> Iterator[Proxy]:
    with Proxy(testbed.vault.port) as made:
        yield made


@pytest.fixture
def to_kube(testbed: Testbed) -> Iterator[Proxy]:
    with Proxy(testbed.kube_apiserver.port) as made:
        yield made


def over(proxy: Proxy, testbed: Testbed) -> dict[str, str]:
    """The settings with which vaultsync uses Vault through the proxy; stores have Vault's own address."""
    return {"VAULT_ADDR": f"http://127.0.0.1:{proxy.port}", "VAULTSYNC_STORE_SERVERS": testbed.vault.address}


def over_kube(proxy: Proxy, testbed: Testbed, folder: Path) -> dict[str, str]:
    """The same for the API server."""
    file, token = folder / "kubeconfig", testbed.identity.kubernetes_token
    ca = testbed.kube_apiserver.ca
    file.write_text(kubeconfig_text(f"https://127.0.0.1:{proxy.port}", ca, token, NAMESPACE))
    return {"KUBECONFIG": str(file)}


def ask(place: Place, *names: str) -> None:
    """Creates ExternalSecrets, each with a path of its own name."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: place.external_secret(name, {"p": (name, "p")}, annotations=SEED), names))


def wait_until_all(place: Place, *names: str) -> None:
    """Waits until Vault has a value for each, and its Secret has it."""
    left = set(names)

    def none_is_left() -> bool:
        left.difference_update(
            name for name in set(left) if (value := place.read(name)) and value == place.secret(name)
        )
        return not left

    place.wait_for(none_is_left, PATIENCE, "all values are created and delivered")


def test_with_a_slow_vault_a_hundred_are_seeded_once(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    vaultsync({**over(to_vault, testbed), "VAULTSYNC_SEED_BUDGET": "0"})
    to_vault.set(Fault(latency=0.2))
    names = [f"app{number}" for number in range(MANY)]
    ask(place, *names)
    wait_until_all(place, *names)
    assert {place.version(name) for name in names} == {1}


@pytest.mark.parametrize("write", ["POST", "PATCH"])
def test_when_the_response_to_a_write_is_lost_nothing_is_written_twice(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy, write: str
) -> None:
    """It cannot know whether Vault applied the write; the next read shows it."""
    process = vaultsync(over(to_vault, testbed))
    names = [f"app{number}" for number in range(5)]
    before = {"user": "a person's"} if write == "PATCH" else {}
    for name in names if before else ():
        place.put(name, **before)
    to_vault.set(Fault(lost=f"{write} /v1/secret/data/".encode()))
    ask(place, *names)
    place.wait_for(lambda: all("p" in (place.read(name) or {}) for name in names), PATIENCE)
    made = {name: place.read(name) for name in names}
    for name in names:
        place.wait_for_secret(name, PATIENCE, p=(made[name] or {})["p"])
    to_vault.heal()
    assert to_vault.lost == len(names)
    for name in names:
        place.vault.delete(place.path(name))  # an unconfirmed value is healed too
    place.wait_for(lambda: all(place.version(name) == (3 if before else 2) for name in names), PATIENCE)
    assert all((value or {}).items() >= before.items() for value in made.values())
    assert "Traceback" not in process.output()


def test_an_undeletion_while_the_response_is_in_flight_is_not_overwritten(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    """An undeletion creates no new version: check-and-set does not detect it."""
    vaultsync(over(to_vault, testbed))
    ask(place, "app")
    place.wait_for_secret("app", PATIENCE)
    value = place.read("app")
    log = testbed.work / "logs" / "audit.log"
    read = f'"path":"secret/subkeys/{place.path("app")}"'.encode()
    place.wait_for(lambda: read in log.read_bytes(), PATIENCE)
    time.sleep(1)  # the work after a seed is done
    before = log.read_bytes().count(read)
    to_vault.set(Fault(latency=1.5))
    place.vault.delete(place.path("app"))
    place.wait_for(
        lambda: log.read_bytes().count(read) >= before + 2, PATIENCE, "it has sent the read, and has no response yet"
    )
    place.vault.undelete(place.path("app"), [1])
    time.sleep(6)  # the response and the following work
    assert (place.version("app"), place.read("app")) == (1, value)
    to_vault.heal()
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: place.version("app") == 2, PATIENCE, "it is healed")


def test_a_half_open_connection_to_the_api_server_is_closed(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_kube: Proxy, tmp_path: Path
) -> None:
    """Its watches stay silent, and so do idle connections."""
    process = vaultsync(
        {**over_kube(to_kube, testbed, tmp_path), "VAULTSYNC_KUBE_TIMEOUT": "3s", SILENCE: "5"}, start=False
    )
    process.command = [sys.executable, "-m", "tests.testbed.fast_lease", "run"]
    process.start()
    process.wait_until_listening()
    testbed.audit_to(process.audit_name, process.audit_address)
    ask(place, "before")
    place.wait_for_secret("before", PATIENCE)
    to_kube.set(Fault(silent=True))
    place.put("before", p="a person's")
    ask(place, "meanwhile")
    process.wait_until(lambda: "waiting for the API server" in process.output(), PATIENCE, "aware of it")
    to_kube.heal()
    wait_until_all(place, "before", "meanwhile")
    assert place.read("before") == {"p": "a person's"}


def test_a_long_list_is_read_over_a_slow_connection(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_kube: Proxy, tmp_path: Path
) -> None:
    """A thousand ExternalSecrets with an incompressible kilobyte each, at 100 kB/s."""
    names = [f"other{number}" for number in range(1000)]

    def create(name: str) -> None:
        notes = {"notes": secrets.token_hex(1000)}
        place.external_secret(name, {"p": (name, "p")}, annotations=notes, store="none")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(create, names))
    ask(place, "app")
    to_kube.set(Fault(rate=100_000))
    process = vaultsync(over_kube(to_kube, testbed, tmp_path), start=False)
    process.start()
    process.wait_until_ready(PATIENCE)
    assert watched(process) >= len(names)
    to_kube.heal()
    place.wait_for_secret("app", PATIENCE)
    testbed.kube.api.request("DELETE", path_of(EXTERNAL_SECRETS, "ExternalSecret", None, place.namespace))


def watched(process: VaultsyncProcess) -> float:
    """How many ExternalSecrets are in its cache."""
    rows = process.health.text("/metrics").splitlines()
    return next(float(row.split()[1]) for row in rows if row.startswith("vaultsync_external_secrets "))
