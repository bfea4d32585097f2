"""runtime/metrics: the list of all metrics, and that the controller counts each event exactly once."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from itertools import product
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.build import eventually, external_secret, namespace, path, run, sample, store
from tests.unit.controller.harness import APP, DENIED, OTHER, SEED, A, B, Engine
from vaultsync import __version__
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
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.runtime.metrics import STATUS_CODES, Metrics, status_label

REASONS = [
    "vault_denied",
    "vault_rejected",
    "vault_failed",
    "seed_paths",
    "seed_budget",
    "heal_limit",
    "other_owner",
    "expired",
    "retired",
    "annotation",
    "impossible",
]
ZEROS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "build_info": ("gauge", {"version": [__version__]}),
    "leading": ("gauge", {}),
    "external_secrets": ("gauge", {}),
    "paths": ("gauge", {}),
    "reconciles": (
        "counter",
        {
            "kind": ["path", "listing", "external_secret"],
            "result": ["done", "put_off", "conflict", "unavailable", "refused", "gone", "failed"],
        },
    ),
    "resyncs": ("counter", {}),
    "queue_depth": ("gauge", {}),
    "queue_oldest_seconds": ("gauge", {}),
    "queue_failing": ("gauge", {}),
    "seeds": ("counter", {}),
    "recreations": ("counter", {}),
    "rotations": ("counter", {}),
    "new_paths": ("counter", {}),
    "new_paths_put_off": ("counter", {}),
    "force_syncs": ("counter", {}),
    "event_to_force_sync_seconds": ("histogram", {}),
    "seed_to_ready_seconds": ("histogram", {}),
    "seed_to_ready_oldest_seconds": ("gauge", {}),
    "refusals": ("counter", {"reason": REASONS}),
    "blocked_external_secrets": ("gauge", {"reason": REASONS}),
    "source": ("gauge", {"source": ["events", "audit", "poll"]}),
    "events": ("counter", {"source": ["events", "audit"]}),
    "last_event_timestamp_seconds": ("gauge", {"source": []}),
    "lost_paths": ("gauge", {"mount": []}),
    "events_not_understood": ("counter", {}),
    "stream_connected": ("gauge", {}),
    "stream_deaf": ("counter", {}),
    "audit_configured": ("gauge", {}),
    "audit_connected": ("gauge", {}),
    "audit_lost": ("counter", {}),
    "canaries": ("counter", {"result": ["delivered", "missing", "unanswered"]}),
    "vault_reachable": ("gauge", {}),
    "watches_lost": (
        "gauge",
        {"resource": ["namespaces", "clustersecretstores", "secretstores", "externalsecrets", "pushsecrets"]},
    ),
    "vault_requests": ("counter", {"method": [], "code": []}),
    "kube_requests": ("counter", {"method": [], "code": []}),
}
"""Every metric that is exported before anything happened: its type, and the values of its labels."""
BOUNDS = [
    "0.005",
    "0.01",
    "0.025",
    "0.05",
    "0.1",
    "0.25",
    "0.5",
    "1.0",
    "2.5",
    "5.0",
    "10.0",
    "30.0",
    "60.0",
    "300.0",
    "+Inf",
]
NOT_ZERO = {f'vaultsync_build_info{{version="{__version__}"}}': 1.0}
LATER = "2030-01-01T00:00:00Z"
"""After what is written in the tests' Vault."""


def families(metrics: Metrics) -> dict[str, Metric]:
    """By name, as Prometheus reads them; not those of the process."""
    found = text_string_to_metric_families(metrics.text().decode())
    return {family.name: family for family in found if family.name.startswith("vaultsync_")}


def samples(metrics: Metrics) -> dict[str, float]:
    """By name and labels, such as `vaultsync_events_total{source="audit"}`."""
    lines = metrics.text().decode().splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith("vaultsync_"))
    return {sample: float(value) for sample, _, value in found}


def named(name: str, kind: str, labels: dict[str, list[str]]) -> list[str]:
    """The samples of a metric."""
    if kind == "histogram":
        buckets = [f'vaultsync_{name}_bucket{{le="{bound}"}}' for bound in BOUNDS]
        return [*buckets, f"vaultsync_{name}_count", f"vaultsync_{name}_sum"]
    full = f"vaultsync_{name}_total" if kind == "counter" else f"vaultsync_{name}"
    if not labels:
        return [full]
    combinations = product(*([f'{label}="{value}"' for value in values] for label, values in labels.items()))
    return [f"{full}{{{','.join(combination)}}}" for combination in combinations]


def test_every_metric_is_exported_from_the_start_with_a_zero_for_each_known_label() -> None:
    metrics = Metrics()
    assert {name: family.type for name, family in families(metrics).items()} == {
        f"vaultsync_{name}": kind for name, (kind, _) in ZEROS.items()
    }
    expected = dict.fromkeys((one for name, given in ZEROS.items() for one in named(name, *given)), 0.0)
    assert samples(metrics) == expected | NOT_ZERO


def test_the_labels_without_a_known_value_are_these() -> None:
    metrics = Metrics()
    metrics.last_event_timestamp.labels("audit").set(12.5)
    metrics.count_vault_request("GET", 0)
    metrics.count_kube_request("PATCH", 409)
    assert (
        samples(metrics).items()
        >= {
            'vaultsync_last_event_timestamp_seconds{source="audit"}': 12.5,
            'vaultsync_vault_requests_total{code="none",method="GET"}': 1.0,
            'vaultsync_kube_requests_total{code="409",method="PATCH"}': 1.0,
        }.items()
    )


def test_the_expiry_of_the_token_is_absent_for_one_that_does_not_expire() -> None:
    metrics = Metrics()
    for timestamp in (99.5, None, 100.5):
        metrics.vault_token_expiry.timestamp = timestamp
        assert sample(metrics, "vault_token_expiry_timestamp_seconds") == timestamp
    assert families(metrics)["vaultsync_vault_token_expiry_timestamp_seconds"].type == "gauge"


def test_the_process_is_measured_too() -> None:
    assert (Metrics().registry.get_sample_value("process_resident_memory_bytes") or 0) > 1e6


def test_every_metric_is_documented_and_two_of_them_do_not_share_their_values() -> None:
    metrics, other = Metrics(), Metrics()
    metrics.vault_token_expiry.timestamp = 1.0
    for family in families(metrics).values():
        assert family.documentation.endswith(".")
    metrics.resyncs.inc()
    assert (sample(metrics, "resyncs_total"), sample(other, "resyncs_total")) == (1.0, 0.0)


@given(st.integers(0, 10_000))
def test_the_number_of_status_labels_is_bounded(status: int) -> None:
    assert status_label(status) in {"none", "other", *map(str, STATUS_CODES)}
    assert (status_label(status) == "none") == (status == 0)


def test_requests_of_several_threads_are_all_counted() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(5_000):
            metrics.count_vault_request("GET", 200)

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics.count_vault_request("POST", 299)
    assert sample(metrics, "vault_requests_total", method="GET", code="200") == 20_000
    assert sample(metrics, "vault_requests_total", method="POST", code="other") == 1


# -- passes


ERRORS: list[tuple[VaultsyncError, Result]] = [
    (VaultUnavailable("x"), Result.UNAVAILABLE),
    (DENIED, Result.REFUSED),
    (VaultRejected("x"), Result.REFUSED),
]


@pytest.mark.parametrize(("error", "result"), ERRORS, ids=lambda value: type(value).__name__)
def test_passes_are_counted_by_result(error: VaultsyncError, result: Result) -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.errors[A] = [error]
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(engine.writer.force_syncs)
            await engine.settled()
        assert engine.count("reconciles_total", kind="path", result=result) == 1
        assert engine.count("reconciles_total", kind="path", result="done") >= 1
        assert engine.count("reconciles_total", kind="external_secret", result="done") >= 1
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
            await eventually(lambda: engine.count("reconciles_total", kind="external_secret", result=result))
            await eventually(lambda: engine.writer.force_syncs() or not error.retryable)
        assert engine.count("reconciles_total", kind="external_secret", result=result) == 1
        assert engine.count("force_syncs_total") == len(engine.writer.force_syncs())

    run(test())


def test_an_unexpected_error_is_counted_as_failed() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.before_create = lambda: 1 // 0  # type: ignore[assignment]
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.vault.values(A))
        assert engine.count("reconciles_total", kind="path", result=Result.FAILED) == 1

    run(test())


def test_every_error_has_a_result_of_its_own() -> None:
    def below(kind: type[VaultsyncError]) -> list[type[VaultsyncError]]:
        return [kind, *(deeper for one in kind.__subclasses__() for deeper in below(one))]

    assert [kind.__name__ for kind in below(VaultsyncError)[1:] if kind.result is Result.FAILED] == []


def test_a_resync_is_counted() -> None:
    async def test() -> None:
        engine = Engine()
        engine.controller.vault_connected()
        engine.controller.enqueue_all()
        assert engine.count("resyncs_total") == 2

    run(test())


def test_the_age_of_the_oldest_waiting_key_is_known() -> None:
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


# -- writes to Vault


def made(engine: Engine) -> dict[str, float]:
    """Writes to Vault, by why."""
    return {name: n for name in ("seeds", "recreations", "rotations") if (n := engine.count(f"{name}_total"))}


def test_writes_are_counted_by_reason() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        assert made(engine) == {"seeds": 1}
        engine.vault.delete(A)
        await engine.passes(asked)
        assert made(engine) == {"seeds": 1, "recreations": 1}
        assert engine.count("force_syncs_total") == 2

    run(test())


def test_a_dry_run_makes_no_force_syncs() -> None:
    async def test() -> None:
        engine = Engine()
        engine.es_reconciler._dry_run = True
        engine.vault.write(A, password="a person's")
        await engine.passes(external_secret("a", created=LATER))
        engine.vault.write(A, password="another")
        await engine.passes(external_secret("a", created=LATER))
        assert len(engine.writer.force_syncs()) == 1  # the real writer sends nothing then
        assert engine.count("force_syncs_total") == 0

    run(test())


# -- refusals


def refusals(engine: Engine) -> dict[str, float]:
    """Those that were counted, by reason."""
    return {str(reason): n for reason in Refusal if (n := engine.count("refusals_total", reason=reason))}


def test_a_refusal_is_counted_when_it_is_reported_and_as_blocked_while_it_persists() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        for _ in range(3):
            engine.vault.errors[A] = [DENIED]
            with suppress(VaultsyncError):
                await engine.passes(asked)
            await engine.es_reconciler.reconcile(APP)
        assert refusals(engine) == {"vault_denied": 1}
        assert +Counter(engine.syncs.blocked()) == {"vault_denied": 1}
        await engine.passes(asked)
        assert +Counter(engine.syncs.blocked()) == {}
        assert refusals(engine) == {"vault_denied": 1}

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
        await engine.es_reconciler.reconcile(APP)
        assert refusals(engine) == {reason: 1}
        assert +Counter(engine.syncs.blocked()) == {reason: 1}

    run(test())


def test_an_external_secret_that_waits_for_the_budget_is_blocked_until_its_path_is_created() -> None:
    async def test() -> None:
        engine = Engine(budget=1)
        await engine.passes(external_secret("a", annotations=SEED))
        with suppress(VaultsyncError):
            await engine.passes(external_secret("b", name="other", annotations=SEED))
        await engine.es_reconciler.reconcile(OTHER)
        assert +Counter(engine.syncs.blocked()) == {"seed_budget": 1}
        engine.clock.forward(3600)
        await engine.passes(external_secret("b", name="other", annotations=SEED))
        assert +Counter(engine.syncs.blocked()) == {}

    run(test())


def test_the_most_severe_refusal_is_counted_and_a_deleted_external_secret_is_not() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.errors[A] = [DENIED]
        asked = external_secret("a", ("b", "a.#.b"), annotations=SEED)
        with suppress(VaultsyncError):
            await engine.passes(asked)
        await engine.path_reconciler.reconcile(B)
        await engine.es_reconciler.reconcile(APP)
        assert +Counter(engine.syncs.blocked()) == {"vault_denied": 1}
        engine.controller.external_secret_removed(asked)
        await engine.es_reconciler.reconcile(APP)
        assert +Counter(engine.syncs.blocked()) == {}

    run(test())


# -- from the event to the force-sync


def heard(engine: Engine) -> float:
    return engine.count("event_to_force_sync_seconds_count")


def test_a_reported_write_is_timed_for_each_reader() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="1")
        async with engine.working():
            for name in ("app", "other"):
                engine.controller.external_secret_changed(external_secret("a", name=name, created=LATER))
            await engine.settled()
            engine.vault.write(A, password="2")
            assert heard(engine) == 0
            engine.event()
            await eventually(lambda: heard(engine) == 2)
            await engine.settled()
            assert heard(engine) == engine.count("force_syncs_total") == 2
            assert 0 < engine.count("event_to_force_sync_seconds_sum") < 10
            # told, and nothing to bring: it is not held against the next one
            engine.event(kind="kv-v2/undelete")
            await engine.settled()
            assert all(engine.syncs.of(external_secret(name=name)).received_at > 1e300 for name in ("app", "other"))
            assert engine.controller._events._received_at == {}

    run(test())


def test_a_write_that_is_reported_while_its_path_waits_for_a_pass_is_timed() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="1")
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", created=LATER))
            await engine.settled()
            engine.controller.enqueue_all()
            engine.vault.write(A, password="2")
            engine.event()
            await eventually(lambda: engine.count("force_syncs_total") == 1)
            await engine.settled()
        assert heard(engine) == 1
        assert engine.controller._events._received_at == {}

    run(test())


def test_a_reported_deletion_is_timed_to_the_force_sync_after_the_re_creation() -> None:
    async def test() -> None:
        engine = Engine()
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.count("force_syncs_total") == 1)
            await engine.settled()
            assert heard(engine) == 0  # nobody told of it
            engine.vault.delete(A)
            engine.event(kind="kv-v2/delete")
            await eventually(lambda: engine.count("force_syncs_total") == 2)
        assert heard(engine) == 1

    run(test())


@pytest.mark.parametrize("down", ["Vault", "Kubernetes"])
def test_an_outage_is_part_of_the_time_and_a_refusal_is_not(down: str) -> None:
    async def test() -> None:
        engine = Engine()
        async with engine.working():
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED))
            await eventually(lambda: engine.count("force_syncs_total") == 1)
            await engine.settled()
            for error, timed in ((True, 1), (False, 1)):
                before = engine.count("force_syncs_total")
                engine.vault.delete(A)
                if down == "Vault":
                    engine.vault.errors[A] = [VaultUnavailable("x") if error else DENIED]
                else:
                    engine.writer.errors = [KubeUnavailable("x") if error else KubeDenied("x")]
                engine.event(kind="kv-v2/delete")
                await eventually(lambda before=before: engine.count("force_syncs_total") == before + 1)  # type: ignore[misc]
                assert heard(engine) == timed
                await engine.settled()
        assert engine.count("event_to_force_sync_seconds_sum") >= 0.05  # the first retry's wait, jittered

    run(test())


# -- from the seed to Ready


def synced(version: str, ready: str = "True") -> dict[str, object]:
    """What external-secrets says once it has taken a change."""
    return {"conditions": [{"type": "Ready", "status": ready}], "syncedResourceVersion": version}


def test_a_seed_is_timed_until_external_secrets_reports_ready() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", annotations=SEED))
        assert 0 <= engine.clock() - engine.syncs.awaited_since() < 10
        for status in ({}, synced("1-a", "False")):
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED, status=status))
            assert engine.count("seed_to_ready_seconds_count") == 0
        for _ in range(2):
            engine.controller.external_secret_changed(external_secret("a", annotations=SEED, status=synced("1-a")))
            assert engine.count("seed_to_ready_seconds_count") == 1
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
        assert engine.count("seed_to_ready_seconds_count") == 0
        engine.controller.external_secret_changed(external_secret("a", annotations=SEED, status=synced("1-b")))
        assert engine.count("seed_to_ready_seconds_count") == 1

    run(test())


def test_an_external_secret_that_cannot_get_ready_or_ignores_force_syncs_is_not_timed() -> None:
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
        await engine.es_reconciler.reconcile(external_secret(namespace="dev-2").name)
        assert engine.syncs.awaited_since() > 1e300

    run(test())
