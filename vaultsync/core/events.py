"""What Vault tells of changes: an event frame or an audit line → the secret it is about. A hint; the state is read.

Frames as https://developer.hashicorp.com/vault/docs/concepts/events describes them and Vault 1.15.1 sends them; audit
lines as https://developer.hashicorp.com/vault/docs/audit describes them.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vaultsync.core.paths import VaultPath, clean_namespace
from vaultsync.core.state import parse_time

_V2_FOLDERS = ("data/", "delete/", "undelete/", "destroy/", "metadata/")
_DELETIONS = {("delete", "data/"), ("delete", "metadata/"), ("update", "delete/"), ("update", "destroy/")}
"""Operation and folder of the requests that delete in KV v2."""


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
    """

    path: VaultPath
    kind: str
    version: int
    time: datetime | None = None

    @property
    def is_write(self) -> bool:
        """Whether the event says that a new version was written."""
        return self.kind in ("kv-v2/data-write", "kv-v2/data-patch")

    @property
    def is_about_metadata(self) -> bool:
        """Whether the event says that only the custom metadata, or a setting of the secret, was written."""
        return self.kind in ("kv-v2/metadata-write", "kv-v2/metadata-patch")


def parse_event(frame: str | bytes, namespace: str = "") -> VaultEvent:
    """Read one frame.

    Args:
        frame: the websocket message.
        namespace: the Vault namespace of the subscription, for frames that name none.

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


def parse_deletion(line: bytes) -> tuple[VaultPath, ...]:
    """Read one line of an audit device.

    Returns:
        What was deleted, as the KV v1 and v2 paths that the request may stand for (the line does not tell which);
        nothing for any other line, garbage included.
    """
    # most lines are reads: they are passed over unparsed
    if b'"response"' not in line or (b'"delete"' not in line and b'"update"' not in line):
        return ()
    try:
        document = json.loads(line)
        request = _mapping(_mapping(document, "line").get("request"), "request")
        path = _path(request.get("path"), "request.path")
        operation = _text(request.get("operation"), "request.operation")
    except (ValueError, RecursionError):
        return ()
    if document.get("type") != "response" or document.get("error") or request.get("mount_type", "kv") != "kv":
        return ()
    where, mount = request.get("namespace"), request.get("mount_point")
    name = where.get("path") if isinstance(where, dict) else None
    namespace = clean_namespace(name if isinstance(name, str) else "")
    found = [VaultPath(namespace, path)] if operation == "delete" else []
    mount = mount.strip("/") + "/" if isinstance(mount, str) else path.split("/", 1)[0] + "/"
    inner = path.removeprefix(mount)
    for folder in _V2_FOLDERS:
        if (operation, folder) in _DELETIONS and inner.startswith(folder):
            found.append(VaultPath(namespace, f"{mount}data/{inner.removeprefix(folder)}"))
    return tuple(dict.fromkeys(found))


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
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0
