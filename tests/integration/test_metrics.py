"""/metrics and /readyz on the real servers: they show every action, and no secret."""

import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import Options, Testbed
from tests.testbed.vaultsync import Metrics, VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}
PATIENCE = 60.0


def wait_until(place: Place, process: VaultsyncProcess, holds: Callable[[Metrics], bool], what: str) -> Metrics:
    """Scrapes until the condition holds; returns that scrape."""
    scrapes: list[Metrics] = []

    def probe() -> bool:
        scrapes.append(Metrics(process))
        return holds(scrapes[-1])

    place.wait_for(probe, PATIENCE, what)
    return scrapes[-1]


def test_a_seed_a_heal_and_a_rotation_appear_in_metrics(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync()
    process.wait_until_ready()
    before = Metrics(process)
    assert before("seeds_total") == before("force_syncs_total") == 0
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    first = place.wait_for_secret("app")
    wait_until(place, process, lambda now: now("seed_to_ready_seconds_count") == 1, "it is ready")
    # external-secrets may be done before the response to the force-sync arrives
    seeded = wait_until(place, process, lambda now: now("force_syncs_total") == 1, "the force-sync is counted")
    assert (seeded("seeds_total"), seeded("new_paths_total"), seeded("recreations_total")) == (1, 1, 0)
    assert seeded("event_to_force_sync_seconds_count") == 0  # no event was received
    assert (seeded("external_secrets"), seeded("paths")) == (1, 1)
    assert seeded("reconciles_total", kind="path", result="done") >= 1
    assert seeded("vault_requests_total", method="POST", code="200") >= 1
    assert seeded("kube_requests_total", method="PATCH", code="200") >= 1
    time.sleep(0.5)
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: (place.secret("app") or first) != first, PATIENCE)
    wait_until(place, process, lambda now: now("seed_to_ready_seconds_count") == 2, "it is ready again")
    healed = wait_until(place, process, lambda now: now("force_syncs_total") == 2, "the force-sync is counted")
    assert (healed("seeds_total"), healed("recreations_total")) == (1, 1)
    assert healed("event_to_force_sync_seconds_count") == 1
    assert 0 < healed("event_to_force_sync_seconds_sum") < PATIENCE
    time.sleep(0.5)
    place.annotate("app", **{"vaultsync.io/rotate": "now"})
    rotated = wait_until(place, process, lambda now: now("rotations_total") == 1, "it is rotated")
    place.put("app", password="a person's")
    place.wait_for_secret("app", PATIENCE, p="a person's")
    written = wait_until(
        place, process, lambda now: now("event_to_force_sync_seconds_count") == 2, "the event is counted"
    )
    assert written("recreations_total") == rotated("recreations_total") == 1
    assert abs(written("last_event_timestamp_seconds", source="events") - time.time()) < PATIENCE
    assert (written("queue_depth"), written("queue_oldest_seconds"), written("leading")) == (0, 0, 1)
    assert written("seed_to_ready_oldest_seconds") == 0
    life = written("vault_token_expiry_timestamp_seconds") - time.time()
    assert 0 < life <= 24 * 3600  # as the testbed creates it


def test_a_refusal_appears_in_metrics_until_it_is_fixed(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync()
    place.external_secret("typo", {"p": ("app", "password")}, annotations={"vaultsync.io/seed": "yes"})
    entries = [{"secretKey": "p", "remoteRef": {"key": "somebody-else/app", "property": "p"}}]
    place.external_secret("foreign", entries=entries, annotations=SEED)
    for name in ("typo", "foreign"):
        place.wait_until_reported(name)

    def is_blocked(now: Metrics) -> bool:
        return all(now("blocked_external_secrets", reason=reason) == 1 for reason in ("annotation", "seed_paths"))

    blocked = wait_until(place, process, is_blocked, "both are blocked")
    assert [blocked("refusals_total", reason=reason) for reason in ("annotation", "seed_paths")] == [1, 1]
    place.annotate("typo", **{"vaultsync.io/seed": "true"})
    place.delete("foreign")
    unblocked = wait_until(place, process, lambda now: now("blocked_external_secrets") == 0, "none is blocked")
    assert unblocked("refusals_total") == 2


def test_a_denial_of_vault_appears_in_metrics(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.vault.api.request("POST", f"/v1/sys/mounts/{place.name}", {"type": "kv", "options": {"version": "2"}})
    place.store("hidden", path=place.name)
    process = vaultsync({"VAULTSYNC_SEED_PATHS": "**"})
    entries = [{"secretKey": "p", "remoteRef": {"key": "app", "property": "p"}}]
    place.external_secret("app", entries=entries, annotations=SEED, store="hidden")
    place.wait_until_reported("app", "403")
    denied = wait_until(
        place, process, lambda now: now("blocked_external_secrets", reason="vault_denied") == 1, "it is blocked"
    )
    assert denied("vault_requests_total", code="403") >= 1
    assert denied("reconciles_total", kind="path", result="refused") >= 1
    assert denied("queue_failing") >= 1


def test_a_lost_stream_and_lost_servers_appear_in_metrics_and_block_nothing(vaultsync_beside: "Beside") -> None:
    testbed, place, process = vaultsync_beside
    well = wait_until(place, process, lambda now: now("stream_connected") == 1, "the stream is up")
    assert (well("source", source="events"), well("source", source="poll"), well("vault_reachable")) == (1, 0, 1)
    testbed.vault.kill()
    lost = wait_until(
        place, process, lambda now: now("stream_connected") == now("vault_reachable") == 0, "Vault is down"
    )
    wait_until(place, process, lambda now: now("source", source="poll") == 1, "the poll is the source")
    assert lost("resyncs_total") >= 1
    status = process.health.text("/readyz")
    assert status.startswith("ok\n")
    assert "[-] vault: no answer; waiting for it\n" in status
    assert process.health.answers("/readyz")
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    wait_until(place, process, lambda now: now("vault_requests_total", code="none") >= 1, "requests fail")
    testbed.vault.start()
    back = wait_until(place, process, lambda now: now("stream_connected") == now("vault_reachable") == 1, "it is back")
    place.wait_for_secret("app", PATIENCE)
    assert back("reconciles_total", result="unavailable") >= 1
    assert back("resyncs_total") > lost("resyncs_total")
    assert "[+] vault: answers\n" in process.health.text("/readyz")
    testbed.kube_apiserver.kill()
    wait_until(place, process, lambda now: now("watches_lost") == 5, "no watch is up")
    status = process.health.text("/readyz")
    assert "[-] externalsecrets: no answer from the API server; see the log\n" in status
    assert status.startswith("ok\n")
    assert process.health.answers("/livez")
    testbed.kube_apiserver.start()
    wait_until(place, process, lambda now: now("watches_lost") == 0, "all watches are up")
    assert "[+] externalsecrets: watched\n" in process.health.text("/readyz")


Beside = tuple[Testbed, Place, VaultsyncProcess]


@pytest.fixture
def vaultsync_beside() -> Iterator[Beside]:
    """Its own servers, which the test may stop."""
    with Testbed(Options(vault_storage="file")) as made, Place(made) as place:
        factory = VaultsyncFactory(made, audit=False)
        try:
            process = factory()
            process.wait_until_ready(PATIENCE)
            yield made, place, process
        finally:
            factory.stop()


def test_metrics_contain_no_secret_path_or_name(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync()
    place.external_secret("app", {"p": ("app", "password"), "q": ("app", "user")}, annotations=SEED)
    entries = [{"secretKey": "p", "remoteRef": {"key": "somebody-else/app", "property": "p"}}]
    place.external_secret("foreign", entries=entries, annotations=SEED)
    values = place.wait_for_secret("app")
    place.wait_until_reported("foreign")
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: (place.secret("app") or values) != values)
    values |= {f"{name} again": value for name, value in place.wait_for_secret("app").items()}
    shown = process.health.text("/metrics") + process.health.text("/readyz")
    shown = shown.replace('vaultsync_lost_paths{mount="secret/"}', "")  # the only mount that is named
    hidden = [*values.values(), place.testbed.identity.vault_token, place.name, "somebody-else", "secret/", "password"]
    assert [text for text in hidden if text in shown] == []
    assert re.search("/(?!metrics|readyz|livez)", re.sub(r"^# .*$", "", shown, flags=re.MULTILINE)) is None
