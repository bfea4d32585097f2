"""Parses reports of changes in Vault, which are event frames and audit entries, to the secret that has changed. Pure.

An event is a hint: its path is read, and only the state that Vault then returns is used. Version, time and kind of an
event only serve to detect that the state was read from a standby node before the event, or that the write was
vaultsync's own.

Frames: https://developer.hashicorp.com/vault/docs/concepts/events and Vault 1.15.1. The namespace is relative to the
root, whatever the subscription's is; mount and path are relative to that namespace.
Audit entries: https://developer.hashicorp.com/vault/docs/audit. The mount is relative to the root.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultsync.core.paths import VaultPath, clean_namespace
from vaultsync.core.untrusted import mapping, parse_json, parse_time, text

MAX_REQUEST_ID: Final = 64
"""Characters; a longer ID is not stored."""
_DELETIONS = ("kv-v2/data-delete", "kv-v2/delete", "kv-v2/destroy", "kv-v2/metadata-delete", "kv-v1/delete")
_CONFIG_WRITE = "kv-v2/config-write"
"""The settings of a mount were written: the event's path is no secret's, and nothing reads it."""
_AUDITED = {
    ("create", "data"): "data-write",
    ("update", "data"): "data-write",
    ("patch", "data"): "data-patch",
    ("delete", "data"): "data-delete",
    ("update", "delete"): "delete",
    ("update", "undelete"): "undelete",
    ("update", "destroy"): "destroy",
    ("delete", "metadata"): "metadata-delete",
    ("create", "metadata"): "metadata-write",
    ("update", "metadata"): "metadata-write",
    ("patch", "metadata"): "metadata-patch",
}
"""Operation and folder of a request → the event type of KV v2."""
_AUDITED_V1 = {"create": "write", "update": "write", "delete": "delete"}
_V2_FOLDERS = frozenset(folder for _, folder in _AUDITED)
_OPERATIONS = ("create", "update", "patch", "delete")
"""Those that may change something."""
_CHANGES = tuple(f'"{operation}"'.encode() for operation in _OPERATIONS)
CANARY_PATH = "sys/internal/ui/mounts/sys/vaultsync-canary/"
"""A canary is a read of this path with a nonce at its end.

Vault answers with the mount "sys/", whatever KV mounts exist, to each token that has any capability below sys/.
"""
_CANARY = CANARY_PATH.encode()


class BadFrame(ValueError):
    """A frame is not an event of the KV secrets engine; the message quotes nothing of the frame."""


@dataclass(frozen=True, slots=True)
class VaultEvent:
    """One change in a KV mount.

    Attributes:
        path: the API path of the secret.
        kind: Vault's event type, such as `kv-v2/data-write`.
        version: the latest version after the change, 0 if the event does not contain it.
        time: when Vault sent it, None if unknown.
        request_id: Vault's ID of the request that caused it; "" in the event stream, which does not contain it.
        is_verified: Vault sent it; False if it may be forged.
    """

    path: VaultPath
    kind: str
    version: int
    time: datetime | None = None
    request_id: str = ""
    is_verified: bool = True

    @property
    def is_write(self) -> bool:
        """Whether a new version was written."""
        return self.kind in ("kv-v2/data-write", "kv-v2/data-patch")

    @property
    def is_unversioned_write(self) -> bool:
        """Whether KV v1 was written. Its state does not show writes, so the event must be trusted."""
        return self.kind == "kv-v1/write"

    @property
    def is_deletion(self) -> bool:
        """Whether the latest version was deleted. The event stream reports this to root tokens only."""
        return self.kind in _DELETIONS

    @property
    def is_about_metadata(self) -> bool:
        """Whether only the custom metadata or a setting of the secret was written."""
        return self.kind in ("kv-v2/metadata-write", "kv-v2/metadata-patch")


def parse_event(frame: str | bytes, namespace: str = "") -> VaultEvent:
    """Parse a frame.

    Args:
        frame: the websocket message.
        namespace: the Vault namespace of the subscription, for frames without one, as those of Vault Community.

    Raises:
        BadFrame: the frame is not JSON, or not an event of a KV mount in the known format.
    """
    try:
        document = mapping(json.loads(frame))
    except (ValueError, RecursionError) as error:
        raise BadFrame("the frame is not JSON") from error
    data = mapping(document.get("data"))
    kind = text(data.get("event_type"))
    metadata = mapping(mapping(data.get("event")).get("metadata"))
    path = text(metadata.get("path")).strip("/")
    if not kind or not path:
        raise BadFrame(f"{'data.event.metadata.path' if kind else 'data.event_type'} is missing or not a text")
    mount = text(mapping(data.get("plugin_info")).get("mount_path"))
    where = data.get("namespace")
    if kind.startswith("kv-v2/") and kind != _CONFIG_WRITE:
        path = _v2_data_path(path, mount)
    elif not kind.startswith(("kv-v1/", _CONFIG_WRITE)):
        raise BadFrame("data.event_type is not one of the KV secrets engine")
    return VaultEvent(
        path=VaultPath(clean_namespace(where if isinstance(where, str) else namespace), path),
        kind=kind,
        version=_version(metadata.get("current_version")),
        time=parse_time(document.get("time")),
    )


@dataclass(frozen=True, slots=True)
class MountChange:
    """A mount was created, tuned, moved or disabled.

    Attributes:
        mount: its path with a slash at the end; None if it may be any mount, as the paths of a move are hashed.
    """

    mount: VaultPath | None

    def covers(self, namespace: str, path: str) -> bool:
        """Whether an API path may be in the changed mount."""
        return self.mount is None or (namespace == self.mount.namespace and path.startswith(self.mount.path))


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """The content of an audit entry.

    Attributes:
        request_id: Vault's ID of the request.
        events: possible changes: one for KV v1 and one for KV v2 if the entry does not contain the KV version.
        nonce: of a canary, "" for other requests.
        mounts: the change of a mount, None for other requests.
    """

    request_id: str = ""
    events: tuple[VaultEvent, ...] = ()
    nonce: str = ""
    mounts: MountChange | None = None


OTHER_ENTRY = AuditEntry()
"""An entry that reports neither a change nor a canary, or is not valid."""


def may_matter(line: bytes) -> bool:
    """Whether an audit entry may report a change or a canary. Most entries are reads, which need not be parsed."""
    return b'"response"' in line and (any(operation in line for operation in _CHANGES) or _CANARY in line)


def parse_audit_entry(line: bytes) -> AuditEntry:
    """Parse an audit entry.

    Args:
        line: untrusted.

    Returns:
        Its content; OTHER_ENTRY if it reports no change, or is not valid.
    """
    if not may_matter(line):
        return OTHER_ENTRY
    document = mapping(parse_json(line))
    request = mapping(document.get("request"))
    path, operation = text(request.get("path")).strip("/"), text(request.get("operation"))
    if not path or not operation or document.get("type") != "response":
        return OTHER_ENTRY
    request_id = text(request.get("id"))
    if len(request_id) > MAX_REQUEST_ID:  # Vault's are UUIDs, but the sender may be unverified
        request_id = ""
    _, canary, nonce = path.rpartition(CANARY_PATH)  # a Vault namespace may come before
    if canary:
        return AuditEntry(request_id, nonce=nonce)
    if document.get("error"):
        return OTHER_ENTRY
    if (mounts := _changed_mount(operation, path, request)) is not None:
        return AuditEntry(request_id, mounts=mounts)
    if request.get("mount_type", "kv") != "kv":
        return OTHER_ENTRY
    return AuditEntry(request_id, tuple(_audited(request_id, operation, path, document)))


def _changed_mount(operation: str, path: str, request: Mapping[str, Any]) -> MountChange | None:
    if operation not in _OPERATIONS:
        return None
    if path == "sys/remount":
        return MountChange(None)
    if not path.startswith("sys/mounts/"):
        return None
    mount = path.removeprefix("sys/mounts/").removesuffix("/tune").strip("/") + "/"
    return MountChange(VaultPath(_namespace(request), mount))


def _audited(request_id: str, operation: str, path: str, document: Mapping[str, Any]) -> Iterator[VaultEvent]:
    request = mapping(document.get("request"))
    namespace = _namespace(request)
    mount = _audited_mount(request.get("mount_point"), path, namespace)
    if not mount:
        return
    folder, _, name = path.removeprefix(mount).partition("/")
    kind = _AUDITED.get((operation, folder))
    response = mapping(mapping(document.get("response")).get("data"))  # strings in it are hashed, numbers are not
    version, time = _version(response.get("version")), parse_time(response.get("created_time"))
    time = time or parse_time(document.get("time"))  # Vault hashes the former, OpenBao does not
    if kind is not None and name and (version or folder != "data" or operation == "delete"):
        data_path = VaultPath(namespace, f"{mount}data/{name}")
        yield VaultEvent(data_path, f"kv-v2/{kind}", version, time, request_id)
    if operation in _AUDITED_V1 and not version:
        yield VaultEvent(VaultPath(namespace, path), f"kv-v1/{_AUDITED_V1[operation]}", 0, time, request_id)


def _namespace(request: Mapping[str, Any]) -> str:
    return clean_namespace(text(mapping(request.get("namespace")).get("path")))


def _audited_mount(mount_point: object, path: str, namespace: str) -> str:
    """The mount's path without the namespace that precedes it in the entry; "" if the path is in another mount."""
    mount = mount_point.strip("/") + "/" if isinstance(mount_point, str) else path.split("/", 1)[0] + "/"
    within = mount.removeprefix(f"{namespace}/")
    return next((one for one in (within, mount) if one and path.startswith(one)), "")


def _v2_data_path(path: str, mount: str) -> str:
    """`secret/delete/a/b` → `secret/data/a/b`. The mount's path is required, as it may contain slashes."""
    mount = (mount.strip("/") or path.split("/", 1)[0]) + "/"
    if not path.startswith(mount):
        raise BadFrame("data.event.metadata.path is not inside data.plugin_info.mount_path")
    folder, _, name = path.removeprefix(mount).partition("/")
    if folder not in _V2_FOLDERS or not name:
        raise BadFrame("data.event.metadata.path is not a path of a KV v2 mount")
    return f"{mount}data/{name}"


def _version(value: object) -> int:
    number = str(value) if isinstance(value, str | int) else ""  # str() of a deeply nested list would raise
    return int(number) if number.isascii() and number.isdigit() and len(number) < 18 else 0
