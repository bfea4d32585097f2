"""Parses the annotations by which an ExternalSecret requests seeding and rotation. Pure.

The rules for values (annotations.GENERATE) have a parser of their own: generation.rule_parser.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import Final

from vaultsync.core import annotations
from vaultsync.core.durations import parse_duration
from vaultsync.core.external_secret import ExternalSecret, Namespace, ObjectName
from vaultsync.core.ownership import ROTATION_ID_LENGTH
from vaultsync.core.untrusted import parse_time

SHORTEST: Final = 3600.0
LONGEST: Final = 3650 * 86400.0
"""Seconds; bounds of annotations.ROTATE_AFTER. Each rotation is a new version, and restarts many workloads."""
AGES: Final = "from 1h to 3650d, such as 30d"
"""These bounds in words."""
NEVER: Final = "never"


class SeedMode(Enum):
    """VAULTSYNC_SEED."""

    ANNOTATED = "annotated"
    ALL = "all"
    OFF = "off"


class SeedChoice(Enum):
    """Whether values may be created for an ExternalSecret."""

    WANTED = "wanted"
    NOT_ASKED = "not asked"
    """It does not request seeding; its properties are created together with those of an ExternalSecret that does."""
    REFUSED = "refused"
    """It opted out, or its annotation is invalid."""


class AnnotationError(ValueError):
    """An annotation is not valid; the message says what is wrong and what is valid."""


@dataclass(frozen=True, slots=True)
class RotationSpec:
    """The rotation that an ExternalSecret requests.

    Attributes:
        max_age: in seconds, 0 for never, None without the annotation.
        request_id: identifies the request for a rotation now; it changes with the annotation. "": no request.
    """

    max_age: float | None = None
    request_id: str = ""


NO_ROTATION: Final = RotationSpec()


@dataclass(frozen=True, slots=True)
class HealSpec:
    """Whether an ExternalSecret's values are created again after a deletion, and when their loss was approved."""

    heals: bool = True
    approved: datetime | None = None


HEALS: Final = HealSpec()


def seed_choice(external_secret: ExternalSecret, namespace: Namespace | None, mode: SeedMode) -> tuple[SeedChoice, str]:
    """Whether the ExternalSecret is seeded, and what is wrong with its annotations ("" if nothing is).

    Precedence: its own annotations, that of the namespace, the mode. A namespace that is not known yet (None) may opt
    out, so nothing is seeded, and nothing in one that is being deleted.
    """
    if namespace is None or namespace.is_ending:
        return SeedChoice.REFUSED, ""
    own = {name: external_secret.annotations.get(name) for name in (annotations.SEED, annotations.CREATE)}
    wanted, problem = _parse_booleans(own, "this ExternalSecret")
    if wanted is None and not problem:
        wanted, problem = _parse_booleans(
            {annotations.SEED: namespace.annotations.get(annotations.SEED)}, f"Namespace {namespace.name}"
        )
    if problem or wanted is False or mode is SeedMode.OFF:
        return SeedChoice.REFUSED, problem
    return (SeedChoice.WANTED if wanted or mode is SeedMode.ALL else SeedChoice.NOT_ASKED), ""


def parse_rotation(name: ObjectName, given: Mapping[str, str]) -> RotationSpec:
    """Read annotations.ROTATE_AFTER and annotations.ROTATE.

    The ExternalSecret's name is part of the request ID, so that two ExternalSecrets may use the same text.

    Raises:
        AnnotationError: the age is not a duration, or out of bounds.
    """
    age, request = given.get(annotations.ROTATE_AFTER), given.get(annotations.ROTATE, "")
    request_id = sha256(f"{name} {request}".encode()).hexdigest()[:ROTATION_ID_LENGTH] if request else ""
    return RotationSpec(None if age is None else _parse_max_age(age), request_id)


def parse_heal(external_secret: ExternalSecret, namespace: Namespace) -> HealSpec:
    """Read annotations.HEAL and annotations.HEAL_LOST of an ExternalSecret, or else of its Namespace.

    Raises:
        AnnotationError: one of them is not valid.
    """
    given = {**namespace.annotations, **external_secret.annotations}
    heal, lost = given.get(annotations.HEAL, "true"), given.get(annotations.HEAL_LOST)
    if heal not in ("true", "false"):
        raise AnnotationError(f'annotation {annotations.HEAL} is {heal[:40]!r}; it must be "true" or "false"')
    approved = parse_time(lost)
    if lost is not None and approved is None:
        raise AnnotationError(
            f"annotation {annotations.HEAL_LOST} is {lost[:40]!r}; it must be the present time, such as "
            "2026-11-27T12:00:00Z"
        )
    return HealSpec(heal == "true", approved)


def is_age(seconds: float) -> bool:
    """Whether it is a valid rotation age, 0 for never included."""
    return seconds == 0 or SHORTEST <= seconds <= LONGEST


def _parse_booleans(given: Mapping[str, str | None], place: str) -> tuple[bool | None, str]:
    """Combine annotations: False if one is false, else True if one is true, else None; and what is wrong."""
    present = {name: value for name, value in given.items() if value is not None}
    for name, value in present.items():
        if value not in ("true", "false"):
            return None, f'annotation {name} on {place} is {value[:40]!r}; it must be "true" or "false"'
    return (all(value == "true" for value in present.values()) if present else None), ""


def _parse_max_age(text: str) -> float:
    if text.strip() == NEVER:
        return 0.0
    with suppress(ValueError):
        seconds = parse_duration(text)
        if seconds and is_age(seconds):
            return seconds
    raise AnnotationError(f'annotation {annotations.ROTATE_AFTER} is {text[:40]!r}; it must be {AGES}, or "{NEVER}"')
