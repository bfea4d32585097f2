"""core/ownership: rendered metadata is parsed back, and metadata of other tools is not taken for it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, Anything
from vaultsync.core.ownership import (
    ALL,
    ANSWERED,
    CLUSTER,
    EXTERNAL_SECRET,
    MADE,
    MANAGED_BY,
    MANAGER,
    MAX_ROTATION_IDS,
    MAX_VALUE,
    PROPERTIES,
    VERSION,
    Ownership,
    others,
    parse_ownership,
    render_ownership,
)

REQUEST = "0123456789ab"


def owned(**fields: Anything) -> Ownership:
    return Ownership(**{"version": "1@x", "made": NOON, "properties": None, "external_secret": "dev-1/app", **fields})


def merged(before: dict[str, str], patch: dict[str, str | None]) -> dict[str, str]:
    """What Vault makes of it."""
    return {key: value for key, value in {**before, **patch}.items() if value is not None}


zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(timezones=zones | st.just(UTC))
requests = st.lists(st.text("0123456789abcdef", min_size=12, max_size=12), unique=True, max_size=MAX_ROTATION_IDS)
marks = st.builds(
    Ownership,
    version=st.text(min_size=1, max_size=60),
    made=times,
    properties=st.none() | st.frozensets(st.text(max_size=10), max_size=4),
    external_secret=st.text(max_size=317),
    cluster=st.text(max_size=100),
    rotation_ids=requests.map(tuple),
)


@given(marks, st.sampled_from(["", MANAGER, "external-secrets"]))
def test_ownership_is_read_as_it_was_written(one: Ownership, managed_by: str) -> None:
    before = {"owner": "ops"} | ({MANAGED_BY: managed_by} if managed_by else {})
    there = merged(before, render_ownership(one, managed_by))
    assert parse_ownership(there) == one
    assert others(there) == {key: value for key, value in before.items() if value != MANAGER}


@given(st.frozensets(st.text(max_size=80)), st.lists(st.text("0123456789abcdef", min_size=12, max_size=12)))
def test_vault_accepts_any_ownership_and_names_that_do_not_fit_are_omitted(
    names: frozenset[str], answered: list[str]
) -> None:
    one = owned(properties=names, rotation_ids=tuple(answered))
    rendered = render_ownership(one, "")
    assert all(len((value or "").encode()) <= MAX_VALUE for value in rendered.values())
    read = parse_ownership(merged({}, rendered))
    assert read is not None
    assert read.properties is not None
    assert read.properties <= names
    assert read.rotation_ids == one.rotation_ids[:MAX_ROTATION_IDS], "the first of them are kept"


def test_a_few_names_and_many_requests_fit() -> None:
    names = frozenset(f"property-{number}" for number in range(30))
    read = parse_ownership(render_ownership(owned(properties=names), ""))
    assert read is not None
    assert read.properties == names
    assert MAX_ROTATION_IDS >= 32


def test_new_ownership_replaces_the_old_and_keeps_the_rest() -> None:
    old = merged({"owner": "ops"}, render_ownership(owned(cluster="east", rotation_ids=(REQUEST,)), ""))
    new = owned(version="2@x", properties=frozenset({"p"}))
    there = merged(old, render_ownership(new, MANAGER))
    assert parse_ownership(there) == new
    assert (CLUSTER in there, ANSWERED in there, there["owner"]) == (False, False, "ops")


@pytest.mark.parametrize(
    ("managed_by", "properties", "expected"),
    [
        ("", None, MANAGER),
        (MANAGER, None, MANAGER),
        ("external-secrets", None, "external-secrets"),
        ("", frozenset({"p"}), None),
        ("external-secrets", frozenset({"p"}), "external-secrets"),
    ],
)
def test_only_a_secret_that_vaultsync_made_whole_is_managed_by_it(
    managed_by: str, properties: frozenset[str] | None, expected: str | None
) -> None:
    before = {MANAGED_BY: managed_by} if managed_by else {}
    there = merged(before, render_ownership(owned(properties=properties), managed_by))
    assert there.get(MANAGED_BY) == expected
    assert others(there) == ({MANAGED_BY: expected} if expected not in (None, MANAGER) else {})


GOOD = merged({}, render_ownership(owned(cluster="east", rotation_ids=(REQUEST,)), ""))


@pytest.mark.parametrize(
    "custom_metadata",
    [
        None,
        [],
        "text",
        {},
        {MANAGED_BY: MANAGER},
        {**GOOD, MADE: "yesterday"},
        {**GOOD, MADE: "2025-06-01T12:00:00"},
        {**GOOD, MADE: 5},
        {**GOOD, VERSION: ""},
        {key: value for key, value in GOOD.items() if key != VERSION},
    ],
)
def test_invalid_ownership_is_none(custom_metadata: object) -> None:
    assert parse_ownership(custom_metadata) is None


@pytest.mark.parametrize("text", ["", "{}", "5", "null", "[" * 400, '"*"', "[1, null]", None])
def test_an_invalid_list_covers_nothing(text: str | None) -> None:
    read = parse_ownership({**GOOD, PROPERTIES: text})
    assert read is not None
    assert read.covers({"a": None, "*": None}) == frozenset()


def test_which_properties_ownership_covers() -> None:
    assert owned().covers({"a": None, "b": None}) == {"a", "b"}
    assert owned(properties=frozenset({"a", "gone"})).covers({"a": None, "b": None}) == {"a"}


keys = st.sampled_from([MANAGED_BY, EXTERNAL_SECRET, CLUSTER, MADE, VERSION, PROPERTIES, ANSWERED]) | st.text()
json_ = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from([ALL, "[]", NOON.isoformat()]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(keys, json_) | json_)
def test_no_custom_metadata_breaks_it(custom_metadata: object) -> None:
    read = parse_ownership(custom_metadata)
    if isinstance(custom_metadata, dict):
        others(custom_metadata)
    if read is not None:
        assert read.made.tzinfo is not None
        assert read.version


def test_the_latest_time_there_is_is_read() -> None:
    assert parse_ownership({**GOOD, MADE: datetime.max.replace(tzinfo=UTC).isoformat()}) is not None
