"""ops/metrics and what the parts count for it: each figure moves as it should, and no label grows with the cluster."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.build import eventually, external_secret, namespace, path, run, store
from tests.unit.controller.test_reconcilers import APP, DENIED, OTHER, SEED, A, B, Engine
from vaultsync.controller.controller import KINDS
from vaultsync.core.annotations import Refusal, Result
from vaultsync.core.errors import (
    KubeConflict,
    KubeDenied,
    KubeNotFound,
    KubeUnavailable,
    VaultRejected,
    VaultsyncError,
    VaultUnavailable,
)
from vaultsync.core.measure import CODES, Histogram
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.kube.informer_manager import RESOURCES
from vaultsync.runtime.metrics import Figures, Metrics
from vaultsync.vault.canary import CanaryResult
from vaultsync.vault.source_selector import Source

NOTHING = Figures(
    version="1.2.3",
    passes={("path", "done"): 0},
    queue_depth=0,
    queue_oldest=0.0,
    queue_failing=0,
    seeds=0,
    recreations=0,
    rotations=0,
    force_syncs=0,
    heard_to_synced=Histogram(),
    made_to_ready=Histogram(),
    awaited=0.0,
    refusals={"annotation": 0},
    blocked={"annotation": 0},
    new_paths=0,
    new_paths_put_off=0,
    resyncs=0,
    external_secrets=0,
    paths=0,
    stream_connected=False,
    stream_deaf=0,
    audit_connected=False,
    audit_lost=0,
    canaries={"delivered": 0},
    sources={"events": False},
    events={"events": 0},
    last_events={},
    events_not_understood=0,
    vault_reachable=False,
    watches_lost={"namespaces": 0},
    vault_requests={},
    kube_requests={},
)
ENUMS: dict[str, set[str]] = {
    "kind": set(KINDS.values()),
    "result": {*Result, *(result.value for result in CanaryResult)},
    "reason": set(Refusal),
    "source": {source.value for source in Source},
    "resource": set(RESOURCES),
    "method": {"GET", "LIST", "POST", "PATCH", "WATCH"},
    "code": {"none", "other", *map(str, CODES)},
    "version": {"1.2.3"},
}
"""Every label, and all that it may say; of `le` there are as many as bounds."""
LATER = "2030-01-01T00:00:00Z"
"""After what is written in the tests' Vault."""


def samples(figures: Figures) -> dict[str, float]:
    """By name and labels, such as `vaultsync_events_total{source="audit"}`, as Prometheus reads them."""
    found = {}
    for family in text_string_to_metric_families(Metrics(lambda: figures).text().decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def test_no_counter_goes_back_when_parts_are_replaced_and_what_stays_is_counted_once() -> None:
    heard = Histogram((0.5, 2.0))
    heard.observe(1.0)
    old = replace(NOTHING, seeds=3, heard_to_synced=heard, vault_requests={("GET", "200"): 5}, queue_depth=7)
    now = replace(old, kube_requests={("GET", "200"): 11})
    metrics = Metrics(lambda: now)

    def read() -> dict[str, float]:
        lines = (line for line in metrics.text().decode().splitlines() if line.startswith("vaultsync_"))
        return {sample: float(value) for sample, _, value in (line.rpartition(" ") for line in lines)}

    def rising(found: dict[str, float]) -> dict[str, float]:
        return {sample: value for sample, value in found.items() if "_total" in sample or "_seconds_" in sample}

    before = read()
    with metrics.kept():
        now = replace(NOTHING, heard_to_synced=Histogram((0.5, 2.0)), kube_requests={("GET", "200"): 11})
    assert rising(read()) == rising(before)
    assert read()["vaultsync_queue_depth"] == 0.0
    now = replace(now, seeds=1, vault_requests={("GET", "200"): 1, ("GET", "503"): 1})
    with metrics.kept():
        now = replace(NOTHING, heard_to_synced=Histogram((0.5, 2.0)), kube_requests={("GET", "200"): 11})
    now = replace(now, seeds=1)
    found = read()
    assert found["vaultsync_seeds_total"] == 5.0
    assert found['vaultsync_vault_requests_total{code="200",method="GET"}'] == 6.0
    assert found['vaultsync_vault_requests_total{code="503",method="GET"}'] == 1.0
    assert found['vaultsync_kube_requests_total{code="200",method="GET"}'] == 11.0
    assert found['vaultsync_event_to_force_sync_seconds_bucket{le="2.0"}'] == 1.0


def test_figures_become_samples() -> None:
    heard = Histogram((0.5, 2.0))
    heard.observe(1.0)
    figures = replace(
        NOTHING,
        passes={("listing", "done"): 7},
        heard_to_synced=heard,
        last_events={"audit": 12.5},
        stream_connected=True,
        token_ends_at=99.5,
        kube_requests={("PATCH", "409"): 2},
    )
    assert (
        samples(figures).items()
        >= {
            'vaultsync_build_info{version="1.2.3"}': 1.0,
            "vaultsync_leading": 1.0,
            'vaultsync_reconciles_total{kind="listing",result="done"}': 7.0,
            'vaultsync_event_to_force_sync_seconds_bucket{le="0.5"}': 0.0,
            'vaultsync_event_to_force_sync_seconds_bucket{le="2.0"}': 1.0,
            'vaultsync_event_to_force_sync_seconds_bucket{le="+Inf"}': 1.0,
            "vaultsync_event_to_force_sync_seconds_count": 1.0,
            "vaultsync_event_to_force_sync_seconds_sum": 1.0,
            'vaultsync_last_event_timestamp_seconds{source="audit"}': 12.5,
            "vaultsync_stream_connected": 1.0,
            "vaultsync_vault_reachable": 0.0,
            "vaultsync_vault_token_expiry_timestamp_seconds": 99.5,
            'vaultsync_kube_requests_total{code="409",method="PATCH"}': 2.0,
        }.items()
    )
    assert samples(replace(NOTHING, leading=False))["vaultsync_leading"] == 0.0
    assert "vaultsync_vault_token_expiry_timestamp_seconds" not in samples(NOTHING)


def test_they_are_read_at_each_scrape() -> None:
    numbers = count()
    metrics = Metrics(lambda: replace(NOTHING, resyncs=next(numbers)))
    assert b"\nvaultsync_resyncs_total 0.0\n" in metrics.text()
    assert b"\nvaultsync_resyncs_total 1.0\n" in metrics.text()


def test_the_process_is_told_of_too() -> None:
    assert samples(NOTHING)["process_resident_memory_bytes"] > 1e6


def test_every_metric_says_what_it_is_and_every_label_is_one_of_few() -> None:
    engine = run(_made())
    figures = replace(
        NOTHING,
        passes=engine.controller.passes,
        refusals=engine.syncer.refusals,
        blocked=engine.syncs.blocked(),
    )
    for family in text_string_to_metric_families(Metrics(lambda: figures).text().decode()):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label == "le" or value in ENUMS[label], sample


async def _made() -> Engine:
    return Engine()


# -- passes


ERRORS: list[tuple[VaultsyncError, Result]] = [
    (VaultUnavailable("x"), Result.UNAVAILABLE),
    (DENIED, Result.REFUSED),
    (VaultRejected("x"), Result.REFUSED),
]


@pytest.mark.parametrize(("error", "result"), ERRORS, ids=lambda value: type(value).__name__)
def test_passes_are_counted_by_how_they_end(error: VaultsyncError, result: Result) -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.errors[A] = [error]
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(engine.writer.force_syncs)
            await engine.settled()
        assert engine.controller.passes["path", result] == 1
        assert engine.controller.passes["path", "done"] >= 1
        assert engine.controller.passes["external_secret", "done"] >= 1
        assert engine.controller.failing() == 0

    run(test())


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (KubeUnavailable("x"), Result.UNAVAILABLE),
        (KubeDenied("x"), Result.REFUSED),
        (KubeConflict("x"), Result.CONFLICT),
        (KubeNotFound("x"), Result.GONE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_patch_that_fails_is_no_force_sync(error: VaultsyncError, result: Result) -> None:
    async def test() -> None:
        engine = Engine()
        engine.writer.errors = [error]
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.controller.passes["external_secret", result])
            await eventually(lambda: engine.writer.force_syncs() or not error.retryable)
        assert engine.controller.passes["external_secret", result] == 1
        assert engine.syncer.force_syncs == len(engine.writer.force_syncs())

    run(test())


def test_a_bug_is_counted_as_one() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.before_create = lambda: 1 // 0  # type: ignore[assignment]
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.vault.values(A))
        assert engine.controller.passes["path", Result.FAILED] == 1

    run(test())


def test_every_error_is_counted_as_something_that_has_a_name() -> None:
    def below(kind: type[VaultsyncError]) -> list[type[VaultsyncError]]:
        return [kind, *(deeper for one in kind.__subclasses__() for deeper in below(one))]

    assert [kind.__name__ for kind in below(VaultsyncError)[1:] if kind.result is Result.FAILED] == []


def test_a_resync_is_counted() -> None:
    async def test() -> None:
        engine = Engine()
        engine.controller.vault_connected()
        engine.controller.enqueue_all()
        assert engine.controller.resyncs == 2

    run(test())


def test_the_oldest_waiting_key_tells_its_age() -> None:
    async def test() -> None:
        engine = Engine()
        assert (engine.controller.backlog(), engine.controller.oldest()) == (0, 0.0)
        async with engine.working():
            await asyncio.sleep(0)  # it begins
            engine.controller.external_secret_changed(external_secret("a"))
            time.sleep(0.02)  # noqa: ASYNC251 — so that no worker takes them meanwhile
            assert engine.controller.backlog() == 2
            assert 0.02 <= engine.controller.oldest() < 5
            await engine.settled()
        assert (engine.controller.backlog(), engine.controller.oldest()) == (0, 0.0)

    run(test())


# -- what is made


def test_what_is_made_is_counted_by_why() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        assert Counter(map(str, engine.reconciler.made.elements())) == {"Seeded": 1}
        engine.vault.delete(A)
        await engine.passes(asked)
        assert Counter(map(str, engine.reconciler.made.elements())) == {"Seeded": 1, "Recreated": 1}
        assert engine.syncer.force_syncs == 2

    run(test())


def test_a_dry_run_makes_no_force_syncs() -> None:
    async def test() -> None:
        engine = Engine()
        engine.syncer._dry_run = True
        engine.vault.write(A, password="a person's")
        await engine.passes(external_secret("a", created=LATER))
        engine.vault.write(A, password="another")
        await engine.passes(external_secret("a", created=LATER))
        assert len(engine.writer.force_syncs()) == 1  # the real writer sends nothing then
        assert engine.syncer.force_syncs == 0

    run(test())


# -- refusals


def test_a_refusal_is_counted_when_it_is_told_and_the_blocked_as_long_as_it_stands() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        for _ in range(3):
            engine.vault.errors[A] = [DENIED]
            with suppress(VaultsyncError):
                await engine.passes(asked)
            await engine.syncer.reconcile(APP)
        assert +engine.syncer.refusals == {"vault_denied": 1}
        assert +Counter(engine.syncs.blocked()) == {"vault_denied": 1}
        await engine.passes(asked)
        assert +Counter(engine.syncs.blocked()) == {}
        assert +engine.syncer.refusals == {"vault_denied": 1}

    run(test())


@pytest.mark.parametrize(
    ("reason", "keys", "annotations"),
    [
        ("seed_paths", ["dev-2/a"], SEED),
        ("impossible", [("dev-1/a", "a.#.b")], SEED),
        ("impossible", [("dev-1/a", "")], SEED),
        ("annotation", ["dev-1/a"], {"vaultsync.io/seed": "maybe"}),
        ("annotation", ["dev-1/a"], SEED | {"vaultsync.io/generate": "nonsense"}),
        ("vault_rejected", ["dev-1/a"], SEED | {"vaultsync.io/generate": "password: {format: policy, name: ops}"}),
    ],
)
def test_every_refusal_has_its_reason(
    reason: str, keys: list[str | tuple[str, str]], annotations: dict[str, str]
) -> None:
    async def test() -> None:
        engine = Engine(seed_paths=SeedPaths.parse(("*/{namespace}/**",)))
        with suppress(VaultsyncError):
            await engine.passes(external_secret(*keys, annotations=annotations))
        await engine.syncer.reconcile(APP)
        assert +engine.syncer.refusals == {reason: 1}
        assert +Counter(engine.syncs.blocked()) == {reason: 1}

    run(test())


def test_who_waits_for_the_budget_is_blocked_until_its_turn_comes() -> None:
    async def test() -> None:
        engine = Engine(budget=1)
        await engine.passes(external_secret("a", annotations=SEED))
        with suppress(VaultsyncError):
            await engine.passes(external_secret("b", name="other", annotations=SEED))
        await engine.syncer.reconcile(OTHER)
        assert +Counter(engine.syncs.blocked()) == {"seed_budget": 1}
        engine.clock.forward(3600)
        await engine.passes(external_secret("b", name="other", annotations=SEED))
        assert +Counter(engine.syncs.blocked()) == {}

    run(test())


def test_of_several_refusals_the_gravest_counts_and_whoever_is_gone_is_not_counted() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.errors[A] = [DENIED]
        asked = external_secret("a", ("b", "a.#.b"), annotations=SEED)
        with suppress(VaultsyncError):
            await engine.passes(asked)
        await engine.reconciler.reconcile(B)
        await engine.syncer.reconcile(APP)
        assert +Counter(engine.syncs.blocked()) == {"vault_denied": 1}
        engine.controller.external_secret_removed(asked)
        await engine.syncer.reconcile(APP)
        assert +Counter(engine.syncs.blocked()) == {}

    run(test())


# -- from the event to the force-sync


def heard(engine: Engine) -> Histogram:
    return engine.syncer.heard_to_synced


def test_a_write_that_is_told_is_timed_for_each_reader() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="1")
        async with engine.working():
            for name in ("app", "other"):
                engine.controller.external_secret_changed(external_secret("a", name=name, created=LATER))
            await engine.settled()
            engine.vault.write(A, password="2")
            assert heard(engine).count == 0
            engine.event()
            await eventually(lambda: heard(engine).count == 2)
            await engine.settled()
            assert heard(engine).count == engine.syncer.force_syncs == 2
            assert 0 < heard(engine).sum < 10
            # told, and nothing to bring: it is not held against the next one
            engine.event(kind="kv-v2/undelete")
            await engine.settled()
            assert all(engine.syncs.of(external_secret(name=name)).received_at > 1e300 for name in ("app", "other"))
            assert engine.controller._events._received_at == {}

    run(test())


def test_a_write_that_is_told_while_its_path_waits_for_a_pass_is_timed() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="1")
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", created=LATER))
            await engine.settled()
            engine.controller.enqueue_all()
            engine.vault.write(A, password="2")
            engine.event()
            await eventually(lambda: engine.syncer.force_syncs == 1)
            await engine.settled()
        assert heard(engine).count == 1
        assert engine.controller._events._received_at == {}

    run(test())


def test_a_deletion_that_is_told_is_timed_to_the_force_sync_after_its_healing() -> None:
    async def test() -> None:
        engine = Engine()
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.syncer.force_syncs == 1)
            await engine.settled()
            assert heard(engine).count == 0  # nobody told of it
            engine.vault.delete(A)
            engine.event(kind="kv-v2/delete")
            await eventually(lambda: engine.syncer.force_syncs == 2)
        assert heard(engine).count == 1

    run(test())


@pytest.mark.parametrize("down", ["Vault", "Kubernetes"])
def test_an_outage_is_part_of_the_time_and_a_refusal_is_not(down: str) -> None:
    async def test() -> None:
        engine = Engine()
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.syncer.force_syncs == 1)
            await engine.settled()
            for error, timed in ((True, 1), (False, 1)):
                before = engine.syncer.force_syncs
                engine.vault.delete(A)
                if down == "Vault":
                    engine.vault.errors[A] = [VaultUnavailable("x") if error else DENIED]
                else:
                    engine.writer.errors = [KubeUnavailable("x") if error else KubeDenied("x")]
                engine.event(kind="kv-v2/delete")
                await eventually(lambda before=before: engine.syncer.force_syncs == before + 1)  # type: ignore[misc]
                assert heard(engine).count == timed
                await engine.settled()
        assert heard(engine).sum >= 0.05  # the first retry's wait, jittered

    run(test())


# -- from the seed to Ready


def synced(version: str, ready: str = "True") -> dict[str, object]:
    """What external-secrets says once it has taken a change."""
    return {"conditions": [{"type": "Ready", "status": ready}], "syncedResourceVersion": version}


def test_a_seed_is_timed_until_external_secrets_says_that_it_has_read_it() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", annotations=SEED))
        assert 0 <= engine.clock() - engine.syncs.awaited_since() < 10
        for status in ({}, synced("1-a", "False")):
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED, status=status))
            assert engine.syncer.made_to_ready.count == 0
        for _ in range(2):
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED, status=synced("1-a")))
            assert engine.syncer.made_to_ready.count == 1
        assert engine.syncs.awaited_since() > 1e300

    run(test())


def test_a_re_creation_is_timed_although_it_was_ready_all_the_time() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="a person's")
        before = external_secret("a", annotations=SEED, status=synced("1-a"))
        await engine.passes(before)
        engine.vault.delete(A)
        await engine.passes(before)
        engine.controller.external_secret_changed(before)
        assert engine.syncer.made_to_ready.count == 0
        engine.controller.external_secret_changed(external_secret("a", annotations=SEED, status=synced("1-b")))
        assert engine.syncer.made_to_ready.count == 1

    run(test())


def test_who_can_not_get_ready_or_hears_no_force_sync_is_not_waited_for() -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.put_namespace(namespace("dev-2"))
        engine.index.put_store(store(namespace="dev-2"))
        deaf = SEED | {"vaultsync.io/force-sync": "false"}
        await engine.passes(external_secret("a", annotations=deaf))
        assert engine.syncs.awaited_since() > 1e300
        await engine.passes(external_secret("b", ("c", "a.#.b"), name="other", annotations=SEED))
        assert engine.vault.values(B) is not None
        assert engine.syncs.awaited_since() > 1e300
        await engine.passes(external_secret("d", namespace="dev-2", annotations=SEED))
        assert engine.syncs.awaited_since() < 1e300
        engine.vault.wipe(path("secret/data/d"))
        engine.vault.denied_writes[path("secret/data/d")] = DENIED
        with suppress(VaultsyncError):
            await engine.passes(external_secret("d", namespace="dev-2", annotations=SEED))
        await engine.syncer.reconcile(external_secret(namespace="dev-2").name)
        assert engine.syncs.awaited_since() > 1e300

    run(test())
