"""What is at a Vault path and what is to be made of it: the look, and all that core.decide is asked with.

One room for the controller's passes and for `explain` and `plan`, so that these say what those do. Writes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from vaultsync.controller.index import Index
from vaultsync.controller.path_state import Ledger
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.decide import Decision, decide
from vaultsync.core.paths import FindPrefix, Mount, VaultPath
from vaultsync.core.reader import Reader
from vaultsync.core.seed import History
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import ABSENT, SecretState


class VaultReader(Protocol):
    """What is asked of Vault without changing it; vault.client.VaultClient documents it."""

    async def look(self, path: VaultPath, kv: int) -> SecretState:
        """What is at the path."""

    async def find(self, prefix: FindPrefix) -> set[VaultPath]:
        """Every secret under the prefix."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One path, looked at.

    Attributes:
        allowed: the readers that want it seeded and may have it created.
    """

    state: SecretState
    decision: Decision
    allowed: list[Reader]


class PathEvaluator:
    """Looks at paths and decides about them.

    Args:
        seed_paths: where a namespace may have something created.
    """

    def __init__(self, index: Index, ledger: Ledger, vault: VaultReader, seed_paths: SeedPaths) -> None:
        self._index = index
        self._ledger = ledger
        self._vault = vault
        self._seed_paths = seed_paths

    async def path(self, path: VaultPath, readers: list[Reader]) -> Evaluation:
        """Look at a path and decide about it.

        Args:
            path: the secret.
            readers: as the index has them.

        Raises:
            VaultsyncError: Vault did not answer, or refused.
        """
        kv = next((reference.kv for reader in readers for reference in reader.references), 2)
        return self.evaluate(path, await self._vault.look(path, kv), readers)

    def evaluate(self, path: VaultPath, state: SecretState, readers: list[Reader]) -> Evaluation:
        """Decide about a path that was just looked at, or written."""
        seen, unmarked = self._ledger.observed(path), self._ledger.unmarked(path)
        if unmarked is not None and unmarked.ownership.version == state.fingerprint(metadata=False):
            state = replace(state, ownership=unmarked.ownership)
        history = History(seen.properties if seen else frozenset(), self._has_existed(path, readers))
        forbidden = self._forbidden(path, state.mount, readers)
        decision = decide(path, state, readers, datetime.now(UTC), history, self._index.defaults, forbidden)
        allowed = [reader for reader in wanting(readers) if reader.name.namespace not in forbidden]
        return Evaluation(state, decision, allowed)

    def _has_existed(self, path: VaultPath, readers: Iterable[Reader]) -> bool:
        if self._ledger.existed(path):
            return True
        entries = (self._index.entry(reader.name) for reader in readers)
        recorded = [entry.object.versions.get(str(path)) for entry in entries if entry is not None]
        return any(token not in (None, ABSENT) for token in recorded)

    def _forbidden(self, path: VaultPath, mount: Mount, readers: Iterable[Reader]) -> dict[str, str]:
        """The readers' namespaces that may not have the path created, with the reasons."""
        spaces = {name: self._index.namespace(name) for name in {reader.name.namespace for reader in readers}}
        refusals = {name: self._seed_paths.refusal(path, mount, space) for name, space in spaces.items() if space}
        return {name: refusal for name, refusal in refusals.items() if refusal}


def wanting(readers: Iterable[Reader]) -> list[Reader]:
    """The readers that ask to have it created."""
    return [reader for reader in readers if reader.choice is SeedChoice.WANTED]


def empty_listing(prefix: FindPrefix) -> str:
    """What the owner of a `dataFrom.find` that finds nothing is told."""
    return (
        f"dataFrom.find: nothing is there under {prefix}, and what it should find can't be known; "
        "write it in Vault, or name what is to be created in spec.data or dataFrom.extract"
    )
