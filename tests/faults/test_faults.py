"""A part of the fault suite with fixed seeds; `make soak DURATION=10min` runs others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.environment import Environment, start_environment
from tests.faults.episode import Episode

SEEDS = range(14)


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    """All episodes run on the same servers, one after another."""
    with start_environment() as started:
        yield started


@pytest.mark.parametrize("seed", SEEDS)
def test_invariants_hold_after_recovery(environment: Environment, seed: int) -> None:
    print(Episode(environment, seed, print).run())
