"""Receives signals and runs passes: each key that a signal names gets one pass at a time.

Signals come from the informers, Vault's events, reconnects and the resync. Only this module turns the outcome of a pass
into: done, postponed, retried or given up. What a pass does is the reconcilers'.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from loguru import logger

from vaultsync.controller.entry import Key
from vaultsync.controller.external_secret_reconciler import ExternalSecretReconciler
from vaultsync.controller.failure_scopes import LOGGED_CHARACTERS, FailureScopes
from vaultsync.controller.index import Index
from vaultsync.controller.interfaces import ControllerMetrics
from vaultsync.controller.path_reconciler import PathReconciler
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.rescans import AuditRescans, MountRescans
from vaultsync.controller.sync_state import NEVER, SyncStates
from vaultsync.controller.vault_events import VaultEvents
from vaultsync.controller.workqueue import Priority, WorkQueue
from vaultsync.core.annotations import Result
from vaultsync.core.callbacks import Clock, ignore
from vaultsync.core.errors import BudgetSpent, Postponed, VaultFailure, VaultsyncError, VaultThrottled, WriteConflict
from vaultsync.core.events import MountChange, VaultEvent
from vaultsync.core.external_secret import ExternalSecret, Namespace, ObjectName, Store
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.push_secret import PushSecret
from vaultsync.core.retry import backoff, jittered

WORKERS = 16
RESCAN_WORKERS = 4
"""Passes of a rescan at a time, as many as vault.client has THREADS: more would delay urgent passes."""
FIRST_RETRY, LONGEST_RETRY = 0.1, 60.0
"""Seconds between the passes over a failing key."""
STORE_AGAIN_SECONDS: Final = 5.0
"""Delay of the second force-sync for a changed store: external-secrets may have served the first one from a cache that
still held the old store, and does not refresh for a store by itself."""
KINDS: Mapping[type[Key], str] = {VaultPath: "path", FindPrefix: "listing", ObjectName: "external_secret"}
"""The label `kind` of the metrics."""


class Controller:
    """Connects index, queue and reconcilers.

    Args:
        resync: seconds between two rescans, jittered.

    Attributes:
        on_rescan: is called before paths are read because anything may have changed, for example their mounts.
        caught_up: is set after the first pass over everything that was known at the start of `work`.
    """

    def __init__(
        self,
        index: Index,
        paths: PathStates,
        syncs: SyncStates,
        path_reconciler: PathReconciler,
        external_secret_reconciler: ExternalSecretReconciler,
        resync: float,
        metrics: ControllerMetrics,
        clock: Clock = time.monotonic,
    ) -> None:
        self._index = index
        self._paths = paths
        self._syncs = syncs
        self._path_reconciler = path_reconciler
        self._external_secret_reconciler = external_secret_reconciler
        self._resync = resync
        self._metrics = metrics
        self._clock = clock
        self._queue: WorkQueue[Key] = WorkQueue(
            lambda: backoff(FIRST_RETRY, LONGEST_RETRY), {Priority.RESYNC: RESCAN_WORKERS}
        )
        self._scopes = FailureScopes(self._queue.add)
        self._events = VaultEvents(index, paths, self._queue, clock)
        self._audit_rescans = AuditRescans(self._rescan_after_gap)
        self._mount_rescans = MountRescans(self._rescan_mounts)
        self.on_rescan: Callable[[], None] = ignore
        self.caught_up = asyncio.Event()
        self._is_working = False
        self._started = 0.0

    # -- signals from the informers: plain calls on the loop

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        """An ExternalSecret is new or changed. If it is no longer Ready, a path may be gone without an event."""
        old = self._index.entry(external_secret.name)
        self._add(self._index.put(external_secret))
        self._external_secret_reconciler.refreshed(external_secret)
        entry = self._index.entry(external_secret.name)
        if old and entry and old.object.ready and external_secret.ready is False:
            self._add(set(entry.references))

    def external_secret_removed(self, external_secret: ExternalSecret) -> None:
        """An ExternalSecret is gone."""
        self._add(self._index.remove(external_secret.name), Priority.RESYNC)

    def store_changed(self, store: Store) -> None:
        """A store is new or changed. external-secrets does not refresh for it, so its readers count as unsynced."""
        old = self._index.store(store.name)
        if old != store and store.server is not None and not self._index.is_ours(store):
            logger.info(
                "store ignored: its server is not this Vault (VAULTSYNC_STORE_SERVERS lists further addresses)",
                store=str(store.name),
                server=store.server[:LOGGED_CHARACTERS],
            )
        keys = self._index.put_store(store)
        if self._is_working:  # before that, the stores are not known to have changed
            self._mark_unsynced(keys)
            if keys and old is not None:
                asyncio.get_running_loop().call_later(STORE_AGAIN_SECONDS, self._refresh_again, keys)
        self._add(keys)

    def _refresh_again(self, keys: set[Key]) -> None:
        self._mark_unsynced(keys)
        self._add({key for key in keys if isinstance(key, ObjectName)})

    def _mark_unsynced(self, keys: set[Key]) -> None:
        for entry in self._index.entries(key for key in keys if isinstance(key, ObjectName)):
            self._syncs.of(entry.object).mark_unsynced(map(str, entry.references.keys() & keys))

    def store_removed(self, store: Store) -> None:
        """A store is gone."""
        self._add(self._index.remove_store(store.name))

    def push_secret_changed(self, push: PushSecret) -> None:
        """A PushSecret is new or changed."""
        self._add({path for path in self._index.pushes.put(push) if self._index.knows(path)})

    def push_secret_removed(self, push: PushSecret) -> None:
        """A PushSecret is gone."""
        self._add({path for path in self._index.pushes.remove(push.name) if self._index.knows(path)})

    def namespace_changed(self, namespace: Namespace) -> None:
        """A Kubernetes namespace is new or changed."""
        self._add(self._index.put_namespace(namespace))

    def namespace_removed(self, namespace: Namespace) -> None:
        """A Kubernetes namespace is gone."""
        self._index.remove_namespace(namespace.name)

    def kube_is_back(self) -> None:
        """The API server answers again: retry what has failed."""
        self._scopes.kube_is_back()
        self._queue.requeue_now()

    # -- signals from Vault

    def vault_changed(self, event: VaultEvent) -> None:
        """The event stream or an audit device reports a write; see VaultEvents.receive."""
        self._events.receive(event)

    def own_write(self, path: VaultPath, version: int, request_id: str) -> None:
        """The Vault client has written, and the event will follow; see OwnWrites.add."""
        self._events.own_writes.add(path, version, request_id)

    def audit_gap(self, alone: bool, *, settles: bool = False) -> None:
        """An audit device may have missed entries; see AuditRescans.schedule."""
        self._audit_rescans.schedule(alone, settles=settles)

    def mounts_changed(self, change: MountChange) -> None:
        """An audit device reports that KV paths may be in another mount, in none, or have another version of KV."""
        self._mount_rescans.schedule(change)

    def vault_connected(self) -> None:
        """The event stream is connected: any earlier event may have been missed."""
        self._events.own_writes.clear()
        self._paths.start_watching(datetime.now(UTC))
        self.vault_logged_in()
        self.enqueue_all()

    def vault_logged_in(self) -> None:
        """The login has a new token: retry what has failed without one."""
        self._scopes.close()
        self._queue.requeue_now()

    # -- rescans

    def enqueue_all(self) -> None:
        """Give every path and listing a pass, after all that is urgent."""
        self._metrics.resyncs.inc()
        self.on_rescan()
        self._enqueue((*self._index.paths(), *self._index.prefixes()))

    def _rescan_after_gap(self, is_only_source: bool) -> None:
        if is_only_source:
            self.vault_connected()
        else:
            self.enqueue_all()

    def _rescan_mounts(self, changes: set[MountChange]) -> None:
        self.on_rescan()
        keys: list[VaultPath | FindPrefix] = [*self._index.paths(), *self._index.prefixes()]
        self._enqueue(key for key in keys if any(change.covers(key.namespace, _path_of(key)) for change in changes))

    def read_soon(self, paths: Iterable[VaultPath]) -> None:
        """Give the paths a pass, after all that is urgent."""
        self._enqueue(paths)

    def _enqueue(self, keys: Iterable[VaultPath | FindPrefix]) -> None:
        for key in keys:
            self._queue.add(key, Priority.RESYNC)

    # -- the poll

    def polled_paths(self) -> list[tuple[VaultPath, int]]:
        """The paths in use, each with the KV version that its readers' store names."""
        return self._index.paths_with_kv()

    def polled_prefixes(self) -> list[FindPrefix]:
        """The listings in use."""
        return list(self._index.prefixes())

    def is_live(self, path: VaultPath) -> bool:
        """Whether the path was last seen with a live version."""
        return self._paths.is_live(path)

    def live_under(self, prefix: FindPrefix) -> set[VaultPath]:
        """The paths under the prefix that were last seen with a live version."""
        return self._paths.live_under(prefix)

    def poll(self, key: VaultPath | FindPrefix) -> None:
        """Give the path or listing a pass, after all that is urgent."""
        self._queue.add(key, Priority.RESYNC)

    # -- the state of the queue

    def backlog(self) -> int:
        """How many keys wait for a worker."""
        return len(self._queue)

    def oldest(self) -> float:
        """How many seconds the oldest key has waited."""
        return self._queue.oldest()

    def failing(self) -> int:
        """How many keys have failed and are retried, or wait for Vault."""
        return self._queue.failing() + len(self._scopes)

    # -- tasks

    async def resync(self) -> None:
        """Rescan from time to time, until cancelled."""
        while True:
            await asyncio.sleep(jittered(self._resync))
            logger.info("resync", paths=sum(1 for _ in self._index.paths()))
            self.enqueue_all()

    async def work(self) -> None:
        """Run passes over everything known so far, then over the queue's keys, WORKERS at a time, until cancelled."""
        self._is_working = True
        self._started = self._clock()
        for keys in (self._index.paths(), self._index.prefixes(), self._index.names()):
            self._add({*keys}, Priority.RESYNC)
        self._check_caught_up()
        free = asyncio.Semaphore(WORKERS)
        async with asyncio.TaskGroup() as passes:
            while True:
                await free.acquire()
                key, priority = await self._queue.get()
                passes.create_task(self._one_pass(key, priority)).add_done_callback(lambda _: free.release())

    def stop_starting(self) -> None:
        """Start no further pass: the process stops."""
        self._queue.close()

    def _check_caught_up(self) -> None:
        if self.caught_up.is_set() or self._scopes.is_vault_unavailable or not self._queue.is_idle():
            return
        self.caught_up.set()
        logger.info(
            "initial scan complete",
            external_secrets=len(self._index.names()),
            paths=len(self._index.paths()),
            duration_ms=round((self._clock() - self._started) * 1000, 1),
        )

    async def _one_pass(self, key: Key, priority: Priority) -> None:
        if not self._scopes.admit(key, priority):
            self._queue.done(key)
            return
        followers: set[Key] = set()
        again = 0.0
        result = Result.DONE
        try:
            if isinstance(key, VaultPath):
                followers |= self._index.reader_names(key)  # a failure is reported to them, too
            found, again = await self._pass_over(key)
            followers |= found
        except Postponed as error:
            result = error.result
            again = jittered(error.wait) if isinstance(error, BudgetSpent) else error.wait
            logger.debug("pass postponed", key=str(key), reason=str(error), retry_s=round(again, 1))
        except VaultsyncError as error:
            result = error.result
            followers |= self._fail(key, error)
        except Exception as error:  # noqa: BLE001 — a bug in one pass must not stop the others
            result = Result.FAILED
            logger.opt(exception=error).error("a pass failed unexpectedly", key=str(key))
            self._queue.retry(key)
        else:
            self._queue.forget(key)
            self._scopes.succeeded(key, reached_vault=bool(followers))
        finally:
            self._queue.done(key)  # before its readers are queued: they wait for busy paths
            self._scopes.end(key)
        self._metrics.reconciles.labels(KINDS[type(key)], result).inc()
        if isinstance(key, VaultPath):
            self._events.end_pass(key)
        self._add(followers, self._priority_of(followers, priority))
        if 0 < again <= 2 * self._resync:  # a rescan comes before anything later
            self._queue.add_after(key, again)
        self._check_caught_up()
        if isinstance(key, VaultPath) and result is Result.DONE:
            await self._events.recheck(key, self._path_reconciler.may_be_behind)

    async def _pass_over(self, key: Key) -> tuple[set[Key], float]:
        """The keys that need a pass now, and the seconds until this one needs another."""
        if isinstance(key, VaultPath):
            return await self._pass_over_path(key)
        if isinstance(key, FindPrefix):
            return await self._path_reconciler.reconcile_listing(key), 0.0
        if self._waits_for_paths(key):
            return set(), 0.0
        return set(), await self._external_secret_reconciler.reconcile(key)

    async def _pass_over_path(self, path: VaultPath) -> tuple[set[Key], float]:
        received_at = self._events.begin_pass(path)
        try:
            names, again = await self._path_reconciler.reconcile(path)
        except (VaultFailure, VaultThrottled, WriteConflict):
            self._events.repeat_pass(path, received_at)
            raise
        if received_at != NEVER:
            for entry in self._index.entries(names):
                self._syncs.of(entry.object).record_event(received_at)
        return {*names}, again

    def _priority_of(self, keys: set[Key], priority: Priority) -> Priority:
        """Urgent after a write by another client. After own writes, all values come before their readers."""
        entries = self._index.entries(key for key in keys if isinstance(key, ObjectName))
        if priority is Priority.URGENT and not any(self._syncs.of(entry.object).is_seeded for entry in entries):
            return priority
        return max(priority, Priority.READERS)

    def _waits_for_paths(self, name: ObjectName) -> bool:
        """Whether a missing path of the ExternalSecret has a pass soon, after which the ExternalSecret has its own."""
        entry = self._index.entry(name)
        return entry is not None and any(
            self._queue.is_busy(path) and not self._paths.is_live(path) for path in entry.references
        )

    def _fail(self, key: Key, error: VaultsyncError) -> set[Key]:
        """Schedule the next pass; returns the ExternalSecrets on which the failure is to be reported."""
        wait = self._queue.retry(key) if error.retryable else None
        readers: set[Key] = set()
        for failing in self._scopes.failed(key, error, wait):
            readers |= self._path_reconciler.report(failing, error)
        return readers

    def _add(self, keys: set[Key], priority: Priority = Priority.NORMAL) -> None:
        if not self._is_working:  # a standby may wait for weeks: it keeps the index, and no queue
            return
        for key in keys:
            self._queue.add(key, priority)


def _path_of(key: VaultPath | FindPrefix) -> str:
    return key.path if isinstance(key, VaultPath) else key.prefix
