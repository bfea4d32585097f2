"""What an ExternalSecret has yet to read, and when its next force-sync is due."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import Clock, external_secret, path
from vaultsync.controller.path_state import Reading
from vaultsync.controller.sync_state import HELD_SECONDS, QUIET_SECONDS, SyncState, SyncStates
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.reader import Problem

A = path("secret/data/a")


def reading(token: str, *, name: str = "a", durable: bool = True, refreshed: bool = False) -> Reading:
    return Reading(name, token, durable, refreshed)


# -- pending changes


@pytest.mark.parametrize(
    ("case", "tokens", "recorded", "one", "is_pending"),
    [
        ("written after the last refresh", {}, {}, reading("2"), True),
        ("written before the last refresh", {}, {}, reading("2", refreshed=True), False),
        ("an earlier process has force-synced for it", {}, {"a": "2"}, reading("2"), False),
        ("an earlier process has force-synced for another version", {}, {"a": "1"}, reading("2", refreshed=True), True),
        ("this process has force-synced for it", {"a": "2"}, {"a": "1"}, reading("2"), False),
        ("this process has force-synced for another version", {"a": "1"}, {"a": "2"}, reading("2"), True),
        (
            "a record of what does not survive a restart counts for nothing",
            {},
            {"a": "2"},
            reading("2", durable=False),
            True,
        ),
    ],
)
def test_what_is_pending(
    case: str, tokens: dict[str, str], recorded: dict[str, str], one: Reading, is_pending: bool
) -> None:
    state = SyncState("uid", dict(tokens))
    assert state.pending_changes(recorded, [one]) == ({"a": "2"} if is_pending else {}), case
    if not is_pending:
        assert state.fingerprints == {"a": "2"}


def test_only_what_is_new_is_named() -> None:
    state = SyncState("uid", {"a": "1", "b": "1"})
    assert state.pending_changes({}, [reading("1"), reading("2", name="b")]) == {"b": "2"}


# -- objects


def test_a_new_object_of_the_same_name_gets_a_new_state() -> None:
    states, wrong = SyncStates(), [Problem(ObjectName("dev-1", "app"), "x")]
    states.of(external_secret("a")).record_failures(A, wrong)
    assert states.of(external_secret("a")).failures == {A: wrong}
    assert states.of(external_secret("a", uid="another")).failures == {}
    states.of(external_secret("a", uid="another")).record_failures(A, wrong)
    states.forget(ObjectName("dev-1", "app"))
    assert states.of(external_secret("a", uid="another")).failures == {}


# -- debouncing


def burst(changes: list[float]) -> list[tuple[float, str]]:
    """Force-syncs (when, for which token) of one ExternalSecret whose path changes at these times."""
    clock, state = Clock(), SyncState("uid", {"a": "-1"})
    start, sent = clock.now, []
    pending = [(when, str(number)) for number, when in enumerate(changes)]
    token, wake = "-1", float("inf")
    while pending or wake < float("inf"):
        now = min(pending[0][0] if pending else float("inf"), wake)
        clock.now = start + now
        while pending and pending[0][0] <= now:
            token = pending.pop(0)[1]
        wake = float("inf") if wake <= now else wake
        found = state.pending_changes({}, [reading(token)])
        if not found:
            continue
        wait = state.debounce(found, clock.now)
        if wait == 0:
            sent.append((round(now, 6), token))
            state.settle(found)
        else:
            wake = min(wake, now + wait)
    return sent


def test_a_single_change_goes_at_once() -> None:
    assert burst([0.0]) == [(0.0, "0")]


def test_of_a_burst_the_first_goes_at_once_and_the_last_after_it() -> None:
    sent = burst([number * 0.001 for number in range(400)])
    assert [token for _, token in sent] == ["0", "399"]
    assert sent[1][0] == pytest.approx(0.399 + QUIET_SECONDS, abs=0.01)


def test_changes_far_apart_go_at_once_each() -> None:
    assert burst([0.0, 10.0, 20.0]) == [(0.0, "0"), (10.0, "1"), (20.0, "2")]


def test_an_endless_burst_is_not_held_for_ever() -> None:
    sent = burst([number * 0.1 for number in range(300)])
    gaps = [after - before for (before, _), (after, _) in pairwise(sent)]
    assert max(gaps) <= HELD_SECONDS + QUIET_SECONDS + 0.2
    assert len(sent) <= 300 * 0.1 / HELD_SECONDS + 3


@given(st.lists(st.floats(0, 3), min_size=1, max_size=20).map(sorted))
def test_the_last_change_always_arrives(changes: list[float]) -> None:
    sent = burst(changes)
    assert sent[-1][1] == str(len(changes) - 1)
    assert sent[-1][0] <= changes[-1] + HELD_SECONDS
    assert sent[0][0] == round(changes[0], 6)


def test_a_seed_waits_for_no_burst() -> None:
    state = SyncState("uid")
    state.debounce({"a": "1"}, 0.0)
    state.settle({})
    assert state.debounce({"a": "2"}, 0.01) > 0
    state.record_seed([], 0.0)
    assert state.debounce({"a": "3"}, 0.02) == 0
