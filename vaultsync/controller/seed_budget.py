"""Limits how many new paths vaultsync creates for one Kubernetes namespace, so that no author fills Vault. No I/O.

Nothing waits here: the caller tries a refused path again.
"""

from collections.abc import Callable
from typing import Final

from vaultsync.core.rate_limit import TokenBuckets

HOUR: Final = 3600.0


class SeedBudget:
    """A token bucket per Kubernetes namespace, which holds an hour's worth of new paths.

    Args:
        per_hour: new paths an hour and namespace, 0 for no limit.
        clock: seconds, monotonic.
    """

    def __init__(self, per_hour: int, clock: Callable[[], float]) -> None:
        self._buckets: TokenBuckets[str] | None = None
        if per_hour:
            self._buckets = TokenBuckets(per_hour / HOUR, per_hour, clock)

    def take(self, namespace: str) -> float:
        """Count one new path.

        Returns:
            0.0 if it is allowed, else the seconds until it will be.
        """
        return 0.0 if self._buckets is None else self._buckets.take(namespace)
