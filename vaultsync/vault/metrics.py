"""The metrics that the sources of changes count with. runtime.metrics declares and documents them."""

from typing import Protocol

from prometheus_client import Counter, Gauge


class SourceMetrics(Protocol):
    """A part of runtime.metrics.Metrics."""

    events: Counter
    last_event_timestamp: Gauge
    events_not_understood: Counter
    stream_deaf: Counter
    audit_lost: Counter
    canaries: Counter
