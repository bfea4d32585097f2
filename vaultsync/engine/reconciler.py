"""One pass over one Vault path or listing: look, decide, create. What follows for its readers is the syncer's."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

from loguru import logger
from pydantic import SecretStr

from vaultsync.core.decide import Decision, Problem, Reader, Seed, SeedChoice
from vaultsync.core.errors import (
    BudgetSpent,
    VaultDenied,
    VaultRejected,
    VaultsyncError,
    VaultUnavailable,
    WriteConflict,
)
from vaultsync.core.generate import encode, generate
from vaultsync.core.names import CreatedReason, EventReason
from vaultsync.core.objects import ObjectName
from vaultsync.core.paths import FindPrefix, VaultPath, logical
from vaultsync.core.rules import KeyPairRule, PolicyRule
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.state import SecretState
from vaultsync.engine.assess import Assessor, Looks, empty_listing, wanting
from vaultsync.engine.budget import Budget
from vaultsync.engine.index import Index, Key
from vaultsync.engine.ledger import Ledger


class Vault(Looks, Protocol):
    """What a pass asks of Vault; vault.client.VaultClient documents each."""

    async def create(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...

    async def password(self, policy: str, namespace: str) -> SecretStr: ...


class Reconciler:
    """Makes Vault hold what seedable ExternalSecrets read, and notes what there is.

    Args:
        seed_paths: where a namespace may have something created.
        budget: how many new paths a namespace may have created.
        dry_run: log what would be created, and create nothing.
    """

    def __init__(
        self,
        index: Index,
        ledger: Ledger,
        vault: Vault,
        seed_paths: SeedPaths,
        budget: Budget,
        dry_run: bool = False,
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._vault = vault
        self._assessor = Assessor(index, ledger, vault, seed_paths)
        self._budget = budget
        self._dry_run = dry_run

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
            self._note_failures(path, _same_for_all(readers, str(error)))
            raise
        return names

    async def listing(self, prefix: FindPrefix) -> set[Key]:
        """One pass over a listing: finds the paths under it; returns those and the listing's readers."""
        if not self._index.prefix_reader_names(prefix):
            self._ledger.forget_prefix(prefix)
            return set()
        paths = self._ledger.listed(prefix, await self._vault.find(prefix))
        self._note_listing(prefix)
        return {*paths, *self._index.prefix_reader_names(prefix)}

    async def _pass(self, path: VaultPath, readers: list[Reader]) -> None:
        found = await self._assessor.path(path, readers)
        state, decision = found.state, found.decision
        if decision.seed is not None and self._dry_run:
            logger.info(
                "would seed",
                path=logical(state.mount, path.path),
                properties=decision.seed.properties,
                reason=str(decision.seed.reason),
                external_secrets=[str(reader.name) for reader in found.allowed][:10],
            )
        elif decision.seed is not None:
            self._spend(path, state, found.allowed)
            state = await self._seed(path, state, decision.seed, found.allowed)
        self._ledger.observe(path, state)
        for prefix in self._index.prefixes_of(path):
            self._ledger.note(prefix, path)
            self._note_listing(prefix)
        self._note_problems(path, readers, decision)

    def _spend(self, path: VaultPath, state: SecretState, readers: list[Reader]) -> None:
        """Count a new path against the budget of the namespace that asks for it.

        Raises:
            BudgetSpent: there is nothing left of it.
        """
        if state.exists or state.version > 0 or self._ledger.existed(path):
            return
        namespace = readers[0].name.namespace
        wait = self._budget.take(namespace)
        if wait > 0:
            self._ledger.observe(path, state)
            text = (
                f"{logical(state.mount, path.path)} is missing; namespace {namespace} has had as many new paths "
                "created as VAULTSYNC_SEED_BUDGET allows in an hour, this one follows when its turn comes"
            )
            self._note_failures(path, _same_for_all(readers, text))
            raise BudgetSpent(text, wait)

    async def _values(self, path: VaultPath, seed: Seed) -> dict[str, SecretStr]:
        rules = {name: wish.rule for name, wish in seed.wishes.items()}
        fetched = {
            name: await self._vault.password(rule.name, path.namespace)
            for name, rule in rules.items()
            if isinstance(rule, PolicyRule)
        }
        if any(isinstance(rule, KeyPairRule) for rule in rules.values()):  # takes long
            made = await asyncio.to_thread(generate, rules, fetched)
        else:
            made = generate(rules, fetched)
        return {name: encode(value, seed.wishes[name].encoding) for name, value in made.items()}

    async def _seed(self, path: VaultPath, state: SecretState, seed: Seed, readers: list[Reader]) -> SecretState:
        started = time.monotonic()
        try:
            values = await self._values(path, seed)
        except (VaultDenied, VaultRejected) as error:
            self._ledger.observe(path, state)
            self._note_failures(path, _same_for_all(readers, str(error)))
            raise
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
        for reader in readers:
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
            properties=seed.properties,
            version=after.version,
            reason=str(seed.reason),
            external_secrets=[str(reader.name) for reader in readers][:10],
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

    def _note_listing(self, prefix: FindPrefix) -> None:
        """An empty listing can't be seeded: nobody says what it should find."""
        for name in self._index.prefix_reader_names(prefix):
            entry = self._index.entry(name)
            if entry is None:
                continue
            failures = self._ledger.synced(entry.object).failures
            if self._ledger.is_empty(prefix) and self._index.choice(entry)[0] is SeedChoice.WANTED:
                failures[prefix] = [(empty_listing(prefix), CreatedReason.ERROR_CREATING)]
            else:
                failures.pop(prefix, None)

    def _note_problems(self, path: VaultPath, readers: list[Reader], decision: Decision) -> None:
        for reader in readers:
            entry = self._index.entry(reader.name)
            if entry is not None:
                self._ledger.synced(entry.object).failures.pop(path, None)
        self._note_failures(path, decision.problems)

    def _note_failures(self, path: VaultPath, problems: Iterable[Problem]) -> None:
        lost = self._ledger.existed(path) and not self._ledger.is_live(path)
        found: dict[ObjectName, list[tuple[str, CreatedReason]]] = defaultdict(list)
        for problem in problems:
            recreating = lost and problem.reason is CreatedReason.ERROR_CREATING
            found[problem.reader].append((problem.message, CreatedReason.RECREATING if recreating else problem.reason))
        for name, failures in found.items():
            entry = self._index.entry(name)
            if entry is not None:
                synced = self._ledger.synced(entry.object)
                synced.failures[path] = failures
                synced.successes.pop(path, None)


def _same_for_all(readers: Iterable[Reader], message: str) -> list[Problem]:
    return [Problem(reader.name, message) for reader in wanting(readers)]
