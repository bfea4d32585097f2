"""engine/ledger: who has got what, and when the next force-sync goes out."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, V1, Clock, external_secret, gone, live, path, store
from vaultsync.controller.index import Entry, Index, server_identity
from vaultsync.controller.path_state import CLOCK_SKEW, HELD_SECONDS, QUIET_SECONDS, Ledger, Reading, Synced, hold, news
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.events import VaultEvent
from vaultsync.core.external_secret import ExternalSecret, ObjectName
from vaultsync.core.paths import FindPrefix
from vaultsync.core.vault_state import SecretState

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


# -- whether a state shows what an event has claimed


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("case", "state", "version", "time", "shown"),
    [
        ("its version", live(version=2), 2, after(0.003), True),
        ("its version, at an unknown time", live(version=2), 2, None, True),
        ("an earlier version", live(version=1), 2, after(0.003), False),
        ("an earlier version, at an unknown time", live(version=1), 2, None, False),
        ("its version, long before", live(version=1), 1, after(60), False),
        ("a higher version, long before", live(version=3), 1, after(60), False),
        ("a later write after `kv metadata delete`", live(version=1), 5, after(-60), True),
        ("a later version", live(version=3), 2, after(-1), True),
        ("nothing, while the first version is claimed", gone(), 1, after(0), False),
        ("a deleted version that is the claimed one", gone(2), 2, None, True),
    ],
)
def test_what_shows_a_write(case: str, state: SecretState, version: int, time: datetime | None, shown: bool) -> None:
    ledger = Ledger()
    event = VaultEvent(A, "kv-v2/data-write", version, time)
    assert not ledger.shows(event), "a path that was never looked at shows nothing"
    ledger.observe(A, state)
    assert ledger.shows(event) is shown, case


@pytest.mark.parametrize(
    ("case", "state", "time", "shown"),
    [
        ("nothing", gone(), None, True),
        ("a deleted version", gone(2), after(0), True),
        ("a live version", live(version=2), after(1), False),
        ("a live version, at an unknown time", live(version=2), None, False),
        ("a version that was written since", live(version=1), after(-1), True),
    ],
)
def test_what_shows_a_deletion(case: str, state: SecretState, time: datetime | None, shown: bool) -> None:
    ledger = Ledger()
    ledger.observe(A, state)
    assert ledger.shows(VaultEvent(A, "kv-v2/metadata-delete", 0, time)) is shown, case


@pytest.mark.parametrize("kind", ["kv-v2/undelete", "kv-v2/metadata-write"])
def test_what_shows_nothing_in_the_state_is_not_waited_for(kind: str) -> None:
    ledger = Ledger()
    ledger.observe(A, live())
    assert ledger.shows(VaultEvent(A, kind, 0, after(60)))


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
