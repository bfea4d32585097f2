"""One term of leadership: the parts that send requests to Vault and write to Kubernetes.

Each term gets new parts: after another replica may have led, the state that this process read from Vault is obsolete.
runtime.app owns the parts that live as long as the process (Kubernetes client, informers, index, metrics, health
server).
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import suppress

from loguru import logger

from vaultsync.config.change_source import ChangeSource
from vaultsync.config.settings import Settings
from vaultsync.controller.controller import Controller
from vaultsync.controller.external_secret_reconciler import ExternalSecretReconciler
from vaultsync.controller.heal_limit import RESUME, HealLimit
from vaultsync.controller.index import Index
from vaultsync.controller.ownership_writer import FLUSH_SECONDS, OwnershipWriter
from vaultsync.controller.path_reconciler import PathReconciler, create_budget
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.sync_state import SyncStates
from vaultsync.core.fence import Fence
from vaultsync.core.retry import Retry
from vaultsync.kube.client import KubeClient
from vaultsync.kube.current_objects import CurrentObjects
from vaultsync.kube.discovery import ServedVersion
from vaultsync.kube.election import RELEASE_SECONDS as RELEASE_LONGEST
from vaultsync.kube.election import Release, boottime
from vaultsync.kube.events import EventRecorder
from vaultsync.kube.external_secrets import ExternalSecretWriter
from vaultsync.kube.leader_label import LeaderLabel
from vaultsync.kube.mount_record import MountRecord
from vaultsync.runtime import factory
from vaultsync.runtime.health import PartStatus
from vaultsync.runtime.lifecycle import CLOSE_SECONDS, OWNERSHIP_SECONDS, RELEASE_SECONDS, WRITES_SECONDS, Stop
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.audit import Audit, Delivery
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import REVOKE_SECONDS
from vaultsync.vault.poll import Poller
from vaultsync.vault.source_selector import SourceSelector
from vaultsync.vault.stream import EventStream

FIRST_LISTEN_RETRY, LONGEST_LISTEN_RETRY = 0.1, 5.0
"""Seconds between attempts to listen for the audit device: the previous leader may still occupy the address."""
LOGIN_FIRST_SECONDS, STREAM_FIRST_SECONDS = 2.0, 2.0
"""The initial scan waits this long for a token, and for the event stream, as a new subscription causes a rescan."""


class Term:
    """Creates and connects the parts of one term; `run` starts them.

    Args:
        kube: without a fence; this term checks its own before each write.
        stop: bounds the duration of the end of the term.

    Attributes:
        fence: open while this process leads; None without leader election.
        controller: handles the events of the informers, also before `run`.
    """

    def __init__(self, settings: Settings, kube: KubeClient, index: Index, stop: Stop, metrics: Metrics) -> None:
        self._settings = settings
        self._stop = stop
        self.fence = Fence(boottime) if settings.election_lease else None
        self._kube = kube.fenced(self.fence)
        self._login = factory.create_login(settings)
        self._vault = VaultClient(self._login, self.fence, metrics.count_vault_request)
        metrics.last_event_timestamp.clear()
        self._recorder = EventRecorder(self._kube)
        self._index, self._syncs = index, SyncStates()
        paths = PathStates()
        loop = asyncio.get_running_loop()
        budget = create_budget(settings.seed_budget, loop.time)
        self._heal_limit = heal_limit = HealLimit(settings.heal_limit, lambda mount: index.paths_in(*mount), loop.time)
        self._mounts = MountRecord(self._kube, settings.election_lease) if settings.election_lease else None
        if self._mounts is not None:
            heal_limit.uuids = self._mounts
        self._ownership = OwnershipWriter(paths, self._vault)
        self._path_reconciler = path_reconciler = PathReconciler(
            index,
            paths,
            self._syncs,
            self._vault,
            settings.seedable_paths,
            budget,
            heal_limit,
            CurrentObjects(self._kube),
            self._ownership,
            metrics,
            settings.dry_run,
        )
        self.writer = ExternalSecretWriter(self._kube)
        external_secret_reconciler = ExternalSecretReconciler(
            index, paths, self._syncs, self.writer, self._recorder, loop.time, metrics, settings.dry_run
        )
        self.controller = Controller(
            index, paths, self._syncs, path_reconciler, external_secret_reconciler, settings.resync, metrics
        )
        heal_limit.read_soon = self.controller.read_soon
        self.controller.on_rescan = self._vault.forget_mounts
        self._login.on_change = self.controller.vault_logged_in
        self._vault.on_own_write.append(lambda own: self.controller.own_write(own.path, own.version, own.request_id))
        self._stream = EventStream(self._login, metrics)
        self._audit = Audit(
            settings.audit,
            settings.canary_interval,
            self._vault.read_for_audit,
            index.knows,
            metrics,
            is_only=settings.source is ChangeSource.AUDIT,
        )
        self._listens = self._is_drained = False
        self._running_sources: asyncio.Task[None] | None = None
        poller = Poller(self._vault, self.controller, settings.poll_interval, settings.poll_rate)
        self._sources = SourceSelector(settings.source, self._stream, self._audit, poller, self.controller)
        self._vault.on_own_write.append(self._sources.wrote)

    def configure(self, served: ServedVersion, cluster: str) -> None:
        """Use what was discovered in Kubernetes; `cluster` is the name of this cluster."""
        self.writer.takes_condition = served.takes_condition
        self._path_reconciler.use_cluster(cluster)

    @property
    def is_leading(self) -> bool:
        """Whether this replica may write; always, without leader election."""
        return self.fence is None or self.fence.is_open

    def statuses(self) -> Iterator[PartStatus]:
        """The status of Vault and of the sources of changes, for /readyz. None is required (see runtime.health)."""
        trouble = self._vault_trouble()
        message = f"{trouble}; waiting for it" if trouble else "answers"
        yield PartStatus("vault", message, is_healthy=not trouble)
        yield self._source_status()
        if self._audit.is_configured:
            yield self._audit_status()
        if lost := self._heal_limit.stopped():
            mounts = ", ".join(f"{mount} ({number} paths)" for mount, number in lost.items())
            yield PartStatus("healing", f"stopped, as values are lost in {mounts}; {RESUME}", is_healthy=False)

    def _source_status(self) -> PartStatus:
        current = self._sources.current
        if current is None:
            return PartStatus("source", "not selected yet", is_healthy=False)
        connected = {ChangeSource.EVENTS: self._stream.is_connected, ChangeSource.AUDIT: self._audit.is_connected}
        if connected.get(current, True):
            return PartStatus("source", current.value)
        return PartStatus("source", f"{current.value}, not connected", is_healthy=False)

    def _audit_status(self) -> PartStatus:
        """The event stream needs the audit device too: it reports deletions only to root tokens."""
        delivery = self._audit.delivery
        is_silent = delivery is Delivery.SILENT
        late = "; deletions are noticed late" if is_silent and self._sources.current is ChangeSource.EVENTS else ""
        return PartStatus("audit", f"{delivery.value}{late}", is_healthy=not is_silent)

    def _vault_trouble(self) -> str:
        """Why Vault does not answer, "" if it does. At rest, only the event stream detects an outage."""
        if self._stream.is_connected:
            return ""
        return self._vault.outage or ("no answer" if self._stream.is_unanswered else "")

    def set_gauges(self, metrics: Metrics) -> None:
        """Set the metrics that show the current state of these parts."""
        metrics.leading.set(self.is_leading)
        metrics.external_secrets.set(len(self._index.names()))
        metrics.paths.set(len(self._index.paths()))
        metrics.queue_depth.set(self.controller.backlog())
        metrics.queue_oldest.set(self.controller.oldest())
        metrics.queue_failing.set(self.controller.failing())
        metrics.seed_to_ready_oldest.set(max(0.0, time.monotonic() - self._syncs.awaited_since()))
        for reason, number in self._syncs.blocked().items():
            metrics.blocked_external_secrets.labels(reason).set(number)
        metrics.lost_paths.clear()
        for mount, number in self._heal_limit.held().items():
            metrics.lost_paths.labels(mount).set(number)
        for source in (ChangeSource.EVENTS, ChangeSource.AUDIT, ChangeSource.POLL):
            metrics.source.labels(source.value).set(source is self._sources.current)
        metrics.stream_connected.set(self._stream.is_connected)
        metrics.audit_configured.set(self._audit.is_configured)
        metrics.audit_connected.set(self._audit.is_connected)
        metrics.vault_reachable.set(not self._vault_trouble())
        metrics.vault_token_expiry.timestamp = self._login.ends_at

    async def listen(self) -> None:
        """Without leader election: listen for Vault's audit device before anything else starts.

        Raises:
            OSError: the address is not available.
        """
        if self.fence is None:
            await self._audit.start()
            self._listens = True

    async def run(self, label: LeaderLabel | None = None, previous_holder: str = "") -> None:
        """Scan everything and react to changes, until cancelled; then write the pending ownership metadata.

        There is no `label` if no Service selects the leader's pod; `previous_holder` of the Lease is "" if unknown.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                if not self._listens:
                    tasks.create_task(self._listen(label, previous_holder))
                await self._act(tasks)
        finally:
            await self._audit.stop()
            async with asyncio.TaskGroup() as last:
                if not self._is_drained:
                    last.create_task(self._ownership.flush())
                if label is not None:
                    last.create_task(label.withdraw())

    async def drain(self) -> None:
        """Start no further pass, wait for the responses to pending writes to Vault, and write the ownership metadata.

        Call it while `run` still runs, so that the Lease is renewed. It does not wait for reads: a Vault that hangs
        delays only the writes in progress.
        """
        self.controller.stop_starting()
        if self._running_sources is not None:
            self._running_sources.cancel()  # closing the event stream takes a second if Vault hangs
        await self._finish_writes()
        await self._ownership.flush(self._stop.left(OWNERSHIP_SECONDS, FLUSH_SECONDS))
        self._is_drained = True

    async def _finish_writes(self) -> None:
        left = await self._vault.writes.finish(self._stop.left(WRITES_SECONDS, WRITES_SECONDS))
        if left:
            logger.warning(
                "Vault did not respond in time: its pending writes may be applied, and get no ownership metadata",
                writes=left,
            )

    def release(self) -> Release:
        """How to release the Lease at the end of the term.

        While a write may still be in progress, the Lease is kept until it expires, so that no other replica writes
        meanwhile. KV v1 needs this, as it has no check-and-set; in KV v2, check-and-set alone refuses the second write.
        """
        if self._vault.writes.is_sending:
            return Release(refusal="a write in Vault is still in progress")
        return Release(self._stop.left(RELEASE_SECONDS, RELEASE_LONGEST))

    async def close(self) -> None:
        """Revoke the token, and close every connection to Vault."""
        await self._audit.stop()
        await self._login.close(self._stop.left(CLOSE_SECONDS, REVOKE_SECONDS))
        await self._vault.close()

    async def _act(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self._login.run())  # only now: a standby has no token
        if self._mounts is not None:
            await self._mounts.load()
            tasks.create_task(self._mounts.run())
        with suppress(TimeoutError):
            async with asyncio.timeout(LOGIN_FIRST_SECONDS):
                await self._login.tried.wait()
        self._running_sources = tasks.create_task(self._sources.run())
        if self._settings.source.streams:
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_FIRST_SECONDS):
                    await self._stream.tried.wait()
        for work in (self.controller.work, self.controller.resync, self._recorder.run, self._ownership.run):
            tasks.create_task(work())
        await self.controller.caught_up.wait()
        freeze_garbage_collection()

    async def _listen(self, label: LeaderLabel | None, previous_holder: str) -> None:
        """Listen for Vault's audit device; only the leader listens, so that the device connects to it."""
        retry = Retry(FIRST_LISTEN_RETRY, LONGEST_LISTEN_RETRY)
        while True:
            try:
                await self._audit.start()
                break
            except OSError as error:
                wait = retry.failed(str(error)).wait
                logger.warning("can't listen for Vault's audit device", reason=str(error), retry_s=round(wait, 1))
            await asyncio.sleep(wait)
        if label is not None and self.fence is not None:
            label.lead(self.fence, previous_holder)


def freeze_garbage_collection(*, unfreeze: bool = False) -> None:
    """Exclude all current objects from Python's garbage collection.

    A collection over ten thousand ExternalSecrets blocks the event loop for a tenth of a second and finds nothing:
    objects without references are released by their reference count.

    Args:
        unfreeze: first collect the objects that an earlier call excluded, such as those of a former term.
    """
    if unfreeze:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
