"""A bounded portion of the fault suite, by fixed seeds; `make soak DURATION=10min` goes on with others."""

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
def test_once_all_is_whole_again_the_invariants_hold(environment: Environment, seed: int) -> None:
    print(Episode(environment, seed, print).run())
