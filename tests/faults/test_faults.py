"""A bounded portion of the fault suite, by fixed seeds; `make soak DURATION=10min` goes on with others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.environment import World, world
from tests.faults.episode import Episode

SEEDS = range(14)


@pytest.fixture(scope="module")
def one_world() -> Iterator[World]:
    """All episodes happen to the same servers, one after another."""
    with world() as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_once_all_is_whole_again_the_invariants_hold(one_world: World, seed: int) -> None:
    print(Episode(one_world, seed, print).run())
