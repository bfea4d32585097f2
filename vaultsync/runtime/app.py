"""The process: its parts, and in which order they start and stop.

What a replica needs only while it leads is vaultsync/runtime/term.py's.
"""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Final

from loguru import logger

from vaultsync import __version__
from vaultsync.config.settings import Settings
from vaultsync.config.variables import removed_variables
from vaultsync.core.backoff import backoff
from vaultsync.core.errors import KubeNotFound, VaultsyncError, first_reason
from vaultsync.core.external_secret import ExternalSecret, Namespace, Store
from vaultsync.core.fence import Fence
from vaultsync.kube.client import KubeClient, connect
from vaultsync.kube.discovery import NOT_SERVED, ServedVersion, discover
from vaultsync.kube.election import TIMING, Election, LeadershipLost, Timing
from vaultsync.kube.informer import SILENCE_SECONDS
from vaultsync.kube.informer_manager import InformerManager
from vaultsync.runtime import parts as wiring
from vaultsync.runtime.health import Health, Part
from vaultsync.runtime.lifecycle import Stop, report_callback
from vaultsync.runtime.metrics import Metrics
from vaultsync.runtime.status import in_words
from vaultsync.runtime.term import Term, spare_collection

FIRST_RESTART, LONGEST_RESTART = 1.0, 60.0
"""Seconds before the lists of Kubernetes are made anew, where a resource was not served any more."""
STEADY_SECONDS: Final = 120.0
"""Lists and watches that have worked for so long are no failed attempt."""
STAND_BY_SECONDS: Final = 1.0
"""Between the end of a term and the next attempt to lead."""


async def run(settings: Settings, timing: Timing = TIMING, watch_silence: float = SILENCE_SECONDS) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: of the process.
        timing: of the election.
        watch_silence: seconds, as for `Informer`.

    Raises:
        NoKubeConfig: there is no way to speak to Kubernetes.
        OSError: an address to listen on can't be had.
    """
    stop = Stop()
    stop.on_signals()
    asyncio.get_running_loop().set_exception_handler(report_callback)
    for name, fix in removed_variables(os.environ).items():
        logger.warning("a variable has no effect any more", variable=name, to_do=fix)
    metrics = Metrics()
    kube = await connect(settings.kubeconfig, settings.kube_timeout, settings.dry_run, metrics.count_kube_request)
    identity = f"{settings.pod_name or socket.gethostname()}_{uuid.uuid4()}"
    app = App(settings, kube, stop, metrics, identity, timing, watch_silence)
    try:
        await app.run()
    finally:
        await app.close()


class App:
    """The parts that live as long as the process, and the current term of leadership.

    A replica that has lost the Lease stops acting and becomes a standby: its `Term` ends, and a new one waits to begin.
    Informers, index, counters and the health server go on, so that Kubernetes is not listed again.

    Args:
        kube: not fenced.
        stop: ends `run`.
        metrics: of this process; `kube` counts with them.
        identity: of this process in the election.
        timing: of the election.
        watch_silence: seconds, as for `Informer`.
    """

    def __init__(
        self,
        settings: Settings,
        kube: KubeClient,
        stop: Stop,
        metrics: Metrics,
        identity: str = "",
        timing: Timing = TIMING,
        watch_silence: float = SILENCE_SECONDS,
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._stop = stop
        self._identity = identity
        self._timing, self._watch_silence = timing, watch_silence
        self._index = wiring.index(settings)
        self._served: ServedVersion | None = None
        self._watches: InformerManager | None = None
        self._label = wiring.leader_label(settings, kube, timing.request)
        self._metrics = metrics
        self.term = Term(settings, kube, self._index, stop, metrics)
        self._health = Health(self._parts, self._metrics_text)

    async def run(self) -> None:
        """Start in order: health server, informers, the election, then the term; run until asked to stop.

        What was sent to Vault by then is waited for while the Lease is still renewed.
        """
        if self._settings.health_listen:
            await self._health.start(self._settings.health_listen)
        await self.term.listen()
        logger.info(
            "vaultsync starts",
            version=__version__,
            vault=self._settings.vault_addr,
            kubernetes=self._kube.server,
            seed=self._settings.seed.value,
            dry_run=self._settings.dry_run,
        )
        async with asyncio.TaskGroup() as tasks:
            main = tasks.create_task(self._main())
            await self._stop.wait()
            logger.info("vaultsync stops")
            await self.term.drain()
            main.cancel()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._health.stop()
        await self.term.close()
        await self._kube.close()

    def _metrics_text(self) -> bytes:
        self.term.status.report(self._metrics)
        return self._metrics.text()

    def _parts(self) -> Iterator[Part]:
        return self.term.status.parts()

    # -- Kubernetes

    async def _main(self) -> None:
        """Watch Kubernetes and act; list it anew, ever more slowly, where a resource is not served any more."""
        waits = backoff(FIRST_RESTART, LONGEST_RESTART)
        said = ""
        while True:
            started = time.monotonic()
            reason = ""
            try:
                await self._watch()
            except* KubeNotFound as errors:  # such as v1beta1 after an upgrade
                reason = first_reason(errors)
            if time.monotonic() - started > STEADY_SECONDS:
                waits, said = backoff(FIRST_RESTART, LONGEST_RESTART), ""
            wait = next(waits)
            logger.log(
                "DEBUG" if reason == said else "WARNING",
                "starting anew: a resource is not served any more",
                reason=reason,
                retry_s=round(wait, 1),
            )
            said = reason
            self._index = wiring.index(self._settings)
            self._watches = None
            await self._begin_anew()
            await asyncio.sleep(wait)

    async def _watch(self) -> None:
        """Watch Kubernetes, and act for as long as this replica is the one that leads.

        Raises:
            KubeNotFound: in a group: a resource is not served (any more).
        """
        self._served = await self._wait_for_external_secrets()
        async with asyncio.TaskGroup() as tasks:
            selection = self._settings.selection
            self._watches = InformerManager(
                tasks, self._kube, self._served.version, selection, _ToTerm(self), silence=self._watch_silence
            )
            self._tell_term()
            await self._watches.start()
            spare_collection(anew=True)
            logger.info("watching Kubernetes", external_secrets_version=self._served.version)
            if self._label is not None:
                tasks.create_task(self._label.run())
            while True:
                await self._serve()

    async def _wait_for_external_secrets(self) -> ServedVersion:
        said = ""
        for wait in backoff(0.1, 10.0):
            try:
                found = await discover(self._kube)
                reason = self.term.status.unserved = NOT_SERVED
            except VaultsyncError as error:
                found, reason = None, str(error)
                self.term.status.unserved = in_words(error.result)
            if found is not None:
                return found
            if reason != said:
                logger.warning("waiting for Kubernetes", reason=reason)
            said = reason
            await asyncio.sleep(wait)
        raise AssertionError("backoff is endless")

    # -- terms of leadership

    async def _serve(self) -> None:
        """Wait to lead, lead, and get ready for the next term once the leadership is lost."""
        if self.term.fence is None:
            await self.term.run()
            return
        try:
            election = self._election(self.term.fence)
            await election.run(lambda: self.term.run(self._label, election.previous_holder), self.term.release)
        except* LeadershipLost as errors:
            logger.warning("this process stands by: the leadership is lost", reason=first_reason(errors))
            if self._watches is not None:
                self._watches.reopen()  # without a renewal the way to the API server is bad, and watches may be dead
        await self._begin_anew()
        spare_collection(anew=True)
        await asyncio.sleep(STAND_BY_SECONDS)

    def _election(self, fence: Fence) -> Election:
        namespace, _, name = self._settings.lease.partition("/")
        kube = self._kube.unfenced(self._timing.request)
        return Election(kube, namespace, name, self._identity, fence, timing=self._timing)

    async def _begin_anew(self) -> None:
        """Replace the term that has ended."""
        await self.term.close()
        self.term = Term(self._settings, self._kube, self._index, self._stop, self._metrics)
        self._tell_term()

    def _tell_term(self) -> None:
        """Hand over what is known of Kubernetes."""
        self.term.status.watches = self._watches
        if self._served is not None:
            self.term.writer.takes_condition = self._served.takes_condition


class _ToTerm:
    """Hands on what the informers see to the current term's controller, which keeps the index too.

    Args:
        app: has the term.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        """See EventHandler."""
        self._app.term.controller.external_secret_changed(external_secret)

    def external_secret_removed(self, external_secret: ExternalSecret) -> None:
        """See EventHandler."""
        self._app.term.controller.external_secret_removed(external_secret)

    def store_changed(self, store: Store) -> None:
        """See EventHandler."""
        self._app.term.controller.store_changed(store)

    def store_removed(self, store: Store) -> None:
        """See EventHandler."""
        self._app.term.controller.store_removed(store)

    def namespace_changed(self, namespace: Namespace) -> None:
        """See EventHandler."""
        self._app.term.controller.namespace_changed(namespace)

    def namespace_removed(self, namespace: Namespace) -> None:
        """See EventHandler."""
        self._app.term.controller.namespace_removed(namespace)

    def kube_is_back(self) -> None:
        """See EventHandler."""
        self._app.term.controller.kube_is_back()
