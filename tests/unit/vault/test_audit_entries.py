"""core/events.parse_audit_entry: what an entry of an audit device reports."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, audit_line, canary_line, path, wrote
from vaultsync.core.events import CANARY_PATH, OTHER_ENTRY, VaultEvent, parse_audit_entry

A = path("secret/data/a")


def events_of(line: bytes) -> tuple[VaultEvent, ...]:
    return parse_audit_entry(line).events


@pytest.mark.parametrize(
    ("operation", "folder", "kind"),
    [
        ("create", "data", "data-write"),
        ("update", "data", "data-write"),
        ("patch", "data", "data-patch"),
        ("delete", "data", "data-delete"),
        ("update", "delete", "delete"),
        ("update", "undelete", "undelete"),
        ("update", "destroy", "destroy"),
        ("delete", "metadata", "metadata-delete"),
        ("create", "metadata", "metadata-write"),
        ("update", "metadata", "metadata-write"),
        ("patch", "metadata", "metadata-patch"),
    ],
)
def test_each_change_in_kv_v2_is_the_event_that_the_stream_would_tell(operation: str, folder: str, kind: str) -> None:
    version = 3 if kind in ("data-write", "data-patch") else 0
    found = events_of(audit_line(operation, f"secret/{folder}/a/b", **(wrote(version) if version else {})))
    event = VaultEvent(path("secret/data/a/b"), f"kv-v2/{kind}", version, NOON)
    assert event in found
    assert event.is_write == bool(version)
    assert event.is_deletion == (kind in ("data-delete", "delete", "destroy", "metadata-delete"))
    assert event.is_about_metadata == (kind in ("metadata-write", "metadata-patch"))


@pytest.mark.parametrize("operation", ["create", "update", "patch"])
def test_a_write_with_a_version_is_of_kv_v2_alone(operation: str) -> None:
    (found,) = events_of(audit_line(operation, "secret/data/a", **wrote(12)))
    assert (found.path, found.version, found.is_write) == (A, 12, True)


@pytest.mark.parametrize(
    ("operation", "kind"), [("create", "kv-v1/write"), ("update", "kv-v1/write"), ("delete", "kv-v1/delete")]
)
@pytest.mark.parametrize("where", ["kv1/a", "kv1/x/data/a", "kv1/metadata"])
def test_a_change_in_kv_v1_names_the_path_itself(operation: str, kind: str, where: str) -> None:
    assert events_of(audit_line(operation, where, "kv1/")) == (VaultEvent(path(where), kind, 0, NOON),)


@pytest.mark.parametrize("operation", ["create", "update"])
def test_a_write_under_data_without_a_version_is_of_kv_v1(operation: str) -> None:
    found = events_of(audit_line(operation, "kv1/data/a", "kv1/", response=None))
    assert found == (VaultEvent(path("kv1/data/a"), "kv-v1/write", 0, NOON),)


def test_a_deletion_under_data_may_be_of_either() -> None:
    found = events_of(audit_line("delete", "secret/data/a"))
    assert [(event.path, event.kind) for event in found] == [(A, "kv-v2/data-delete"), (A, "kv-v1/delete")]


def test_the_time_is_that_of_the_write_where_it_is_in_clear_and_else_that_of_the_line() -> None:
    written = NOON - timedelta(milliseconds=3)
    for created, told in ((written.isoformat(), written), ("hmac-sha256:94000c6f", NOON)):
        (found,) = events_of(audit_line("update", "secret/data/a", **wrote(1, created)))
        assert found.time == told
    (found,) = events_of(audit_line("update", "secret/data/a", time="2026-11-25T03:54:47.311569176Z", **wrote(1)))
    assert found.time == datetime(2026, 11, 25, 3, 54, 47, 311569, UTC)


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        ("secret/", "team/a/secret/"),  # OpenBao 2.7.2, and the router of Vault
        ("team/kv/", "team/a/team/kv/"),
        ("team/a/", "team/a/team/a/"),
        ("secret/", "secret/"),
        ("team/a/", "team/a/"),
    ],
)
def test_the_mount_is_within_the_namespace(mount: str, told: str) -> None:
    request = {"namespace": {"id": "m0FcVz", "path": "team/a/"}}
    found = events_of(audit_line("update", f"{mount}data/x", told, request=request, **wrote(1)))
    assert [event.path for event in found] == [path(f"{mount}data/x", "team/a")]
    found = events_of(audit_line("delete", f"{mount}x", told, request=request))
    assert [event.path for event in found] == [path(f"{mount}x", "team/a")]


def test_without_its_mount_the_first_segment_is_taken_for_it() -> None:
    request = {"mount_point": None, "mount_type": "kv", "namespace": None}
    assert events_of(audit_line("delete", "secret/metadata/a/b", request=request))[0].path.path == "secret/data/a/b"


@pytest.mark.parametrize(
    "text",
    [
        audit_line("read", "secret/data/a", **wrote(1)),
        audit_line("read", "secret/subkeys/a"),
        audit_line("list", "secret/metadata/a", response={"data": {"keys": ["create", "delete", "update"]}}),
        audit_line("revoke", "secret/data/a"),
        audit_line("delete", "secret/data/a", type="request"),
        audit_line("delete", "secret/data/a", type=None),
        audit_line("delete", "secret/data/a", error="permission denied"),
        audit_line("update", "secret/data/a", error="1 error occurred:\n\t* invalid request\n\n"),
        audit_line("patch", "secret/data/none", response={"data": {"http_status_code": 404}}),
        audit_line("patch", "kv1/a", "kv1/"),
        audit_line("delete", "auth/token/x", "auth/token/", request={"mount_type": "token"}),
        audit_line("update", "sys/audit/file", "sys/", request={"mount_type": "system"}),
        audit_line("update", "cubbyhole/data/x", "cubbyhole/", request={"mount_type": "cubbyhole"}),
        audit_line("delete", "hmac-sha256:94000c6f"),
        audit_line("delete", "other/data/a"),
        audit_line("delete", "secret"),
        audit_line("delete", ""),
        audit_line("delete", "//"),
        audit_line("delete", "secret/data/a", request={"operation": {"delete": "an object"}}),
        audit_line("delete", "secret/data/a", request={"mount_type": ["kv"]}),
        b"prefix " + audit_line("delete", "secret/data/a"),
        audit_line("delete", "secret/data/a")[:-1],
        audit_line("delete", "secret/data/a")[1:],
        b"",
        b'"response" "delete"',
        b'{"response":"delete"}',
        b'{"request":{},"response":"delete"}',
        b'["response","delete"]',
        b'"response""delete"' + b"[" * 100_000,
        b'{"response":"delete","x":' + b"9" * 10_000 + b"}",
        b'\xff"response""delete"',
    ],
)
def test_all_else_is_nothing(text: bytes) -> None:
    assert events_of(text) == ()


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["delete", "update", "response", "kv", "secret/", "secret/data/a", "secret/metadata", "data/"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "version", "created_time", "path", "id"]) | st.text(max_size=3), inner, max_size=3
        )
    ),
    max_leaves=8,
)
parts = st.sampled_from(["request", "response", "type", "error", "time", "x"])


@given(st.binary(max_size=80), st.dictionaries(parts, anything, max_size=5), st.tuples(*[anything] * 6))
def test_no_line_makes_it_raise(garbage: bytes, document: dict[str, object], values: tuple[object, ...]) -> None:
    marks = b'"response""delete"'
    assert events_of(garbage + marks) == ()
    assert events_of(marks + garbage) == ()
    events_of(json.dumps({"marks": ["response", "delete"], **document}).encode())
    where, mount, namespace, answer, time, operation = values
    for asked in ("delete", "update", "create", operation):
        for told in ("secret/", mount):
            request = {"path": where, "mount_point": told, "operation": asked, "namespace": namespace}
            answered = {"type": "response", "request": request, "response": answer, "time": time}
            for event in events_of(json.dumps({"marks": "delete", **answered}).encode()):
                assert event.path.path
                assert event.version >= 0


@pytest.mark.parametrize("depth", range(900, 1100, 7))
def test_no_depth_makes_it_raise(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    text = audit_line("update", "secret/data/a", response={"data": {"version": "@", "created_time": "@"}}, time="@")
    events_of(text.replace(b'"@"', deep.encode()))


@pytest.mark.parametrize("before", ["", "team/a/"])
@pytest.mark.parametrize("more", [{}, {"error": "permission denied"}])
def test_a_canary_is_known_by_its_path(before: str, more: dict[str, str]) -> None:
    entry = parse_audit_entry(canary(before, more))
    assert (entry.nonce, entry.request_id, entry.events) == ("abc", "7", ())


def canary(before: str, more: dict[str, str]) -> bytes:
    document = json.loads(canary_line(f"{before}{CANARY_PATH}abc", id="7"))
    return json.dumps(document | more, separators=(",", ":")).encode()


def test_the_request_alone_is_no_canary() -> None:
    """It is short; the response is longer than what most networks carry in one packet, as those of writes are."""
    assert parse_audit_entry(canary("", {"type": "request"})) == OTHER_ENTRY


@pytest.mark.parametrize("told", [None, 7, {"a": 1}])
def test_an_id_that_is_none_is_no_id(told: object) -> None:
    assert parse_audit_entry(audit_line("delete", "secret/data/a", request={"id": told})).request_id == ""


@pytest.mark.parametrize("depth", [500, 9_990, 9_994, 9_997, 20_000])
@pytest.mark.parametrize("name", ["time", "request", "type", "response"])
def test_what_is_nested_deeply_is_an_entry_without_interest(depth: int, name: str) -> None:
    """One recursion after json.loads was enough to raise: what came with it in one batch was then lost."""
    nested = '{"a":' * depth + "1" + "}" * depth
    request = {"operation": "update", "path": "secret/data/a", "mount_point": "secret/", "mount_type": "kv"}
    fields = {"type": '"response"', "request": json.dumps(request), "response": "{}", "time": '"now"', name: nested}
    entry = "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
    assert parse_audit_entry(entry.encode()).nonce == ""


def test_a_request_id_that_is_none_of_vaults_is_not_remembered() -> None:
    assert parse_audit_entry(audit_line("update", "secret/data/a", request={"id": "x" * 65})).request_id == ""
