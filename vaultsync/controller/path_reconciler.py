"""One pass over one Vault path or listing: look, decide, create or rotate.

What follows for its readers is the syncer's.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from loguru import logger
from pydantic import SecretStr

from vaultsync.controller.evaluate import PathEvaluator, VaultReader, empty_listing, wanting
from vaultsync.controller.index import Index, Key
from vaultsync.controller.metrics import ControllerMetrics
from vaultsync.controller.ownership_writer import OwnershipWriter
from vaultsync.controller.path_state import Failure, Ledger, PendingOwnership
from vaultsync.controller.seed_budget import SeedBudget
from vaultsync.controller.unconfirmed_write import LATE, UnconfirmedWrite, Verdict
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.decide import NOTHING, Decision
from vaultsync.core.errors import (
    BudgetSpent,
    NotLeading,
    VaultDenied,
    VaultFailure,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultThrottled,
    WriteConflict,
)
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.ownership import MAX_ROTATION_IDS, Ownership, render_ownership
from vaultsync.core.paths import FindPrefix, VaultPath, logical
from vaultsync.core.reader import Problem, Reader
from vaultsync.core.rotate import Rotation, next_ownership
from vaultsync.core.seed import Seed
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.encoding import encode
from vaultsync.generation.generate import generate
from vaultsync.generation.plan import PropertyPlan
from vaultsync.generation.rules import KeyPairRule, PasswordPolicyRule

DONE = {EventReason.SEEDED: "created", EventReason.RECREATED: "re-created", EventReason.ROTATED: "rotated"}
SHORTLY = 0.01
"""Seconds: a pass has left something to do that needs another look."""


class Vault(VaultReader, Protocol):
    """What a pass asks of Vault; vault.client.VaultClient documents each."""

    async def create(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...

    async def rotate(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...

    async def password(self, policy: str, namespace: str) -> SecretStr: ...

    def clock(self) -> datetime: ...

    async def is_clustered(self) -> bool: ...


class PathReconciler:
    """Makes Vault hold what seedable ExternalSecrets read, and notes what there is.

    Args:
        seed_paths: where a namespace may have something created.
        budget: how many new paths a namespace may have created.
        marker: leaves the marks of what was made.
        cluster: stands in them.
        dry_run: log what would be created, and create nothing.
    """

    def __init__(
        self,
        index: Index,
        ledger: Ledger,
        vault: Vault,
        seed_paths: SeedPaths,
        budget: SeedBudget,
        marker: OwnershipWriter,
        metrics: ControllerMetrics,
        cluster: str = "",
        dry_run: bool = False,
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._vault = vault
        self._evaluator = PathEvaluator(index, ledger, vault, seed_paths)
        self._budget = budget
        self._marker = marker
        self._cluster = cluster
        self._dry_run = dry_run
        self._metrics = metrics

    async def path(self, path: VaultPath) -> tuple[set[ObjectName], float]:
        """One pass over a path.

        Returns:
            The ExternalSecrets for which something may follow; and seconds until the path wants another pass, 0 for
            none.

        Raises:
            VaultsyncError: as its `retryable` says; what its readers must be told is noted.
        """
        names = self._index.reader_names(path)
        if not names:
            self._ledger.forget_path(path)
            if self._ledger.unmarked(path) is not None:
                self._marker.due(path, SHORTLY)  # it has no further pass
            return names, 0.0
        readers = self._index.readers(path)
        try:
            again = await self._pass(path, readers)
        except (VaultDenied, VaultRejected) as error:
            self._ledger.unreadable(path)
            self._note_failures(path, _same_for_all(readers, str(error), _refusal(error)))
            raise
        return names, again

    async def may_be_behind(self) -> bool:
        """Whether a node that is behind the active one may answer a look; yes, where Vault does not say."""
        try:
            return await self._vault.is_clustered()
        except VaultsyncError:
            return True

    async def listing(self, prefix: FindPrefix) -> set[Key]:
        """One pass over a listing: finds the paths under it; returns those and the listing's readers."""
        if not self._index.prefix_reader_names(prefix):
            self._ledger.forget_prefix(prefix)
            return set()
        paths = self._ledger.listed(prefix, await self._vault.find(prefix))
        self._note_listing(prefix)
        return {*paths, *self._index.prefix_reader_names(prefix)}

    def report(self, key: VaultPath | FindPrefix, error: VaultsyncError) -> set[ObjectName]:
        """Tell the readers of a path or a listing that Vault fails on it; returns their names.

        Args:
            key: what they read.
            error: the reason.
        """
        refusal = Refusal.VAULT_REJECTED if isinstance(error, VaultRejected) else Refusal.VAULT_FAILED
        text = str(error) if not error.retryable else f"{error}; vaultsync tries again by itself"
        if isinstance(key, VaultPath):
            if isinstance(error, VaultRequestFailed):
                self._ledger.unreadable(key)
            self._note_failures(key, _same_for_all(self._index.readers(key), text, refusal))
            return self._index.reader_names(key)
        names = self._index.prefix_reader_names(key)
        for entry in filter(None, map(self._index.entry, names)):
            if self._index.choice(entry)[0] is SeedChoice.WANTED:
                failure = Failure(f"dataFrom.find: {text}", CreatedReason.ERROR_CREATING, refusal)
                self._ledger.synced(entry.object).failures[key] = [failure]
        return names

    async def _pass(self, path: VaultPath, readers: list[Reader]) -> float:
        found = await self._evaluator.path(path, readers)
        if self._confirm(path, found.state):
            found = self._evaluator.evaluate(path, found.state, readers)
        state, decision = found.state, found.decision
        work = decision.seed or decision.rotation
        if work is not None and self._dry_run:
            _tell_dry(logical(state.mount, path.path), work, found.allowed)
        elif work is not None:
            if isinstance(work, Seed):
                self._spend(path, state, found.allowed)
            state = await self._make(path, found.state, work, found.allowed)
            decision = self._evaluator.evaluate(path, state, readers).decision
        self._ledger.observe(path, state)
        for prefix in self._index.prefixes_of(path):
            self._ledger.note(prefix, path)
            self._note_listing(prefix)
        self._note_problems(path, readers, dict.fromkeys((*found.decision.problems, *decision.problems)))
        return self._again(path, state, decision)

    def _again(self, path: VaultPath, state: SecretState, decision: Decision) -> float:
        """Seconds until there is something to do that nobody will tell of."""
        unmarked = self._ledger.unmarked(path)
        if unmarked is not None and unmarked.ownership.version != state.fingerprint(metadata=False):
            self._ledger.marked(path, unmarked)  # somebody has written since: it is about nothing any more
        elif unmarked is not None:
            self._marker.due(path)
        if decision.due is not None:
            return max(SHORTLY, (decision.due - datetime.now(UTC)).total_seconds())
        return SHORTLY if decision.rotation is not None and not self._dry_run else 0.0

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
            self._metrics.new_paths_put_off.inc()
            self._ledger.observe(path, state)
            text = (
                f"{logical(state.mount, path.path)} is missing; namespace {namespace} has had as many new paths "
                "created as VAULTSYNC_SEED_BUDGET allows in an hour, this one follows when its turn comes"
            )
            self._note_failures(path, _same_for_all(readers, text, Refusal.SEED_BUDGET))
            raise BudgetSpent(text, wait)
        self._metrics.new_paths.inc()

    async def _values(self, path: VaultPath, plan: Mapping[str, PropertyPlan]) -> dict[str, SecretStr]:
        rules = {name: one.rule for name, one in plan.items()}
        fetched = {
            name: await self._vault.password(rule.name, path.namespace)
            for name, rule in rules.items()
            if isinstance(rule, PasswordPolicyRule)
        }
        if any(isinstance(rule, KeyPairRule) for rule in rules.values()):  # takes long
            made = await asyncio.to_thread(generate, rules, fetched)
        else:
            made = generate(rules, fetched)
        return {name: encode(value, plan[name].encoding) for name, value in made.items()}

    async def _make(
        self, path: VaultPath, state: SecretState, work: Seed | Rotation, readers: list[Reader]
    ) -> SecretState:
        started = time.monotonic()
        try:
            values = await self._values(path, work.plan)
        except (VaultDenied, VaultRejected) as error:
            self._ledger.observe(path, state)
            self._note_failures(path, _same_for_all(readers, str(error), _refusal(error)))
            raise
        write = self._vault.rotate if isinstance(work, Rotation) else self._vault.create
        try:
            after = await write(path, state, values)
        except VaultsyncError as error:
            if isinstance(error, VaultFailure):
                self._note_unconfirmed(path, state, work, readers, values.keys(), error)
            elif not isinstance(error, NotLeading | VaultThrottled):
                await self._blame(path, state, error)
                self._ledger.observe(path, state)  # who only reads the path goes on
            raise
        self._ledger.confirmed(path)
        how = {"duration_ms": round((time.monotonic() - started) * 1000, 1)}
        self._finish(path, state, after, work, readers, how)
        return after

    def _note_unconfirmed(
        self,
        path: VaultPath,
        before: SecretState,
        work: Seed | Rotation,
        readers: Iterable[Reader],
        written: Iterable[str],
        error: VaultFailure,
    ) -> None:
        """Remember a write that may have been applied, so that a later look can confirm it. KV v1 shows too little."""
        if error.sent is None or before.mount.kv == 1:
            return
        subkeys = {**((before.subkeys or {}) if before.exists else {}), **dict.fromkeys(written)}
        until = self._vault.clock() + LATE
        self._ledger.sent(path, UnconfirmedWrite(before, work, tuple(readers), subkeys, error.sent, until))

    def _confirm(self, path: VaultPath, state: SecretState) -> bool:
        """Whether a look has shown that a write of this process was applied, the response to which was lost."""
        write = self._ledger.unconfirmed(path)
        if write is None:
            return False
        verdict = write.verdict(state, self._vault.clock())
        if verdict is Verdict.PENDING:
            return False
        self._ledger.confirmed(path)
        if verdict is Verdict.NOT_OWN:
            logger.debug("a write without a response is not confirmed", path=str(path), version=state.version)
            return False
        how = {"confirmed": "by a look, as the response was lost"}
        self._finish(path, write.before, state, write.work, list(write.readers), how)
        return True

    def _finish(
        self,
        path: VaultPath,
        before: SecretState,
        after: SecretState,
        work: Seed | Rotation,
        readers: list[Reader],
        how: Mapping[str, object],
    ) -> None:
        """Take in a write that Vault has applied: count it, have it marked, and report it to its readers."""
        self._metrics.writes[work.reason].inc()
        self._note_made(path, before, after, work, readers)
        self._tell(path, after, work, readers)
        logger.info(
            "rotated" if isinstance(work, Rotation) else "seeded",
            **_fields(logical(after.mount, path.path), work, readers, {"version": after.version}),
            **how,
        )

    def _note_made(
        self, path: VaultPath, before: SecretState, after: SecretState, work: Seed | Rotation, readers: list[Reader]
    ) -> None:
        """Remember that vaultsync made it, and that it is to be marked."""
        if after.written is None:  # KV v1
            return
        requests = [reader.rotation.request_id for reader in readers if reader.rotation.request_id]
        made = Ownership(
            version=after.fingerprint(metadata=False),
            made=max(after.written, datetime.now(UTC)),  # a clock that is behind would have it made anew at once
            properties=frozenset(work.properties),
            external_secret=str(readers[0].name),
            cluster=self._cluster,
            rotation_ids=tuple(requests[:MAX_ROTATION_IDS]),
        )
        rotated = isinstance(work, Rotation)
        ownership = next_ownership(before, made, rotated=rotated)
        self._ledger.made(path, PendingOwnership(ownership, render_ownership(ownership, after.managed_by)))
        if rotated:  # without its mark the new version would be a stranger's after a restart
            self._marker.due(path, SHORTLY)

    def _tell(self, path: VaultPath, after: SecretState, work: Seed | Rotation, readers: list[Reader]) -> None:
        """What was made is told on those that it was made for, and brought to all that read it."""
        number = f" version {after.version}" if after.version else ""
        why = f" ({work.why})" if isinstance(work, Rotation) else ""
        where = logical(after.mount, path.path)
        message = f"{DONE[work.reason]} {where}{number} with {', '.join(work.properties)}{why}"
        for reader in readers:
            entry = self._index.entry(reader.name)
            if entry is not None:
                synced = self._ledger.synced(entry.object)
                synced.successes[path] = message
                synced.events.append((work.reason, message))
        for name in self._index.reader_names(path):
            entry = self._index.entry(name)
            if entry is not None:
                self._ledger.seeded(entry, path, time.monotonic())

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
                failures[prefix] = [Failure(empty_listing(prefix), CreatedReason.ERROR_CREATING, Refusal.IMPOSSIBLE)]
            else:
                failures.pop(prefix, None)

    def _note_problems(self, path: VaultPath, readers: list[Reader], problems: Iterable[Problem]) -> None:
        for reader in readers:
            entry = self._index.entry(reader.name)
            if entry is not None:
                self._ledger.synced(entry.object).failures.pop(path, None)
        self._note_failures(path, problems)

    def _note_failures(self, path: VaultPath, problems: Iterable[Problem]) -> None:
        lost = self._ledger.existed(path) and not self._ledger.is_live(path)
        found: dict[ObjectName, list[Failure]] = defaultdict(list)
        for problem in problems:
            recreating = lost and problem.reason is CreatedReason.ERROR_CREATING
            reason = CreatedReason.RECREATING if recreating else problem.reason
            found[problem.reader].append(Failure(problem.message, reason, problem.refusal))
        for name, failures in found.items():
            entry = self._index.entry(name)
            if entry is not None:
                synced = self._ledger.synced(entry.object)
                synced.failures[path] = failures
                synced.successes.pop(path, None)


def _tell_dry(where: str, work: Seed | Rotation, readers: list[Reader]) -> None:
    logger.info(f"would {'rotate' if isinstance(work, Rotation) else 'seed'}", **_fields(where, work, readers))


def _fields(
    where: str, work: Seed | Rotation, readers: list[Reader], done: Mapping[str, object] = NOTHING
) -> dict[str, object]:
    """What the log says of something made, or to be made."""
    return {
        "path": where,
        "properties": work.properties,
        **done,
        "reason": str(work.reason),
        "external_secrets": [str(reader.name) for reader in readers][:10],
    }


def _same_for_all(readers: Iterable[Reader], message: str, refusal: Refusal) -> list[Problem]:
    return [Problem(reader.name, message, refusal=refusal) for reader in wanting(readers)]


def _refusal(error: VaultDenied | VaultRejected) -> Refusal:
    return Refusal.VAULT_DENIED if isinstance(error, VaultDenied) else Refusal.VAULT_REJECTED
