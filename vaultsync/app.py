"""Where the parts are wired, started and stopped. No logic of its own beyond the order of that."""

import asyncio
import gc
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from loguru import logger

from vaultsync import __version__
from vaultsync.checkup import Asking, Checked, Checkup, missing
from vaultsync.core.backoff import backoff
from vaultsync.core.check import Hearing
from vaultsync.core.decide import Defaults, SeedMode
from vaultsync.core.errors import KubeDenied, KubeNotFound, VaultsyncError, first_reason
from vaultsync.core.events import VaultEvent
from vaultsync.core.fence import Fence
from vaultsync.core.logins import Way
from vaultsync.core.names import GROUP
from vaultsync.core.objects import ObjectName
from vaultsync.core.paths import clean_namespace
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.setup import script
from vaultsync.engine.budget import Budget
from vaultsync.engine.controller import Controller
from vaultsync.engine.index import Index, server_identity
from vaultsync.engine.ledger import Ledger
from vaultsync.engine.marker import Marker
from vaultsync.engine.orphans import Found, Orphan, Orphans
from vaultsync.engine.reconciler import Reconciler
from vaultsync.engine.survey import Explained, Survey
from vaultsync.engine.syncer import Syncer
from vaultsync.kube.client import KubeClient, connect
from vaultsync.kube.election import TIMING, Election, LeadershipLost, awake
from vaultsync.kube.endpoint import Endpoint
from vaultsync.kube.external_secrets import SERVED_VERSIONS, ExternalSecretWriter, Served, served
from vaultsync.kube.recorder import Recorder
from vaultsync.kube.selection import Selection
from vaultsync.kube.watches import Listener, Watches
from vaultsync.ops.health import Health
from vaultsync.ops.metrics import Metrics
from vaultsync.settings import Settings
from vaultsync.status import Status, in_words
from vaultsync.vault.audit import Audit, AuditAccess
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.poll import Poller
from vaultsync.vault.sources import Sources
from vaultsync.vault.stream import EventStream
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess

NOT_SERVED: Final = f"{GROUP} is not served in {' or '.join(SERVED_VERSIONS)}: install external-secrets' CRDs"
NOT_ALL: Final = "what no ExternalSecret reads can be told only where all of the cluster's may be listed"
RESTART_SECONDS: Final = 1.0
"""Before all parts are made anew."""
FLUSH_SECONDS: Final = 1.0
"""The longest that a stop waits for Vault; the next leader waits as well."""
LISTEN_AGAIN_SECONDS: Final = 5.0
"""Between attempts at most, where a leader that hangs still has the address."""
LOGIN_FIRST_SECONDS: Final = 2.0
"""How long the first look at everything waits for the login, so that nothing fails for want of it."""
STREAM_FIRST_SECONDS: Final = 2.0
"""How long the first look at everything waits for the event stream, so that nothing is looked at twice."""


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    A replica that has lost the Lease stops acting and becomes a standby, all of its parts made anew: nothing that it
    knew as a leader counts any more. client-go's callers end the process instead, which Kubernetes then starts with
    ever longer pauses.

    Raises:
        NoKubeConfig: there is no way to speak to Kubernetes.
        OSError: an address to listen on can't be had.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    identity = f"{socket.gethostname()}_{uuid.uuid4()}"
    while not stop.is_set():
        fence = Fence(awake) if settings.lease and not settings.dry_run else None
        kube = await connect(settings.kubeconfig, settings.kube_timeout, settings.dry_run, fence)
        app = App(settings, kube, fence, identity)
        try:
            await app.run(stop)
        except* KubeNotFound as errors:  # such as v1beta1 after an upgrade: all state is rebuilt from what is served
            logger.warning("starting anew: a resource is not served any more", reason=first_reason(errors))
        except* LeadershipLost as errors:
            logger.warning("starting anew, as a standby: the leadership is lost", reason=first_reason(errors))
        finally:
            await app.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(RESTART_SECONDS):
                await stop.wait()


class SurveyFailed(Exception):
    """Kubernetes or Vault did not answer, or Kubernetes refused; the message is the first such answer."""


async def survey(settings: Settings, only: ObjectName | None = None) -> list[Explained]:
    """List everything once, look at what it reads in Vault, and tell what `run` would do. Writes nothing.

    Args:
        settings: those of `run`.
        only: tell of this ExternalSecret alone.

    Returns:
        Each ExternalSecret, by name; none if `only` is not there.

    Raises:
        NoKubeConfig: there is no way to speak to Kubernetes.
        SurveyFailed: what was asked could not be told as a whole.
    """
    async with _vault(settings) as vault:
        made = Survey(_index(settings), vault, _seed_paths(settings), settings.seed)
        async with _listed(settings, made, _selection(settings)):
            return await made.explain(only)


async def check(settings: Settings) -> Checked:
    """Ask Kubernetes and Vault for all that `run` needs. Writes to neither.

    Args:
        settings: those of `run`.

    Returns:
        What was found, whatever fails.
    """
    login = _login(settings)
    vault, index = VaultClient(login, waits=True), _index(settings)
    stream = EventStream(login, _nothing, _nothing)
    survey = Survey(index, vault, _seed_paths(settings), settings.seed)
    try:
        made = Checkup(_asking(settings), login, vault, stream, index, survey)
        return await made.run(lambda: connect(settings.kubeconfig, settings.kube_timeout, read_only=True))
    finally:
        await login.close()
        await vault.close()


async def setup(settings: Settings, *, asks: bool) -> str:
    """The shell commands that set up what vaultsync needs.

    Args:
        settings: those of `run`.
        asks: whether to ask first what is there already.

    Raises:
        ValueError: a glob of VAULTSYNC_SEED_PATHS is for none of the mounts.
    """
    found = await check(settings) if asks else Checked()
    return script(missing(_asking(settings), found))


def _asking(settings: Settings) -> Asking:
    """The settings, as far as `check` asks something because of them."""
    endpoint = _audit_endpoint(settings)
    return Asking(
        address=settings.vault_addr,
        servers=(settings.vault_addr, *settings.store_servers),
        vault_namespace=clean_namespace(settings.vault_namespace),
        selection=_selection(settings),
        seed_paths=_seed_paths(settings),
        seeds=settings.seed is not SeedMode.OFF and not settings.dry_run,
        by_annotation=settings.seed is SeedMode.ANNOTATED,
        writes=not settings.dry_run,
        hearing=Hearing(settings.source.value, settings.audit_listen, settings.audit_file, settings.poll_interval),
        streams=settings.source.streams,
        way=Way(
            auth=settings.vault_auth,
            mount=settings.vault_auth_mount,
            role=settings.vault_role,
            token_file=settings.vault_token_file,
            jwt_file=settings.vault_jwt_file,
            role_id_file=settings.vault_role_id_file,
            secret_id_file=settings.vault_secret_id_file,
        ),
        lease="" if settings.dry_run else settings.lease,
        families=(endpoint[0].version,) if endpoint else (),
    )


async def orphans(settings: Settings) -> Found:
    """List the whole cluster once, whatever is selected, and tell what vaultsync made in Vault and nobody reads there.

    Raises:
        NoKubeConfig: there is no way to speak to Kubernetes.
        SurveyFailed: as for `survey`.
    """
    async with _cluster(settings) as made:
        return await made.find()


async def delete_orphans(settings: Settings, chosen: Sequence[Orphan]) -> AsyncIterator[tuple[Orphan, str]]:
    """Soft-delete what `orphans` has told, if it still is what it was.

    Args:
        settings: those of `run`, with a token that may do so.
        chosen: of `orphans`.

    Yields:
        Each, with the reason why it was left alone, "" if it is deleted.

    Raises:
        NoKubeConfig: there is no way to speak to Kubernetes.
        SurveyFailed: as for `survey`; what was not told of is left alone.
    """
    async with _cluster(settings) as made, aclosing(made.delete(chosen)) as done:
        async for one in done:
            yield one


@asynccontextmanager
async def _cluster(settings: Settings) -> AsyncIterator[Orphans]:
    """All of the cluster, listed."""
    async with _vault(settings) as vault:
        made = Orphans(_index(settings), vault, settings.cluster, clean_namespace(settings.vault_namespace))
        try:
            async with _listed(settings, made, Selection()):
                yield made
        except SurveyFailed as error:
            if isinstance(error.__cause__, ExceptionGroup) and error.__cause__.subgroup(KubeDenied):
                raise SurveyFailed(f"{NOT_ALL}: {error}") from error
            raise


@asynccontextmanager
async def _vault(settings: Settings) -> AsyncIterator[VaultClient]:
    """Logged in for a while, and out again.

    Raises:
        SurveyFailed: there is no token to be had.
    """
    logged_in = _login(settings)
    vault = VaultClient(logged_in, waits=True)
    try:
        await logged_in.log_in()
        yield vault
    except VaultsyncError as error:
        raise SurveyFailed(str(error)) from error
    finally:
        await logged_in.close()
        await vault.close()


@asynccontextmanager
async def _listed(settings: Settings, listener: Listener, selection: Selection) -> AsyncIterator[None]:
    """Have the listener told once of what is selected.

    Raises:
        NoKubeConfig: there is no way to speak to Kubernetes.
        SurveyFailed: a request failed, of this or of what is done with it.
    """
    try:
        kube = await connect(settings.kubeconfig, settings.kube_timeout, read_only=True)
        try:
            found = await served(kube)
            if found is None:
                raise SurveyFailed(NOT_SERVED)
            async with asyncio.TaskGroup() as tasks:
                await Watches(tasks, kube, found.version, selection, listener, once=True).start()
        finally:
            await kube.close()
        yield
    except VaultsyncError as error:
        raise SurveyFailed(str(error)) from error
    except ExceptionGroup as errors:
        if errors.split(VaultsyncError)[1] is not None:
            raise
        raise SurveyFailed(first_reason(errors)) from errors


def _login(settings: Settings) -> Login:
    return Login(
        VaultAccess(
            address=settings.vault_addr,
            namespace=settings.vault_namespace,
            timeout=settings.vault_timeout,
            tls=Tls(
                settings.vault_cacert,
                settings.vault_client_cert,
                settings.vault_client_key,
                settings.vault_tls_server_name,
            ),
        ),
        settings.login_method(),
    )


def _audit_access(settings: Settings) -> AuditAccess:
    return AuditAccess(
        listen=settings.audit_listen,
        file=settings.audit_file,
        allowed=settings.audit_allow,
        certificate=settings.audit_tls_cert,
        key=settings.audit_tls_key,
    )


def _audit_endpoint(settings: Settings) -> tuple[IPv4Address | IPv6Address, int] | None:
    """Address and port to which the leader leads Vault's audit device, None where nothing has to lead it."""
    _, _, port = settings.audit_listen.rpartition(":")
    if not settings.lease or settings.dry_run or settings.pod_ip is None or not port.isdecimal():
        return None
    return settings.pod_ip, int(port)


def _index(settings: Settings) -> Index:
    servers = frozenset(server_identity(server) for server in (settings.vault_addr, *settings.store_servers))
    return Index(servers, settings.seed, Defaults(settings.generate, settings.rotate_after))


def _seed_paths(settings: Settings) -> SeedPaths:
    return SeedPaths.parse(settings.seed_paths, settings.vault_namespace)


def _selection(settings: Settings) -> Selection:
    return Selection(settings.namespaces, settings.namespace_selector, settings.selector)


def _spare_collection(*, anew: bool) -> None:
    """Have Python's garbage collection pass over all that is there now.

    A collection of ten thousand ExternalSecrets holds up the loop for a tenth of a second, and finds nothing: what is
    not used any more is let go of by its reference count.

    Args:
        anew: what was passed over before, such as for an App that has ended, is looked at once more.
    """
    if anew:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def _nothing(*_: object) -> None:
    """Nobody wants to know."""


class App:
    """All parts of one vaultsync.

    Args:
        kube: passes what it writes through the fence.
        fence: None where nobody is elected, as there is no other replica.
        identity: of this process in the election.
    """

    def __init__(self, settings: Settings, kube: KubeClient, fence: Fence | None = None, identity: str = "") -> None:
        self._settings = settings
        self._kube = kube
        self._fence = fence
        self._identity = identity
        self._login = _login(settings)
        self._vault = VaultClient(self._login, fence)
        self._recorder = Recorder(kube)
        index, ledger = _index(settings), Ledger()
        loop = asyncio.get_running_loop()
        budget = Budget(settings.seed_budget, loop.time)
        self._marker = Marker(ledger, self._vault)
        reconciler = Reconciler(
            index,
            ledger,
            self._vault,
            _seed_paths(settings),
            budget,
            self._marker,
            settings.cluster,
            settings.dry_run,
        )
        self._writer = ExternalSecretWriter(kube)
        syncer = Syncer(index, ledger, self._writer, self._recorder, loop.time, settings.dry_run)
        self._controller = Controller(index, ledger, reconciler, syncer, settings.resync)
        self._login.on_change = self._controller.vault_lets_in
        self._stream = EventStream(self._login, self._vault_connected, self._controller.vault_changed)
        self._audit = Audit(_audit_access(settings), self._audit_connected, self._audited)
        poller = Poller(self._vault, self._controller, settings.poll_interval, settings.poll_rate)
        self._sources = Sources(settings.source, self._stream, self._audit, poller, lambda: self._vault.last_written)
        self._status = Status(
            index=index,
            ledger=ledger,
            budget=budget,
            reconciler=reconciler,
            syncer=syncer,
            controller=self._controller,
            vault=self._vault,
            login=self._login,
            kube=kube,
            stream=self._stream,
            audit=self._audit,
            sources=self._sources,
            is_leading=lambda: self.is_leading,
        )
        self._health = Health(self._status.parts, Metrics(self._status.figures).text)

    @property
    def is_leading(self) -> bool:
        """Whether this replica acts; always, where nobody is elected."""
        return self._fence is None or self._fence.is_open

    async def run(self, stop: asyncio.Event) -> None:
        """Start in order: informers, the election, then the stream and workers; run until `stop` is set.

        Raises:
            KubeNotFound: in a group, as LeadershipLost is: all parts are to be made anew.
        """
        if self._settings.health_listen:
            await self._health.start(self._settings.health_listen)
        if self._fence is None:
            await self._audit.start()
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
            await stop.wait()
            logger.info("vaultsync stops")
            main.cancel()

    async def close(self) -> None:
        """Let go of every connection."""
        await self._health.stop()
        await self._audit.stop()
        await self._login.close()
        await self._vault.close()
        await self._kube.close()

    async def _main(self) -> None:
        served = await self._wait_for_external_secrets()
        self._writer.takes_condition = served.takes_condition
        async with asyncio.TaskGroup() as tasks:
            watches = Watches(tasks, self._kube, served.version, _selection(self._settings), self._controller)
            self._status.watches = watches
            await watches.start()
            _spare_collection(anew=True)
            logger.info("watching Kubernetes", external_secrets_version=served.version)
            if self._fence is None:
                await self._lead()
            else:
                await self._elected(self._fence).run(self._lead)

    def _elected(self, fence: Fence) -> Election:
        namespace, _, name = self._settings.lease.partition("/")
        return Election(self._kube.unfenced(TIMING.request), namespace, name, self._identity, fence, timing=TIMING)

    async def _lead(self) -> None:
        """Look at everything and act, until cancelled; then leave what marks are left."""
        endpoint = self._endpoint()
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._fence is not None:
                    tasks.create_task(self._listen(endpoint))
                await self._act(tasks)
        finally:
            await self._audit.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._marker.flush()
            if endpoint is not None:
                await endpoint.withdraw()

    async def _act(self, tasks: asyncio.TaskGroup) -> None:
        tasks.create_task(self._login.run())  # a standby has no token
        with suppress(TimeoutError):
            async with asyncio.timeout(LOGIN_FIRST_SECONDS):
                await self._login.tried.wait()
        tasks.create_task(self._sources.run())
        if self._settings.source.streams:
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_FIRST_SECONDS):
                    await self._stream.tried.wait()
        parts: tuple[Coroutine[Any, Any, None], ...] = (
            self._controller.work(),
            self._controller.resync(),
            self._recorder.run(),
            self._marker.run(),
        )
        for part in parts:
            tasks.create_task(part)
        await self._controller.caught_up.wait()
        _spare_collection(anew=False)

    def _endpoint(self) -> Endpoint | None:
        """Where Vault's audit device is led to this pod, None where nothing has to lead it."""
        found = _audit_endpoint(self._settings)
        if self._fence is None or found is None:
            return None
        namespace, _, name = self._settings.lease.partition("/")
        return Endpoint(self._kube, namespace, f"{name}-audit", *found)

    async def _listen(self, endpoint: Endpoint | None) -> None:
        """Be heard by Vault's audit device: only the leader listens, so that the device finds nobody else."""
        for wait in backoff(0.1, LISTEN_AGAIN_SECONDS):
            try:
                await self._audit.start()
                break
            except OSError as error:
                logger.warning("can't listen for Vault's audit device", reason=str(error), retry_s=round(wait, 1))
            await asyncio.sleep(wait)
        if endpoint is not None:
            await endpoint.announce()

    async def _wait_for_external_secrets(self) -> Served:
        said = ""
        for wait in backoff(0.1, 10.0):
            try:
                found = await served(self._kube)
                reason = self._status.unserved = NOT_SERVED
            except VaultsyncError as error:
                found, reason = None, str(error)
                self._status.unserved = in_words(error.result)
            if found is not None:
                return found
            if reason != said:
                logger.warning("waiting for Kubernetes", reason=reason)
            said = reason
            await asyncio.sleep(wait)
        raise AssertionError("backoff is endless")

    def _vault_connected(self) -> None:
        self._vault.forget_mounts()  # another Vault may answer now, such as one that was restored
        self._controller.vault_connected()

    def _audit_connected(self) -> None:
        alone = not self._stream.is_connected
        if alone:
            self._vault.forget_mounts()
        self._controller.audit_connected(alone=alone)

    def _audited(self, event: VaultEvent) -> None:
        if event.is_deletion or not self._stream.is_connected:  # what the stream tells needs not be told twice
            self._controller.vault_changed(event)
