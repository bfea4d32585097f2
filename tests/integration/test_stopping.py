"""Stopping: writes in flight are awaited and owned, in less than 5 s even if servers hang; and the exit by a bug."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from tests.integration.test_network import over, over_kube, to_kube, to_vault
from tests.integration.test_rotation import annotate, changed, logged, marked, metadata
from tests.testbed.broken import SECRET
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import NAMESPACE
from tests.testbed.place import Place
from tests.testbed.proxy import Fault, Proxy
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

__all__ = ["to_kube", "to_vault"]

SEED = {"vaultsync.io/seed": "true"}
LEASES = "coordination.k8s.io/v1"
LEASE = "vaultsync"
PATIENCE = 60.0
STOP_SECONDS = 5.0
LATE = Fault(latency=0.75)
"""Latency in each direction: a response takes 1.5 s."""


@pytest.fixture
def lease(testbed: Testbed) -> Iterator[str]:
    yield LEASE
    testbed.kube.delete(LEASES, "Lease", LEASE, NAMESPACE)


def holder(testbed: Testbed) -> str:
    """The holder of the Lease, "" if it is free."""
    found = testbed.kube.get(LEASES, "Lease", LEASE, NAMESPACE)
    assert found is not None
    return str(found["spec"].get("holderIdentity") or "")


def stopped(process: VaultsyncProcess, *, signals: int = 1) -> float:
    """Sends SIGTERM and waits for the end; returns the seconds that it took."""
    started = time.monotonic()
    for _ in range(signals):
        os.kill(process.pid, signal.SIGTERM if signals == 1 else signal.SIGINT)
        time.sleep(0.1 if signals > 1 else 0)
    code = process.wait(STOP_SECONDS + 5)
    took = time.monotonic() - started
    print(f"it took {took:.2f} s to stop")
    assert code == 0
    assert took < STOP_SECONDS
    assert "Traceback" not in process.output()
    return took


def ready(process: VaultsyncProcess) -> VaultsyncProcess:
    process.wait_until_ready(PATIENCE)
    process.wait_until(lambda: logged(process, "initial scan complete") > 0, PATIENCE)
    return process


@pytest.mark.parametrize("signals", [1, 3])
def test_a_create_in_flight_is_awaited_and_owned(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy, lease: str, signals: int
) -> None:
    """Also when the signal is sent repeatedly."""
    process = ready(vaultsync({**over(to_vault, testbed), "VAULTSYNC_LEASE": f"{NAMESPACE}/{lease}"}))
    to_vault.set(LATE)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for(lambda: place.version("app") == 1, PATIENCE)  # and the response is in flight
    assert not logged(process, "seeded")
    stopped(process, signals=signals)
    assert metadata(place, "app")["managed-by"] == "vaultsync"
    assert metadata(place, "app")["vaultsync-version"].startswith("1@")
    assert holder(testbed) == ""
    to_vault.heal()
    vaultsync()
    first = place.wait_for_secret("app", PATIENCE)
    annotate(place, "app", rotate="now")
    changed(place, "app", first)
    assert place.version("app") == 2


def test_a_rotation_in_flight_is_awaited_and_owned(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy
) -> None:
    process = vaultsync(over(to_vault, testbed))
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app", PATIENCE)
    marked(place, "app")
    to_vault.set(LATE)
    annotate(place, "app", rotate="now")
    place.wait_for(lambda: place.version("app") == 2, PATIENCE)
    stopped(process)
    assert metadata(place, "app")["vaultsync-version"].startswith("2@")


def test_a_vault_that_hangs_during_a_write_does_not_delay_the_stop_and_the_lease_expires(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy, lease: str
) -> None:
    """The write may still arrive: no other replica may write before that."""
    patient = {"VAULTSYNC_VAULT_TIMEOUT": "60s", "VAULTSYNC_LEASE": f"{NAMESPACE}/{lease}"}
    process = ready(vaultsync({**over(to_vault, testbed), **patient}))
    to_vault.set(Fault(latency=STOP_SECONDS))
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for(lambda: place.version("app") == 1, PATIENCE)
    stopped(process)
    (line,) = [json.loads(line) for line in process.output().splitlines() if "did not respond in time" in line]
    assert line["writes"] == 1
    assert holder(testbed)
    assert "a write in Vault is still in progress" in process.output()


def test_a_vault_that_hangs_while_nothing_is_written_delays_nothing(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, lease: str
) -> None:
    process = ready(vaultsync({"VAULTSYNC_LEASE": f"{NAMESPACE}/{lease}"}, audit=False))
    testbed.vault.freeze()
    try:
        place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
        time.sleep(0.5)  # it waits for the response to a read
        stopped(process)
    finally:
        testbed.vault.thaw()
    assert holder(testbed) == ""


def test_it_stops_in_time_where_vault_and_the_api_server_hang(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, to_vault: Proxy, to_kube: Proxy, lease: str
) -> None:
    """With a write in flight, ownership that cannot be written, and a Lease that cannot be released."""
    settings = {**over(to_vault, testbed), **over_kube(to_kube, testbed, testbed.work)}
    process = ready(vaultsync({**settings, "VAULTSYNC_LEASE": f"{NAMESPACE}/{lease}"}))
    place.external_secret("marked-late", {"p": ("marked-late", "password")}, annotations=SEED)
    place.wait_for(lambda: logged(process, "seeded") == 1, PATIENCE)
    to_vault.set(LATE)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for(lambda: place.version("app") == 1, PATIENCE)
    to_vault.set(Fault(silent=True))
    to_kube.set(Fault(silent=True))
    stopped(process)


def test_a_bug_in_a_helper_task_is_one_line_and_exit_70_and_another_replica_takes_over(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, lease: str
) -> None:
    process = vaultsync({"VAULTSYNC_LEASE": f"{NAMESPACE}/{lease}"}, start=False)
    process.command = [sys.executable, "-m", "tests.testbed.broken", "run"]
    process.start()
    assert process.wait(PATIENCE) == 70
    lines = [json.loads(line) for line in process.output().splitlines()]
    (last,) = [line for line in lines if line["level"] in ("ERROR", "CRITICAL")]
    assert last == lines[-1]
    assert last["level"] == "CRITICAL"
    assert last["message"].startswith("vaultsync exits: unexpected error in one of its tasks")
    assert (last["error"], last["exit_code"]) == ("LookupError", 70)
    assert last["task"] == "BrokenController.resync"
    assert SECRET not in process.output()
    assert "Traceback" not in process.output()
    assert holder(testbed) == ""
