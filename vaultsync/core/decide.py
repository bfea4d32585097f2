"""Decides about one Vault path: frozen inputs → at most one write, and the problems of its readers. Pure, table-tested.

Invariant: a decision never replaces a value that another client may have written. It creates a version where none is
live, adds missing keys, or (core.rotate) replaces values that the path's ownership metadata attributes to vaultsync.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vaultsync.core import annotations
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.healing import Absence, is_short_lived, retired
from vaultsync.core.paths import VaultPath
from vaultsync.core.reader import PathInput, Problem, Reader, Refused
from vaultsync.core.rotate import Rotation, plan_rotation
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.plan import PropertyPlan, differing, plan
from vaultsync.generation.rule_set import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class Defaults:
    """Cluster-wide settings: the rules for values, and the age in seconds at which they are replaced, 0 for never."""

    rules: Rules = NO_RULES
    rotate_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Seed:
    """Create these properties in one write: in a new version, or with `patch` in the live one.

    `cas` is the version that must still be the latest (KV v2).
    """

    plan: Mapping[str, PropertyPlan]
    cas: int
    patch: bool
    reason: EventReason

    @property
    def properties(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self.plan)


@dataclass(frozen=True, slots=True)
class History:
    """The past of a path.

    Attributes:
        properties: the names of those that existed.
        existed: it had a live version.
        version: the latest live one.
        is_deletion_reported: Vault has reported a deletion since then, in its event stream or by an audit device.
    """

    properties: frozenset[str] = frozenset()
    existed: bool = False
    version: int = 0
    is_deletion_reported: bool = False

    def absence(self, state: SecretState, readers: Iterable[Reader], *, is_replaced: bool) -> Absence | None:
        """Why the path has no live version now; with `is_replaced`, another mount is in the place of its own.

        None if it has one, unless that is older than the latest known one: the keys that it lacks are lost.
        """
        if state.exists:
            return Absence.LOST if state.version < self.version and not self.is_deletion_reported else None
        if not (self.existed or state.version or any(reader.has_read for reader in readers)):
            return Absence.NEW
        if self.is_deletion_reported and state.lifetime is None:  # else it was of an earlier version
            return Absence.DELETED
        if is_replaced and not is_short_lived(state):  # what was to expire here is no loss, and is not created again
            return Absence.LOST
        if state.version == 0 or state.version < self.version:
            return Absence.LOST
        return Absence.DELETED if state.lifetime is None else Absence.EXPIRED


@dataclass(frozen=True, slots=True)
class Decision:
    """At most one write at a path; `due` is when a rotation will be due, None for never, or if there is a write now."""

    seed: Seed | None = None
    problems: tuple[Problem, ...] = ()
    rotation: Rotation | None = None
    due: datetime | None = None


NEW: Final = History()
NO_DEFAULTS: Final = Defaults()
NONE_REFUSED: Final[Mapping[ObjectName, Refused]] = {}


def decide(
    path: VaultPath,
    state: SecretState,
    readers: Sequence[Reader],
    now: datetime,
    history: History = NEW,
    defaults: Defaults = NO_DEFAULTS,
    refused: Mapping[ObjectName, Refused] = NONE_REFUSED,
) -> Decision:
    """Decide about one path; `readers` and `refused` are those of PathInput."""
    given = PathInput(path, state, tuple(readers), refused)
    problems = [*_obstacles(given), *_differences(given)]
    missing = frozenset(one.property for one in given.requests if state.is_missing(one.property))
    wanted = missing & {one.property for one in given.requests if one.reader in given.wanting}
    if wanted:
        seed, impossible = _plan_seed(given, missing, wanted, history, defaults.rules)
        return Decision(seed, (*problems, *impossible))
    problems += _without_properties(given)
    rotation, due, more = plan_rotation(given, now, defaults.rotate_after, defaults.rules)
    return Decision(None, (*problems, *more), rotation, due)


def _plan_seed(
    given: PathInput, missing: frozenset[str], wanted: frozenset[str], history: History, defaults: Rules
) -> tuple[Seed | None, list[Problem]]:
    """Plan the write, unless it creates nothing that a reader wants; and the problems."""
    state = given.state
    planned = plan(given.requests, missing, state.keys, defaults)
    problems = [
        Problem(reader.name, f"{one.field}: {given.where}: {planned.impossible[one.property]}", field=one.field)
        for one in given.requests
        if one.property in planned.impossible and (reader := given.wanting.get(one.reader)) is not None
    ]
    made = planned.properties
    if not made.keys() & wanted:
        return None, problems
    existed = made.keys() <= history.properties if state.exists else history.existed or state.version > 0
    reason = EventReason.RECREATED if existed else EventReason.SEEDED
    return Seed(made, state.version, state.exists, reason), problems


def _obstacles(given: PathInput) -> Iterable[Problem]:
    """Missing entries that can't or may not be created, and entries that external-secrets can't read."""
    for reader in given.wanting.values():
        for reference in reader.references:
            missing = reference.is_missing(given.state)
            obstacle = reference.obstacle(given.state) if missing else reference.misreading(given.state)
            refused = given.refused.get(reader.name)
            if refused is None and reader.is_retired(reference, given.state):
                refused = retired(f"{given.where} has no key {reference.property!r}")
            if obstacle:
                message = f"{reference.field}: {given.where} {obstacle}"
                yield Problem(reader.name, message, field=reference.field)
            elif missing and refused is not None:
                message = f"{reference.field}: {refused.message}"
                yield Problem(reader.name, message, refused.reason, field=reference.field, refusal=refused.refusal)


def _differences(given: PathInput) -> Iterable[Problem]:
    """Rules that differ from those of an older ExternalSecret."""
    for request, older in differing(given.requests):
        if reader := given.wanting.get(request.reader):
            yield Problem(
                reader.name,
                f"{request.field}: annotation {annotations.GENERATE} has another rule for {request.property!r} than "
                f"{older}, which is older and takes precedence; make the rules equal, or remove this one",
                CreatedReason.ERROR_ANNOTATION,
                field=request.field,
                refusal=Refusal.ANNOTATION,
            )


def _without_properties(given: PathInput) -> Iterable[Problem]:
    """Entries that read a missing path as a whole where no property to create is named."""
    if given.state.exists:
        return
    for reader in given.permitted:
        for reference in reader.references:
            if not reference.property and not reference.metadata and not reference.obstacle(given.state):
                yield Problem(
                    reader.name,
                    f"{reference.field}: {given.where} is missing and no entry names a property of it; "
                    f"name its properties in the annotation {annotations.GENERATE}, such as "
                    "{password: {format: password}}, or in spec.data, or write it in Vault",
                    field=reference.field,
                )
