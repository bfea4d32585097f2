"""Token buckets: a burst, then a rate. Pure; callers wait."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from vaultsync.core.callbacks import Clock

K = TypeVar("K", bound=Hashable)

_ROUNDING: Final = 1e-6
"""Tokens; tolerance for the sum of fractions."""


class TokenBucket:
    """A bucket of `burst` tokens, full at the start; `rate` tokens are added per second."""

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> float:
        """Take a token; returns 0.0 if there was one, else the seconds until there is one."""
        self._fill()
        if self._tokens < 1 - _ROUNDING:
            return self.wait
        self._tokens -= 1
        return 0.0

    @property
    def wait(self) -> float:
        """Seconds until the next token, as of the last call."""
        return max(0.0, (1 - self._tokens) / self._rate)

    @property
    def is_full(self) -> bool:
        """Whether it is filled to its capacity."""
        self._fill()
        return self._tokens >= self._burst

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now


class TokenBuckets(Generic[K]):
    """A TokenBucket for each key. Full ones are dropped.

    The least recently used are dropped if there are more than `capacity`, unless that is 0.
    """

    def __init__(self, rate: float, burst: float, clock: Clock, capacity: int = 0) -> None:
        self._rate, self._burst, self._clock, self._capacity = rate, burst, clock, capacity
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K) -> float:
        """Take a token of the key's bucket; see TokenBucket.take."""
        bucket = self._buckets.setdefault(key, TokenBucket(self._rate, self._burst, self._clock))
        self._buckets.move_to_end(key)
        wait = bucket.take()
        while (oldest := next(iter(self._buckets.values()), None)) is not None:
            if not oldest.is_full and not 0 < self._capacity < len(self._buckets):
                break
            self._buckets.popitem(last=False)
        return wait
