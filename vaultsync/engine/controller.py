"""Signals in, passes out: each key that a signal names gets one pass at a time.

Signals are the informers, Vault's events, reconnects and the resync. Here, and nowhere else, a pass's outcome becomes
done, again later, retry or give up.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from loguru import logger

from vaultsync.core.backoff import backoff, jittered
from vaultsync.core.errors import (
    BudgetSpent,
    Postponed,
    VaultFailure,
    VaultsyncError,
    VaultThrottled,
    WriteConflict,
)
from vaultsync.core.events import MountChange, VaultEvent
from vaultsync.core.names import Result
from vaultsync.core.objects import ExternalSecret, Namespace, ObjectName, Store
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.engine.failure_scopes import FailureScopes
from vaultsync.engine.index import Index, Key
from vaultsync.engine.ledger import NEVER, Ledger
from vaultsync.engine.own_writes import OwnWrites
from vaultsync.engine.reconciler import Reconciler
from vaultsync.engine.syncer import Syncer
from vaultsync.engine.workqueue import Lane, WorkQueue

WORKERS = 16
LOOKS_AT_ONCE = 4
"""Passes of a look at everything, as many as vault.client has THREADS: more would only be in an event's way."""
AUDIT_LOOK_SECONDS = 30.0
"""At least this long between two rescans that new senders of audit entries cause."""
LOSS_LOOK_SECONDS: Final = (10.0, 60.0)
"""The same where entries are lost: the first pause, and the longest while losses go on."""
SETTLE_SECONDS, LONGEST_SETTLING = 1.0, 5.0
"""A rescan waits until so long after the last loss, and at most so long after the first."""
MOUNT_LOOK_SECONDS: Final = (1.0, 10.0)
"""How long after a change of a mount the paths in it are looked at, as moving one takes a moment; and the shortest time
between two such looks, as audit entries may be forged."""
STORE_AGAIN_SECONDS = 5.0
"""After a store's change what is read through it is refreshed at once, and once more so much later: external-secrets
may have answered the first time with the store as its cache had it, and refreshes for no store by itself."""
MAX_MOUNTS: Final = 16
"""Changed mounts at most that are told apart until then."""
DOUBT_SECONDS = (0.1, 0.4, 1.5, 5.0)
"""After a look that does not show what an event has claimed: a standby node that answers by itself may be behind."""
HINT_SPACING = 0.05
"""Seconds between two looks at one path that events cause; the first one is not delayed."""
MAX_DEFERRED = 16
"""Events of one path that are kept while a pass over it runs. More cannot all be own writes."""
FIRST_RETRY, LONGEST_RETRY = 0.1, 60.0
"""Seconds between the passes over a failing key."""
SHOWN: Final = 200
"""Characters of a text of somebody else's in the log."""
KINDS: Mapping[type[Key], str] = {VaultPath: "path", FindPrefix: "listing", ObjectName: "external_secret"}
"""What a pass is over."""


class Controller:
    """The one that knows index, queue, reconciler and syncer.

    Args:
        resync: seconds between two looks at everything, jittered.

    Attributes:
        passes: how many have ended, by what they were over and how.
        resyncs: looks at everything.
        on_rescan: called before paths are looked at because anything may have changed, such as their mounts.
        caught_up: set once all that was known at the start of `work` is looked at.
    """

    def __init__(
        self,
        index: Index,
        ledger: Ledger,
        reconciler: Reconciler,
        syncer: Syncer,
        resync: float,
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._reconciler = reconciler
        self._syncer = syncer
        self._resync = resync
        self._queue: WorkQueue[Key] = WorkQueue(
            lambda: backoff(FIRST_RETRY, LONGEST_RETRY), {Lane.RESYNC: LOOKS_AT_ONCE}
        )
        self._scopes = FailureScopes(self._queue.add)
        self.on_rescan: Callable[[], None] = _nothing
        self._changed_mounts: set[MountChange] = set()
        self._mounts_looked_at = float("-inf")
        self.passes = Counter({(kind, str(result)): 0 for kind in KINDS.values() for result in Result})
        self.resyncs = 0
        self.caught_up = asyncio.Event()
        self._own_writes = OwnWrites(time.monotonic)
        self._deferred: dict[VaultPath, list[tuple[VaultEvent, float]]] = {}
        """Events that came while a pass over their path was running, and when, by time.monotonic."""
        self._unconfirmed: dict[VaultPath, tuple[VaultEvent, int]] = {}
        """The last event of a path that no look has shown yet, and how many looks have not."""
        self._hinted: OrderedDict[VaultPath, float] = OrderedDict()
        """When the last look that an event has caused was due, by time.monotonic; entries of the last moments."""
        self._received_at: dict[VaultPath, float] = {}
        """When the first event came that no pass over the path has taken up, by time.monotonic."""
        self._audit_look: asyncio.TimerHandle | None = None
        self._audit_looked_at = float("-inf")
        self._audit_settled_by = 0.0
        self._loss_pause = LOSS_LOOK_SECONDS[0]
        self._audit_alone = False
        self._works = False
        self._started = 0.0

    # -- signals: plain calls on the loop

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        """From the informer. One that turns red may have lost a path whose deletion nobody has told us of."""
        old = self._index.entry(external_secret.name)
        self._add(self._index.put(external_secret))
        self._syncer.refreshed(external_secret)
        entry = self._index.entry(external_secret.name)
        if old and entry and old.object.ready and external_secret.ready is False:
            self._add(set(entry.references))

    def external_secret_removed(self, external_secret: ExternalSecret) -> None:
        """From the informer. Its paths get a pass too: nobody may read them any more."""
        entry = self._index.entry(external_secret.name)
        self._index.remove(external_secret.name)
        if entry is not None:
            self._add({external_secret.name, *entry.references, *entry.prefixes}, Lane.RESYNC)

    def store_changed(self, store: Store) -> None:
        """From the informer."""
        old = self._index.store(store.name)
        if old != store and store.server is not None and not self._index.is_ours(store):
            logger.info(
                "store left alone: its server is not this Vault (VAULTSYNC_STORE_SERVERS lists further addresses)",
                store=str(store.name),
                server=store.server[:SHOWN],
            )
        keys = self._index.put_store(store)
        if self._works:  # else it is one that there was before, as far as anybody knows
            self._tell_moved(keys)
            if keys and old is not None:
                asyncio.get_running_loop().call_later(STORE_AGAIN_SECONDS, self._refresh_again, keys)
        self._add(keys)

    def _refresh_again(self, keys: set[Key]) -> None:
        self._tell_moved(keys)
        self._add({key for key in keys if isinstance(key, ObjectName)})

    def _tell_moved(self, keys: set[Key]) -> None:
        """What is read elsewhere now is not got, however old it is: external-secrets does not heed a changed store."""
        for entry in (self._index.entry(key) for key in keys if isinstance(key, ObjectName)):
            if entry is not None:
                self._ledger.moved(entry, entry.references.keys() & keys)

    def store_removed(self, store: Store) -> None:
        """From the informer."""
        self._add(self._index.remove_store(store.name))

    def namespace_changed(self, namespace: Namespace) -> None:
        """From the informer."""
        self._add(self._index.put_namespace(namespace))

    def namespace_removed(self, namespace: Namespace) -> None:
        """From the informer."""
        self._index.remove_namespace(namespace.name)

    def vault_changed(self, event: VaultEvent) -> None:
        """From the event stream or an audit device: look at the path now. Own writes cause nothing.

        An event that comes during a pass over its path waits for the end of the pass: it may report what the pass has
        just written, whose response is still on its way.
        """
        if not self._index.knows(event.path):
            return
        now = time.monotonic()
        if self._queue.is_processing(event.path):
            deferred = self._deferred.setdefault(event.path, [])
            del deferred[MAX_DEFERRED - 1 :]
            deferred.append((event, now))
        else:
            self._follow_hint(event, now)

    def own_write(self, path: VaultPath, version: int, request_id: str) -> None:
        """From the Vault client: its event is on the way; see OwnWrites.add."""
        self._own_writes.add(path, version, request_id)

    def _follow_hint(self, event: VaultEvent, at: float) -> None:
        """Have the path looked at, before all that is not urgent."""
        if self._own_writes.recognise(event):
            return
        if event.is_about_metadata and not self._index.reads_metadata(event.path):
            return
        if not self._ledger.shows(event):
            self._unconfirmed[event.path] = (event, 0)
        self._received_at.setdefault(event.path, at)
        if event.is_unversioned_write:
            self._ledger.touch_unversioned(event.path)
        self._look_now(event.path)

    def _look_now(self, path: VaultPath) -> None:
        """Look at the path at once, or as soon as a look for an earlier event is HINT_SPACING ago."""
        now = time.monotonic()
        while self._hinted and next(iter(self._hinted.values())) + HINT_SPACING <= now:
            self._hinted.popitem(last=False)
        due = self._hinted.setdefault(path, now)
        if due == now or self._queue.is_busy(path):  # a look that waits for its turn covers this event too
            self._queue.add(path, Lane.URGENT)
            return
        if due < now:
            due = self._hinted[path] = due + HINT_SPACING
            self._hinted.move_to_end(path)
        self._queue.add_after(path, due - now)

    def vault_connected(self) -> None:
        """From the event stream: whatever happened before this moment may have been missed."""
        self._own_writes.clear()
        self._ledger.watching_since = datetime.now(UTC)
        self._ledger.touch_all_unversioned()
        self.vault_lets_in()
        self.look_at_everything()

    def vault_lets_in(self) -> None:
        """From the login: what failed for want of a token that Vault knows can go on."""
        self._scopes.close()
        self._queue.hasten()

    def audit_gap(self, alone: bool, *, settles: bool = False) -> None:
        """From an audit device: entries may have been missed. A rescan follows, but not more often than a limit.

        Args:
            alone: nothing but the device reports writes; otherwise it reports deletions.
            settles: more may be missed in the next moments, as in a burst: the rescan waits for its end.
        """
        self._audit_alone |= alone
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._audit_look is None:
            self._audit_settled_by = now + LONGEST_SETTLING
            spacing = self._loss_spacing(now) if settles else AUDIT_LOOK_SECONDS
            at = max(now + (SETTLE_SECONDS if settles else 0.0), self._audit_looked_at + spacing)
        elif settles:
            at = max(self._audit_look.when(), min(now + SETTLE_SECONDS, self._audit_settled_by))
            self._audit_look.cancel()
        else:
            return
        self._audit_look = loop.call_at(at, self._look_behind_audit)

    def _loss_spacing(self, now: float) -> float:
        """Seconds between two rescans because of losses: more and more while they go on."""
        goes_on = now - self._audit_looked_at < 2 * self._loss_pause
        self._loss_pause = min(2 * self._loss_pause, LOSS_LOOK_SECONDS[1]) if goes_on else LOSS_LOOK_SECONDS[0]
        return self._loss_pause

    def _look_behind_audit(self) -> None:
        self._audit_look = None
        self._audit_looked_at = asyncio.get_running_loop().time()
        alone, self._audit_alone = self._audit_alone, False
        if alone:
            self.vault_connected()
        else:
            self.look_at_everything()

    def mounts_changed(self, change: MountChange) -> None:
        """From an audit device: KV paths may be in another mount now, in none, or have another version of KV."""
        if len(self._changed_mounts) >= MAX_MOUNTS:
            self._changed_mounts = {MountChange(None)}
        is_planned = bool(self._changed_mounts)
        self._changed_mounts.add(change)
        if not is_planned:
            delay, pause = MOUNT_LOOK_SECONDS
            loop = asyncio.get_running_loop()
            self._mounts_looked_at = max(loop.time() + delay, self._mounts_looked_at + pause)
            loop.call_at(self._mounts_looked_at, self._look_at_changed_mounts)

    def _look_at_changed_mounts(self) -> None:
        changes, self._changed_mounts = self._changed_mounts, set()
        self.on_rescan()
        for path in self._index.paths():
            if any(change.covers(path.namespace, path.path) for change in changes):
                self._queue.add(path, Lane.RESYNC)
        for prefix in self._index.prefixes():
            if any(change.covers(prefix.namespace, prefix.prefix) for change in changes):
                self._queue.add(prefix, Lane.RESYNC)

    def kube_is_back(self) -> None:
        """From an informer: what failed for want of the API server can go on."""
        self._scopes.kube_is_back()
        self._queue.hasten()

    def look_at_everything(self) -> None:
        """Every path and listing gets a pass, behind whatever is urgent."""
        self.resyncs += 1
        self.on_rescan()
        for path in self._index.paths():
            self._queue.add(path, Lane.RESYNC)
        for prefix in self._index.prefixes():
            self._queue.add(prefix, Lane.RESYNC)

    # -- the poll

    def polled_paths(self) -> list[tuple[VaultPath, int]]:
        """The paths in use, each with the KV version that its readers' store claims."""
        return self._index.paths_with_kv()

    def is_live(self, path: VaultPath) -> bool:
        """Whether the path was last seen with a live version."""
        return self._ledger.is_live(path)

    def live_under(self, prefix: FindPrefix) -> set[VaultPath]:
        """The paths under the prefix that were last seen with a live version."""
        return self._ledger.live_under(prefix)

    def backlog(self) -> int:
        """How many passes wait."""
        return len(self._queue)

    def oldest(self) -> float:
        """How many seconds the longest waiting pass has waited."""
        return self._queue.oldest()

    def failing(self) -> int:
        """How many passes have failed and are tried again, or wait for Vault."""
        return self._queue.failing() + len(self._scopes)

    def polled_prefixes(self) -> list[FindPrefix]:
        """The listings in use."""
        return list(self._index.prefixes())

    def poll(self, key: VaultPath | FindPrefix) -> None:
        """Look at the path or listing, behind whatever is urgent."""
        self._queue.add(key, Lane.RESYNC)

    # -- tasks

    async def resync(self) -> None:
        """Look at everything again from time to time, until cancelled."""
        while True:
            await asyncio.sleep(jittered(self._resync))
            logger.info("resync", paths=sum(1 for _ in self._index.paths()))
            self.look_at_everything()

    async def work(self) -> None:
        """Passes over all that is known so far and the queue's keys, WORKERS at a time, until cancelled.

        What is created or told of meanwhile goes before what has been there for longer.
        """
        self._works = True
        self._started = time.monotonic()
        for keys in (self._index.paths(), self._index.prefixes(), self._index.names()):
            self._add({*keys}, Lane.RESYNC)
        self._see_whether_caught_up()
        free = asyncio.Semaphore(WORKERS)
        async with asyncio.TaskGroup() as passes:
            while True:
                await free.acquire()
                key, lane = await self._queue.get()
                passes.create_task(self._one_pass(key, lane)).add_done_callback(lambda _: free.release())

    def begin_no_more(self) -> None:
        """Begin no further pass: the process stops."""
        self._queue.close()

    def _see_whether_caught_up(self) -> None:
        if self.caught_up.is_set() or self._scopes.is_vault_away or not self._queue.is_idle():
            return
        self.caught_up.set()
        logger.info(
            "all is looked at",
            external_secrets=len(self._index.names()),
            paths=len(self._index.paths()),
            duration_ms=round((time.monotonic() - self._started) * 1000, 1),
        )

    async def _one_pass(self, key: Key, lane: Lane) -> None:
        if not self._scopes.admit(key, lane):
            self._queue.done(key)
            return
        follow: set[Key] = set()
        again = 0.0
        result = Result.DONE
        try:
            if isinstance(key, VaultPath):
                follow |= self._index.reader_names(key)  # also if the pass fails: they are told
            found, again = await self._pass_over(key)
            follow |= found
        except Postponed as error:
            result = error.result
            again = jittered(error.wait) if isinstance(error, BudgetSpent) else error.wait
            logger.debug("pass put off", key=str(key), reason=str(error), retry_s=round(again, 1))
        except VaultsyncError as error:
            result = error.result
            follow |= self._failed(key, error)
        except Exception as error:  # noqa: BLE001 — a bug in one pass must not stop the others
            result = Result.FAILED
            logger.opt(exception=error).error("a pass failed unexpectedly", key=str(key))
            self._queue.retry(key)
        else:
            self._queue.forget(key)
            self._scopes.succeeded(key, asked=bool(follow))
        finally:
            self._queue.done(key)  # before its readers are queued: they wait for paths in work
            self._scopes.end(key)
        self.passes[KINDS[type(key)], result] += 1
        if isinstance(key, VaultPath):
            self._follow_deferred(key)
        self._add(follow, self._lane_of_readers(follow, lane))
        if 0 < again <= 2 * self._resync:  # later than that, a look at everything comes before
            self._queue.add_after(key, again)
        self._see_whether_caught_up()
        if isinstance(key, VaultPath) and result is Result.DONE:
            await self._recheck(key)

    async def _pass_over(self, key: Key) -> tuple[set[Key], float]:
        """What follows, and seconds until the key wants another pass."""
        if isinstance(key, VaultPath):
            heard_at = self._received_at.pop(key, NEVER)
            try:
                found, again = await self._reconciler.path(key)
            except (VaultFailure, VaultThrottled, WriteConflict):
                if heard_at != NEVER:
                    self._received_at[key] = heard_at
                raise
            self._tell_heard(found, heard_at)
            return {*found}, again
        if isinstance(key, ObjectName):
            return set(), 0.0 if self._waits_for_paths(key) else await self._syncer.external_secret(key)
        return await self._reconciler.listing(key), 0.0

    def _lane_of_readers(self, keys: set[Key], lane: Lane) -> Lane:
        """Urgent after what somebody has written. What vaultsync made follows later: all values first, then readers."""
        names = (key for key in keys if isinstance(key, ObjectName))
        entries = (entry for entry in map(self._index.entry, names) if entry is not None)
        if lane is Lane.URGENT and not any(self._ledger.synced(entry.object).seeded for entry in entries):
            return lane
        return max(lane, Lane.READERS)

    def _tell_heard(self, names: Iterable[ObjectName], at: float) -> None:
        """Have the time from the event to their force-sync measured."""
        for entry in map(self._index.entry, names if at != NEVER else ()):
            if entry is not None:
                self._ledger.heard(entry, at)

    def _follow_deferred(self, path: VaultPath) -> None:
        """Take up the events that came during the pass over their path, now that its own writes are known."""
        for event, at in self._deferred.pop(path, ()):
            self._follow_hint(event, at)

    async def _recheck(self, path: VaultPath) -> None:
        """Look again if the last look does not show what an event has claimed, and a standby may have answered it."""
        if path not in self._unconfirmed or self._queue.is_busy(path):  # the next pass rechecks
            return
        event, looks = self._unconfirmed.pop(path)
        if looks >= len(DOUBT_SECONDS) or self._ledger.shows(event) or not await self._reconciler.may_be_behind():
            return
        if path not in self._unconfirmed:  # else a later event has come meanwhile
            self._unconfirmed[path] = (event, looks + 1)
        self._queue.add_after(path, DOUBT_SECONDS[looks])

    def _waits_for_paths(self, name: ObjectName) -> bool:
        """Whether a path of the ExternalSecret is about to come into being: its own pass comes after that one."""
        entry = self._index.entry(name)
        return entry is not None and any(
            self._queue.is_busy(path) and not self._ledger.is_live(path) for path in entry.references
        )

    def _failed(self, key: Key, error: VaultsyncError) -> set[Key]:
        """Plan the next pass; returns the ExternalSecrets that are to be told of the failure."""
        wait = self._queue.retry(key) if error.retryable else None
        told: set[Key] = set()
        for failing in self._scopes.failed(key, error, wait):
            told |= self._reconciler.report(failing, error)
        return told

    def _add(self, keys: set[Key], lane: Lane = Lane.NORMAL) -> None:
        if not self._works:  # a standby may wait for weeks: it keeps the index, and no queue
            return
        for key in keys:
            self._queue.add(key, lane)


def _nothing() -> None:
    """Nobody wants to know."""
