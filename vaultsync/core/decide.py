"""What to do about one Vault path: frozen inputs → what is seeded, and what its readers are told. Pure, table-tested.

The invariant: a decision never replaces a value. It creates a version where none is live, or adds absent keys.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from vaultsync.core import names
from vaultsync.core.names import EventReason
from vaultsync.core.objects import ExternalSecret, Namespace, ObjectName
from vaultsync.core.paths import VaultPath, logical
from vaultsync.core.state import Presence, SecretState, is_expression, presence


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
    """

    path: VaultPath
    field: str
    property: str
    kv: int
    metadata: bool
    whole: bool
    refusal: str


@dataclass(frozen=True, slots=True)
class Reader:
    """One ExternalSecret with its entries that read the path in question."""

    name: ObjectName
    choice: SeedChoice
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Seed:
    """Create these properties in one write.

    Attributes:
        cas: the version that must still be the latest (KV v2).
        patch: add to the live version instead of creating one.
    """

    properties: tuple[str, ...]
    cas: int
    patch: bool
    reason: EventReason


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an ExternalSecret's owner is told."""

    reader: ObjectName
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Everything to do at a path: at most one write."""

    seed: Seed | None = None
    problems: tuple[Problem, ...] = ()


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
    known: frozenset[str] = frozenset(),
    existed: bool = False,
) -> Decision:
    """Decide about one path.

    Args:
        path: the secret.
        state: what Vault has there.
        readers: the ExternalSecrets that read it.
        known: properties that were seen there before.
        existed: the path was seen with a live version before.
    """
    wanting = [reader for reader in readers if reader.choice is SeedChoice.WANTED]
    problems: list[Problem] = []
    wanted: set[str] = set()
    for reader in wanting:
        for reference in reader.references:
            problem = _obstacle(state, reference) if _is_missing(state, reference) else ""
            if problem:
                problems.append(Problem(reader.name, f"{reference.field}: {logical(state.mount, path.path)} {problem}"))
            elif _is_missing(state, reference) and reference.property:
                wanted.add(reference.property)
    if not wanted:
        return Decision(problems=tuple(problems) + _keyless(path, state, wanting))
    allowed = [reader for reader in readers if reader.choice is not SeedChoice.REFUSED]
    wanted |= {
        reference.property
        for reference in _references(allowed)
        if reference.property and _is_missing(state, reference) and not _obstacle(state, reference)
    }
    before = wanted <= known if state.exists else existed or state.version > 0
    seed = Seed(
        properties=tuple(sorted(wanted)),
        cas=state.version,
        patch=state.exists,
        reason=EventReason.RECREATED if before else EventReason.SEEDED,
    )
    return Decision(seed, tuple(problems))


def _references(readers: Iterable[Reader]) -> Iterable[Reference]:
    return (reference for reader in readers for reference in reader.references)


def _is_missing(state: SecretState, reference: Reference) -> bool:
    if reference.metadata:
        return False  # custom metadata is its owner's: nothing that could be generated
    if not state.exists:
        return True
    return presence(state.subkeys, reference.property) is Presence.MISSING


def _obstacle(state: SecretState, reference: Reference) -> str:
    """Why a missing entry can't be created, "" if it can."""
    if reference.refusal:
        return f"is missing and can't be created: {reference.refusal}"
    if state.mount.kv != reference.kv:
        return (
            f"is in a KV v{state.mount.kv} mount, but the store says version v{reference.kv}; "
            f"set the store's spec.provider.vault.version to v{state.mount.kv}"
        )
    if reference.whole and reference.property:
        return "is missing, and an extract's property holds a JSON object, which can't be generated: write it in Vault"
    if reference.property and is_expression(reference.property):
        return f"has no key {reference.property!r}, and as a gjson expression it can't be created; use a plain name"
    return ""


def _keyless(path: VaultPath, state: SecretState, wanting: Sequence[Reader]) -> tuple[Problem, ...]:
    """Entries that read a missing path whole, where no other entry names a key to create."""
    if state.exists:
        return ()
    return tuple(
        Problem(
            reader.name,
            f"{reference.field}: {logical(state.mount, path.path)} is missing and no entry names a property of it; "
            "write it in Vault, or name its properties in spec.data",
        )
        for reader in wanting
        for reference in reader.references
        if not reference.property and not reference.metadata and not _obstacle(state, reference)
    )
