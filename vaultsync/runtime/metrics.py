"""The metrics of one process: every prometheus_client object is declared here, once, and lives as long as the process.

The parts receive these objects in their constructors and count with them, so that a new term of leadership resets no
counter. Gauges that show a state are set at each scrape, by runtime.app and runtime.term. No label grows with the
cluster, and none holds a path or a name of an object. Metric names follow
https://prometheus.io/docs/practices/naming/: base units, `_total` for counters. deploy/monitoring uses them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vaultsync import __version__
from vaultsync.config.change_source import ChangeSource
from vaultsync.controller.controller import KINDS
from vaultsync.core.annotations import EventReason, Refusal, Result
from vaultsync.kube.informer_manager import RESOURCES
from vaultsync.vault.canary import CanaryResult

PREFIX: Final = "vaultsync"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/."""
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Histogram bounds: hundredths of a second in normal operation, minutes during an outage."""
STATUS_CODES: Final = frozenset(
    {200, 201, 202, 204, 307, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 422, 429, 472, 473, 500, 502, 503, 504}
)
"""HTTP statuses with a label value of their own: those that Vault, the API server and proxies document."""
M = TypeVar("M", Counter, Gauge)


class Metrics:
    """All metrics of this process.

    Each metric is named vaultsync_NAME, and its attribute NAME without the unit.

    Attributes:
        registry: holds all of them.
        writes: the counters of seeds, re-creations and rotations, by the reason of the write.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter, gauge = partial(self._declare, Counter), partial(self._declare, Gauge)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry, buckets=SECONDS)

        # -- this replica
        info = gauge("build_info", "Always 1; the label is the running version.", version=[__version__])
        info.labels(__version__).set(1)
        self.leading = gauge("leading", "1 if this replica is the leader, else 0.")
        self.external_secrets = gauge("external_secrets", "Watched ExternalSecrets.")
        self.paths = gauge("paths", "Vault paths that watched ExternalSecrets reference.")

        # -- work
        self.reconciles = counter(
            "reconciles", "Passes, by kind of key and by result.", kind=KINDS.values(), result=Result
        )
        self.resyncs = counter("resyncs", "Full rescans: periodic ones and those after a reconnect.")
        self.queue_depth = gauge("queue_depth", "Keys that wait for a pass.")
        self.queue_oldest = gauge("queue_oldest_seconds", "Time that the oldest key in the queue has waited.")
        self.queue_failing = gauge("queue_failing", "Keys whose last pass failed and is retried.")
        self.writes: Mapping[EventReason, Counter] = {
            EventReason.SEEDED: counter("seeds", "Writes to Vault of a value that was missing."),
            EventReason.RECREATED: counter("recreations", "Writes to Vault of a value that was deleted."),
            EventReason.ROTATED: counter("rotations", "Writes to Vault of a new value for a generated one."),
        }
        self.new_paths = counter("new_paths", "Vault paths created.")
        self.new_paths_put_off = counter(
            "new_paths_put_off",
            "Creations of a Vault path deferred because the namespace has used up VAULTSYNC_SEED_BUDGET.",
        )
        self.force_syncs = counter("force_syncs", "Force-syncs that the API server has accepted.")
        self.event_to_force_sync = histogram(
            "event_to_force_sync_seconds",
            "Time from the arrival of a Vault event or an audit entry to the force-sync that it causes.",
        )
        self.seed_to_ready = histogram(
            "seed_to_ready_seconds", "Time from a seed, re-creation or rotation until external-secrets reports Ready."
        )
        self.seed_to_ready_oldest = gauge(
            "seed_to_ready_oldest_seconds",
            "Time that the ExternalSecret which waits longest after such a write has waited for Ready.",
        )
        self.refusals = counter(
            "refusals",
            "Reports on an ExternalSecret that a value cannot be created for it, by the most severe reason.",
            reason=Refusal,
        )
        self.blocked_external_secrets = gauge(
            "blocked_external_secrets",
            "ExternalSecrets for which a value cannot be created, by the most severe reason; see their conditions.",
            reason=Refusal,
        )

        self.lost_paths = gauge(
            "lost_paths",
            "Vault paths of a mount that existed and are missing though Vault reports no deletion, while "
            "VAULTSYNC_HEAL_LIMIT keeps vaultsync from creating them again.",
            mount=(),
        )

        # -- sources of changes
        events, audit, poll = ChangeSource.EVENTS.value, ChangeSource.AUDIT.value, ChangeSource.POLL.value
        self.source = gauge(
            "source", "1 for the active source of changes in Vault, else 0.", source=(events, audit, poll)
        )
        self.events = counter("events", "Changes in Vault that the source reported.", source=(events, audit))
        self.last_event_timestamp = gauge(
            "last_event_timestamp_seconds",
            "Unix time of the last change in Vault that the source reported; absent before the first one.",
            source=(),
        )
        self.events_not_understood = counter("events_not_understood", "Invalid frames of the event stream.")
        self.stream_connected = gauge(
            "stream_connected", "1 while the subscription to Vault's event stream is open and not silent."
        )
        self.stream_deaf = counter(
            "stream_deaf",
            "Silent event streams: the stream was open and did not report a write of vaultsync; a rescan followed.",
        )
        self.audit_configured = gauge(
            "audit_configured", "1 if an address or a file for an audit device is configured, else 0."
        )
        self.audit_connected = gauge(
            "audit_connected", "1 while an audit device reports the canaries and the writes of vaultsync."
        )
        self.audit_lost = counter("audit_lost", "Audit entries known to be lost; a rescan follows.")
        self.canaries = counter(
            "canaries",
            "Requests that test whether the audit device reports them, by result.",
            result=[result.value for result in CanaryResult],
        )

        # -- Vault and the API server
        self.vault_reachable = gauge(
            "vault_reachable", "1 if Vault answered the last request or the event stream is open."
        )
        self.vault_token_expiry = _TokenExpiry()
        self.registry.register(self.vault_token_expiry)
        self.watches_lost = gauge("watches_lost", "Watches of the API server that are down.", resource=RESOURCES)
        codes = 'by HTTP method and status code: "none" without a response, "other" for a rare status.'
        self.vault_requests = counter("vault_requests", f"Requests to Vault, {codes}", method=(), code=())
        self.kube_requests = counter("kube_requests", f"Requests to the API server, {codes}", method=(), code=())

    def _declare(self, type: type[M], name: str, help: str, /, **labels: Iterable[str]) -> M:
        """Create a metric, with 0 for each combination of the labels' known values: `rate` needs a first sample."""
        metric = type(name, help, list(labels), PREFIX, registry=self.registry)
        for combination in product(*labels.values()) if labels else ():
            metric.labels(*combination)
        return metric

    def count_vault_request(self, method: str, status: int) -> None:
        """Count a request to Vault; see core.callbacks.CountRequest."""
        self.vault_requests.labels(method, status_label(status)).inc()

    def count_kube_request(self, method: str, status: int) -> None:
        """Count a request to the API server; see core.callbacks.CountRequest."""
        self.kube_requests.labels(method, status_label(status)).inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def status_label(status: int) -> str:
    """The label value of an HTTP status, or of 0 for no response; the number of different values is bounded."""
    if status in STATUS_CODES:
        return str(status)
    return "other" if status else "none"


class _TokenExpiry(Collector):
    """A gauge that is absent while it has no value, which prometheus_client's Gauge cannot be.

    Attributes:
        timestamp: Unix time, None for a token that does not expire.
    """

    def __init__(self) -> None:
        self.timestamp: float | None = None

    def collect(self) -> Iterator[Metric]:
        """The gauge, if it has a value."""
        if self.timestamp is not None:
            yield GaugeMetricFamily(
                "vaultsync_vault_token_expiry_timestamp_seconds",
                "Unix time at which the Vault token expires unless it is renewed; absent for one that does not expire.",
                value=self.timestamp,
            )
