"""The input of core.decide and core.rotate (a path and the ExternalSecrets that read it) and their messages. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from vaultsync.core.annotation_parser import HEALS, NO_ROTATION, HealSpec, RotationSpec, SeedChoice
from vaultsync.core.annotations import CreatedReason, Refusal
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.paths import VaultPath, logical
from vaultsync.core.vault_state import SecretState, is_expression
from vaultsync.generation.plan import Encoding, PropertyRequest
from vaultsync.generation.rule_set import NO_RULES, Rules


@dataclass(frozen=True, slots=True)
class Reference:
    """One resolved entry of an ExternalSecret.

    Attributes:
        field: its path in the ExternalSecret, such as `spec.data[0].remoteRef`.
        property: "" for the whole secret.
        kv: the KV version that the store claims.
        metadata: it reads the custom metadata.
        whole: it reads an object of properties (dataFrom.extract).
        refusal: why nothing can be created for it, "" where it can.
        encoding: that external-secrets decodes.
    """

    path: VaultPath
    field: str
    property: str
    kv: int
    metadata: bool
    whole: bool
    refusal: str
    encoding: Encoding = Encoding.NONE

    def is_missing(self, state: SecretState) -> bool:
        """Whether its value does not exist. Custom metadata is never generated, and so never missing."""
        return not self.metadata and state.is_missing(self.property)

    def obstacle(self, state: SecretState) -> str:
        """Why it can't be created where it is missing, "" if it can."""
        if self.refusal:
            return f"is missing and can't be created: {self.refusal}"
        if state.mount.kv != self.kv:
            return self._mismatch(state)
        if self.whole and self.property:
            return (
                "is missing, and an extract's property holds a JSON object, which can't be generated: write it in Vault"
            )
        if self.property and is_expression(self.property):
            return f"has no key {self.property!r}, and as a gjson expression it can't be created; use a plain name"
        return ""

    def misreading(self, state: SecretState) -> str:
        """Why external-secrets can't read what exists, "" if it can.

        In a KV v1 mount a request of KV v2 reads and writes a secret of another name.
        """
        return self._mismatch(state) if state.mount.kv < self.kv else ""

    def _mismatch(self, state: SecretState) -> str:
        return (
            f"is in a KV v{state.mount.kv} mount, but the store says version v{self.kv}; "
            f"set the store's spec.provider.vault.version to v{state.mount.kv}"
        )


@dataclass(frozen=True, slots=True)
class Reader:
    """An ExternalSecret that reads the path by these references, with the content of its annotations.

    Attributes:
        has_read: external-secrets has read all of the references at least once, so that all existed.
    """

    name: ObjectName
    choice: SeedChoice
    references: tuple[Reference, ...]
    rules: Rules = NO_RULES
    rotation: RotationSpec = NO_ROTATION
    heal: HealSpec = HEALS
    has_read: bool = False

    def reads(self, state: SecretState) -> frozenset[str]:
        """The properties of the live version that it reads."""
        properties = [one.property for one in self.references if not one.metadata]
        if "" in properties:
            return state.keys
        return state.keys & {name for one in properties for name in (one, one.partition(".")[0])}

    def is_retired(self, reference: Reference, state: SecretState) -> bool:
        """Whether a live version lacks a property that existed, and the owner wants none created again."""
        return not self.heal.heals and self.has_read and state.exists and reference.is_missing(state)

    def requests(self, state: SecretState) -> Iterable[PropertyRequest]:
        """The properties that it reads and that can be created; of a whole secret those that its rules name."""
        for one in self.references:
            if not one.metadata and not one.obstacle(state) and not self.is_retired(one, state):
                for name in (one.property,) if one.property else self.rules.named:
                    yield PropertyRequest(str(self.name), one.field, name, one.encoding, self.rules)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing may be created at a path for an ExternalSecret."""

    message: str
    refusal: Refusal
    reason: CreatedReason = CreatedReason.ERROR_CREATING


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that is reported on an ExternalSecret; `field` is the entry, "" for each one that reads the path."""

    reader: ObjectName
    message: str
    reason: CreatedReason = CreatedReason.ERROR_CREATING
    refusal: Refusal = field(default=Refusal.IMPOSSIBLE, compare=False)
    field: str = field(default="", compare=False)


@dataclass(frozen=True)
class PathInput:
    """All that is known of one path, with its readers, the oldest first.

    `refused` has the ExternalSecrets for which nothing may be created here.
    """

    path: VaultPath
    state: SecretState
    readers: tuple[Reader, ...]
    refused: Mapping[ObjectName, Refused]

    @property
    def where(self) -> str:
        """The path in messages."""
        return logical(self.state.mount, self.path.path)

    @cached_property
    def wanting(self) -> Mapping[str, Reader]:
        """The readers that request seeding, by name, as in PropertyRequest.reader."""
        return {str(reader.name): reader for reader in self.readers if reader.choice is SeedChoice.WANTED}

    @cached_property
    def permitted(self) -> tuple[Reader, ...]:
        """Those of them for which something may be created here."""
        return tuple(reader for reader in self.wanting.values() if reader.name not in self.refused)

    @cached_property
    def requests(self) -> tuple[PropertyRequest, ...]:
        """The requests of all readers for which something may be created, whether they request seeding or not."""
        return tuple(
            request
            for reader in self.readers
            if reader.choice is not SeedChoice.REFUSED and reader.name not in self.refused
            for request in reader.requests(self.state)
        )
