"""One term of leadership: the parts that talk to Vault and act. Made anew for each term, so that nothing carries over.

What this process knows of Vault as a leader is worth nothing once another replica may have acted. The parts that live
as long as the process (the Kubernetes client, the informers with their index, the health server, the counters) are
vaultsync/runtime/app.py's.
"""

import asyncio
import gc
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

from loguru import logger

from vaultsync.config.change_source import ChangeSource
from vaultsync.config.settings import Settings
from vaultsync.controller.controller import Controller
from vaultsync.controller.external_secret_reconciler import ExternalSecretReconciler
from vaultsync.controller.index import Index
from vaultsync.controller.ownership_writer import FLUSH_SECONDS, OwnershipWriter
from vaultsync.controller.path_reconciler import PathReconciler
from vaultsync.controller.path_state import Ledger
from vaultsync.controller.seed_budget import SeedBudget
from vaultsync.core.backoff import backoff
from vaultsync.core.fence import Fence
from vaultsync.kube.client import KubeClient
from vaultsync.kube.election import RELEASE_SECONDS as RELEASE_LONGEST
from vaultsync.kube.election import Release, boottime
from vaultsync.kube.events import EventRecorder
from vaultsync.kube.external_secrets import ExternalSecretWriter
from vaultsync.kube.leader_label import LeaderLabel
from vaultsync.runtime import parts as wiring
from vaultsync.runtime.lifecycle import CLOSE_SECONDS, MARKS_SECONDS, RELEASE_SECONDS, WRITES_SECONDS, Stop
from vaultsync.runtime.metrics import Metrics
from vaultsync.runtime.status import Status
from vaultsync.vault.audit import Audit
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import REVOKE_SECONDS
from vaultsync.vault.poll import Poller
from vaultsync.vault.source_selector import SourceSelector
from vaultsync.vault.stream import EventStream

LISTEN_AGAIN_SECONDS: Final = 5.0
"""Between attempts at most, where a leader that hangs still has the address."""
LOGIN_FIRST_SECONDS: Final = 2.0
"""How long the first look at everything waits for the login, so that nothing fails for want of it."""
STREAM_FIRST_SECONDS: Final = 2.0
"""How long the first look at everything waits for the event stream, so that nothing is looked at twice."""


class Term:
    """The parts of one term, wired and not started.

    Args:
        kube: the process's client; this term's copy passes its writes through the fence.
        index: the process's.
        stop: says how long the end of the term may take.
        metrics: the process's.

    Attributes:
        fence: open while this process leads; None where nobody is elected, as there is no other replica.
        controller: to be told of what the informers see, before the term too.
        writer: to be told whether ExternalSecrets take the condition.
        status: what these parts say of themselves.
    """

    def __init__(self, settings: Settings, kube: KubeClient, index: Index, stop: Stop, metrics: Metrics) -> None:
        self._settings = settings
        self._stop = stop
        self.fence = Fence(boottime) if settings.election_lease else None
        self._kube = kube.fenced(self.fence)
        self._login = wiring.login(settings)
        self._vault = VaultClient(self._login, self.fence, metrics.count_vault_request)
        metrics.last_event_timestamp.clear()
        self._recorder = EventRecorder(self._kube)
        ledger = Ledger()
        loop = asyncio.get_running_loop()
        budget = SeedBudget(settings.seed_budget, loop.time)
        self._marker = OwnershipWriter(ledger, self._vault)
        reconciler = PathReconciler(
            index,
            ledger,
            self._vault,
            settings.seedable_paths,
            budget,
            self._marker,
            metrics,
            settings.cluster,
            settings.dry_run,
        )
        self.writer = ExternalSecretWriter(self._kube)
        syncer = ExternalSecretReconciler(
            index, ledger, self.writer, self._recorder, loop.time, metrics, settings.dry_run
        )
        self.controller = Controller(index, ledger, reconciler, syncer, settings.resync, metrics)
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
        self.status = Status(
            index=index,
            ledger=ledger,
            controller=self.controller,
            vault=self._vault,
            login=self._login,
            stream=self._stream,
            audit=self._audit,
            sources=self._sources,
            is_leading=lambda: self.is_leading,
        )

    @property
    def is_leading(self) -> bool:
        """Whether this replica acts; always, where nobody is elected."""
        return self.fence is None or self.fence.is_open

    async def listen(self) -> None:
        """Have the address for Vault's audit device before anything else, where nobody is elected.

        Raises:
            OSError: the address can't be had.
        """
        if self.fence is None:
            await self._audit.start()
            self._listens = True

    async def run(self, label: LeaderLabel | None = None, previous_holder: str = "") -> None:
        """Look at everything and act, until cancelled; then leave what marks are left.

        Args:
            label: of this process's pod, None where no Service has to find it.
            previous_holder: of the Lease, "" if none is known.
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
                    last.create_task(self._marker.flush())
                if label is not None:
                    last.create_task(label.withdraw())

    async def drain(self) -> None:
        """Begin nothing more, wait for the answers to writes that were sent to Vault, and mark what they made.

        To be called while `run` goes on, so that the Lease is renewed. Passes that only look are not waited for, so a
        Vault that hangs holds up nothing but the writes in it.
        """
        self.controller.stop_starting()
        if self._running_sources is not None:
            self._running_sources.cancel()  # closing the event stream takes a second where Vault hangs
        await self._finish_writes()
        await self._marker.flush(self._stop.left(MARKS_SECONDS, FLUSH_SECONDS))
        self._is_drained = True

    async def _finish_writes(self) -> None:
        left = await self._vault.finish_writes(self._stop.left(WRITES_SECONDS, WRITES_SECONDS))
        if left:
            logger.warning(
                "Vault has not answered in time: whether it has written is not known, and what it has is not marked",
                writes=left,
            )

    def release(self) -> Release:
        """How the Lease is to be let go of at the end of the term.

        Not at all while a write may still be under way: until the Lease has run out nobody else writes, which KV v1
        needs, as it has no check-and-set. In KV v2 that alone refuses whichever write comes second. The next leader
        loses nothing by the wait, as this Vault does not answer.
        """
        if self._vault.is_writing:
            return Release(refusal="a write in Vault is still under way")
        return Release(self._stop.left(RELEASE_SECONDS, RELEASE_LONGEST))

    async def close(self) -> None:
        """Give the token back, and let go of every connection to Vault."""
        await self._audit.stop()
        await self._login.close(self._stop.left(CLOSE_SECONDS, REVOKE_SECONDS))
        await self._vault.close()

    async def _act(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self._login.run())  # a standby has no token
        with suppress(TimeoutError):
            async with asyncio.timeout(LOGIN_FIRST_SECONDS):
                await self._login.tried.wait()
        self._running_sources = tasks.create_task(self._sources.run())
        if self._settings.source.streams:
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_FIRST_SECONDS):
                    await self._stream.tried.wait()
        parts: tuple[Coroutine[Any, Any, None], ...] = (
            self.controller.work(),
            self.controller.resync(),
            self._recorder.run(),
            self._marker.run(),
        )
        for part in parts:
            tasks.create_task(part)
        await self.controller.caught_up.wait()
        spare_collection(anew=False)

    async def _listen(self, label: LeaderLabel | None, previous_holder: str) -> None:
        """Receive what Vault's audit device sends: only the leader listens, so that nobody else gets it."""
        for wait in backoff(0.1, LISTEN_AGAIN_SECONDS):
            try:
                await self._audit.start()
                break
            except OSError as error:
                logger.warning("can't listen for Vault's audit device", reason=str(error), retry_s=round(wait, 1))
            await asyncio.sleep(wait)
        if label is not None and self.fence is not None:
            label.lead(self.fence, previous_holder)


def spare_collection(*, anew: bool) -> None:
    """Have Python's garbage collection pass over all that is there now.

    A collection of ten thousand ExternalSecrets holds up the loop for a tenth of a second, and finds nothing: what is
    not used any more is let go of by its reference count.

    Args:
        anew: what was passed over before, such as for a term that has ended, is looked at once more.
    """
    if anew:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
