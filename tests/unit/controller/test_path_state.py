"""What was seen at paths and in listings, and what of it an ExternalSecret reads."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.unit.build import NOON, V1, external_secret, gone, live, path, store
from vaultsync.controller.entry import Entry
from vaultsync.controller.index import Index, server_identity
from vaultsync.controller.path_state import CLOCK_SKEW, PathStates, Reading
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.decide import History
from vaultsync.core.events import VaultEvent
from vaultsync.core.external_secret import ExternalSecret
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


# -- readings


def readings_of(state: SecretState, external_secret: ExternalSecret, since: datetime | None = None) -> list[Reading]:
    paths = PathStates()
    if since is not None:
        paths.start_watching(since)
    kv = state.mount.kv
    paths.observe(A if kv == 2 else KV1, state)
    return paths.readings(entry_of(external_secret, kv))


@pytest.mark.parametrize(
    ("case", "refreshed", "is_refreshed"),
    [
        ("refreshed well after", NOON + CLOCK_SKEW, True),
        ("refreshed within the clocks' skew", NOON + CLOCK_SKEW / 2, False),
        ("refreshed before", NOON - timedelta(seconds=1), False),
    ],
)
def test_a_refresh_after_the_write_has_brought_it(case: str, refreshed: datetime, is_refreshed: bool) -> None:
    (found,) = readings_of(live(), external_secret("a", status={"refreshTime": at(refreshed)}))
    assert found.refreshed is is_refreshed, case


def test_an_object_born_after_the_write_has_got_it() -> None:
    (found,) = readings_of(live(), external_secret("a", created=at(NOON + timedelta(hours=1))))
    assert found.refreshed


def test_what_was_never_there_is_no_news() -> None:
    (found,) = readings_of(gone(), external_secret("a"))
    assert found.refreshed


@pytest.mark.parametrize(
    ("case", "created", "since", "is_refreshed"),
    [
        ("born under our eyes", NOON, NOON - timedelta(hours=1), True),
        ("born before", NOON - timedelta(hours=1), NOON, False),
        ("we do not watch", NOON, None, False),
    ],
)
def test_a_v1_path_has_no_time_so_only_what_was_born_later_has_got_it(
    case: str, created: datetime, since: datetime | None, is_refreshed: bool
) -> None:
    (found,) = readings_of(live(mount=V1), external_secret("a", created=at(created)), since)
    assert (found.refreshed, found.durable) == (is_refreshed, False), case


def test_what_was_not_looked_at_yet_is_left_out() -> None:
    assert PathStates().readings(entry_of(external_secret("a", "b"))) == []


def test_metadata_is_read_by_those_who_ask_for_it() -> None:
    paths = PathStates()
    paths.observe(A, replace(live(), metadata_digest="x"))
    fetching = external_secret(data=[{"remoteRef": {"key": "a", "metadataPolicy": "Fetch"}}])
    (with_metadata,), (without,) = paths.readings(entry_of(fetching)), paths.readings(entry_of(external_secret("a")))
    assert with_metadata.fingerprint != without.fingerprint


def test_v1_changes_are_counted() -> None:
    paths = PathStates()
    paths.observe(KV1, live(mount=V1))
    one = entry_of(external_secret("a"), kv=1)
    (before,) = paths.readings(one)
    paths.record_change(KV1)
    paths.observe(KV1, live(mount=V1))
    (after,) = paths.readings(one)
    paths.start_watching(NOON)
    (missed,) = paths.readings(one)
    assert len({before.fingerprint, after.fingerprint, missed.fingerprint}) == 3


def test_v2_versions_need_no_counting() -> None:
    paths = PathStates()
    paths.observe(A, live())
    one = entry_of(external_secret("a"))
    before = paths.readings(one)
    paths.record_change(A)
    paths.start_watching(NOON)
    assert paths.readings(one) == before


def test_what_was_seen_is_remembered_over_a_deletion() -> None:
    paths = PathStates()
    paths.observe(A, live("x"))
    paths.observe(A, gone(1))
    paths.observe(A, live("y", version=2))
    seen = paths.get(A)
    assert seen is not None
    assert seen.history == History(existed=True, version=2, properties=frozenset({"x", "y"}))
    paths.forget(A)
    assert paths.get(A) is None


# -- listings

PREFIX = FindPrefix("", "secret/data/", 2)


def test_a_listing_is_read_once_all_of_it_was_looked_at() -> None:
    paths = PathStates()
    one = entry_of(external_secret(data_from=[{"find": {}}]))
    assert paths.readings(one) == []
    paths.record_listing(PREFIX, {A, path("secret/data/b")})
    paths.observe(A, live())
    assert paths.readings(one) == []
    paths.observe(path("secret/data/b"), live())
    (found,) = paths.readings(one)
    assert (found.name, found.durable) == ("secret/data/*", True)


def test_any_change_under_a_listing_is_another_token() -> None:
    paths = PathStates()
    one = entry_of(external_secret(data_from=[{"find": {}}]))
    paths.record_listing(PREFIX, {A})
    tokens = []
    for state in (live(), live(version=2), gone(2), live(version=3)):
        paths.observe(A, state)
        tokens += [found.fingerprint for found in paths.readings(one)]
    paths.observe(path("secret/data/b"), live())
    paths.update_listing(PREFIX, path("secret/data/b"))
    tokens += [found.fingerprint for found in paths.readings(one)]
    assert len(set(tokens)) == 5
    paths.forget_listing(PREFIX)
    assert paths.readings(one) == []


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
    paths = PathStates()
    event = VaultEvent(A, "kv-v2/data-write", version, time)
    assert not paths.shows(event), "a path that was never read shows nothing"
    paths.observe(A, state)
    assert paths.shows(event) is shown, case


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
    paths = PathStates()
    paths.observe(A, state)
    assert paths.shows(VaultEvent(A, "kv-v2/metadata-delete", 0, time)) is shown, case


@pytest.mark.parametrize("kind", ["kv-v2/undelete", "kv-v2/metadata-write"])
def test_what_shows_nothing_in_the_state_is_not_waited_for(kind: str) -> None:
    paths = PathStates()
    paths.observe(A, live())
    assert paths.shows(VaultEvent(A, kind, 0, after(60)))


@pytest.mark.parametrize(("policy", "endangered"), [("Retain", False), ("Delete", True), ("Merge", True)])
def test_a_refresh_endangers_the_last_copy_of_a_lost_value_that_external_secrets_would_remove(
    policy: str, endangered: bool
) -> None:
    paths = PathStates()
    entry = entry_of(external_secret("a", spec={"target": {"deletionPolicy": policy}}))
    assert not paths.endangers(entry)
    paths.hold(A, gone())
    assert paths.endangers(entry) is endangered
