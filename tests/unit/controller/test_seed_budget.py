"""The seed budget allows a burst of an hour's worth, then even creation, and remembers the last hour only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import Clock
from vaultsync.controller.path_reconciler import create_budget
from vaultsync.core.rate_limit import TokenBuckets


def limited(per_hour: int, clock: Clock) -> TokenBuckets[str]:
    budget = create_budget(per_hour, clock)
    assert budget is not None
    return budget


def taken(budget: TokenBuckets[str], namespace: str, times: int) -> int:
    return sum(budget.take(namespace) == 0.0 for _ in range(times))


def remembered(budget: TokenBuckets[str]) -> set[str]:
    return set(budget._buckets)


def test_an_hours_worth_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    budget = limited(100, clock)
    assert taken(budget, "dev-1", 150) == 100
    assert budget.take("dev-1") == pytest.approx(36.0)
    clock.forward(30.0)
    assert budget.take("dev-1") == pytest.approx(6.0)
    clock.forward(6.0)
    assert taken(budget, "dev-1", 3) == 1
    clock.forward(3600.0)
    assert taken(budget, "dev-1", 150) == 100


def test_forty_developers_start_at_once() -> None:
    budget = limited(100, Clock())
    assert all(taken(budget, f"dev-{number}", 10) == 10 for number in range(40))


def test_one_namespaces_budget_is_not_anothers() -> None:
    budget = limited(1, Clock())
    assert (taken(budget, "dev-1", 5), taken(budget, "dev-2", 5)) == (1, 1)


def test_a_refused_path_is_not_counted() -> None:
    clock = Clock()
    budget = limited(1, clock)
    assert taken(budget, "dev-1", 1000) == 1
    clock.forward(3600.0)
    assert budget.take("dev-1") == 0.0


def test_zero_is_no_limit() -> None:
    assert create_budget(0, Clock()) is None


def test_full_buckets_are_forgotten() -> None:
    clock = Clock()
    budget = limited(100, clock)
    for number in range(1000):
        budget.take(f"dev-{number}")
    clock.forward(36.0)
    budget.take("dev-1")
    assert remembered(budget) == {"dev-1"}


def test_a_bucket_that_fills_slowly_holds_others_back_for_an_hour_at_most() -> None:
    clock = Clock()
    budget = limited(100, clock)
    taken(budget, "slow", 100)
    for number in range(50):
        budget.take(f"dev-{number}")
    clock.forward(3600.0)
    budget.take("late")
    assert remembered(budget) == {"late"}


@given(st.integers(1, 20), st.floats(0, 4e9), st.lists(st.floats(0, 600), max_size=60))
def test_an_hour_sees_the_burst_and_what_filled_up_meanwhile_at_most(
    per_hour: int, start: float, pauses: list[float]
) -> None:
    clock = Clock()
    clock.now = start
    budget = limited(per_hour, clock)
    allowed = [clock.now] * taken(budget, "dev-1", per_hour + 5)
    assert len(allowed) == per_hour
    for pause in pauses:
        clock.forward(pause)
        allowed += [clock.now] * taken(budget, "dev-1", 3)
    for begin in allowed:
        assert sum(begin <= time < begin + 3600 for time in allowed) <= 2 * per_hour


@given(st.integers(1, 1000), st.floats(0, 4e9))
def test_after_the_named_wait_one_is_allowed_and_not_before(per_hour: int, start: float) -> None:
    clock = Clock()
    clock.now = start
    budget = limited(per_hour, clock)
    taken(budget, "dev-1", per_hour)
    wait = budget.take("dev-1")
    assert wait == pytest.approx(3600 / per_hour, abs=0.01)
    clock.forward(wait / 2)
    assert budget.take("dev-1") > 0.0
    clock.forward(wait / 2)
    assert budget.take("dev-1") == 0.0
