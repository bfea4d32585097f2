"""How many new paths vaultsync creates for one Kubernetes namespace: so that no author fills Vault. No I/O, no waiting.

A pass that is refused is tried again by its caller; nothing is queued here.
"""

from collections.abc import Callable
from typing import Final

HOUR: Final = 3600.0
_ROUNDING: Final = 0.001
"""Seconds; what adding up intervals may be off by."""


class SeedBudget:
    """A token bucket per Kubernetes namespace: it holds an hour's worth of new paths, and fills up evenly.

    Args:
        per_hour: new paths an hour and namespace, 0 for no limit.
        clock: seconds that never go back, such as time.monotonic.
    """

    def __init__(self, per_hour: int, clock: Callable[[], float]) -> None:
        self._interval = HOUR / per_hour if per_hour else 0.0
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """When each bucket will be full again, least recently used first. None here: it is full."""

    def take(self, namespace: str) -> float:
        """Count one new path, if the bucket holds one.

        Returns:
            0.0 if it does, else the seconds until it will; a refused path is not counted.
        """
        if not self._interval:
            return 0.0
        now = self._clock()
        full_at = max(self._full_at.get(namespace, now), now) + self._interval
        wait = full_at - now - HOUR
        if wait > _ROUNDING:
            return wait
        self._full_at.pop(namespace, None)
        self._full_at[namespace] = full_at
        self._forget_full(now)
        return 0.0

    def _forget_full(self, now: float) -> None:
        """A bucket is full an hour after its last use at the latest: those of the last hour are all that is kept."""
        while self._full_at:
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now:
                return
            del self._full_at[oldest]
