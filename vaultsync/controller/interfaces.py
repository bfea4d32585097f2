"""The metrics that the controller counts with. runtime.metrics declares and documents them; none is created here."""

from collections.abc import Mapping
from typing import Protocol

from prometheus_client import Counter, Histogram

from vaultsync.core.annotations import EventReason


class ControllerMetrics(Protocol):
    """A part of runtime.metrics.Metrics."""

    reconciles: Counter
    resyncs: Counter
    writes: Mapping[EventReason, Counter]
    new_paths: Counter
    new_paths_put_off: Counter
    force_syncs: Counter
    refusals: Counter
    event_to_force_sync: Histogram
    seed_to_ready: Histogram
