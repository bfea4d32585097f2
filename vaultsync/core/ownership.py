"""Ownership metadata: which properties of a secret vaultsync made, when and for whom, in its custom metadata (KV v2).

Pure. It describes one version, as others may write later ones. It contains nothing about values.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vaultsync.core.untrusted import parse_json, parse_time, text_fields, texts

MANAGED_BY: Final = "managed-by"
"""The key by which other tools, such as external-secrets' PushSecret, mark their secrets."""
MANAGER: Final = "vaultsync"
EXTERNAL_SECRETS: Final = "external-secrets"
"""The value that PushSecrets write, and without which external-secrets does not write to an existing path."""
_PREFIX: Final = "vaultsync-"
EXTERNAL_SECRET: Final = _PREFIX + "external-secret"
CLUSTER: Final = _PREFIX + "cluster"
MADE: Final = _PREFIX + "made"
VERSION: Final = _PREFIX + "version"
PROPERTIES: Final = _PREFIX + "properties"
ANSWERED: Final = _PREFIX + "rotations"
ALL: Final = "*"
MAX_VALUE: Final = 512
"""Bytes (https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#custom_metadata)."""
ROTATION_ID_LENGTH: Final = 12
MAX_ROTATION_IDS: Final = (MAX_VALUE + 1) // (ROTATION_ID_LENGTH + 1)
"""Maximum number of rotation IDs that fit into one metadata value."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """The properties of one version that vaultsync made.

    Attributes:
        version: by SecretState.fingerprint, as version numbers repeat after a purge.
        made: when the oldest of them was made.
        properties: their names, None for all of the version.
        external_secret: for which they were made, as NAMESPACE/NAME.
        cluster: VAULTSYNC_CLUSTER of the instance that made them.
        rotation_ids: the answered requests (RotationSpec.request_id), the latest first; at most MAX_ROTATION_IDS.
    """

    version: str
    made: datetime
    properties: frozenset[str] | None
    external_secret: str
    cluster: str = ""
    rotation_ids: tuple[str, ...] = ()

    def covers(self, there: Mapping[str, Any]) -> frozenset[str]:
        """The properties among the version's that vaultsync made."""
        return frozenset(there) if self.properties is None else self.properties & there.keys()


def parse_ownership(custom_metadata: object) -> Ownership | None:
    """Parse the custom metadata; None if it contains no valid ownership. It is untrusted."""
    fields = text_fields(custom_metadata)
    made, properties = parse_time(fields.get(MADE)), fields.get(PROPERTIES, "")
    if not fields.get(VERSION) or made is None:
        return None
    return Ownership(
        version=fields[VERSION],
        made=made,
        properties=None if properties == ALL else frozenset(texts(parse_json(properties))),
        external_secret=fields.get(EXTERNAL_SECRET, ""),
        cluster=fields.get(CLUSTER, ""),
        rotation_ids=tuple(fields.get(ANSWERED, "").split()),
    )


def render_ownership(made: Ownership, managed_by: str) -> dict[str, str | None]:
    """The entries to merge into the custom metadata; None removes a key.

    Names that do not fit are omitted, and their properties count as foreign. `managed_by` is the present value of
    MANAGED_BY; that of another tool is kept.
    """
    own = made.properties is None and managed_by in ("", MANAGER)
    return {
        **({MANAGED_BY: MANAGER} if own else {}),
        EXTERNAL_SECRET: made.external_secret,
        CLUSTER: made.cluster or None,
        MADE: made.made.isoformat(),
        VERSION: made.version,
        PROPERTIES: ALL if made.properties is None else _fitting_list(made.properties),
        ANSWERED: " ".join(made.rotation_ids[:MAX_ROTATION_IDS]) or None,
    }


def others(custom_metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The custom metadata without the ownership."""
    return {
        key: value
        for key, value in custom_metadata.items()
        if not str(key).startswith(_PREFIX) and (key, value) != (MANAGED_BY, MANAGER)
    }


def _fitting_list(names: frozenset[str]) -> str:
    """A JSON list of as many names as fit."""
    found, size = [], 2
    for name in sorted(names):
        size += len(json.dumps(name)) + 2
        if size > MAX_VALUE:
            break
        found.append(name)
    return json.dumps(found)
