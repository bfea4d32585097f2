"""When a value that vaultsync made is made anew: what an ExternalSecret asks for, and when that is due. Pure.

Knows nothing of who made what; that is core/decide.py's, by the path's mark.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from vaultsync.core import annotations
from vaultsync.core.durations import parse_duration
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.ownership import MAX_ROTATION_IDS, ROTATION_ID_LENGTH, Ownership
from vaultsync.core.paths import VaultPath
from vaultsync.core.vault_state import SecretState

SHORTEST: Final = 3600.0
LONGEST: Final = 3650 * 86400.0
"""Seconds that `vaultsync.io/rotate-after` may be: each rotation is a new version, and a restart for many."""
AGES: Final = "from 1h to 3650d, such as 30d"
"""The same in words."""
NEVER: Final = "never"
SPREAD: Final = 0.1
"""Of the age: values made together are not made anew together."""


class RotationError(ValueError):
    """An annotation that can't be followed; the message says what is wrong and what would be right."""


@dataclass(frozen=True, slots=True)
class RotationSpec:
    """What one ExternalSecret asks for.

    Attributes:
        max_age: in seconds, 0 for never, None where it leaves that to others.
        request_id: names what it asks for at once, the same for as long as the annotation is; "": nothing.
    """

    max_age: float | None = None
    request_id: str = ""


NO_ROTATION: Final = RotationSpec()


def parse_rotation(name: ObjectName, given: Mapping[str, str]) -> RotationSpec:
    """Read the annotations annotations.ROTATE_AFTER and annotations.ROTATE.

    Args:
        name: whose they are; it is part of the request, so that two may ask in the same words.
        given: its annotations, untrusted.

    Raises:
        RotationError: the age is none, or out of bounds.
    """
    age, word = given.get(annotations.ROTATE_AFTER), given.get(annotations.ROTATE, "")
    request_id = sha256(f"{name} {word}".encode()).hexdigest()[:ROTATION_ID_LENGTH] if word else ""
    return RotationSpec(None if age is None else _max_age(age), request_id)


def due_at(path: VaultPath, made: datetime, after: float) -> datetime:
    """When a value is old enough: at the age asked for, and up to SPREAD of it later, the same for a path each time."""
    share = int.from_bytes(sha256(str(path).encode()).digest()[:4]) / 2**32
    try:
        return made + timedelta(seconds=after * (1 + SPREAD * share))
    except OverflowError:  # anybody may have written that time
        return datetime.max.replace(tzinfo=UTC)


def next_ownership(before: SecretState, made: Ownership, *, rotated: bool) -> Ownership:
    """The mark for a path on which vaultsync has just written.

    Args:
        before: the state that the write was based on.
        made: the mark as it would be if nothing else there were vaultsync's.
        rotated: nothing of what was vaultsync's before is left as it was.
    """
    old = before.ownership
    if old is not None:  # other vaultsyncs, for other objects, may have rotation_ids those
        rest = (request for request in old.rotation_ids if request not in made.rotation_ids)
        made = replace(made, rotation_ids=(*made.rotation_ids, *rest)[:MAX_ROTATION_IDS])
    if not before.exists:
        return replace(made, properties=None)
    if old is None or not before.owned:
        return made
    properties = None if old.properties is None or made.properties is None else before.owned | made.properties
    if rotated:
        return replace(made, properties=properties, external_secret=old.external_secret)
    return replace(old, version=made.version, properties=properties)


def is_age(seconds: float) -> bool:
    """Whether values may be made anew that often: 0 is never."""
    return seconds == 0 or SHORTEST <= seconds <= LONGEST


def _max_age(text: str) -> float:
    if text.strip() == NEVER:
        return 0.0
    wrong = f'annotation {annotations.ROTATE_AFTER} is {text[:40]!r}; it must be {AGES}, or "{NEVER}"'
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise RotationError(wrong) from error
    if not seconds or not is_age(seconds):
        raise RotationError(wrong)
    return seconds
