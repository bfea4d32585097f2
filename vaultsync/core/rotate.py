"""Decides which values of one Vault path are replaced, and when. Pure.

Only values that vaultsync made are replaced (SecretState.owned).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from vaultsync.core import annotations
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.durations import age
from vaultsync.core.ownership import MAX_ROTATION_IDS, Ownership
from vaultsync.core.paths import VaultPath
from vaultsync.core.reader import PathInput, Problem, Reader
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.plan import PropertyPlan, plan
from vaultsync.generation.rule_set import Rules

SPREAD: Final = 0.1
"""Part of the age by which rotations are spread, so that values made together are not replaced together."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Replace these properties in one write; vaultsync has made each of them. `why` is for the Event."""

    plan: Mapping[str, PropertyPlan]
    why: str
    reason: EventReason = EventReason.ROTATED

    @property
    def properties(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self.plan)


def plan_rotation(
    given: PathInput, now: datetime, default_age: float, defaults: Rules
) -> tuple[Rotation | None, datetime | None, tuple[Problem, ...]]:
    """Plan the replacement of values that are too old (`default_age` is 0 for never), or whose rotation was requested.

    Returns:
        The write if one is due; when one will be due, None for never; and the problems.
    """
    state, where = given.state, given.where
    max_age, problems = _max_age(given.permitted, default_age)
    requesting = [reader for reader in given.permitted if reader.rotation.request_id]
    problems += [
        _annotation_problem(
            reader,
            f"{annotations.ROTATE}: {where} is read by {MAX_ROTATION_IDS} older ExternalSecrets with this annotation, "
            "and vaultsync can't track more; remove it from some of them",
        )
        for reader in requesting[MAX_ROTATION_IDS:]
    ]
    answered = state.ownership.rotation_ids if state.ownership else ()
    requesting = [one for one in requesting[:MAX_ROTATION_IDS] if one.rotation.request_id not in answered]
    for reader in requesting:
        if _is_foreign(state, reader.reads(state)):
            text = f"annotation {annotations.ROTATE}: {where} {_not_owned(state)}; delete it in Vault to replace it"
            problems.append(Problem(reader.name, text))
    if state.ownership is None or not any(reader.reads(state) & state.owned for reader in given.permitted):
        return None, None, tuple(problems)
    new = [reader for reader in requesting if reader.reads(state) & state.owned]
    due = due_at(given.path, state.ownership.made, max_age) if max_age else None
    if not new and (due is None or now < due):
        return None, due, tuple(problems)
    requested = {request.property for request in given.requests}
    planned = plan(given.requests, state.owned & requested, state.keys - state.owned, defaults)
    obstacle = "; ".join(planned.impossible.values())
    read = frozenset[str]().union(*(reader.reads(state) for reader in given.readers)) & state.owned
    if not obstacle and (left := sorted(read - planned.properties.keys())):
        obstacle = f"{', '.join(left)} would keep the old value: no ExternalSecret that may have it rotated names it"
    if obstacle:
        problems += [Problem(reader.name, f"{where} is not rotated: {obstacle}") for reader in new or given.permitted]
        return None, None, tuple(problems)
    why = f"requested by {', '.join(str(reader.name) for reader in new[:3])}" if new else f"older than {age(max_age)}"
    return Rotation(planned.properties, why), None, tuple(problems)


def due_at(path: VaultPath, made: datetime, max_age: float) -> datetime:
    """When values reach the age, plus up to SPREAD of it: a share that is constant for each path."""
    share = int.from_bytes(sha256(str(path).encode()).digest()[:4]) / 2**32
    try:
        return made + timedelta(seconds=max_age * (1 + SPREAD * share))
    except OverflowError:  # the time is untrusted
        return datetime.max.replace(tzinfo=UTC)


def next_ownership(before: SecretState, made: Ownership, *, rotated: bool) -> Ownership:
    """The ownership of a path after a write of vaultsync.

    Args:
        before: the state on which the write was based.
        made: the ownership if vaultsync owned nothing there before.
        rotated: the write replaced all that vaultsync owned.
    """
    old = before.ownership
    if old is not None:  # keep the requests that other instances, with other ExternalSecrets, have answered
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


def _max_age(permitted: Sequence[Reader], default: float) -> tuple[float, list[Problem]]:
    """The age of the oldest ExternalSecret that has one, else the default; and a problem for each that differs."""
    given = [reader for reader in permitted if reader.rotation.max_age is not None]
    if not given:
        return default, []
    first = given[0].rotation.max_age or 0.0
    return first, [
        _annotation_problem(
            reader,
            f"{annotations.ROTATE_AFTER} differs from that of {given[0].name}, which reads the same path, is older "
            "and takes precedence; make the ages equal, or remove this one",
        )
        for reader in given[1:]
        if reader.rotation.max_age != first
    ]


def _annotation_problem(reader: Reader, text: str) -> Problem:
    return Problem(reader.name, f"annotation {text}", CreatedReason.ERROR_ANNOTATION, refusal=Refusal.ANNOTATION)


def _is_foreign(state: SecretState, read: frozenset[str]) -> bool:
    """Whether vaultsync is not known to have made any of the properties."""
    return state.exists if state.mount.kv == 1 else bool(read) and not read & state.owned


def _not_owned(state: SecretState) -> str:
    if state.mount.kv == 1:
        return "is in KV v1, which can't record who made a value"
    if state.ownership is not None:
        return "was written by another client since vaultsync made it"
    return "is not marked as made by vaultsync"
