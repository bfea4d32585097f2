"""The state of a secret in Vault, without values, and whether a property exists in it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from vaultsync.core.ownership import Ownership
from vaultsync.core.paths import Mount
from vaultsync.core.untrusted import parse_time


class Presence(Enum):
    """Whether external-secrets finds a property."""

    PRESENT = "present"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """The key names are not sufficient to decide; the property is not changed."""


SENT_WITHIN: Final = timedelta(seconds=2)
"""Maximum delay of the event of a write."""
LINES: Final = ".."
"""A gjson path with this prefix reads the document as lines of JSON."""
ABSENT: Final = "missing"
"""The fingerprint of a path without any version."""


@dataclass(frozen=True, slots=True)
class SecretState:
    """The latest version of one secret.

    Attributes:
        mount: the KV mount that holds it.
        exists: there is a latest version that is neither deleted nor destroyed.
        version: its number, 0 if there is none or in KV v1; the check-and-set parameter of the next write.
        subkeys: the names of its keys, nested, with None for leaves; None if unknown (KV v1).
        written: when the latest version was written, None if unknown.
        metadata_digest: a digest of its custom metadata without the ownership, "" if there is none.
        ownership: in its custom metadata, None if there is none.
        ends: when the latest version was or will be deleted, None if never; see `lifetime`.
        managed_by: MANAGED_BY of its custom metadata, "" if there is none.
        read_at: time.monotonic when the read was sent; 0 if the state is derived from a write.
    """

    mount: Mount
    exists: bool
    version: int = 0
    subkeys: Mapping[str, Any] | None = None
    written: datetime | None = None
    metadata_digest: str = ""
    ownership: Ownership | None = None
    managed_by: str = ""
    ends: datetime | None = None
    read_at: float = field(default=0.0, compare=False)

    @property
    def keys(self) -> frozenset[str]:
        """The names of its top-level keys, none where it does not exist or Vault does not list them."""
        return frozenset(self.subkeys or ()) if self.exists else frozenset()

    @property
    def lifetime(self) -> timedelta | None:
        """From the write to the expiry of the latest version (`delete_version_after`), None if it does not expire.

        Vault records an expiry and a deletion by a client in one field. It computes the former from the time of the
        write, so that both times have the same fraction of a second; a client's deletion has another one.
        """
        if self.ends is None or self.written is None or (self.ends - self.written).microseconds:
            return None
        return self.ends - self.written

    @property
    def owned(self) -> frozenset[str]:
        """The properties of the latest version that vaultsync made; none if another writer made the version."""
        if self.ownership is None or not self.exists or self.ownership.version != self.fingerprint(metadata=False):
            return frozenset()
        return self.ownership.covers(self.subkeys or {})

    def is_missing(self, property: str) -> bool:
        """Whether a property is known not to exist."""
        return not self.exists or presence(self.subkeys, property) is Presence.MISSING

    def fingerprint(self, *, metadata: bool) -> str:
        """Identifies the state among those of the secret, with or without its custom metadata."""
        # with the time: after `kv metadata delete` version numbers start at 1 again
        number = f"{self.version}@{self.written.isoformat()}" if self.written else str(self.version or "v1")
        base = number if self.exists else f"deleted-{number}" if self.version else ABSENT
        return f"{base}+{self.metadata_digest}" if metadata and self.metadata_digest else base


def version_of(fingerprint: str) -> int:
    """The number of the live version that a fingerprint of KV v2 identifies, 0 if it identifies none."""
    number = fingerprint.partition("@")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 18 else 0


def same_fingerprint(known: str, now: str) -> bool:
    """Whether the recorded fingerprint `known` identifies the state that was read now.

    Earlier releases recorded the time of a write's event, which is up to SENT_WITHIN after the write.
    """
    if known == now:
        return True
    (version, _, sent), (now_version, _, written) = known.partition("@"), now.partition("@")
    known_time, now_time = parse_time(sent), parse_time(written)
    if version != now_version or known_time is None or now_time is None:
        return False
    return timedelta(0) <= known_time - now_time <= SENT_WITHIN


def presence(subkeys: Mapping[str, Any] | None, name: str) -> Presence:
    """Whether external-secrets finds the property: first as the name of a key, then as a gjson path.

    `subkeys` are those of SecretState. The name "" reads the whole secret.
    """
    if not name or name in (subkeys or ()):
        return Presence.PRESENT
    if subkeys is None or _is_piped(name):
        return Presence.UNKNOWN
    node: Any = subkeys
    for part in name.split("."):
        if _is_pattern(part) or not isinstance(node, Mapping):
            return Presence.UNKNOWN  # a leaf may be a list, and gjson paths can index it
        if part not in node:
            return Presence.MISSING
        node = node[part]
    return Presence.PRESENT


def is_expression(name: str) -> bool:
    """Whether it is a gjson path of more than names (https://github.com/tidwall/gjson/blob/master/SYNTAX.md)."""
    return _is_piped(name) or _is_pattern(name)


def _is_pattern(name: str) -> bool:
    """Whether gjson matches keys by it, or reads its characters as something else than they are."""
    return any(char in name for char in "*?#\\")


def _is_piped(name: str) -> bool:
    """Whether gjson may find a value even if the first names do not exist: modifiers can create values."""
    return name.startswith(LINES) or "|" in name or any(part[:1] in ("@", "!", "{", "[") for part in name.split("."))
