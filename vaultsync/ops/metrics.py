"""/metrics in Prometheus' text format: read from the parts when asked, so that these know nothing of it.

No label that grows with the cluster, and no path or name in one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/."""


class Metrics(Collector):
    """All metrics of one vaultsync.

    Args:
        counters: by name (without `_total`), what is counted and how much it is so far; read at each scrape.
    """

    def __init__(self, counters: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        self._counters = counters
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For the registry."""
        for name, (what, value) in self._counters().items():
            yield CounterMetricFamily(name, what, value=value)

    def text(self) -> bytes:
        """What is served."""
        return generate_latest(self._registry)
