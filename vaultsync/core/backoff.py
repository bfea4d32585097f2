"""Waiting times after failures: exponential, capped, jittered. Pure but for the random generator handed in."""

import random
from collections.abc import Iterator


def backoff(first: float, most: float, rng: random.Random | None = None) -> Iterator[float]:
    """Endless waiting times in seconds: doubling from `first` to `most`, each jittered to between half and all of it.

    Half of it is fixed so that retries never come at once; the jitter keeps replicas from retrying in step.
    """
    rng = rng or random.Random()
    delay = first
    while True:
        yield delay * rng.uniform(0.5, 1.0)
        delay = min(delay * 2, most)


def jittered(period: float, rng: random.Random | None = None) -> float:
    """A period in seconds, spread by ±10 %."""
    return period * (rng or random.Random()).uniform(0.9, 1.1)
