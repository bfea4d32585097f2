"""A real event stream that is open, answers pings, and delivers nothing: detected by an own write without event."""

import time
from collections.abc import Iterator

import pytest

from tests.integration.test_healing import SEED, another
from tests.integration.test_source_choice import sources
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.frames import FrameProxy
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import Metrics, VaultsyncProcess

SILENT = "Vault's event stream is silent"
WITHIN = 5.0
"""Seconds after which the missing event of an own write shows a silent stream."""
SLACK = 3.0
"""Seconds for the seed before that, and the new subscription after it."""


@pytest.fixture
def proxy(testbed: Testbed) -> Iterator[FrameProxy]:
    with FrameProxy(testbed.vault.port) as made:
        yield made


def started(
    place: Place, vaultsync: VaultsyncFactory, proxy: FrameProxy, source: str, *, audit: bool
) -> VaultsyncProcess:
    """Vaultsync behind the proxy, at rest, with an ExternalSecret whose value another client writes."""
    place.put("other", password="0")
    place.external_secret("other", {"p": ("other", "password")})
    place.wait_for_secret("other", p="0")
    env = {
        "VAULT_ADDR": proxy.address,
        "VAULTSYNC_STORE_SERVERS": place.testbed.vault.address,
        "VAULTSYNC_SOURCE": source,
        "VAULTSYNC_POLL_INTERVAL": "2s",
    }
    process = vaultsync(env, audit=audit)
    place.wait_for(lambda: sources(process) == ["events"], 20, "the event stream")
    time.sleep(2)
    return process


def made_silent(place: Place, proxy: FrameProxy, process: VaultsyncProcess) -> None:
    """The proxy drops frames, another client writes, vaultsync seeds, and detects the silence within seconds."""
    before = Metrics(process)
    assert (before("stream_deaf_total"), before("stream_connected"), proxy.subscriptions) == (0, 1, 1)
    proxy.drops = True
    place.put("other", password="while silent")
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app")
    place.wait_for(lambda: SILENT in process.output(), WITHIN + SLACK, "a line in the log")
    place.wait_for(lambda: proxy.subscriptions == 2, SLACK, "another subscription")
    place.wait_for_secret("other", SLACK, p="while silent")
    now = Metrics(process)
    assert (now("stream_deaf_total"), now("stream_connected")) == (1, 0)
    assert now("resyncs_total") > before("resyncs_total")


@pytest.mark.parametrize("next_source", ["poll", "audit"])
def test_the_next_source_takes_over_until_events_arrive_again(
    place: Place, vaultsync: VaultsyncFactory, proxy: FrameProxy, next_source: str
) -> None:
    process = started(place, vaultsync, proxy, "auto", audit=next_source == "audit")
    made_silent(place, proxy, process)
    place.wait_for(lambda: sources(process) == ["events", next_source], SLACK, next_source)
    for number in range(2):
        place.put("other", password=f"still silent {number}")
        place.wait_for_secret("other", p=f"still silent {number}")
    assert process.output().count(SILENT) == 1
    assert proxy.subscriptions == 2
    proxy.drops = False
    place.put("other", password="reported")
    place.wait_for(lambda: sources(process) == ["events", next_source, "events"], SLACK, "the event stream again")
    place.wait_for_secret("other", p="reported")
    assert Metrics(process)("stream_connected") == 1
    first = place.wait_for_secret("app")
    place.vault.delete(place.path("app"))
    place.annotate("app", testing="refresh")  # without an audit device, the failed refresh triggers the read
    place.wait_for(lambda: another(place, "app", first))
    time.sleep(WITHIN + 1)
    assert Metrics(process)("stream_deaf_total") == 1


def test_a_silent_stream_as_the_only_source_is_logged_and_everything_is_read(
    place: Place, vaultsync: VaultsyncFactory, proxy: FrameProxy
) -> None:
    process = started(place, vaultsync, proxy, "events", audit=False)
    made_silent(place, proxy, process)
    assert "[-] source: events, not connected\n" in process.health.text("/readyz")
    assert sources(process) == ["events"]
    proxy.drops = False
    place.put("other", password="reported")
    place.wait_for_secret("other", p="reported")
    assert "[+] source: events\n" in process.health.text("/readyz")


def test_repeated_silence_is_not_checked_at_each_heal(
    place: Place, vaultsync: VaultsyncFactory, proxy: FrameProxy
) -> None:
    process = started(place, vaultsync, proxy, "auto", audit=False)
    made_silent(place, proxy, process)
    for number in range(30):
        name = f"more-{number}"
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
        place.wait_for_secret(name)
        time.sleep(1)
    # a second time after 5 s of pause and 5 s of waiting, a third after 10 s and 5 s, each pause with jitter
    assert 2 <= process.output().count(SILENT) <= 5
    assert proxy.subscriptions == 1 + process.output().count(SILENT)


def test_a_delivering_stream_is_never_reported_silent(place: Place, vaultsync: VaultsyncFactory) -> None:
    """Seeds in KV v2 and v1, a patch, a rotation and heals, with a token without root rights."""
    place.store("old", path="kv1", version="v1")
    process = vaultsync()
    place.wait_for(lambda: sources(process) == ["events"], 20, "the event stream")
    time.sleep(2)
    place.put("patched", user="a person's")
    for name in ("app", "patched"):
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
    place.external_secret("old", {"p": ("old", "password")}, annotations=SEED, store="old")
    first = {name: place.wait_for_secret(name) for name in ("app", "patched", "old")}
    place.annotate("patched", **{"vaultsync.io/rotate": "now"})
    place.vault.delete_metadata(place.path("app"))
    place.vault.delete(place.path("old"), "kv1")
    for name, values in first.items():
        place.wait_for(lambda name=name, values=values: another(place, name, values))  # type: ignore[misc]
    time.sleep(WITHIN + 2)
    assert Metrics(process)("stream_deaf_total") == 0
    assert SILENT not in process.output()
