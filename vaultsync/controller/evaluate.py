"""Reads a Vault path and decides about it by core.decide: the same in passes, `explain` and `plan`. Writes nothing."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from vaultsync.controller.index import Index
from vaultsync.controller.interfaces import VaultReader
from vaultsync.controller.path_state import PathStates
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.annotations import Refusal
from vaultsync.core.decide import Decision, decide
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.healing import Absence, contested, refusals
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.reader import Reader, Refused
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import ABSENT, SecretState, version_of


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The decision about one path in one state.

    Attributes:
        absence: why there is no live version, None if there is one; an older one than before has lost keys.
        allowed: the readers that request seeding, and whose namespaces may create the path.
    """

    state: SecretState
    absence: Absence | None
    decision: Decision
    allowed: list[Reader]

    @property
    def is_lost(self) -> bool:
        """Whether it is a loss that would be created again.

        What would not be created does not count: nobody has requested it, or it has been missing for long.
        """
        return self.absence is Absence.LOST and self.decision.seed is not None


class PathEvaluator:
    """Reads paths and decides about them."""

    def __init__(self, index: Index, paths: PathStates, vault: VaultReader, seed_paths: SeedPaths) -> None:
        self._index = index
        self._paths = paths
        self._vault = vault
        self._seed_paths = seed_paths

    async def read(self, path: VaultPath, readers: Iterable[Reader]) -> SecretState:
        """Read the path from Vault; the store of the first reader names the KV version to expect.

        Raises:
            VaultsyncError: Vault did not answer, or refused.
        """
        kv = next((reference.kv for reader in readers for reference in reader.references), 2)
        return await self._vault.look(path, kv)

    def evaluate(
        self, path: VaultPath, state: SecretState, readers: list[Reader], lost: str = "", *, is_replaced: bool = False
    ) -> Evaluation:
        """Decide about a path that was just read or written.

        `lost` is why its mount is not healed, "" if it is; with `is_replaced` another mount is in its place.
        """
        refused = dict(self._not_granted(path, state, readers))
        history = self._paths.history(path)
        if not history.existed and (recorded := self._recorded(path, readers, refused)):
            history = replace(history, existed=True, version=max(map(version_of, recorded)))
        absence = history.absence(state, readers, is_replaced=is_replaced)
        pushed_by = partial(self._pushed_by, path)
        if absence is not None:
            refused |= refusals(path, state, readers, absence, lost, pushed_by)
        decision = decide(path, state, readers, datetime.now(UTC), history, self._index.defaults, refused)
        problems = (*decision.problems, *contested(path, state, wanting(readers), pushed_by))
        decision = replace(decision, problems=problems)
        allowed = [reader for reader in wanting(readers) if reader.name not in refused]
        if state.exists and decision.seed is None:
            absence = None  # an older version that has all that is wanted is no loss
        return Evaluation(state, absence, decision, allowed)

    def _pushed_by(self, path: VaultPath, namespace: str) -> str:
        writer = self._index.pushes.writer(path, namespace)
        return f"PushSecret {writer}" if writer is not None else ""

    def _not_granted(
        self, path: VaultPath, state: SecretState, readers: Iterable[Reader]
    ) -> Iterator[tuple[ObjectName, Refused]]:
        """The readers whose namespaces VAULTSYNC_SEED_PATHS does not allow to create the path."""
        texts: dict[str, str] = {}
        for reader in readers:
            namespace = self._index.namespace(reader.name.namespace)
            if namespace is None:
                continue
            if namespace.name not in texts:
                texts[namespace.name] = self._seed_paths.refusal(path, state.mount, namespace)
            if text := texts[namespace.name]:
                yield reader.name, Refused(text, Refusal.SEED_PATHS)

    def _recorded(self, path: VaultPath, readers: Iterable[Reader], refused: Container[ObjectName]) -> list[str]:
        """The fingerprints of the existing path that an earlier process has recorded on its readers.

        Not on those that may not create it: a forged one would make another tenant's new path a lost one.
        """
        entries = self._index.entries(reader.name for reader in readers if reader.name not in refused)
        recorded = (entry.object.versions.get(str(path), ABSENT) for entry in entries)
        return [fingerprint for fingerprint in recorded if fingerprint != ABSENT]


def wanting(readers: Iterable[Reader]) -> list[Reader]:
    """The readers that request seeding."""
    return [reader for reader in readers if reader.choice is SeedChoice.WANTED]


def empty_listing(prefix: FindPrefix) -> str:
    """The message to the owner of a `dataFrom.find` that finds nothing."""
    return (
        f"dataFrom.find: there is nothing under {prefix}, and vaultsync can't know what it should find; "
        "write it in Vault, or name the properties to create in spec.data or dataFrom.extract"
    )
