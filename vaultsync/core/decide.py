"""What to do about one Vault path: frozen inputs → what is seeded, and what its readers are told. Pure, table-tested.

The invariant: a decision never replaces a value that somebody else may have written. It creates a version where none
is live, adds absent keys, or (a rotation that is asked for) replaces what the path's mark says that vaultsync made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Final

from vaultsync.core import names
from vaultsync.core.durations import age
from vaultsync.core.generate import Encoding
from vaultsync.core.marks import MAX_REQUESTS
from vaultsync.core.names import CreatedReason, EventReason, Refusal
from vaultsync.core.objects import ExternalSecret, Namespace, ObjectName
from vaultsync.core.paths import VaultPath, logical
from vaultsync.core.rotation import NOTHING_ASKED, RotationWish, due_at
from vaultsync.core.rules import NO_RULES, Rules
from vaultsync.core.state import Presence, SecretState, is_expression, presence
from vaultsync.core.wishes import Claim, Wish, differing, gather


class SeedMode(Enum):
    """VAULTSYNC_SEED."""

    ANNOTATED = "annotated"
    ALL = "all"
    OFF = "off"


class SeedChoice(Enum):
    """Whether what one ExternalSecret reads may be created on its behalf."""

    WANTED = "wanted"
    NOT_ASKED = "not asked"
    """Nobody asked for it; what it reads is created along if another one wants the path."""
    REFUSED = "refused"
    """Opted out, or not to be trusted with an invalid annotation."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One resolved entry of an ExternalSecret.

    Attributes:
        field: where it stands, such as `spec.data[0].remoteRef`.
        kv: the KV version that the store claims.
        refusal: why nothing can be created for it, "" where it can.
        encoding: what external-secrets decodes the value from.
    """

    path: VaultPath
    field: str
    property: str
    kv: int
    metadata: bool
    whole: bool
    refusal: str
    encoding: Encoding = Encoding.NONE


@dataclass(frozen=True, slots=True)
class Reader:
    """One ExternalSecret with its entries that read the path in question, its own rules for values, and their age."""

    name: ObjectName
    choice: SeedChoice
    references: tuple[Reference, ...]
    rules: Rules = NO_RULES
    rotation: RotationWish = NOTHING_ASKED


@dataclass(frozen=True, slots=True)
class Seed:
    """Create these properties in one write.

    Attributes:
        cas: the version that must still be the latest (KV v2).
        patch: add to the live version instead of creating one.
    """

    wishes: Mapping[str, Wish]
    cas: int
    patch: bool
    reason: EventReason

    @property
    def properties(self) -> list[str]:
        """Their names, in order."""
        return sorted(self.wishes)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an ExternalSecret's owner is told.

    Attributes:
        refusal: what the metrics count it as.
        field: the entry that it is about, "" for each that reads the path.
    """

    reader: ObjectName
    message: str
    reason: CreatedReason = CreatedReason.ERROR_CREATING
    refusal: Refusal = field(default=Refusal.IMPOSSIBLE, compare=False)
    field: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class History:
    """What was seen at a path before.

    Attributes:
        properties: names of properties that were there.
        existed: there was a live version.
    """

    properties: frozenset[str] = frozenset()
    existed: bool = False


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds where no ExternalSecret says otherwise.

    Attributes:
        rules: for values.
        rotate_after: the age in seconds at which they are made anew, 0 for never.
    """

    rules: Rules = NO_RULES
    rotate_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """Make these properties anew in one write; vaultsync has made each of them.

    Attributes:
        why: in people's words.
    """

    wishes: Mapping[str, Wish]
    why: str
    reason: EventReason = EventReason.ROTATED

    @property
    def properties(self) -> list[str]:
        """Their names, in order."""
        return sorted(self.wishes)


NEW: Final = History()
NO_DEFAULTS: Final = Defaults()
NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything to do at a path: at most one write.

    Attributes:
        due: when there is something to make anew, None: never, or now.
    """

    seed: Seed | None = None
    problems: tuple[Problem, ...] = ()
    rotation: Rotation | None = None
    due: datetime | None = None


def seed_choice(external_secret: ExternalSecret, namespace: Namespace | None, mode: SeedMode) -> tuple[SeedChoice, str]:
    """Whether the ExternalSecret is seeded, and what is wrong with its annotations ("" if nothing is)."""
    if namespace is None:
        return SeedChoice.REFUSED, ""  # it may opt out: wait until the informer has it
    own, problem = _spoken(
        [(name, external_secret.annotations.get(name), "this ExternalSecret") for name in (names.SEED, names.CREATE)]
    )
    if own is None and not problem:
        own, problem = _spoken([(names.SEED, namespace.seed, f"Namespace {namespace.name}")])
    if problem:
        return SeedChoice.REFUSED, problem
    if own is False or mode is SeedMode.OFF:
        return SeedChoice.REFUSED, ""
    if own or mode is SeedMode.ALL:
        return SeedChoice.WANTED, ""
    return SeedChoice.NOT_ASKED, ""


def _spoken(annotations: Sequence[tuple[str, str | None, str]]) -> tuple[bool | None, str]:
    """What annotations (name, value, on what) say: False if one does, else True if one does; and what is wrong."""
    said = [(name, value, place) for name, value, place in annotations if value is not None]
    for name, value, place in said:
        if value not in ("true", "false"):
            return None, f'annotation {name} on {place} is {value[:40]!r}; it must be "true" or "false"'
    return (all(value == "true" for _, value, _ in said) if said else None), ""


def decide(
    path: VaultPath,
    state: SecretState,
    readers: Sequence[Reader],
    now: datetime,
    history: History = NEW,
    defaults: Defaults = NO_DEFAULTS,
    forbidden: Mapping[str, str] = NOTHING,
) -> Decision:
    """Decide about one path.

    Args:
        path: the secret.
        state: what Vault has there.
        readers: the ExternalSecrets that read it, the oldest first.
        now: to tell a value's age.
        history: what was seen there before.
        defaults: cluster-wide.
        forbidden: Kubernetes namespaces for which nothing may be created here, each with the reason.
    """
    wanting = [reader for reader in readers if reader.choice is SeedChoice.WANTED]
    problems = [problem for reader in wanting for problem in _obstacles(path, state, reader, forbidden)]
    granted = [
        reader
        for reader in readers
        if reader.choice is not SeedChoice.REFUSED and reader.name.namespace not in forbidden
    ]
    claims = [claim for reader in granted for claim in _claims(state, reader)]
    names_of_wanting = {reader.name for reader in wanting}
    problems += [problem for problem in _differences(claims) if problem.reader in names_of_wanting]
    missing = frozenset(claim.property for claim in claims if _lacks(state, claim.property))
    asked = missing & {claim.property for claim in claims if claim.reader in names_of_wanting}
    if not asked:
        problems += _keyless(path, state, wanting, forbidden)
        asking = [reader for reader in wanting if reader in granted]
        rotation = _rotation(path, state, asking, readers, claims, defaults, now)
        return replace(rotation, problems=(*problems, *rotation.problems))
    wishes = gather(claims, missing, frozenset(state.subkeys or ()) if state.exists else frozenset(), defaults.rules)
    problems += [
        Problem(
            claim.reader,
            f"{claim.field}: {logical(state.mount, path.path)}: {wishes.impossible[claim.property]}",
            field=claim.field,
        )
        for claim in claims
        if claim.reader in names_of_wanting and claim.property in wishes.impossible
    ]
    if not wishes.properties.keys() & asked:
        return Decision(problems=tuple(problems))
    before = wishes.properties.keys() <= history.properties if state.exists else history.existed or state.version > 0
    seed = Seed(
        wishes=wishes.properties,
        cas=state.version,
        patch=state.exists,
        reason=EventReason.RECREATED if before else EventReason.SEEDED,
    )
    return Decision(seed, tuple(problems))


def _rotation(
    path: VaultPath,
    state: SecretState,
    asking: Sequence[Reader],
    readers: Sequence[Reader],
    claims: Sequence[Claim],
    defaults: Defaults,
    now: datetime,
) -> Decision:
    """What is to be made anew, or when, or why not: of `asking` are the readers that may have something made here."""
    after, problems = _age(asking, defaults)
    answered = state.mark.answered if state.mark else ()
    requests = [reader for reader in asking if reader.rotation.request]
    where = logical(state.mount, path.path)
    problems += [
        Problem(
            reader.name,
            f"annotation {names.ROTATE}: {where} is read by {MAX_REQUESTS} older ExternalSecrets that have it too, and "
            "no more can be kept apart; remove it from some of them",
            CreatedReason.ERROR_ANNOTATION,
            refusal=Refusal.ANNOTATION,
        )
        for reader in requests[MAX_REQUESTS:]
    ]
    requests = [reader for reader in requests[:MAX_REQUESTS] if reader.rotation.request not in answered]
    for reader in requests:
        if _is_anothers(state, _reads(reader, state)):
            text = f"annotation {names.ROTATE}: {where} {_not_own(state)}; delete it in Vault to have it made anew"
            problems.append(Problem(reader.name, text))
    if state.mark is None or not any(_reads(reader, state) & state.own for reader in asking):
        return Decision(problems=tuple(problems))
    new = [reader for reader in requests if _reads(reader, state) & state.own]
    due = due_at(path, state.mark.made, after) if after else None
    if not new and (due is None or now < due):
        return Decision(problems=tuple(problems), due=due)
    wishes = gather(
        claims,
        state.own & {claim.property for claim in claims},
        frozenset(state.subkeys or ()) - state.own,
        defaults.rules,
    )
    read = frozenset[str]().union(*(_reads(reader, state) for reader in readers)) & state.own
    obstacle = "; ".join(wishes.impossible.values())
    if not obstacle and (left := sorted(read - wishes.properties.keys())):
        obstacle = f"{', '.join(left)} would be left behind, as no ExternalSecret that may have it made anew names it"
    if obstacle:
        problems += [Problem(reader.name, f"{where} is not rotated: {obstacle}") for reader in new or asking]
        return Decision(problems=tuple(problems))
    why = f"asked for by {', '.join(str(reader.name) for reader in new[:3])}" if new else f"older than {age(after)}"
    return Decision(problems=tuple(problems), rotation=Rotation(wishes.properties, why))


def _age(asking: Sequence[Reader], defaults: Defaults) -> tuple[float, list[Problem]]:
    """The age at which the path's values are made anew: the oldest ExternalSecret's; who says otherwise is told."""
    said = [reader for reader in asking if reader.rotation.after is not None]
    if not said:
        return defaults.rotate_after, []
    first = said[0].rotation.after or 0.0
    return first, [
        Problem(
            reader.name,
            f"annotation {names.ROTATE_AFTER} differs from that of {said[0].name}, which is older and reads the same "
            "path: its age counts; make them the same, or remove this one",
            CreatedReason.ERROR_ANNOTATION,
            refusal=Refusal.ANNOTATION,
        )
        for reader in said[1:]
        if reader.rotation.after != first
    ]


def _reads(reader: Reader, state: SecretState) -> frozenset[str]:
    """The properties of the live version that a reader reads."""
    there = frozenset(state.subkeys or ()) if state.exists else frozenset()
    properties = [one.property for one in reader.references if not one.metadata]
    if "" in properties:
        return there
    return there & {name for one in properties for name in (one, one.partition(".")[0])}


def _is_anothers(state: SecretState, read: frozenset[str]) -> bool:
    """Whether of what is read there nothing is known to be vaultsync's."""
    return state.exists if state.mount.kv == 1 else bool(read) and not read & state.own


def _not_own(state: SecretState) -> str:
    if state.mount.kv == 1:
        return "is in KV v1, which has no room to note who made a value"
    if state.mark is not None:
        return "was written by somebody else since vaultsync made it"
    return "is not marked as made by vaultsync"


def _obstacles(path: VaultPath, state: SecretState, reader: Reader, forbidden: Mapping[str, str]) -> Iterable[Problem]:
    """What a reader misses and can't be given, or can't read."""
    for reference in reader.references:
        missing = _is_missing(state, reference)
        refusal = forbidden.get(reader.name.namespace)
        obstacle = _obstacle(state, reference) if missing else _misreading(state, reference)
        if obstacle:
            message = f"{reference.field}: {logical(state.mount, path.path)} {obstacle}"
            yield Problem(reader.name, message, field=reference.field)
        elif missing and refusal:
            message = f"{reference.field}: {refusal}"
            yield Problem(reader.name, message, field=reference.field, refusal=Refusal.SEED_PATHS)


def _claims(state: SecretState, reader: Reader) -> Iterable[Claim]:
    """What a reader reads, by property: of the whole secret, the properties that its rules name."""
    for reference in reader.references:
        if reference.metadata or _obstacle(state, reference):
            continue
        for name in (reference.property,) if reference.property else reader.rules.named:
            yield Claim(reader.name, reference.field, name, reference.encoding, reader.rules)


def _differences(claims: Sequence[Claim]) -> Iterable[Problem]:
    for claim, older in differing(claims):
        yield Problem(
            claim.reader,
            f"{claim.field}: annotation {names.GENERATE} has a rule for {claim.property!r} other than that of "
            f"{older}, which is older: its rule counts; make them the same, or remove this one",
            CreatedReason.ERROR_ANNOTATION,
            field=claim.field,
            refusal=Refusal.ANNOTATION,
        )


def _lacks(state: SecretState, name: str) -> bool:
    return not state.exists or presence(state.subkeys, name) is Presence.MISSING


def _is_missing(state: SecretState, reference: Reference) -> bool:
    # custom metadata is its owner's: nothing that could be generated
    return not reference.metadata and _lacks(state, reference.property)


def _obstacle(state: SecretState, reference: Reference) -> str:
    """Why an entry can't be created where it is missing, "" if it can."""
    if reference.refusal:
        return f"is missing and can't be created: {reference.refusal}"
    if state.mount.kv != reference.kv:
        return _mismatch(state, reference)
    if reference.whole and reference.property:
        return "is missing, and an extract's property holds a JSON object, which can't be generated: write it in Vault"
    if reference.property and is_expression(reference.property):
        return f"has no key {reference.property!r}, and as a gjson expression it can't be created; use a plain name"
    return ""


def _misreading(state: SecretState, reference: Reference) -> str:
    """Why external-secrets can't read what there is: a v2 request in a KV v1 mount reads another secret."""
    return _mismatch(state, reference) if state.mount.kv < reference.kv else ""


def _mismatch(state: SecretState, reference: Reference) -> str:
    return (
        f"is in a KV v{state.mount.kv} mount, but the store says version v{reference.kv}; "
        f"set the store's spec.provider.vault.version to v{state.mount.kv}"
    )


def _keyless(
    path: VaultPath, state: SecretState, wanting: Sequence[Reader], forbidden: Mapping[str, str]
) -> tuple[Problem, ...]:
    """Entries that read a missing path whole, where nobody names a key to create."""
    if state.exists:
        return ()
    return tuple(
        Problem(
            reader.name,
            f"{reference.field}: {logical(state.mount, path.path)} is missing and no entry names a property of it; "
            f"name its properties in the annotation {names.GENERATE}, such as "
            "{password: {format: password}}, or in spec.data, or write it in Vault",
            field=reference.field,
        )
        for reader in wanting
        for reference in reader.references
        if not reference.property
        and not reference.metadata
        and not _obstacle(state, reference)
        and reader.name.namespace not in forbidden
    )
