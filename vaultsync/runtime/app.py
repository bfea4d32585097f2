"""The process: creates, starts and stops its parts. runtime.term has those that a replica needs only while it leads."""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Final

from loguru import logger

from vaultsync import __version__
from vaultsync.config.settings import Settings, removed_variables
from vaultsync.core.annotations import Result
from vaultsync.core.errors import KubeNotFound, VaultsyncError, first_reason
from vaultsync.core.retry import Retry
from vaultsync.kube.client import KubeClient, connect
from vaultsync.kube.discovery import NOT_SERVED, ServedVersion, cluster_id, discover
from vaultsync.kube.election import TIMING, Election, LeadershipLost, Timing
from vaultsync.kube.informer import SILENCE_SECONDS
from vaultsync.kube.informer_manager import RESOURCES, InformerManager
from vaultsync.kube.leader_label import LeaderLabel
from vaultsync.runtime import factory
from vaultsync.runtime.health import HealthServer, PartStatus
from vaultsync.runtime.lifecycle import Stop, report_callback
from vaultsync.runtime.metrics import Metrics
from vaultsync.runtime.term import Term, freeze_garbage_collection

FIRST_RESTART, LONGEST_RESTART = 1.0, 60.0
"""Seconds before the informers are restarted after a resource is no longer served."""
STEADY_SECONDS: Final = 120.0
"""Informers that ran this long count as a success: the next restart waits FIRST_RESTART."""
FIRST_DISCOVERY_RETRY, LONGEST_DISCOVERY_RETRY = 0.1, 10.0
"""Seconds between attempts to discover the served version of external-secrets."""
STANDBY_SECONDS: Final = 1.0
"""Between the end of a term and the next attempt to acquire the Lease."""
LISTED: Final = "watched"
NOT_LISTED: Final = "not listed yet"
UNAVAILABLE: Final = "no answer from the API server; see the log"
REFUSED: Final = "the API server refuses; see the log"


async def run(settings: Settings, timing: Timing = TIMING, watch_silence: float = SILENCE_SECONDS) -> None:
    """Run until SIGTERM or SIGINT; the arguments are those of App.

    Raises:
        NoKubeConfig: there is no usable Kubernetes configuration.
        OSError: an address to listen on is not available.
    """
    stop = Stop()
    stop.on_signals()
    asyncio.get_running_loop().set_exception_handler(report_callback)
    for name, fix in removed_variables(os.environ).items():
        logger.warning("a variable is no longer supported", variable=name, to_do=fix)
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

    A replica that loses the Lease becomes a standby: its `Term` ends, and a new one waits for the Lease. Informers,
    index, metrics and health server continue, so that Kubernetes is not listed again.

    Args:
        kube: without a fence; counts with `metrics`.
        stop: ends `run`.
        identity: of this process in the election.
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
        self._index = factory.create_index(settings)
        self._served: ServedVersion | None = None
        self._cluster = ""
        self._informers: InformerManager | None = None
        self._discovery = NOT_LISTED
        """Why there are no informers yet, for /readyz."""
        self._label: LeaderLabel | None = None
        """None if no Service selects the leader's pod."""
        if settings.labels_leader:
            namespace, _, _ = settings.lease.partition("/")
            self._label = LeaderLabel(kube.unfenced(timing.request), namespace, settings.pod_name)
        self._metrics = metrics
        self.term = Term(settings, kube, self._index, stop, metrics)
        self._health = HealthServer(self.statuses, self.metrics_text)

    async def run(self) -> None:
        """Start in order: health server, informers, the election, then the term; run until the stop is requested.

        The Lease is still renewed while `run` waits for the pending writes to Vault at the end.
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
        """Close every connection."""
        await self._health.stop()
        await self.term.close()
        await self._kube.close()

    def metrics_text(self) -> bytes:
        """The response to /metrics."""
        for resource, failed in self._failed_watches().items():
            self._metrics.watches_lost.labels(resource).set(len(failed))
        self.term.set_gauges(self._metrics)
        return self._metrics.text()

    def statuses(self) -> Iterator[PartStatus]:
        """The response to /readyz. Only the first lists are required. A standby sends no request to Vault."""
        yield PartStatus("role", "leading" if self.term.is_leading else "standby")
        if self._informers is None:
            yield PartStatus("kubernetes", self._discovery, is_healthy=False, is_required=True)
        else:
            failed = self._failed_watches()
            for resource, is_listed in self._informers.ready().items():
                message = _message(failed[resource][0]) if failed[resource] else LISTED if is_listed else NOT_LISTED
                yield PartStatus(resource, message, is_listed and not failed[resource], is_required=not is_listed)
        if self.term.is_leading:
            yield from self.term.statuses()

    def _failed_watches(self) -> dict[str, list[Result]]:
        return self._informers.trouble() if self._informers else {resource: [] for resource in RESOURCES}

    # -- Kubernetes

    async def _main(self) -> None:
        """Run the informers and the terms; restart them, with a backoff, when a resource is no longer served."""
        retry = Retry(FIRST_RESTART, LONGEST_RESTART)
        while True:
            started, reason = time.monotonic(), ""
            try:
                await self._watch()
            except* KubeNotFound as errors:  # such as v1beta1 after an upgrade
                reason = first_reason(errors)
            if time.monotonic() - started > STEADY_SECONDS:
                retry.succeeded()
            failed = retry.failed(reason)
            message = "restarting the informers: a resource is no longer served"
            logger.log(failed.level, message, reason=reason, retry_s=round(failed.wait, 1))
            self._index = factory.create_index(self._settings)
            self._informers = None
            await self._begin_term()
            await asyncio.sleep(failed.wait)

    async def _watch(self) -> None:
        """Watch Kubernetes, and run one term after the other.

        Raises:
            KubeNotFound: in a group: a resource is not served, or no longer served.
        """
        self._served = await self._wait_for_external_secrets()
        async with asyncio.TaskGroup() as tasks:
            selection = self._settings.selection
            self._informers = InformerManager(
                tasks,
                self._kube,
                self._served.version,
                selection,
                self.term.controller,
                silence=self._watch_silence,
                push_version=self._served.push_version,
            )
            self._configure_term()
            await self._informers.start()
            freeze_garbage_collection(unfreeze=True)
            logger.info("watching Kubernetes", external_secrets_version=self._served.version)
            if self._label is not None:
                tasks.create_task(self._label.run())
            while True:
                await self._serve()

    async def _wait_for_external_secrets(self) -> ServedVersion:
        retry = Retry(FIRST_DISCOVERY_RETRY, LONGEST_DISCOVERY_RETRY)
        while True:
            try:
                if (found := await discover(self._kube)) is not None:
                    self._cluster = self._settings.cluster or await cluster_id(self._kube)
                    return found
                reason = self._discovery = NOT_SERVED
            except VaultsyncError as error:
                reason, self._discovery = str(error), _message(error.result)
            failed = retry.failed(reason)
            if failed.is_new:
                logger.warning("waiting for Kubernetes", reason=reason)
            await asyncio.sleep(failed.wait)

    # -- terms of leadership

    async def _serve(self) -> None:
        """Acquire the Lease, run the term, and prepare the next one after the Lease is lost."""
        if self.term.fence is None:
            await self.term.run()
            return
        namespace, _, name = self._settings.lease.partition("/")
        kube, timing = self._kube.unfenced(self._timing.request), self._timing
        election = Election(kube, namespace, name, self._identity, self.term.fence, timing=timing)
        try:
            await election.run(lambda: self.term.run(self._label, election.previous_holder), self.term.release)
        except* LeadershipLost as errors:
            logger.warning("leadership lost: this replica is now a standby", reason=first_reason(errors))
            if self._informers is not None:
                self._informers.reopen()  # renewals failed, so the watches may be dead too
        await self._begin_term()
        freeze_garbage_collection(unfreeze=True)
        await asyncio.sleep(STANDBY_SECONDS)

    async def _begin_term(self) -> None:
        """Replace the term that has ended."""
        await self.term.close()
        self.term = Term(self._settings, self._kube, self._index, self._stop, self._metrics)
        self._configure_term()

    def _configure_term(self) -> None:
        if self._informers is not None:
            self._informers.handler = self.term.controller
        if self._served is not None:
            self.term.configure(self._served, self._cluster)


def _message(result: Result) -> str:
    """Why a list or watch fails."""
    return REFUSED if result is Result.REFUSED else UNAVAILABLE
