"""Waits between attempts (exponential back-off, jitter), and failures of one operation. Pure, except for randomness."""

import random
from collections.abc import Iterator
from dataclasses import dataclass


def backoff(first: float, most: float, rng: random.Random | None = None) -> Iterator[float]:
    """Waits in seconds, without end: doubling from `first` to `most`, each multiplied by a random factor of 0.5 to 1.

    The lower bound prevents immediate retries; the jitter prevents replicas from retrying at the same time.
    """
    rng = rng or random.Random()
    delay = first
    while True:
        yield delay * rng.uniform(0.5, 1.0)
        delay = min(delay * 2, most)


def jittered(period: float, rng: random.Random | None = None) -> float:
    """A period in seconds with a jitter of ±10 %."""
    return period * (rng or random.Random()).uniform(0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Failed:
    """A failed attempt: the seconds until the next one, and whether its reason differs from the previous one."""

    wait: float
    is_new: bool

    @property
    def level(self) -> str:
        """The log level: a repeated reason is logged as one warning."""
        return "WARNING" if self.is_new else "DEBUG"


class Retry:
    """Counts the consecutive failures of one operation. The arguments are those of `backoff`."""

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._reason: str | None = None
        self.start_over()

    def failed(self, reason: str) -> Failed:
        """Count a failure; `reason` as it is logged."""
        is_new = reason != self._reason
        self._reason = reason
        return Failed(next(self._waits), is_new)

    def succeeded(self) -> bool:
        """Count a success; returns whether the previous attempt failed."""
        was_failing, self._reason = self._reason is not None, None
        self.start_over()
        return was_failing

    def start_over(self) -> None:
        """Start the waits again with the first; the reason stays known."""
        self._waits = backoff(self._first, self._most)
