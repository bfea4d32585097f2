"""A failure of one ExternalSecret, or in one Vault namespace, delays no others. The same on OpenBao: see below.

Forty entries fail at once, before vaultsync starts or while it runs, and other tenants request missing paths.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.http_proxy import HttpProxy, Reply
from tests.testbed.place import STORE, Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import Metrics, VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
MANY = 40
OTHERS = 7
REQUIRED_SECONDS = 1.0
PATIENCE = 60.0
SCANNED = "initial scan complete"

STATES = pytest.mark.parametrize("state", ["at start", "running"])


@pytest.fixture
def proxy(testbed: Testbed) -> Iterator[HttpProxy]:
    with HttpProxy(testbed.vault.port) as made:
        yield made


def over(proxy: HttpProxy, testbed: Testbed) -> dict[str, str]:
    """The settings with which vaultsync uses Vault through the proxy; stores have Vault's own address."""
    return {"VAULT_ADDR": proxy.address, "VAULTSYNC_STORE_SERVERS": testbed.vault.address}


def many(folder: str) -> dict[str, tuple[str, str]]:
    return {f"k{number}": (f"{folder}/app{number}", "p") for number in range(MANY)}


def started(
    vaultsync: VaultsyncFactory, fail: Callable[[], object], state: str, env: dict[str, str] | None = None
) -> VaultsyncProcess:
    """A vaultsync with many failing paths: from its start, or after it has run for a while."""
    if state == "at start":
        fail()
    process = vaultsync(env)
    process.wait_until_ready()
    if state == "running":
        process.wait_until(lambda: SCANNED in process.output(), PATIENCE)
        fail()
        time.sleep(0.5)
    return process


def assert_not_delayed(place: Place, store: str = STORE) -> None:
    """Asserts that other tenants' missing paths are created and delivered while the failing ones are retried."""
    seconds = []
    for number in range(OTHERS):
        name = f"{store}{number}"
        began = time.monotonic()
        place.external_secret(name, {"p": (name, "p")}, annotations=SEED, store=store)
        place.wait_for_secret(name, PATIENCE)
        seconds.append(time.monotonic() - began)
        time.sleep(0.3)
    assert statistics.median(seconds) < REQUIRED_SECONDS, seconds


def assert_vault_counts_as_well(process: VaultsyncProcess) -> None:
    """Asserts that log, metrics and health endpoint report no outage of Vault, and the initial scan is complete."""
    process.wait_until(lambda: SCANNED in process.output(), PATIENCE)
    assert "Vault is unavailable" not in process.output()
    assert "[+] vault: answers" in process.health.text("/readyz")
    assert Metrics(process)("vault_reachable") == 1
    assert Metrics(process)("passes_total", result="unavailable") == 0
    assert "Traceback" not in process.output()


@STATES
@pytest.mark.parametrize("namespace", ["€", "team\nX-Other: 1", "é", "x" * 70_000], ids=["euro", "lines", "e", "long"])
def test_a_vault_namespace_that_no_header_can_hold_affects_only_its_readers(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, state: str, namespace: str
) -> None:
    place.store("odd", namespace=namespace)

    def fail() -> None:
        place.external_secret("odd", many("odd"), annotations=SEED, store="odd")
        place.external_secret("list", annotations=SEED, store="odd", dataFrom=[{"find": {"path": "x"}}])

    process = started(vaultsync, fail, state)
    assert_not_delayed(elsewhere)
    place.wait_until_reported("odd", "spec.provider.vault.namespace", "name a Vault namespace there")
    place.wait_until_reported("list", "spec.provider.vault.namespace", "name a Vault namespace there")
    assert_vault_counts_as_well(process)
    assert process.output().count("pass failed") <= MANY + 1


@STATES
@pytest.mark.parametrize(
    "reply",
    [
        Reply("/odd/", 500, '{"errors": ["internal error"]}', "application/json"),
        Reply("/odd/", 500),
        Reply("/odd/", 502),
        Reply("/odd/", 503),
        Reply("/odd/", 504),
        Reply("/odd/", 404),
        Reply("/odd/", 413),
        Reply("/odd/", 0),
    ],
    ids=lambda reply: f"{reply.status} {reply.content_type}",
)
def test_a_path_that_a_server_or_a_proxy_rejects_affects_only_its_readers(
    place: Place,
    elsewhere: Place,
    vaultsync: VaultsyncFactory,
    testbed: Testbed,
    proxy: HttpProxy,
    state: str,
    reply: Reply,
) -> None:
    proxy.replies = [reply]
    process = started(
        vaultsync,
        lambda: place.external_secret("odd", many("odd"), annotations=SEED),
        state,
        over(proxy, testbed),
    )
    assert_not_delayed(elsewhere)
    place.wait_until_reported("odd", str(reply.status or "no answer from Vault"), "vaultsync tries again")
    assert_vault_counts_as_well(process)
    assert proxy.count("sys/health") <= (5 if reply.status else 10) * OTHERS, "about one request a second"
    proxy.replies = []
    place.wait_until_healthy("odd", 2 * PATIENCE)
    failed = process.output().count("pass failed")
    assert failed == MANY or (reply.status == 0 and failed < MANY), "without a response one path is tried at a time"
    process.wait_until(lambda: process.output().count("pass succeeds again") == failed, PATIENCE)


def test_a_path_too_long_for_vault_affects_only_its_reader(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory
) -> None:
    """Vault resets the connection for such a path, as if it died."""
    process = started(
        vaultsync, lambda: place.external_secret("odd", {"p": ("x" * 1_200_000, "p")}, annotations=SEED), "running"
    )
    assert_not_delayed(elsewhere)
    place.wait_until_reported("odd", "characters, more than")
    assert_vault_counts_as_well(process)
    assert len(process.output()) < 200_000


def test_a_sealed_vault_receives_as_few_requests_as_before(
    place: Place, vaultsync: VaultsyncFactory, testbed: Testbed, proxy: HttpProxy
) -> None:
    """The proxy answers every path as a sealed Vault does."""
    process = vaultsync(over(proxy, testbed))
    process.wait_until_ready()
    process.wait_until(lambda: SCANNED in process.output(), PATIENCE)
    sealed = '{"initialized": true, "sealed": true, "standby": true, "version": "1.15.1"}'
    proxy.replies = [
        Reply("/sys/health", 503, sealed, "application/json"),
        Reply("/v1/", 503, '{"errors": ["Vault is sealed"]}', "application/json"),
    ]
    began = time.monotonic()
    place.external_secret("app", many("app"), annotations=SEED)
    process.wait_until(lambda: "Vault is unavailable" in process.output(), PATIENCE)
    time.sleep(12)
    kv = sum("/secret/" in one.path for one in list(proxy.requests) if one.at >= began)
    assert kv <= 16
    assert proxy.count("sys/health", since=began) <= 16
    assert process.output().count("Vault is unavailable") == 1
    assert "[-] vault: it is sealed; waiting for it" in process.health.text("/readyz")
    assert "vaultsync.io/created" not in place.annotations("app")
    proxy.replies = []
    place.wait_until_healthy("app")
    assert process.output().count("Vault answers again") == 1


def test_the_poll_continues_past_a_folder_that_fails(
    place: Place, elsewhere: Place, vaultsync: VaultsyncFactory, testbed: Testbed, proxy: HttpProxy
) -> None:
    settings = {**over(proxy, testbed), "VAULTSYNC_SOURCE": "poll", "VAULTSYNC_POLL_INTERVAL": "2s"}
    process = vaultsync(settings, audit=False)
    place.external_secret("odd", many("odd"), annotations=SEED)
    elsewhere.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    place.wait_for_secret("odd", PATIENCE)
    elsewhere.wait_for_secret("app", PATIENCE)
    proxy.replies = [Reply("/odd/", 500), Reply(f"metadata/{place.name}/odd", 500)]
    time.sleep(3)
    for number in range(3):
        elsewhere.put("app", p=f"a person's {number}")
        elsewhere.wait_for_secret("app", 10, p=f"a person's {number}")
    assert "the poll waits for Vault" not in process.output()
    assert_vault_counts_as_well(process)
