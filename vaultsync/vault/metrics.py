"""The metrics that the sources of changes count with. runtime.metrics declares and documents them."""

from typing import Protocol

from prometheus_client import Counter, Gauge

from vaultsync.config.change_source import ChangeSource


class SourceMetrics(Protocol):
    """A part of runtime.metrics.Metrics."""

    events: Counter
    last_event_timestamp: Gauge
    events_not_understood: Counter
    stream_deaf: Counter
    audit_lost: Counter
    canaries: Counter


class ReportedChanges:
    """Counts the changes that one source reports.

    Looks up each metric once: a look-up takes 0.7 µs, more than the counting, and a busy Vault reports thousands of
    changes in a second.
    """

    def __init__(self, metrics: SourceMetrics, source: ChangeSource) -> None:
        self._source = source.value
        self._number = metrics.events.labels(self._source)
        self._last_timestamp = metrics.last_event_timestamp
        self._last: Gauge | None = None

    def count(self) -> None:
        """Count a change now; before the first one, its time is absent from the metrics."""
        if self._last is None:
            self._last = self._last_timestamp.labels(self._source)
        self._number.inc()
        self._last.set_to_current_time()
