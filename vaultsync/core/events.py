"""Parses what reports a change in Vault: an event frame or an audit entry → the secret that it is about.

Everything in an event is a hint. The path says where to look, and only the state that Vault then returns counts: the
version, the time and the kind of an event decide nothing. They say whether the state that was read can be older than
the event, as on a standby node, and whether the event reports an own write.

Frames as https://developer.hashicorp.com/vault/docs/concepts/events describes them and Vault 1.15.1 sends them: the
namespace is named from the root on, whatever the subscription's, and the mount and the path from that namespace on.
Audit entries as https://developer.hashicorp.com/vault/docs/audit describes them: the mount is named from the root on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultsync.core.paths import VaultPath, clean_namespace
from vaultsync.core.vault_state import parse_time

MAX_REQUEST_ID: Final = 64
"""Characters."""
_V2_FOLDERS = ("data/", "delete/", "undelete/", "destroy/", "metadata/")
_DELETIONS = ("kv-v2/data-delete", "kv-v2/delete", "kv-v2/destroy", "kv-v2/metadata-delete", "kv-v1/delete")
_AUDITED = {
    ("create", "data/"): "data-write",
    ("update", "data/"): "data-write",
    ("patch", "data/"): "data-patch",
    ("delete", "data/"): "data-delete",
    ("update", "delete/"): "delete",
    ("update", "undelete/"): "undelete",
    ("update", "destroy/"): "destroy",
    ("delete", "metadata/"): "metadata-delete",
    ("create", "metadata/"): "metadata-write",
    ("update", "metadata/"): "metadata-write",
    ("patch", "metadata/"): "metadata-patch",
}
"""Operation and folder of a request, and the event of KV v2 that it causes."""
_AUDITED_V1 = {"create": "write", "update": "write", "delete": "delete"}
_MOUNT_CHANGES = ("create", "update", "patch", "delete")
_CHANGES = tuple(f'"{operation}"'.encode() for operation in ("create", "update", "patch", "delete"))
CANARY_PATH = "sys/internal/ui/mounts/sys/vaultsync-canary/"
"""A canary is a read of this path with a nonce at its end.

Vault answers it with the mount "sys/", whatever KV mounts there are, to each token that may do anything below sys/.
"""
_CANARY = CANARY_PATH.encode()


class BadFrame(ValueError):
    """A frame that is not an event of the KV secrets engine; its message quotes nothing of the frame."""


@dataclass(frozen=True, slots=True)
class VaultEvent:
    """One change in a KV mount.

    Attributes:
        path: the secret, by its API path.
        kind: Vault's event type, such as `kv-v2/data-write`.
        version: the latest version after the change where the event names it, else 0.
        time: when Vault sent it, None if it does not say.
        request_id: Vault's ID of the request that caused it; "" in a frame of the event stream, which names none.
    """

    path: VaultPath
    kind: str
    version: int
    time: datetime | None = None
    request_id: str = ""

    @property
    def is_write(self) -> bool:
        """Whether the event says that a new version was written."""
        return self.kind in ("kv-v2/data-write", "kv-v2/data-patch")

    @property
    def is_unversioned_write(self) -> bool:
        """Whether the event says that KV v1 was written to. Its state does not show it: the event must be believed."""
        return self.kind == "kv-v1/write"

    @property
    def is_deletion(self) -> bool:
        """Whether the event says that the latest version is not there any more: the stream tells that to root alone."""
        return self.kind in _DELETIONS

    @property
    def is_about_metadata(self) -> bool:
        """Whether the event says that only the custom metadata, or a setting of the secret, was written."""
        return self.kind in ("kv-v2/metadata-write", "kv-v2/metadata-patch")


def parse_event(frame: str | bytes, namespace: str = "") -> VaultEvent:
    """Read one frame.

    Args:
        frame: the websocket message.
        namespace: the Vault namespace of the subscription, for frames that name none, as those of Community.

    Raises:
        BadFrame: the frame is not JSON, or not an event of a KV mount in the known shape.
    """
    try:
        document = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise BadFrame("the frame is not JSON") from error
    data = _mapping(_mapping(document, "frame").get("data"), "data")
    kind = _text(data.get("event_type"), "data.event_type")
    metadata = _mapping(_mapping(data.get("event"), "data.event").get("metadata"), "data.event.metadata")
    path = _path(metadata.get("path"), "data.event.metadata.path")
    plugin = data.get("plugin_info")
    mount = plugin.get("mount_path") if isinstance(plugin, dict) else None
    where = data.get("namespace")
    if kind.startswith("kv-v2/"):
        path = _v2_data_path(path, mount if isinstance(mount, str) else "")
    elif not kind.startswith("kv-v1/"):
        raise BadFrame("data.event_type is not one of the KV secrets engine")
    return VaultEvent(
        path=VaultPath(clean_namespace(where if isinstance(where, str) else namespace), path),
        kind=kind,
        version=_version(metadata.get("current_version")),
        time=parse_time(document.get("time")),
    )


@dataclass(frozen=True, slots=True)
class MountChange:
    """Mounts were made, tuned, moved or disabled.

    Attributes:
        mount: the mount's path with its closing slash, in its Vault namespace; None where any mount may be meant, as a
            move names both paths in hashed form only.
    """

    mount: VaultPath | None

    def covers(self, namespace: str, path: str) -> bool:
        """Whether a path of Vault's API may be in the changed mount."""
        return self.mount is None or (namespace == self.mount.namespace and path.startswith(self.mount.path))


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What an entry of an audit device says.

    Attributes:
        request_id: Vault's ID of the request.
        events: the changes that the request may stand for: in KV v1 or v2, as the entry does not say which it is.
        nonce: of a canary, "" for any other request.
        mounts: which mount has changed, None for any other request.
    """

    request_id: str = ""
    events: tuple[VaultEvent, ...] = ()
    nonce: str = ""
    mounts: MountChange | None = None


OTHER_ENTRY = AuditEntry()
"""An entry that reports neither a change nor a canary, or bytes that are no entry."""


def may_matter(line: bytes) -> bool:
    """Whether an audit entry may report a change or a canary. Most entries are reads: they are dropped unparsed."""
    return b'"response"' in line and (any(operation in line for operation in _CHANGES) or _CANARY in line)


def parse_audit_entry(line: bytes) -> AuditEntry:
    """Read one entry of an audit device.

    Args:
        line: untrusted.

    Returns:
        What it says; OTHER_ENTRY for entries without interest and for garbage.
    """
    if not may_matter(line):
        return OTHER_ENTRY
    try:
        document = json.loads(line)
        request = _mapping(_mapping(document, "line").get("request"), "request")
        path = _path(request.get("path"), "request.path")
        operation = _text(request.get("operation"), "request.operation")
    except (ValueError, RecursionError):
        return OTHER_ENTRY
    if document.get("type") != "response":
        return OTHER_ENTRY
    request_id = _request_id(request)
    _, canary, nonce = path.rpartition(CANARY_PATH)  # a Vault namespace may come before
    if canary:
        return AuditEntry(request_id, nonce=nonce)
    if document.get("error"):
        return OTHER_ENTRY
    if (mounts := _changed_mount(operation, path, request)) is not None:
        return AuditEntry(request_id, mounts=mounts)
    if request.get("mount_type", "kv") != "kv":
        return OTHER_ENTRY
    return AuditEntry(request_id, tuple(_audited(operation, path, request, document)))


def _request_id(request: Mapping[str, Any]) -> str:
    """Vault's are UUIDs; a sender that nobody has verified may send anything, and IDs are remembered."""
    told = request.get("id")
    return told if isinstance(told, str) and len(told) <= MAX_REQUEST_ID else ""


def _changed_mount(operation: str, path: str, request: Mapping[str, Any]) -> MountChange | None:
    if operation not in _MOUNT_CHANGES:
        return None
    if path == "sys/remount":
        return MountChange(None)
    if not path.startswith("sys/mounts/"):
        return None
    mount = path.removeprefix("sys/mounts/").removesuffix("/tune").strip("/") + "/"
    return MountChange(VaultPath(_namespace(request), mount))


def _audited(
    operation: str, path: str, request: Mapping[str, Any], document: Mapping[str, Any]
) -> Iterator[VaultEvent]:
    namespace = _namespace(request)
    mount = _audited_mount(request.get("mount_point"), path, namespace)
    if not mount:
        return
    inner = path.removeprefix(mount)
    request_id = _request_id(request)
    folder = next((folder for folder in _V2_FOLDERS if inner.startswith(folder)), "")
    kind = _AUDITED.get((operation, folder))
    answer = _answer(document)
    version, time = _version(answer.get("version")), parse_time(answer.get("created_time"))
    time = time or parse_time(document.get("time"))  # Vault hashes the former, OpenBao does not
    if kind is not None and (version or folder != "data/" or operation == "delete"):
        data_path = VaultPath(namespace, f"{mount}data/{inner.removeprefix(folder)}")
        yield VaultEvent(data_path, f"kv-v2/{kind}", version, time, request_id)
    if operation in _AUDITED_V1 and not version:
        yield VaultEvent(VaultPath(namespace, path), f"kv-v1/{_AUDITED_V1[operation]}", 0, time, request_id)


def _namespace(request: Mapping[str, Any]) -> str:
    where = request.get("namespace")
    name = where.get("path") if isinstance(where, dict) else None
    return clean_namespace(name if isinstance(name, str) else "")


def _audited_mount(told: object, path: str, namespace: str) -> str:
    """The mount's path within its namespace, which the line has before it; "" if the path is in another."""
    mount = told.strip("/") + "/" if isinstance(told, str) else path.split("/", 1)[0] + "/"
    within = mount.removeprefix(f"{namespace}/")
    return next((one for one in (within, mount) if one and path.startswith(one)), "")


def _answer(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The data of the response; texts in it are hashed, numbers are not."""
    response = document.get("response")
    data = response.get("data") if isinstance(response, dict) else None
    return data if isinstance(data, dict) else {}


def _v2_data_path(path: str, mount: str) -> str:
    """`secret/delete/a/b` → `secret/data/a/b`. Mounts may hold slashes, so the mount's own path decides."""
    mount = mount.strip("/") + "/" if mount.strip("/") else path.split("/", 1)[0] + "/"
    if not path.startswith(mount):
        raise BadFrame("data.event.metadata.path is not inside data.plugin_info.mount_path")
    inner = path[len(mount) :]
    for folder in _V2_FOLDERS:
        if inner.startswith(folder) and len(inner) > len(folder):
            return f"{mount}data/{inner[len(folder) :]}"
    raise BadFrame("data.event.metadata.path is not a path of a KV v2 mount")


def _mapping(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadFrame(f"{name} is missing or not an object")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadFrame(f"{name} is missing or not a text")
    return value


def _path(value: object, name: str) -> str:
    return _text(_text(value, name).strip("/"), name)


def _version(value: object) -> int:
    text = str(value) if isinstance(value, str | int) else ""  # to print a deep list is an error of its own
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0
