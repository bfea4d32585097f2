"""One pass over one Vault path or listing: look, decide, create. What follows for its readers is the syncer's."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from loguru import logger
from pydantic import SecretStr

from vaultsync.core.decide import Decision, Reader, Seed, SeedChoice, decide
from vaultsync.core.errors import VaultDenied, VaultRejected, VaultsyncError, VaultUnavailable, WriteConflict
from vaultsync.core.names import EventReason
from vaultsync.core.objects import ObjectName
from vaultsync.core.paths import FindPrefix, VaultPath, logical
from vaultsync.core.state import NEVER_THERE, SecretState
from vaultsync.engine.index import Index, Key
from vaultsync.engine.ledger import Ledger


class Vault(Protocol):
    """What a pass asks of Vault; vault.client.VaultClient documents each."""

    async def look(self, path: VaultPath, kv: int) -> SecretState: ...

    async def create(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...

    async def find(self, prefix: FindPrefix) -> set[VaultPath]: ...


class Reconciler:
    """Makes Vault hold what seedable ExternalSecrets read, and notes what there is.

    Args:
        generate: makes a new value.
    """

    def __init__(self, index: Index, ledger: Ledger, vault: Vault, generate: Callable[[], SecretStr]) -> None:
        self._index = index
        self._ledger = ledger
        self._vault = vault
        self._generate = generate

    async def path(self, path: VaultPath) -> set[ObjectName]:
        """One pass over a path.

        Returns:
            The ExternalSecrets for which something may follow.

        Raises:
            VaultsyncError: as its `retryable` says; what its readers must be told is noted.
        """
        names = self._index.reader_names(path)
        if not names:
            self._ledger.forget_path(path)
            return names
        readers = self._index.readers(path)
        try:
            await self._pass(path, readers)
        except (VaultDenied, VaultRejected) as error:
            self._ledger.unreadable(path)
            self._note_failures(path, [(reader.name, str(error)) for reader in _wanting(readers)])
            raise
        return names

    async def listing(self, prefix: FindPrefix) -> set[Key]:
        """One pass over a listing: finds the paths under it; returns those and the listing's readers."""
        if not self._index.prefix_reader_names(prefix):
            self._ledger.forget_prefix(prefix)
            return set()
        paths = self._ledger.listed(prefix, await self._vault.find(prefix))
        return {*paths, *self._index.prefix_reader_names(prefix)}

    async def _pass(self, path: VaultPath, readers: list[Reader]) -> None:
        kv = next((reference.kv for reader in readers for reference in reader.references), 2)
        seen = self._ledger.observed(path)
        state = await self._vault.look(path, kv)
        decision = decide(
            path,
            state,
            readers,
            known=seen.properties if seen else frozenset(),
            existed=self._has_existed(path, readers),
        )
        if decision.seed is not None:
            state = await self._seed(path, state, decision.seed, readers)
        self._ledger.observe(path, state)
        for prefix in self._index.prefixes_of(path):
            self._ledger.note(prefix, path)
        self._note_problems(path, readers, decision)

    def _has_existed(self, path: VaultPath, readers: Iterable[Reader]) -> bool:
        seen = self._ledger.observed(path)
        if seen is not None and seen.existed:
            return True
        entries = (self._index.entry(reader.name) for reader in readers)
        recorded = [entry.object.versions.get(str(path)) for entry in entries if entry is not None]
        return any(token not in (None, NEVER_THERE) for token in recorded)

    async def _seed(self, path: VaultPath, state: SecretState, seed: Seed, readers: list[Reader]) -> SecretState:
        started = time.monotonic()
        values = {name: self._generate() for name in seed.properties}
        if state.mount.kv == 1:
            self._ledger.expect(path)
        try:
            after = await self._vault.create(path, state, values)
        except VaultsyncError as error:
            self._ledger.unexpect(path)
            if not isinstance(error, VaultUnavailable):
                await self._blame(path, state, error)
                self._ledger.observe(path, state)  # who only reads the path goes on
            raise
        where = logical(state.mount, path.path)
        number = f" version {after.version}" if after.version else ""
        done = "re-created" if seed.reason is EventReason.RECREATED else "created"
        message = f"{done} {where}{number} with {', '.join(seed.properties)}"
        for reader in _wanting(readers):
            entry = self._index.entry(reader.name)
            if entry is not None:
                synced = self._ledger.synced(entry.object)
                synced.successes[path] = message
                synced.events.append((seed.reason, message))
        for name in self._index.reader_names(path):
            entry = self._index.entry(name)
            if entry is not None:
                self._ledger.seeded(entry, path)
        logger.info(
            "seeded",
            path=where,
            properties=list(seed.properties),
            version=after.version,
            reason=str(seed.reason),
            external_secrets=[str(reader.name) for reader in _wanting(readers)][:10],
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )
        return after

    async def _blame(self, path: VaultPath, state: SecretState, error: VaultsyncError) -> None:
        """A refused write is a conflict if the path has changed since the look: read the state, not the message.

        Raises:
            WriteConflict: it has.
        """
        now = await self._vault.look(path, state.mount.kv)
        if (now.version, now.exists) != (state.version, state.exists):
            raise WriteConflict(f"{path} was written by somebody else") from error

    def _note_problems(self, path: VaultPath, readers: list[Reader], decision: Decision) -> None:
        for reader in readers:
            entry = self._index.entry(reader.name)
            if entry is not None:
                self._ledger.synced(entry.object).failures.pop(path, None)
        self._note_failures(path, [(problem.reader, problem.message) for problem in decision.problems])

    def _note_failures(self, path: VaultPath, failures: Iterable[tuple[ObjectName, str]]) -> None:
        seen = self._ledger.observed(path)
        lost = seen is not None and seen.existed and not seen.state.exists
        for name, message in failures:
            entry = self._index.entry(name)
            if entry is not None:
                synced = self._ledger.synced(entry.object)
                synced.failures[path] = (message, lost)
                synced.successes.pop(path, None)


def _wanting(readers: Iterable[Reader]) -> list[Reader]:
    return [reader for reader in readers if reader.choice is SeedChoice.WANTED]
