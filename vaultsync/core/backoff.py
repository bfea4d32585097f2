"""Exponential back-off with a maximum and jitter. Pure, except for the random generator that it is given."""

import random
from collections.abc import Iterator


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
