"""core/events: the frames of Vault's event stream, and everything else that may come out of a socket."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import enterprise
from tests.unit.build import Anything, audit_line, wrote
from vaultsync.core.events import BadFrame, VaultEvent, parse_audit_entry, parse_event
from vaultsync.core.paths import VaultPath


def frame(kind: str, path: str, mount: str | None = "secret/", **more: Anything) -> dict[str, Any]:
    """As Vault 1.15.1 sends them."""
    metadata = {"path": path, "modified": "true", "operation": kind.partition("/")[2]} | more.pop("metadata", {})
    data: dict[str, Any] = {
        "event": {"id": "a", "metadata": metadata},
        "event_type": kind,
        "plugin_info": {"mount_class": "secret", "mount_accessor": "kv_1", "mount_path": mount, "plugin": "kv"},
        **more,
    }
    return {"id": "a", "source": "vault://x", "specversion": "1.0", "type": "*", "data": data}


def parsed(document: object, namespace: str = "") -> VaultEvent:
    return parse_event(json.dumps(document), namespace)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("kv-v2/data-write", "data"),
        ("kv-v2/data-patch", "data"),
        ("kv-v2/data-delete", "data"),
        ("kv-v2/delete", "delete"),
        ("kv-v2/undelete", "undelete"),
        ("kv-v2/destroy", "destroy"),
        ("kv-v2/metadata-write", "metadata"),
        ("kv-v2/metadata-patch", "metadata"),
        ("kv-v2/metadata-delete", "metadata"),
    ],
)
@pytest.mark.parametrize("mount", ["secret/", "team/kv/", "data/", "data/metadata/"])
@pytest.mark.parametrize("inner", ["a/b", "data/x", "metadata/data/y", "a"])
def test_every_type_of_v2_event_names_the_api_path(kind: str, folder: str, mount: str, inner: str) -> None:
    event = parsed(frame(kind, f"{mount}{folder}/{inner}", mount))
    assert event.path == VaultPath("", f"{mount}data/{inner}")
    assert event.kind == kind


@pytest.mark.parametrize("kind", ["kv-v1/write", "kv-v1/delete"])
def test_v1_events_name_the_path_itself(kind: str) -> None:
    event = parsed(frame(kind, "kv1/data/y", "kv1/"))
    assert event == VaultEvent(VaultPath("", "kv1/data/y"), kind, 0)
    assert not event.is_write


def test_new_settings_of_a_mount_are_an_event_about_no_secret() -> None:
    """As Vault 1.15.1 sends it after `vault write secret/config max_versions=5`."""
    event = parsed(frame("kv-v2/config-write", "secret/config", metadata={"data_path": "secret/config"}))
    assert (event.path, event.is_write, event.is_deletion) == (VaultPath("", "secret/config"), False, False)


def test_a_write_names_its_version() -> None:
    event = parsed(frame("kv-v2/data-write", "secret/data/a", metadata={"current_version": "12"}))
    assert (event.version, event.is_write) == (12, True)


@pytest.mark.parametrize("version", ["", "x", "-1", "1.5", "9" * 30, "²", None, [], {}, True])
def test_a_nonsense_version_is_no_version(version: object) -> None:
    assert parsed(frame("kv-v2/data-write", "secret/data/a", metadata={"current_version": version})).version == 0


@pytest.mark.parametrize(("told", "request_id"), [("f2e6-22be", "f2e6-22be"), (None, ""), (7, ""), ({}, "")])
def test_an_audit_entry_names_its_request_and_a_frame_does_not(told: object, request_id: str) -> None:
    (audited,) = parse_audit_entry(audit_line("update", "secret/data/a", request={"id": told}, **wrote(12))).events
    assert audited.request_id == request_id
    assert parsed(frame("kv-v2/data-write", "secret/data/a", id="f2e6-22be")).request_id == ""


def test_without_plugin_info_the_first_segment_is_the_mount() -> None:
    document = frame("kv-v2/delete", "secret/delete/a/b")
    del document["data"]["plugin_info"]
    assert parsed(document).path == VaultPath("", "secret/data/a/b")


def test_the_frames_own_namespace_counts_before_the_subscriptions() -> None:
    assert parsed(frame("kv-v2/delete", "secret/delete/a", namespace="/team/a/"), "x").path.namespace == "team/a"
    assert parsed(frame("kv-v2/delete", "secret/delete/a", namespace="root"), "x").path.namespace == ""
    assert parsed(frame("kv-v2/delete", "secret/delete/a"), "x/").path.namespace == "x"


# -- Vault Enterprise, after its documentation


@pytest.mark.parametrize("subscribed", ["", "team-a", "/team-a/"])
@pytest.mark.parametrize(("namespace", "clean"), [("team-a/", "team-a"), ("team-a/sub/", "team-a/sub")])
@pytest.mark.parametrize(
    ("kind", "where", "mount", "path"),
    [
        ("kv-v2/data-write", "secret/data/a", "secret/", "secret/data/a"),
        ("kv-v2/delete", "team/kv/delete/a/b", "team/kv/", "team/kv/data/a/b"),
        ("kv-v2/metadata-delete", "secret/metadata/a", "secret/", "secret/data/a"),
        ("kv-v1/write", "kv1/a", "kv1/", "kv1/a"),
    ],
)
def test_a_namespace_is_named_from_the_root_on_whatever_was_subscribed_to(
    subscribed: str, namespace: str, clean: str, kind: str, where: str, mount: str, path: str
) -> None:
    event = parse_event(enterprise.frame(namespace, kind, where, mount), subscribed)
    assert event.path == VaultPath(clean, path)
    assert event.version == 3


def test_without_a_namespace_it_is_the_roots() -> None:
    event = parse_event(enterprise.frame(""), "")
    assert (event.path, event.time is None) == (VaultPath("", "secret/data/a"), False)


@pytest.mark.parametrize("mount", ["a/", "a/kv/"])
def test_a_mount_may_begin_with_the_name_of_its_namespace(mount: str) -> None:
    event = parse_event(enterprise.frame("a/", where=f"{mount}data/data/x", mount=mount))
    assert event.path == VaultPath("a", f"{mount}data/data/x")


def test_bytes_are_read_as_text_is() -> None:
    assert parse_event(json.dumps(frame("kv-v1/write", "kv1/a", "kv1/")).encode()).path.path == "kv1/a"


bad: list[object] = [
    frame("database/creds-create", "database/creds/a", "database/"),
    frame("kv-v3/write", "secret/data/a"),
    frame("kv-v2/data-write", "other/data/a"),
    frame("kv-v2/data-write", "secret/a"),
    frame("kv-v2/data-write", "secret/data/"),
    frame("kv-v2/data-write", "secret"),
    frame("kv-v2/data-write", ""),
    frame("", "secret/data/a"),
    frame("kv-v2/data-write", "secret/data/a", event=None),
    frame("kv-v2/data-write", "secret/data/a", event={"metadata": []}),
    frame("kv-v2/data-write", "secret/data/a", event={"metadata": {"path": 5}}),
    {},
    {"data": []},
    {"data": {"event_type": "kv-v1/write", "event": {"metadata": {"path": "//"}}}},
    [],
    None,
    5,
]


@pytest.mark.parametrize("document", bad)
def test_what_is_no_kv_event_is_a_bad_frame(document: object) -> None:
    with pytest.raises(BadFrame):
        parsed(document)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff\xfe", b"\x00", "1" * 10_000, "nonsense"])
def test_what_is_no_json_is_a_bad_frame(text: str | bytes) -> None:
    with pytest.raises(BadFrame):
        parse_event(text)


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "event", "metadata", "path", "event_type", "plugin_info", "mount_path", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | st.text(max_size=60) | trees.map(json.dumps))
def test_garbage_is_a_bad_frame_and_nothing_else(text: str | bytes) -> None:
    with pytest.raises(BadFrame):
        parse_event(text)


@given(st.sampled_from(["kv-v2/data-write", "kv-v1/write", "hunter2/x"]), trees, trees, trees, trees)
def test_a_frame_with_garbage_in_any_field_is_an_event_or_a_bad_frame(
    kind: str, path: object, plugin: object, version: object, namespace: object
) -> None:
    metadata = {"path": path, "current_version": version}
    document = {"data": {"event_type": kind, "event": {"metadata": metadata}, "plugin_info": plugin}}
    document["data"]["namespace"] = namespace
    try:
        event = parsed(document)
    except BadFrame:
        return
    assert event.version >= 0
    assert isinstance(event.path.path, str)


@pytest.mark.parametrize(
    "document",
    [
        frame("hunter2", "secret/data/a"),
        frame("kv-v2/data-write", "hunter2/data/a"),
        frame("kv-v2/data-write", "secret/hunter2", "secret/"),
        {"data": "hunter2"},
        "hunter2",
    ],
)
def test_the_message_quotes_nothing_of_the_frame(document: object) -> None:
    with pytest.raises(BadFrame) as caught:
        parsed(document)
    assert "hunter2" not in str(caught.value)
