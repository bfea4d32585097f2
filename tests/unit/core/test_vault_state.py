"""core/vault_state: the presence of a property by the names of the keys, and fingerprints."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.build import NOON, V1, gone, live
from vaultsync.core.vault_state import Presence, is_expression, presence, same_fingerprint, version_of

TREE = {"password": None, "db.password": None, "db": {"user": None, "deep": {"x": None}}, "list": None, "empty": {}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", Presence.PRESENT),
        ("password", Presence.PRESENT),
        ("db.password", Presence.PRESENT),
        ("db.user", Presence.PRESENT),
        ("db.deep", Presence.PRESENT),
        ("db.deep.x", Presence.PRESENT),
        ("other", Presence.MISSING),
        ("db.other", Presence.MISSING),
        ("db.deep.y", Presence.MISSING),
        ("empty.x", Presence.MISSING),
        ("Password", Presence.MISSING),
        ("list.0", Presence.UNKNOWN),
        ("password.x", Presence.UNKNOWN),
        ("db.*", Presence.UNKNOWN),
        ("db.pass?", Presence.UNKNOWN),
        ("list.#", Presence.UNKNOWN),
        ("db|user", Presence.UNKNOWN),
        ("..#", Presence.UNKNOWN),
        ("..db", Presence.UNKNOWN),
        ("db.other.#.x", Presence.MISSING),  # gjson can't get past a key that is not there
        ("other.#.x", Presence.MISSING),
        ("other.#(x==1).y", Presence.MISSING),
        ("other|x", Presence.UNKNOWN),
        ("other.@keys", Presence.UNKNOWN),  # []
        ("@this", Presence.UNKNOWN),
        ("db.@keys", Presence.UNKNOWN),
        ("{user,password}", Presence.UNKNOWN),
        ("[user]", Presence.UNKNOWN),
        ('!"x"', Presence.UNKNOWN),
        (r"db\.password", Presence.UNKNOWN),
    ],
)
def test_presence(name: str, expected: Presence) -> None:
    assert presence(TREE, name) is expected


@pytest.mark.parametrize("name", ["x", "x.y", "*"])
def test_without_key_names_a_property_is_unknown(name: str) -> None:
    assert presence(None, name) is Presence.UNKNOWN


def test_a_key_that_is_spelled_like_an_expression_is_a_key() -> None:
    assert presence({"a*": None}, "a*") is Presence.PRESENT


@pytest.mark.parametrize("name", ["password", "db.password", "a-b_c", "user@host", "50%", "ü", "a!b", "x{y}"])
def test_plain_names_are_no_expressions(name: str) -> None:
    assert not is_expression(name)


def test_fingerprints_differ_between_states() -> None:
    states: list[Any] = [gone(), live(version=1), live(version=2), gone(version=2), gone(version=3)]
    tokens = [state.fingerprint(metadata=False) for state in states]
    assert len(set(tokens)) == len(tokens)
    assert live(version=2).fingerprint(metadata=False) == live(version=2).fingerprint(metadata=False)


def test_a_version_1_written_again_after_all_metadata_was_deleted_is_another_state() -> None:
    """`kv metadata delete`, or an empty dev server: the count starts from 1 again, the value is another one."""
    first, again = live(version=1), live(version=1, written=NOON.replace(hour=13))
    assert first.fingerprint(metadata=False) != again.fingerprint(metadata=False)


def test_custom_metadata_counts_for_those_who_read_it() -> None:
    one, two = (replace(live(), metadata_digest=digest) for digest in ("a", "b"))
    assert one.fingerprint(metadata=False) == two.fingerprint(metadata=False)
    assert one.fingerprint(metadata=True) != two.fingerprint(metadata=True)


def test_a_v1_path_is_there_or_not() -> None:
    assert live(mount=V1).fingerprint(metadata=False) != gone(mount=V1).fingerprint(metadata=False)


@pytest.mark.parametrize(
    ("known", "now", "same"),
    [
        ("3@2025-06-01T12:00:00+00:00", "3@2025-06-01T12:00:00+00:00", True),
        ("3@2025-06-01T12:00:01.5+00:00", "3@2025-06-01T12:00:00+00:00", True),
        ("3@2025-06-01T12:00:00+00:00", "3@2025-06-01T12:00:00.001+00:00", False),
        ("3@2025-06-01T12:00:03+00:00", "3@2025-06-01T12:00:00+00:00", False),
        ("3@2025-06-01T12:00:00+00:00", "4@2025-06-01T12:00:00+00:00", False),
        ("3@2025-06-01T12:00:00+00:00", "deleted-3@2025-06-01T12:00:00+00:00", False),
        ("3@2025-06-01T12:00:00+00:00", "3@2025-06-01T12:00:00", False),
        ("3@nonsense", "3@2025-06-01T12:00:00+00:00", False),
        ("3", "3@2025-06-01T12:00:00+00:00", False),
        ("missing", "missing", True),
        ("v1#1", "v1#2", False),
        ("3@2025-06-01T12:00:01+00:00+abc", "3@2025-06-01T12:00:00+00:00+abd", False),
    ],
)
def test_a_time_that_an_earlier_release_took_from_an_event_names_a_write_shortly_before_and_none_after(
    known: str, now: str, same: bool
) -> None:
    assert same_fingerprint(known, now) is same


@pytest.mark.parametrize(
    ("fingerprint", "version"),
    [
        (live("p", version=12).fingerprint(metadata=True), 12),
        ("3@2026-11-27T12:00:00+00:00+0123abcd", 3),
        (gone(2).fingerprint(metadata=False), 0),
        (live("p", mount=V1).fingerprint(metadata=False), 0),
        ("missing", 0),
        ("9" * 5000 + "@", 0),  # a person's
    ],
)
def test_the_live_version_that_a_fingerprint_records(fingerprint: str, version: int) -> None:
    assert version_of(fingerprint) == version
