"""Decides what is created at one Vault path, and why something can't be. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vaultsync.core import annotations
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.reader import PathInput, Problem, is_missing
from vaultsync.generation.plan import PropertyPlan, differing, plan
from vaultsync.generation.rule_set import Rules


@dataclass(frozen=True, slots=True)
class Seed:
    """Create these properties in one write.

    Attributes:
        cas: the version that must still be the latest (KV v2).
        patch: add to the live version instead of creating one.
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
        properties: names of properties that existed.
        existed: there was a live version.
    """

    properties: frozenset[str] = frozenset()
    existed: bool = False


NEW: Final = History()


def plan_seed(
    given: PathInput, history: History, defaults: Rules
) -> tuple[Seed | None, tuple[Problem, ...], frozenset[str]]:
    """Plan the creation of missing properties.

    Args:
        given: the path and its readers.
        history: for the reason: created or re-created.
        defaults: the cluster-wide rules.

    Returns:
        The write if there is something to create, the problems, and the missing properties that are asked for.
    """
    state = given.state
    wanting = {str(reader.name): reader.name for reader in given.wanting}
    problems = [*_obstacles(given), *_differences(given)]
    missing = frozenset(one.property for one in given.requests if is_missing(state, one.property))
    asked = missing & {one.property for one in given.requests if one.reader in wanting}
    if not asked:
        return None, (*problems, *_without_properties(given)), asked
    planned = plan(given.requests, missing, state.keys, defaults)
    problems += [
        Problem(wanting[one.reader], f"{one.field}: {given.where}: {planned.impossible[one.property]}", field=one.field)
        for one in given.requests
        if one.reader in wanting and one.property in planned.impossible
    ]
    made = planned.properties
    if not made.keys() & asked:
        return None, tuple(problems), asked
    existed = made.keys() <= history.properties if state.exists else history.existed or state.version > 0
    reason = EventReason.RECREATED if existed else EventReason.SEEDED
    return Seed(made, state.version, state.exists, reason), tuple(problems), asked


def _obstacles(given: PathInput) -> Iterable[Problem]:
    """Missing entries that can't or may not be created, and entries that external-secrets can't read."""
    for reader in given.wanting:
        for reference in reader.references:
            missing = reference.is_missing(given.state)
            obstacle = reference.obstacle(given.state) if missing else reference.misreading(given.state)
            if obstacle:
                message = f"{reference.field}: {given.where} {obstacle}"
                yield Problem(reader.name, message, field=reference.field)
            elif missing and (refusal := given.forbidden.get(reader.name.namespace)):
                message = f"{reference.field}: {refusal}"
                yield Problem(reader.name, message, field=reference.field, refusal=Refusal.SEED_PATHS)


def _differences(given: PathInput) -> Iterable[Problem]:
    """Rules that differ from those of an older ExternalSecret."""
    wanting = {str(reader.name): reader.name for reader in given.wanting}
    for request, older in differing(given.requests):
        if request.reader in wanting:
            yield Problem(
                wanting[request.reader],
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
