"""/metrics in Prometheus' text format: read from the parts when asked, so that these know nothing of it.

No label that grows with the cluster, and no path or name in one. Names follow
https://prometheus.io/docs/practices/naming/: base units, `_total` on what only rises. deploy/monitoring goes by them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vaultsync.core.measure import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the parts of one vaultsync have counted so far, and how they are now.

    Attributes:
        leading: whether this is the replica that works.
        passes: by what they were over and how they ended.
        queue_oldest: seconds.
        seeds, recreations, rotations: writes in Vault.
        refusals: how often an ExternalSecret was told that something is not made for it, by reason.
        blocked: how many have been told so and wait, by reason.
        stream_deaf: how often a subscription to the event stream delivered nothing.
        awaited: seconds that external-secrets has taken so far with what it is slowest to read, 0 for nothing.
        audit_lost: audit entries that are known to be lost.
        canaries: by how they ended.
        sources: by name, whether it is the one that is relied upon.
        events: by source, how many came.
        last_events: by source, when the last one came, in seconds since 1970.
        token_ends_at: the same for the end of the Vault token, None where there is none.
        watches_lost: by resource, how many lists or watches are not up.
        vault_requests, kube_requests: by method and code.
    """

    version: str
    leading: bool = True
    passes: Mapping[tuple[str, str], int]
    queue_depth: int
    queue_oldest: float
    queue_failing: int
    seeds: int
    recreations: int
    rotations: int
    force_syncs: int
    heard_to_synced: Histogram
    made_to_ready: Histogram
    awaited: float
    refusals: Mapping[str, int]
    blocked: Mapping[str, int]
    new_paths: int
    new_paths_put_off: int
    resyncs: int
    external_secrets: int
    paths: int
    stream_connected: bool
    stream_deaf: int
    audit_configured: bool
    audit_connected: bool
    audit_lost: int
    canaries: Mapping[str, int]
    sources: Mapping[str, bool]
    events: Mapping[str, int]
    last_events: Mapping[str, float]
    events_not_understood: int
    vault_reachable: bool
    token_ends_at: float | None = None
    watches_lost: Mapping[str, int]
    vault_requests: Mapping[tuple[str, str], int]
    kube_requests: Mapping[tuple[str, str], int]


RISING: Final = ("counter", "histogram")
"""Types of metrics that must not go back while the process lives."""
_Sample: TypeAlias = tuple[str, str, tuple[tuple[str, str], ...]]


class Metrics(Collector):
    """All metrics of one vaultsync, and of its process.

    Args:
        read: what there is to tell; called at each scrape.
    """

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read
        self._kept: Counter[_Sample] = Counter()
        """By family, sample and labels: what parts have counted that are no more."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        for family in self._families():
            if family.type in RISING:
                self._add_kept(family)
            yield family

    def _families(self) -> Iterator[Metric]:
        now = self._read()
        yield from _own(now)
        yield from _work(now)
        yield from _sources(now)
        yield from _servers(now)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """No counter goes back by the parts' replacement within: what the old ones have counted is added from then on.

        Parts that stay are counted once all the same.
        """
        before = self._rising()
        yield
        before.subtract(self._rising())
        self._kept.update({sample: value for sample, value in before.items() if value})

    def _rising(self) -> "Counter[_Sample]":
        return Counter(
            {
                (family.name, sample.name, tuple(sample.labels.items())): sample.value
                for family in self._families()
                if family.type in RISING
                for sample in family.samples
            }
        )

    def _add_kept(self, family: Metric) -> None:
        kept = {(name, labels): value for (of, name, labels), value in self._kept.items() if of == family.name}
        family.samples = [
            sample._replace(value=sample.value + kept.pop((sample.name, tuple(sample.labels.items())), 0))
            for sample in family.samples
        ]
        for (name, labels), value in kept.items():  # which the new parts have not counted yet
            family.add_sample(name, dict(labels), value)

    def text(self) -> bytes:
        """What is served."""
        return generate_latest(self._registry)


def _own(now: Figures) -> Iterator[Metric]:
    yield _gauge("vaultsync_build_info", "Always 1; the label says which version runs.", {now.version: 1}, "version")
    yield _gauge("vaultsync_leading", "1 if this replica is the one that works, else 0.", now.leading)
    yield _gauge("vaultsync_external_secrets", "ExternalSecrets that are watched.", now.external_secrets)
    yield _gauge("vaultsync_paths", "Vault paths that they name.", now.paths)


def _work(now: Figures) -> Iterator[Metric]:
    yield _counter("vaultsync_reconciles", "Passes, by what they were over and result.", now.passes, "kind", "result")
    yield _gauge("vaultsync_queue_depth", "Keys that wait for a pass now.", now.queue_depth)
    yield _gauge("vaultsync_queue_oldest_seconds", "How long the longest waiting key has waited.", now.queue_oldest)
    yield _gauge("vaultsync_queue_failing", "Keys whose last pass failed and is tried again.", now.queue_failing)
    yield _counter("vaultsync_seeds", "Writes in Vault of what was missing and never there.", now.seeds)
    yield _counter("vaultsync_recreations", "Writes in Vault of what was there before and was lost.", now.recreations)
    yield _counter("vaultsync_rotations", "Writes in Vault of new values for what vaultsync made.", now.rotations)
    yield _counter("vaultsync_force_syncs", "Force-syncs that the API server has taken.", now.force_syncs)
    yield _histogram(
        "vaultsync_event_to_force_sync_seconds",
        "From the arrival of Vault's event, or its audit line, to the force-sync that brings the change.",
        now.heard_to_synced,
    )
    yield _histogram(
        "vaultsync_seed_to_ready_seconds",
        "From a seed, re-creation or rotation to external-secrets' Ready after it.",
        now.made_to_ready,
    )
    yield _gauge(
        "vaultsync_seed_to_ready_oldest_seconds",
        "How long the longest waiting ExternalSecret has waited for external-secrets' Ready after such a write.",
        now.awaited,
    )
    yield _counter(
        "vaultsync_refusals",
        "How often an ExternalSecret was told that something is not made for it, by the gravest reason.",
        now.refusals,
        "reason",
    )
    yield _gauge(
        "vaultsync_blocked_external_secrets",
        "ExternalSecrets for which something is not made now, by the gravest reason; each says itself what.",
        now.blocked,
        "reason",
    )
    yield _counter("vaultsync_new_paths", "Vault paths that were created where none was.", now.new_paths)
    yield _counter(
        "vaultsync_new_paths_put_off",
        "How often a new path had to wait, as its namespace had spent VAULTSYNC_SEED_BUDGET.",
        now.new_paths_put_off,
    )
    yield _counter("vaultsync_resyncs", "Looks at everything: from time to time, and after a reconnect.", now.resyncs)


def _sources(now: Figures) -> Iterator[Metric]:
    yield _gauge(
        "vaultsync_stream_connected",
        "1 while subscribed to Vault's event stream, and it is not known to be deaf.",
        now.stream_connected,
    )
    yield _counter(
        "vaultsync_stream_deaf",
        "How often Vault's event stream was open and did not report a write of vaultsync's own; a rescan followed.",
        now.stream_deaf,
    )
    yield _gauge(
        "vaultsync_audit_configured",
        "1 where an audit device of Vault is meant to tell vaultsync of changes: there is an address or a file for it.",
        now.audit_configured,
    )
    yield _gauge(
        "vaultsync_audit_connected",
        "1 while an audit device of Vault is known to deliver: the last canary, or own write, was reported.",
        now.audit_connected,
    )
    yield _counter("vaultsync_audit_lost", "Audit entries that are known to be lost; a rescan follows.", now.audit_lost)
    yield _counter(
        "vaultsync_canaries",
        "Requests of vaultsync's own to see whether Vault's audit device reports them, by result.",
        now.canaries,
        "result",
    )
    yield _gauge(
        "vaultsync_source", "1 for what is relied upon to tell of changes in Vault, else 0.", now.sources, "source"
    )
    yield _counter("vaultsync_events", "Changes in Vault that were told.", now.events, "source")
    yield _gauge(
        "vaultsync_last_event_timestamp_seconds",
        "When the last change in Vault was told, since 1970; none before the first.",
        now.last_events,
        "source",
    )
    yield _counter("vaultsync_events_not_understood", "Frames of the stream that are none.", now.events_not_understood)


def _servers(now: Figures) -> Iterator[Metric]:
    yield _gauge(
        "vaultsync_vault_reachable", "1 if Vault answered the last request, or streams events.", now.vault_reachable
    )
    if now.token_ends_at is not None:
        yield _gauge(
            "vaultsync_vault_token_expiry_timestamp_seconds",
            "When the token that Vault was asked with ends unless it is renewed, since 1970; none for an endless one.",
            now.token_ends_at,
        )
    yield _gauge("vaultsync_watches_lost", "Watches on the API server that are not up.", now.watches_lost, "resource")
    what = 'Requests to {}; the code is HTTP\'s, "none" without an answer, and "other" for rare ones.'
    yield _counter("vaultsync_vault_requests", what.format("Vault"), now.vault_requests, "method", "code")
    yield _counter("vaultsync_kube_requests", what.format("the API server"), now.kube_requests, "method", "code")


Values = float | Mapping[str, float] | Mapping[tuple[str, str], float]
"""One value, or one for each value of the label or labels."""


def _counter(name: str, what: str, values: Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, what, labels=labels), values)


def _gauge(name: str, what: str, values: Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, what, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Values) -> Metric:
    for label, value in values.items() if isinstance(values, Mapping) else (((), values),):
        family.add_metric((label,) if isinstance(label, str) else label, value)
    return family


def _histogram(name: str, what: str, values: Histogram) -> Metric:
    buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in values.buckets()]
    return HistogramMetricFamily(name, what, buckets=buckets, sum_value=values.sum)
