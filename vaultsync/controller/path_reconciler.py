"""One pass over one Vault path or listing: read, evaluate, write; then report to the ExternalSecrets that read it.

The force-sync of these ExternalSecrets is external_secret_reconciler's.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from loguru import logger

from vaultsync.controller.entry import Entry, Key
from vaultsync.controller.evaluate import Evaluation, PathEvaluator, empty_listing, wanting
from vaultsync.controller.heal_limit import HealLimit, MountName
from vaultsync.controller.index import Index
from vaultsync.controller.interfaces import ControllerMetrics, CurrentObjects, Vault
from vaultsync.controller.ownership_writer import OwnershipWriter, PendingOwnership
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.secret_writer import AppliedWrite, SecretWriter, Write
from vaultsync.controller.sync_state import SyncStates
from vaultsync.core import healing
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.callbacks import Clock
from vaultsync.core.decide import Decision, Seed
from vaultsync.core.errors import (
    BudgetSpent,
    ObjectsBehind,
    VaultDenied,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
)
from vaultsync.core.external_secret import ObjectName, Store, StoreName
from vaultsync.core.healing import Absence
from vaultsync.core.ownership import render_ownership
from vaultsync.core.paths import FindPrefix, VaultPath, logical
from vaultsync.core.rate_limit import TokenBuckets
from vaultsync.core.reader import Problem, Reader
from vaultsync.core.rotate import Rotation
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import SecretState

AT_ONCE_SECONDS = 0.01
"""Delay of the next pass where there is something to do already."""
BEHIND_SECONDS = 0.1
"""Delay of the next pass while an informer is behind."""
HOUR_SECONDS = 3600.0


class PathReconciler:
    """Makes Vault hold what seedable ExternalSecrets read, and records what Vault holds.

    Args:
        budget: of new paths, from `create_budget`.
        dry_run: log the writes in place of sending them.
    """

    def __init__(
        self,
        index: Index,
        paths: PathStates,
        syncs: SyncStates,
        vault: Vault,
        seed_paths: SeedPaths,
        budget: TokenBuckets[str] | None,
        heal_limit: HealLimit,
        current: CurrentObjects,
        ownership: OwnershipWriter,
        metrics: ControllerMetrics,
        dry_run: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self._index = index
        self._paths = paths
        self._syncs = syncs
        self._vault = vault
        self._evaluator = PathEvaluator(index, paths, vault, seed_paths)
        self._budget = budget
        self._heal_limit = heal_limit
        self._current = current
        self._ownership = ownership
        self._writer = SecretWriter(vault, ownership, metrics)
        self._dry_run = dry_run
        self._clock = clock
        self._metrics = metrics

    def use_cluster(self, name: str) -> None:
        """Write this name of the cluster into the ownership metadata."""
        self._writer.cluster = name

    async def reconcile(self, path: VaultPath) -> tuple[set[ObjectName], float]:
        """One pass over a path; returns the ExternalSecrets to reconcile now, and the seconds to its next pass, or 0.

        Raises:
            VaultsyncError: as its `retryable` says; the reports to the readers are recorded.
        """
        names = self._index.reader_names(path)
        if not names:
            self._paths.forget(path)
            self._heal_limit.forget(path)
            self._writer.forget(path)
            self._ownership.schedule_last(path)
            return names, 0.0
        readers = self._index.readers(path)
        try:
            return names, await self._pass(path, readers)
        except (VaultDenied, VaultRejected) as error:
            self._paths.record_unreadable(path)
            self._heal_limit.skip(path)
            refusal = Refusal.VAULT_DENIED if isinstance(error, VaultDenied) else Refusal.VAULT_REJECTED
            self._record_problems(path, _same_for_all(readers, str(error), refusal))
            raise

    async def may_be_behind(self) -> bool:
        """Whether a standby node may answer a read; true where Vault does not say."""
        try:
            return await self._vault.is_clustered()
        except VaultsyncError:
            return True

    async def reconcile_listing(self, prefix: FindPrefix) -> set[Key]:
        """One pass over a listing; returns the paths under it, and the ExternalSecrets that read it."""
        if not self._index.reader_names(prefix):
            self._paths.forget_listing(prefix)
            return set()
        paths = self._paths.record_listing(prefix, await self._vault.find(prefix))
        self._report_listing(prefix)
        return {*paths, *self._index.reader_names(prefix)}

    def report(self, key: VaultPath | FindPrefix, error: VaultsyncError) -> set[ObjectName]:
        """Report to the readers of a path or listing that Vault fails on it; returns their names."""
        refusal = Refusal.VAULT_REJECTED if isinstance(error, VaultRejected) else Refusal.VAULT_FAILED
        text = f"{error}; vaultsync tries again by itself" if error.retryable else str(error)
        if isinstance(key, VaultPath):
            if isinstance(error, VaultRequestFailed):
                self._paths.record_unreadable(key)
            self._record_problems(key, _same_for_all(self._index.readers(key), text, refusal))
        else:
            self._record_problems(key, self._listing_problems(key, f"dataFrom.find: {text}", refusal))
        return self._index.reader_names(key)

    async def _pass(self, path: VaultPath, readers: list[Reader]) -> float:
        """Returns the seconds until the path needs another pass, 0 for none."""
        state = await self._evaluator.read(path, readers)
        if (confirmed := self._writer.confirm(path, state)) is not None:
            self._report_write(confirmed)
        found = self._evaluate(path, state, readers)
        decision, problems = found.decision, found.decision.problems
        work = decision.seed or decision.rotation
        write = Write(path, found.state, work, tuple(found.allowed)) if work is not None else None
        if write is not None and self._dry_run:
            verb = "rotate" if isinstance(work, Rotation) else "seed"
            logger.info(f"would {verb}", **write.log_fields(state))
        elif write is not None:
            if _is_first(found):
                await self._confirm(path, found.allowed)
            state = await self._write(write)
            decision = self._evaluate(path, state, readers).decision
            problems += decision.problems
        self._paths.observe(path, state)
        for prefix in self._index.prefixes_of(path):
            self._paths.update_listing(prefix, path)
            self._report_listing(prefix)
        for entry in self._index.entries(reader.name for reader in readers):
            self._syncs.of(entry.object).record_failures(path, [])
        self._record_problems(path, dict.fromkeys(problems))
        self._adopt(path, state, readers)
        self._ownership.schedule(path, state)
        self._announce_expiry(path, state, readers)
        return self._paths.seconds_until_reread(path) or self._seconds_until_due(decision, state)

    async def _confirm(self, path: VaultPath, readers: Iterable[Reader]) -> None:
        """Check that the ExternalSecrets and the stores that name a path together exist in the API server now.

        An informer that is behind could combine an ExternalSecret with a store that it was never used with, into a path
        that nobody has requested.

        Raises:
            ObjectsBehind: they do not.
            VaultsyncError: the API server does not answer, or refuses.
        """
        names = [reader.name for reader in readers]
        known = [(entry, self._stores(path, entry)) for entry in self._index.entries(names)]
        if len(known) < len(names) or not all(path in entry.references for entry, _ in known):  # since the pass began
            raise ObjectsBehind(f"the ExternalSecrets that read {path} are being changed", BEHIND_SECONDS)
        for entry, stores in known:
            now = await self._current.external_secret(entry.object)
            if now is None or not now.requests_the_same(entry.object):
                raise ObjectsBehind(f"{entry.object.name} is being changed", BEHIND_SECONDS)
            for name, store in stores.items():
                if await self._current.store(name, entry.object.api_version) != store:
                    raise ObjectsBehind(f"{name} is being changed", BEHIND_SECONDS)

    def _stores(self, path: VaultPath, entry: Entry) -> dict[StoreName, Store | None]:
        """The stores by which the ExternalSecret reads the path, as they are now: they may change during a request."""
        fields = {reference.field for reference in entry.references.get(path, ())}
        return {ref.store: self._index.store(ref.store) for ref in entry.object.refs if ref.field in fields}

    def _adopt(self, path: VaultPath, state: SecretState, readers: Iterable[Reader]) -> None:
        """Name this cluster in the ownership metadata of an earlier release, which had no name by default."""
        made = state.ownership
        if made is None or made.cluster or not self._writer.cluster or self._dry_run or not state.owned:
            return
        if made.external_secret in {str(reader.name) for reader in wanting(readers)}:
            named = replace(made, cluster=self._writer.cluster)
            self._ownership.add(path, PendingOwnership(named, render_ownership(named, state.managed_by)), at_once=False)

    def _evaluate(self, path: VaultPath, state: SecretState, readers: list[Reader]) -> Evaluation:
        state = self._ownership.apply(path, state)
        mount = MountName(path.namespace, state.mount.path)
        replaced = self._heal_limit.is_replaced(mount, state.mount.uuid)
        found = self._evaluator.evaluate(path, state, readers, is_replaced=replaced)
        is_live = state.exists and not found.is_lost
        self._heal_limit.observe(mount, path, state.mount.uuid, is_live=is_live, is_lost=found.is_lost)
        if not found.is_lost:
            self._paths.release(path)
            return found
        self._paths.hold(path, state)
        is_approved = healing.is_approved(found.allowed, datetime.now(UTC))
        lost = self._heal_limit.refusal(mount, path, replaced=replaced, approved=is_approved)
        if not lost:
            self._paths.release(path)
            return found
        return self._evaluator.evaluate(path, state, readers, lost, is_replaced=replaced)

    async def _write(self, write: Write) -> SecretState:
        if isinstance(write.work, Seed):
            self._take_budget(write.path, write.before, write.readers)
        try:
            applied = await self._writer.write(write)
        except (VaultDenied, VaultRejected):
            self._paths.observe(write.path, write.before)  # other readers of the path need it
            raise
        self._report_write(applied)
        return applied.after

    def _take_budget(self, path: VaultPath, state: SecretState, readers: Sequence[Reader]) -> None:
        """Count a new path against the budget of the oldest reader's namespace, or raise BudgetSpent."""
        if state.exists or state.version > 0 or self._paths.existed(path) or any(one.has_read for one in readers):
            return  # the annotation annotations.VERSIONS does not count: its author is not trusted
        namespace = readers[0].name.namespace
        wait = self._budget.take(namespace) if self._budget is not None else 0.0
        if wait > 0:
            self._metrics.new_paths_put_off.inc()
            self._paths.observe(path, state)
            text = (
                f"{logical(state.mount, path.path)} is missing; namespace {namespace} has used up the new paths that "
                "VAULTSYNC_SEED_BUDGET allows in an hour; vaultsync creates this one later by itself"
            )
            self._record_problems(path, _same_for_all(readers, text, Refusal.SEED_BUDGET))
            raise BudgetSpent(text, wait)
        self._metrics.new_paths.inc()

    def _seconds_until_due(self, decision: Decision, state: SecretState) -> float:
        dues = [due for due in (decision.due, state.ends if state.exists else None) if due is not None]
        if dues:
            return max(AT_ONCE_SECONDS, (min(dues) - datetime.now(UTC)).total_seconds())
        return AT_ONCE_SECONDS if decision.rotation is not None and not self._dry_run else 0.0

    # -- reports

    def _announce_expiry(self, path: VaultPath, state: SecretState, readers: Iterable[Reader]) -> None:
        """Record an Event about a value that will expire, once for each of its versions, and again a day before."""
        notice = healing.notice_of_expiry(path, state)
        if notice and self._paths.is_new_expiry(path, datetime.now(UTC)):
            for entry in self._index.entries(reader.name for reader in readers):
                self._syncs.of(entry.object).record_expiry(notice)

    def _report_write(self, applied: AppliedWrite) -> None:
        """Report a write to the ExternalSecrets that requested it, and force-sync all that read the path."""
        path, reason = applied.write.path, applied.write.work.reason
        for entry in self._index.entries(reader.name for reader in applied.write.readers):
            self._syncs.of(entry.object).record_success(path, reason, applied.message)
        for entry in self._index.entries(self._index.reader_names(path)):
            prefixes = (prefix for prefix in entry.prefixes if prefix.covers(path))
            self._syncs.of(entry.object).record_seed(map(str, (path, *prefixes)), self._clock())

    def _report_listing(self, prefix: FindPrefix) -> None:
        """Report an empty listing: vaultsync can't know which paths to create."""
        for entry in self._index.entries(self._index.reader_names(prefix)):
            self._syncs.of(entry.object).record_failures(prefix, [])
        if self._paths.is_empty(prefix):
            self._record_problems(prefix, self._listing_problems(prefix, empty_listing(prefix), Refusal.IMPOSSIBLE))

    def _listing_problems(self, prefix: FindPrefix, message: str, refusal: Refusal) -> list[Problem]:
        entries = self._index.entries(self._index.reader_names(prefix))
        wanting = (entry for entry in entries if self._index.choice(entry)[0] is SeedChoice.WANTED)
        return [Problem(entry.object.name, message, refusal=refusal) for entry in wanting]

    def _record_problems(self, key: VaultPath | FindPrefix, problems: Iterable[Problem]) -> None:
        is_lost = isinstance(key, VaultPath) and self._paths.existed(key) and not self._paths.is_live(key)
        found: dict[ObjectName, list[Problem]] = defaultdict(list)
        for one in problems:
            is_recreation = is_lost and one.reason is CreatedReason.ERROR_CREATING
            found[one.reader].append(replace(one, reason=CreatedReason.RECREATING) if is_recreation else one)
        for entry in self._index.entries(found):
            self._syncs.of(entry.object).record_failures(key, found[entry.object.name])


def create_budget(per_hour: int, clock: Clock) -> TokenBuckets[str] | None:
    """The new paths of each Kubernetes namespace: an hour's worth at once, then a rate; `per_hour` 0 is no limit."""
    return TokenBuckets(per_hour / HOUR_SECONDS, per_hour, clock) if per_hour else None


def _is_first(found: Evaluation) -> bool:
    """Whether the write creates a new path, or adds a new property to a live one."""
    seed = found.decision.seed
    is_addition = seed is not None and seed.patch and seed.reason is EventReason.SEEDED
    return found.absence is Absence.NEW or is_addition


def _same_for_all(readers: Iterable[Reader], message: str, refusal: Refusal) -> list[Problem]:
    return [Problem(reader.name, message, refusal=refusal) for reader in wanting(readers)]
