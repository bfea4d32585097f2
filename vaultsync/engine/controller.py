"""Signals in, passes out: each key that a signal names gets one pass at a time.

Signals are the informers, Vault's events, reconnects and the resync. Here, and nowhere else, a pass's outcome becomes
done, again later, retry or give up.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

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
from vaultsync.core.events import VaultEvent
from vaultsync.core.names import Result
from vaultsync.core.objects import ExternalSecret, Namespace, ObjectName, Store
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.engine.failure_scopes import FailureScopes
from vaultsync.engine.index import Index, Key
from vaultsync.engine.ledger import NEVER, Ledger
from vaultsync.engine.reconciler import Reconciler
from vaultsync.engine.syncer import Syncer
from vaultsync.engine.workqueue import Lane, WorkQueue

WORKERS = 16
LOOKS_AT_ONCE = 4
"""Passes of a look at everything, as many as vault.client has THREADS: more would only be in an event's way."""
AUDIT_LOOK_SECONDS = 30.0
"""At least this long between two looks at everything that senders of audit lines cause."""
LOOK_BEHIND_SECONDS = 0.05
"""How long after a write's event its path is looked at: what it wrote goes first on its way to the readers."""
DOUBT_SECONDS = (0.1, 0.4, 1.5, 5.0)
"""After a look that shows nothing of what an event has told: a standby node that answers by itself may be behind."""
FIRST_RETRY, LONGEST_RETRY = 0.1, 60.0
"""Seconds between the passes over a failing key."""
KINDS: Mapping[type[Key], str] = {VaultPath: "path", FindPrefix: "listing", ObjectName: "external_secret"}
"""What a pass is over."""


class Controller:
    """The one that knows index, queue, reconciler and syncer.

    Args:
        resync: seconds between two looks at everything, jittered.

    Attributes:
        passes: how many have ended, by what they were over and how.
        resyncs: looks at everything.
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
        self.passes = Counter({(kind, str(result)): 0 for kind in KINDS.values() for result in Result})
        self.resyncs = 0
        self.caught_up = asyncio.Event()
        self._held: dict[VaultPath, tuple[VaultEvent, float]] = {}
        self._told_of: dict[VaultPath, tuple[VaultEvent, int]] = {}
        """The last event about a path that no look has shown yet, and how many looks have not."""
        self._heard: dict[VaultPath, float] = {}
        """When the first event came that no pass over the path has taken up, by time.monotonic."""
        self._audit_look_at = float("-inf")
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
        if self._index.store(store.name) != store and store.server is not None and not self._index.is_ours(store):
            logger.info(
                "store left alone: its server is not this Vault (VAULTSYNC_STORE_SERVERS lists further addresses)",
                store=str(store.name),
                server=store.server,
            )
        keys = self._index.put_store(store)
        if self._works:  # else it is one that there was before, as far as anybody knows
            self._tell_moved(keys)
        self._add(keys)

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
        """From the event stream or an audit device: a look-up, and the key is queued; our own writes are known."""
        if not self._index.knows(event.path):
            return
        now = time.monotonic()
        if event.is_write and self._queue.is_processing(event.path):
            held, at = self._held.get(event.path, (None, now))
            if held is None or held.version < event.version:
                self._held[event.path] = (event, at)  # the pass under way will tell whether it has seen this
        else:
            self._take(event, now)

    def _take(self, event: VaultEvent, at: float) -> None:
        if self._ledger.is_known(event):
            return
        if event.is_about_metadata and not self._index.reads_metadata(event.path):
            return
        if not self._ledger.shows(event):
            self._told_of[event.path] = (event, 0)
        self._heard.setdefault(event.path, at)
        if event.is_write and self._ledger.announce(event):
            names = self._index.named_by(event.path)
            self._tell_heard(names, at)
            self._add({*names}, Lane.URGENT)
            self._queue.add_after(event.path, LOOK_BEHIND_SECONDS)
            return
        self._ledger.touch_unversioned(event.path)
        self._queue.add(event.path)

    def vault_connected(self) -> None:
        """From the event stream: whatever happened before this moment may have been missed."""
        self._ledger.watching_since = datetime.now(UTC)
        self._ledger.touch_all_unversioned()
        self.vault_lets_in()
        self.look_at_everything()

    def vault_lets_in(self) -> None:
        """From the login: what failed for want of a token that Vault knows can go on."""
        self._scopes.close()
        self._queue.hasten()

    def audit_connected(self, alone: bool) -> None:
        """From an audit device: what happened before this moment may have been missed.

        Anybody on the network may connect: a look at everything follows, but not more often than AUDIT_LOOK_SECONDS.

        Args:
            alone: nothing but the device tells of writes; without, it does so of deletions.
        """
        self._audit_alone |= alone
        loop = asyncio.get_running_loop()
        if self._audit_look_at <= loop.time():  # else one is planned
            self._audit_look_at = max(loop.time(), self._audit_look_at + AUDIT_LOOK_SECONDS)
            loop.call_at(self._audit_look_at, self._look_behind_audit)

    def _look_behind_audit(self) -> None:
        alone, self._audit_alone = self._audit_alone, False
        if alone:
            self.vault_connected()
        else:
            self.look_at_everything()

    def kube_is_back(self) -> None:
        """From an informer: what failed for want of the API server can go on."""
        self._scopes.kube_is_back()
        self._queue.hasten()

    def look_at_everything(self) -> None:
        """Every path and listing gets a pass, behind whatever is urgent."""
        self.resyncs += 1
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
            self._doubt(key)
            if held := self._held.pop(key, None):
                self._take(*held)
        self._add(follow, max(lane, Lane.READERS))
        if 0 < again <= 2 * self._resync:  # later than that, a look at everything comes before
            self._queue.add_after(key, again)
        self._see_whether_caught_up()

    async def _pass_over(self, key: Key) -> tuple[set[Key], float]:
        """What follows, and seconds until the key wants another pass."""
        if isinstance(key, VaultPath):
            heard_at = self._heard.pop(key, NEVER)
            try:
                found, again = await self._reconciler.path(key)
            except (VaultFailure, VaultThrottled, WriteConflict):
                if heard_at != NEVER:
                    self._heard[key] = heard_at
                raise
            self._tell_heard(found, heard_at)
            return {*found}, again
        if isinstance(key, ObjectName):
            return set(), 0.0 if self._waits_for_paths(key) else await self._syncer.external_secret(key)
        return await self._reconciler.listing(key), 0.0

    def _tell_heard(self, names: Iterable[ObjectName], at: float) -> None:
        """Have the time from the event to their force-sync measured."""
        for entry in map(self._index.entry, names if at != NEVER else ()):
            if entry is not None:
                self._ledger.heard(entry, at)

    def _doubt(self, path: VaultPath) -> None:
        """Look again if the last look shows nothing of what was told."""
        event, looks = self._told_of.pop(path, (None, 0))
        if event is not None and looks < len(DOUBT_SECONDS) and not self._ledger.shows(event):
            self._told_of[path] = (event, looks + 1)
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
