"""engine/ledger: who has got what, and when the next force-sync goes out."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, V1, Clock, external_secret, gone, live, path, store
from vaultsync.core.decide import SeedMode
from vaultsync.core.events import VaultEvent
from vaultsync.core.objects import ExternalSecret, ObjectName
from vaultsync.core.paths import FindPrefix
from vaultsync.core.state import SecretState
from vaultsync.engine.index import Entry, Index, server_identity
from vaultsync.engine.ledger import CLOCK_SKEW, HELD_SECONDS, QUIET_SECONDS, Ledger, Reading, Synced, hold, news

A, KV1 = path("secret/data/a"), path("kv1/a")


def entry_of(external_secret: ExternalSecret, kv: int = 2) -> Entry:
    index = Index(frozenset({server_identity("http://vault.test:8200")}), SeedMode.ALL)
    index.put_store(store() if kv == 2 else store(path="kv1", version="v1"))
    index.put(external_secret)
    found = index.entry(external_secret.name)
    assert found is not None
    return found


def at(time: datetime) -> str:
    return time.isoformat()


def reading(token: str, *, name: str = "a", told: bool = True, older: bool = False) -> Reading:
    return Reading(name, token, told, older)


# -- news


@pytest.mark.parametrize(
    ("case", "tokens", "recorded", "one", "is_news"),
    [
        ("written after the last refresh", {}, {}, reading("2"), True),
        ("written before the last refresh", {}, {}, reading("2", older=True), False),
        ("an earlier process has force-synced for it", {}, {"a": "2"}, reading("2"), False),
        ("an earlier process has force-synced for another version", {}, {"a": "1"}, reading("2", older=True), True),
        ("this process has force-synced for it", {"a": "2"}, {"a": "1"}, reading("2"), False),
        ("this process has force-synced for another version", {"a": "1"}, {"a": "2"}, reading("2"), True),
        (
            "a record of what does not survive a restart counts for nothing",
            {},
            {"a": "2"},
            reading("2", told=False),
            True,
        ),
    ],
)
def test_what_is_news(case: str, tokens: dict[str, str], recorded: dict[str, str], one: Reading, is_news: bool) -> None:
    synced = Synced("uid", tokens=dict(tokens))
    assert news(synced, recorded, [one]) == ({"a": "2"} if is_news else {}), case
    if not is_news:
        assert synced.tokens == {"a": "2"}


def test_only_what_is_new_is_named() -> None:
    synced = Synced("uid", tokens={"a": "1", "b": "1"})
    assert news(synced, {}, [reading("1"), reading("2", name="b")]) == {"b": "2"}


# -- readings


def readings_of(state: SecretState, external_secret: ExternalSecret, since: datetime | None = None) -> list[Reading]:
    ledger = Ledger()
    ledger.watching_since = since
    kv = state.mount.kv
    ledger.observe(A if kv == 2 else KV1, state)
    return ledger.readings(entry_of(external_secret, kv))


@pytest.mark.parametrize(
    ("case", "refreshed", "older"),
    [
        ("refreshed well after", NOON + CLOCK_SKEW, True),
        ("refreshed within the clocks' skew", NOON + CLOCK_SKEW / 2, False),
        ("refreshed before", NOON - timedelta(seconds=1), False),
    ],
)
def test_a_refresh_after_the_write_has_brought_it(case: str, refreshed: datetime, older: bool) -> None:
    (found,) = readings_of(live(), external_secret("a", status={"refreshTime": at(refreshed)}))
    assert found.older is older, case


def test_an_object_born_after_the_write_has_got_it() -> None:
    (found,) = readings_of(live(), external_secret("a", created=at(NOON + timedelta(hours=1))))
    assert found.older


def test_what_was_never_there_is_no_news() -> None:
    (found,) = readings_of(gone(), external_secret("a"))
    assert found.older


@pytest.mark.parametrize(
    ("case", "created", "since", "older"),
    [
        ("born under our eyes", NOON, NOON - timedelta(hours=1), True),
        ("born before", NOON - timedelta(hours=1), NOON, False),
        ("we do not watch", NOON, None, False),
    ],
)
def test_a_v1_path_has_no_time_so_only_what_was_born_later_has_got_it(
    case: str, created: datetime, since: datetime | None, older: bool
) -> None:
    (found,) = readings_of(live(mount=V1), external_secret("a", created=at(created)), since)
    assert (found.older, found.told) == (older, False), case


def test_what_was_not_looked_at_yet_is_left_out() -> None:
    assert Ledger().readings(entry_of(external_secret("a", "b"))) == []


def test_metadata_is_read_by_those_who_ask_for_it() -> None:
    ledger = Ledger()
    ledger.observe(A, replace(live(), metadata_digest="x"))
    fetching = external_secret(data=[{"remoteRef": {"key": "a", "metadataPolicy": "Fetch"}}])
    (with_metadata,), (without,) = ledger.readings(entry_of(fetching)), ledger.readings(entry_of(external_secret("a")))
    assert with_metadata.token != without.token


def test_v1_changes_are_counted() -> None:
    ledger = Ledger()
    ledger.observe(KV1, live(mount=V1))
    one = entry_of(external_secret("a"), kv=1)
    (before,) = ledger.readings(one)
    ledger.touch_unversioned(KV1)
    ledger.observe(KV1, live(mount=V1))
    (after,) = ledger.readings(one)
    ledger.touch_all_unversioned()
    (missed,) = ledger.readings(one)
    assert len({before.token, after.token, missed.token}) == 3


def test_v2_versions_need_no_counting() -> None:
    ledger = Ledger()
    ledger.observe(A, live())
    one = entry_of(external_secret("a"))
    before = ledger.readings(one)
    ledger.touch_unversioned(A)
    ledger.touch_all_unversioned()
    assert ledger.readings(one) == before


def test_what_was_seen_is_remembered_over_a_deletion() -> None:
    ledger = Ledger()
    ledger.observe(A, live("x"))
    ledger.observe(A, gone(1))
    ledger.observe(A, live("y", version=2))
    seen = ledger.observed(A)
    assert seen is not None
    assert (seen.existed, seen.properties) == (True, frozenset({"x", "y"}))
    ledger.forget_path(A)
    assert ledger.observed(A) is None


# -- listings

PREFIX = FindPrefix("", "secret/data/", 2)


def test_a_listing_is_read_once_all_of_it_was_looked_at() -> None:
    ledger = Ledger()
    one = entry_of(external_secret(data_from=[{"find": {}}]))
    assert ledger.readings(one) == []
    ledger.listed(PREFIX, {A, path("secret/data/b")})
    ledger.observe(A, live())
    assert ledger.readings(one) == []
    ledger.observe(path("secret/data/b"), live())
    (found,) = ledger.readings(one)
    assert (found.name, found.told) == ("secret/data/*", True)


def test_any_change_under_a_listing_is_another_token() -> None:
    ledger = Ledger()
    one = entry_of(external_secret(data_from=[{"find": {}}]))
    ledger.listed(PREFIX, {A})
    tokens = []
    for state in (live(), live(version=2), gone(2), live(version=3)):
        ledger.observe(A, state)
        tokens += [found.token for found in ledger.readings(one)]
    ledger.observe(path("secret/data/b"), live())
    ledger.note(PREFIX, path("secret/data/b"))
    tokens += [found.token for found in ledger.readings(one)]
    assert len(set(tokens)) == 5
    ledger.forget_prefix(PREFIX)
    assert ledger.readings(one) == []


# -- known events


def write_event(version: int, where: str = "secret/data/a", kind: str = "kv-v2/data-write") -> VaultEvent:
    return VaultEvent(path(where), kind, version)


def test_the_event_of_a_version_that_was_seen_is_known() -> None:
    ledger = Ledger()
    assert not ledger.is_known(write_event(1))
    ledger.observe(A, live(version=2))
    assert ledger.is_known(write_event(2))
    assert ledger.is_known(write_event(2, kind="kv-v2/data-patch"))
    assert not ledger.is_known(write_event(3))
    assert not ledger.is_known(write_event(2, kind="kv-v2/data-delete"))
    assert not ledger.is_known(write_event(2, kind="kv-v2/undelete"))
    assert not ledger.is_known(write_event(0))


def test_the_event_of_an_own_v1_write_is_known_once() -> None:
    ledger, event = Ledger(), write_event(0, "kv1/a", "kv-v1/write")
    ledger.expect(KV1)
    assert ledger.is_known(event)
    assert not ledger.is_known(event)


def test_a_v1_write_that_did_not_happen_is_not_waited_for() -> None:
    ledger, event = Ledger(), write_event(0, "kv1/a", "kv-v1/write")
    ledger.expect(KV1)
    ledger.unexpect(KV1)
    assert not ledger.is_known(event)
    ledger.expect(KV1)
    ledger.touch_all_unversioned()
    assert not ledger.is_known(event)


def test_a_write_whose_event_came_before_its_failure_leaves_no_debt() -> None:
    ledger, event = Ledger(), write_event(0, "kv1/a", "kv-v1/write")
    ledger.expect(KV1)
    ledger.is_known(event)  # another's write, taken for ours
    ledger.unexpect(KV1)
    ledger.expect(KV1)
    assert ledger.is_known(event)


# -- objects


def test_a_new_object_of_the_same_name_starts_anew() -> None:
    ledger = Ledger()
    ledger.synced(external_secret("a")).successes[A] = "x"
    assert ledger.synced(external_secret("a")).successes == {A: "x"}
    assert ledger.synced(external_secret("a", uid="another")).successes == {}
    ledger.forget(ObjectName("dev-1", "app"))
    assert ledger.synced(external_secret("a", uid="another")).successes == {}


# -- hold


def burst(changes: list[float]) -> list[tuple[float, str]]:
    """Force-syncs (when, for which token) of one ExternalSecret whose path changes at these times."""
    clock, synced = Clock(), Synced("uid", tokens={"a": "-1"})
    start, sent = clock.now, []
    pending = [(when, str(number)) for number, when in enumerate(changes)]
    token, wake = "-1", float("inf")
    while pending or wake < float("inf"):
        now = min(pending[0][0] if pending else float("inf"), wake)
        clock.now = start + now
        while pending and pending[0][0] <= now:
            token = pending.pop(0)[1]
        wake = float("inf") if wake <= now else wake
        found = news(synced, {}, [reading(token)])
        if not found:
            continue
        wait = hold(synced, found, clock.now)
        if wait == 0:
            sent.append((round(now, 6), token))
            synced.tokens.update(found)
            synced.pending = {}
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
    synced = Synced("uid")
    hold(synced, {"a": "1"}, 0.0)
    synced.pending = {}
    assert hold(synced, {"a": "2"}, 0.01) > 0
    synced.seeded = True
    assert hold(synced, {"a": "3"}, 0.02) == 0
