"""Frames of Vault Enterprise's event stream: written after its documentation and source, not recorded.

It can't be run here. The shape is that of https://developer.hashicorp.com/vault/docs/concepts/events. The source
(vault/eventbus/bus.go, http/events.go, vault/mount.go) says that the namespace is named from the root on, whatever the
subscription's own, the mount and the path from the namespace on, and what `vault_index` is.
"""

import json
from typing import Any


def frame(namespace: str, kind: str = "kv-v2/data-write", where: str = "secret/data/a", mount: str = "secret/") -> str:
    """One event.

    Args:
        namespace: as Vault's namespaces are named, such as `team-a/sub/`; "" for the root.
        kind: the event type.
        where: the path, as the type has it.
        mount: the mount's path.
    """
    metadata: dict[str, Any] = {
        "current_version": "3",
        "data_path": where,
        "modified": "true",
        "oldest_version": "0",
        "operation": kind.partition("/")[2],
        "path": where,
        "vault_index": "djE6Y2x1c3RlcjoxOjA6MDA=",
    }
    data: dict[str, Any] = {
        "event": {"id": "a3be9fb1-b514-519f-5b25-b6f144a8c1ce", "metadata": metadata},
        "event_type": kind,
        "plugin_info": {
            "mount_class": "secret",
            "mount_accessor": "kv_5dc4d18e",
            "mount_path": mount,
            "plugin": "kv",
            "version": "2",
        },
    }
    if namespace:  # the root's is left out, as every empty field is
        data["namespace"] = namespace
    return json.dumps(
        {
            "id": "a3be9fb1-b514-519f-5b25-b6f144a8c1ce",
            "source": "vault://node-1",
            "specversion": "1.0",
            "type": "*",
            "data": data,
            "datacontenttype": "application/cloudevents",
            "time": "2023-09-12T15:19:49.394915-07:00",
        }
    )
