"""The mark that vaultsync leaves in a secret's custom metadata (KV v2): what of it vaultsync made, when and for whom.

Pure. A mark is about one version: what a later one holds, its writer alone knows. It never says anything of a value.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

MANAGED_BY: Final = "managed-by"
"""What other tools, such as external-secrets' PushSecret, mark theirs by."""
MANAGER: Final = "vaultsync"
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
"""That there is room for."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """What vaultsync has made at a path.

    Attributes:
        version: the version that holds it, as SecretState.token names it: numbers alone come again after a purge.
        made: when the oldest of it was made.
        properties: their names, None for all that the version has.
        external_secret: for whom, as NAMESPACE/NAME.
        cluster: VAULTSYNC_CLUSTER of whoever made it.
        rotation_ids: the requests (core.rotate.RotationSpec.request_id) that this version answers, the latest first; at
            most MAX_ROTATION_IDS.
    """

    version: str
    made: datetime
    properties: frozenset[str] | None
    external_secret: str
    cluster: str = ""
    rotation_ids: tuple[str, ...] = ()

    def covers(self, there: Mapping[str, Any]) -> frozenset[str]:
        """Which of the version's properties vaultsync has made."""
        return frozenset(there) if self.properties is None else self.properties & there.keys()


def parse_ownership(custom_metadata: object) -> Ownership | None:
    """The mark among the custom metadata, None where there is none that can be read."""
    if not isinstance(custom_metadata, Mapping):
        return None
    text = {key: value for key, value in custom_metadata.items() if isinstance(value, str)}
    properties = _names(text.get(PROPERTIES, ""))
    try:
        made = datetime.fromisoformat(text.get(MADE, ""))
    except ValueError:
        return None
    if not text.get(VERSION) or made.tzinfo is None:
        return None
    return Ownership(
        version=text[VERSION],
        made=made,
        properties=properties,
        external_secret=text.get(EXTERNAL_SECRET, ""),
        cluster=text.get(CLUSTER, ""),
        rotation_ids=tuple(text.get(ANSWERED, "").split()),
    )


def render_ownership(made: Ownership, managed_by: str) -> dict[str, str | None]:
    """What to merge into the custom metadata; None removes a key.

    Args:
        made: of which names that find no room are left out: these are treated as somebody else's.
        managed_by: what the custom metadata has said so far; another tool's word stands.
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
    """The custom metadata without vaultsync's mark."""
    return {
        key: value
        for key, value in custom_metadata.items()
        if not str(key).startswith(_PREFIX) and (key, value) != (MANAGED_BY, MANAGER)
    }


def _names(text: str) -> frozenset[str] | None:
    if text == ALL:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, list) else frozenset()


def _fitting_list(names: frozenset[str]) -> str:
    """As many as there is room for."""
    found, size = [], 2
    for name in sorted(names):
        size += len(json.dumps(name)) + 2
        if size > MAX_VALUE:
            break
        found.append(name)
    return json.dumps(found)
