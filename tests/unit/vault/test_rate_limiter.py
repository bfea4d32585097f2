"""vault/rate_limiter: nothing happens without a refusal; after one, requests take turns at a rate that adapts."""

import pytest

from tests.unit.build import Clock, logged
from vaultsync.vault.rate_limiter import CUT, FIRST_PAUSE, LONGEST_PAUSE, LONGEST_WAIT, QUIET_SECONDS, RateLimiter

SCOPE, OTHER = ("", "secret"), ("team", "secret")


def limited(clock: Clock, taken: int = 10, retry_after: float = 0.0) -> tuple[RateLimiter, float]:
    """A limiter after a first refusal, and what was said to wait."""
    limiter = RateLimiter(clock)
    for _ in range(taken):
        assert limiter.wait(SCOPE, "k") == 0
        limiter.sent(SCOPE)
    return limiter, limiter.refused(SCOPE, "k", retry_after)


def test_without_a_refusal_nothing_waits() -> None:
    limiter = RateLimiter(Clock())
    for key in range(10_000):
        assert limiter.wait(SCOPE, key) == 0
        limiter.sent(SCOPE)
        limiter.charge(SCOPE)
        assert limiter.pause(SCOPE) == 0


def test_after_a_refusal_there_is_a_pause_and_then_each_key_has_its_turn() -> None:
    clock = Clock()
    limiter, wait = limited(clock)
    assert wait == FIRST_PAUSE
    assert limiter.pause(SCOPE) == FIRST_PAUSE
    step = 1 / (CUT * 10)
    waits = [limiter.wait(SCOPE, number) for number in range(4)]
    assert waits == pytest.approx([FIRST_PAUSE + step * (number + 1) for number in range(4)])
    assert limiter.wait(SCOPE, 3) == pytest.approx(waits[3]), "its turn is kept"
    clock.forward(waits[3])
    assert limiter.pause(SCOPE) == 0
    assert [limiter.wait(SCOPE, number) for number in range(4)] == [0, 0, 0, 0]
    assert limiter.wait(SCOPE, 3) > 0, "a turn is used once"


@pytest.mark.parametrize(("said", "wait"), [(0, FIRST_PAUSE), (7, 7), (1e9, LONGEST_PAUSE)])
def test_it_waits_as_long_as_vault_says_but_not_for_ever(said: float, wait: float) -> None:
    assert limited(Clock(), retry_after=said)[0].pause(SCOPE) == wait


def test_a_key_whose_turn_is_late_asks_again_as_the_limit_may_have_ended() -> None:
    clock = Clock()
    limiter, wait = limited(clock, retry_after=40)
    assert wait == LONGEST_WAIT
    clock.forward(LONGEST_WAIT)
    assert limiter.wait(SCOPE, "k") == LONGEST_WAIT
    clock.forward(40 + QUIET_SECONDS)
    assert limiter.wait(SCOPE, "k") == 0


def test_refusals_one_after_the_other_lengthen_the_pause() -> None:
    clock = Clock()
    limiter, wait = limited(clock)
    pauses = []
    for _ in range(9):
        clock.forward(wait)
        limiter.refused(SCOPE, "k", 0)
        wait = limiter.pause(SCOPE)
        pauses.append(wait)
    assert pauses[:4] == [2, 4, 8, 16]
    assert pauses[-1] == LONGEST_PAUSE


def test_what_was_under_way_changes_nothing() -> None:
    clock = Clock()
    limiter, _ = limited(clock)
    for key in ("a", "b", "c"):
        assert limiter.refused(SCOPE, key, 0) < 2
    assert limiter.pause(SCOPE) == FIRST_PAUSE


def test_what_follows_on_a_look_takes_the_turn_of_a_later_one() -> None:
    clock = Clock()
    limiter, wait = limited(clock)
    clock.forward(wait + 10)
    assert limiter.wait(SCOPE, "a") == 0
    limiter.charge(SCOPE)
    assert 0.1 < limiter.wait(SCOPE, "b") < 0.25


def test_the_rate_grows_until_vault_refuses_again_and_a_long_quiet_ends_the_limit() -> None:
    clock = Clock()
    limiter, wait = limited(clock)

    def step() -> float:
        first, second = limiter.wait(SCOPE, object()), limiter.wait(SCOPE, object())
        return second - first

    clock.forward(wait)
    before = step()
    clock.forward(20)
    after = step()
    assert after < before / 2
    limiter.sent(SCOPE)
    limiter.refused(SCOPE, "k", 0)
    clock.forward(FIRST_PAUSE)
    assert step() == pytest.approx(after / CUT, rel=0.2)
    with logged() as lines:
        clock.forward(QUIET_SECONDS + FIRST_PAUSE + 1)
        assert step() == 0
    assert [line.partition(" {")[0] for line in lines] == ["Vault no longer limits the rate of requests"]


def test_scopes_know_nothing_of_each_other_and_each_is_told_once() -> None:
    with logged() as lines:
        limiter, _ = limited(Clock())
        limiter.refused(SCOPE, "k", 0)
        assert limiter.wait(OTHER, "k") == 0
    (line,) = lines
    assert line.startswith("Vault limits the rate of requests: they are spaced out")
    assert '"mount": "secret"' in line
