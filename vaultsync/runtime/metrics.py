"""The metrics of one process: every prometheus_client object is declared here, once, and lives as long as the process.

The parts receive these objects in their constructors and count with them, so that a new term of leadership resets no
counter. Gauges that show a state are set at each scrape, by runtime.app and runtime.term. No label grows with the
cluster, and none holds a path or a name of an object. Metric names follow
https://prometheus.io/docs/practices/naming/: base units, `_total` for counters. deploy/monitoring uses them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vaultsync import __version__
from vaultsync.config.change_source import ChangeSource
from vaultsync.controller.controller import KINDS
from vaultsync.core.annotations import EventReason, Refusal, Result
from vaultsync.kube.informer_manager import RESOURCES
from vaultsync.vault.canary import CanaryResult

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/."""
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Histogram bounds: hundredths of a second in normal operation, minutes during an outage."""
STATUS_CODES: Final = frozenset(
    {200, 201, 202, 204, 307, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 422, 429, 472, 473, 500, 502, 503, 504}
)
"""HTTP statuses with a label value of their own: those that Vault, the API server and proxies document."""


class Metrics:
    """All metrics of this process.

    An attribute is named like its metric, without the prefix `vaultsync_` and the unit.

    Attributes:
        registry: holds all of them.
        writes: the counters of seeds, re-creations and rotations, by the reason of the write.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=SECONDS)

        # -- this replica
        gauge("vaultsync_build_info", "Always 1; the label is the running version.", ["version"]).labels(
            __version__
        ).set(1)
        self.leading = gauge("vaultsync_leading", "1 if this replica is the leader, else 0.")
        self.external_secrets = gauge("vaultsync_external_secrets", "Watched ExternalSecrets.")
        self.paths = gauge("vaultsync_paths", "Vault paths that watched ExternalSecrets reference.")

        # -- work
        self.reconciles = counter("vaultsync_reconciles", "Passes, by kind of key and by result.", ["kind", "result"])
        _add_zeros(self.reconciles, KINDS.values(), Result)
        self.resyncs = counter("vaultsync_resyncs", "Full rescans: periodic ones and those after a reconnect.")
        self.queue_depth = gauge("vaultsync_queue_depth", "Keys that wait for a pass.")
        self.queue_oldest = gauge("vaultsync_queue_oldest_seconds", "Time that the oldest key in the queue has waited.")
        self.queue_failing = gauge("vaultsync_queue_failing", "Keys whose last pass failed and is retried.")
        self.writes: Mapping[EventReason, Counter] = {
            EventReason.SEEDED: counter("vaultsync_seeds", "Writes to Vault of a value that was missing."),
            EventReason.RECREATED: counter("vaultsync_recreations", "Writes to Vault of a value that was deleted."),
            EventReason.ROTATED: counter("vaultsync_rotations", "Writes to Vault of a new value for a generated one."),
        }
        self.new_paths = counter("vaultsync_new_paths", "Vault paths created.")
        self.new_paths_put_off = counter(
            "vaultsync_new_paths_put_off",
            "Creations of a Vault path deferred because the namespace has used up VAULTSYNC_SEED_BUDGET.",
        )
        self.force_syncs = counter("vaultsync_force_syncs", "Force-syncs that the API server has accepted.")
        self.event_to_force_sync = histogram(
            "vaultsync_event_to_force_sync_seconds",
            "Time from the arrival of a Vault event or an audit entry to the force-sync that it causes.",
        )
        self.seed_to_ready = histogram(
            "vaultsync_seed_to_ready_seconds",
            "Time from a seed, re-creation or rotation until external-secrets reports Ready.",
        )
        self.seed_to_ready_oldest = gauge(
            "vaultsync_seed_to_ready_oldest_seconds",
            "Time that the ExternalSecret which waits longest after such a write has waited for Ready.",
        )
        self.refusals = counter(
            "vaultsync_refusals",
            "Reports on an ExternalSecret that a value cannot be created for it, by the most severe reason.",
            ["reason"],
        )
        _add_zeros(self.refusals, Refusal)
        self.blocked_external_secrets = gauge(
            "vaultsync_blocked_external_secrets",
            "ExternalSecrets for which a value cannot be created, by the most severe reason; see their conditions.",
            ["reason"],
        )
        _add_zeros(self.blocked_external_secrets, Refusal)

        # -- sources of changes
        self.source = gauge("vaultsync_source", "1 for the active source of changes in Vault, else 0.", ["source"])
        _add_zeros(self.source, (ChangeSource.EVENTS.value, ChangeSource.AUDIT.value, ChangeSource.POLL.value))
        self.events = counter("vaultsync_events", "Changes in Vault that the source reported.", ["source"])
        _add_zeros(self.events, (ChangeSource.EVENTS.value, ChangeSource.AUDIT.value))
        self.last_event_timestamp = gauge(
            "vaultsync_last_event_timestamp_seconds",
            "Unix time of the last change in Vault that the source reported; absent before the first one.",
            ["source"],
        )
        self.events_not_understood = counter("vaultsync_events_not_understood", "Invalid frames of the event stream.")
        self.stream_connected = gauge(
            "vaultsync_stream_connected", "1 while the subscription to Vault's event stream is open and not silent."
        )
        self.stream_deaf = counter(
            "vaultsync_stream_deaf",
            "Silent event streams: the stream was open and did not report a write of vaultsync; a rescan followed.",
        )
        self.audit_configured = gauge(
            "vaultsync_audit_configured", "1 if an address or a file for an audit device is configured, else 0."
        )
        self.audit_connected = gauge(
            "vaultsync_audit_connected", "1 while an audit device reports the canaries and the writes of vaultsync."
        )
        self.audit_lost = counter("vaultsync_audit_lost", "Audit entries known to be lost; a rescan follows.")
        self.canaries = counter(
            "vaultsync_canaries", "Requests that test whether the audit device reports them, by result.", ["result"]
        )
        _add_zeros(self.canaries, (result.value for result in CanaryResult))

        # -- Vault and the API server
        self.vault_reachable = gauge(
            "vaultsync_vault_reachable", "1 if Vault answered the last request or the event stream is open."
        )
        self.vault_token_expiry = _TokenExpiry()
        self.registry.register(self.vault_token_expiry)
        self.watches_lost = gauge("vaultsync_watches_lost", "Watches of the API server that are down.", ["resource"])
        _add_zeros(self.watches_lost, RESOURCES)
        codes = 'by HTTP method and status code: "none" without a response, "other" for a rare status.'
        labels = ["method", "code"]
        self.vault_requests = counter("vaultsync_vault_requests", f"Requests to Vault, {codes}", labels)
        self.kube_requests = counter("vaultsync_kube_requests", f"Requests to the API server, {codes}", labels)

    def count_vault_request(self, method: str, status: int) -> None:
        """Count a request to Vault; any thread may call this.

        Args:
            method: HTTP method.
            status: HTTP status, 0 without a response.
        """
        self.vault_requests.labels(method, status_label(status)).inc()

    def count_kube_request(self, method: str, status: int) -> None:
        """Count a request to the API server.

        Args:
            method: HTTP method, or WATCH.
            status: HTTP status, 0 without a response.
        """
        self.kube_requests.labels(method, status_label(status)).inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def status_label(status: int) -> str:
    """The label value of an HTTP status; the number of different values is bounded.

    Args:
        status: 0 without a response.
    """
    if status in STATUS_CODES:
        return str(status)
    return "other" if status else "none"


def _add_zeros(metric: Counter | Gauge, *values: Iterable[str]) -> None:
    """Export the metric with 0 for each combination of label values, as `rate` needs a first sample."""
    for combination in product(*values):
        metric.labels(*combination)


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
