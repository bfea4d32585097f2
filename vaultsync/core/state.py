"""What Vault has at a path, without values, and what can be said from it about a property."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from vaultsync.core.marks import Mark
from vaultsync.core.paths import Mount


class Presence(Enum):
    """Whether external-secrets would find a property."""

    PRESENT = "present"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """It can't be told from the names of the keys alone; it is left as it is."""


SENT_WITHIN: Final = timedelta(seconds=2)
"""Vault sends the event of a write within this time."""
LINES: Final = ".."
"""With this in front gjson reads the whole as lines of JSON."""
NEVER_THERE: Final = "missing"
"""The token of a path without any version."""


@dataclass(frozen=True, slots=True)
class SecretState:
    """The latest version of one secret.

    Attributes:
        mount: the KV mount that holds it.
        exists: the latest version is there and neither deleted nor destroyed.
        version: its number, 0 where there is none; the check-and-set parameter of the next write. KV v1: 0.
        subkeys: the names of its keys, nested, leaves None. None where Vault does not tell (KV v1).
        written: when the latest version was written; None where Vault does not tell.
        metadata_digest: a digest of its custom metadata without vaultsync's mark, "" without any.
        mark: what vaultsync has made of it, by its own word in the custom metadata; None where that is not known.
        managed_by: what the custom metadata says of that, "" if nothing.
        looked: when Vault was asked for this, by time.monotonic; 0 where it was not, as after a write.
    """

    mount: Mount
    exists: bool
    version: int = 0
    subkeys: Mapping[str, Any] | None = None
    written: datetime | None = None
    metadata_digest: str = ""
    mark: Mark | None = None
    managed_by: str = ""
    looked: float = field(default=0.0, compare=False)

    @property
    def own(self) -> frozenset[str]:
        """The properties of the latest version that vaultsync has made; none if somebody has written since."""
        if self.mark is None or not self.exists or self.mark.version != self.token(metadata=False):
            return frozenset()
        return self.mark.covers(self.subkeys or {})

    def token(self, *, metadata: bool) -> str:
        """Names this state among the secret's states: equal tokens, nothing to read again.

        Args:
            metadata: whether the reader reads the custom metadata too.
        """
        # with the time: after `kv metadata delete` the versions count from 1 again
        number = f"{self.version}@{self.written.isoformat()}" if self.written else str(self.version or "v1")
        base = number if self.exists else f"deleted-{number}" if self.version else NEVER_THERE
        return f"{base}+{self.metadata_digest}" if metadata and self.metadata_digest else base


def parse_time(value: object) -> datetime | None:
    """A time as Vault writes it (RFC 3339), None for anything else."""
    if not isinstance(value, str):  # `str` of what is nested deeply raises RecursionError
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else None


def same_token(known: str, now: str) -> bool:
    """Whether the token of a state names what is known already.

    Earlier releases recorded the time of a write's event, a moment after the write. A state that was written at most
    that moment before the recorded time is the recorded one; one that was written after it never is.

    Args:
        known: what was recorded.
        now: of the state that was read.
    """
    if known == now:
        return True
    (version, at, time), (now_version, _, now_time) = known.partition("@"), now.partition("@")
    if not at or version != now_version:
        return False
    try:
        later = datetime.fromisoformat(time) - datetime.fromisoformat(now_time)
    except (ValueError, TypeError):
        return False
    return timedelta(0) <= later <= SENT_WITHIN


def presence(subkeys: Mapping[str, Any] | None, name: str) -> Presence:
    """Whether external-secrets would find the property: a key of that very name first, else a gjson path.

    Args:
        subkeys: as in SecretState.
        name: the remoteRef's property; "" reads the whole secret.
    """
    if not name:
        return Presence.PRESENT
    if subkeys is None:
        return Presence.UNKNOWN
    if name in subkeys:
        return Presence.PRESENT
    if _is_piped(name):
        return Presence.UNKNOWN
    node: Any = subkeys
    for part in name.split("."):
        if _is_pattern(part) or not isinstance(node, Mapping):
            return Presence.UNKNOWN  # a leaf may be a list, into which gjson descends
        if part not in node:
            return Presence.MISSING
        node = node[part]
    return Presence.PRESENT


def is_expression(name: str) -> bool:
    """Whether gjson reads more than names and dots in it (https://github.com/tidwall/gjson/blob/master/SYNTAX.md)."""
    return _is_piped(name) or _is_pattern(name)


def _is_pattern(name: str) -> bool:
    """Whether gjson matches keys by it, or reads its characters as something else than they are."""
    return any(char in name for char in "*?#\\")


def _is_piped(name: str) -> bool:
    """Whether gjson may find something in it where the first names lead nowhere: modifiers make values of nothing."""
    return name.startswith(LINES) or "|" in name or any(part[:1] in ("@", "!", "{", "[") for part in name.split("."))
