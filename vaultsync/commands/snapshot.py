"""One listing of Kubernetes, put into an index, and one session with Vault: for the commands that run once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from loguru import logger

from vaultsync.commands import console, exit_codes
from vaultsync.config.selection import Selection
from vaultsync.config.settings import Settings
from vaultsync.controller.index import Index
from vaultsync.core.callbacks import ignore
from vaultsync.core.errors import KubeNotFound, VaultsyncError, first_reason
from vaultsync.core.external_secret import ExternalSecret, Namespace, Store
from vaultsync.core.push_secret import PushSecret
from vaultsync.kube.client import KubeClient, NoKubeConfig, connect
from vaultsync.kube.discovery import NOT_SERVED, discover
from vaultsync.kube.informer_manager import EventHandler, InformerManager
from vaultsync.kube.mount_record import read_mounts
from vaultsync.runtime import factory
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login

NO_KUBECONFIG: Final = "KUBECONFIG: no usable Kubernetes configuration: {}"

K = TypeVar("K")
T = TypeVar("T")


class IndexBuilder:
    """A kube.informer_manager.EventHandler that fills an index from one listing, which removes nothing."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        """Add it to the index."""
        self._index.put(external_secret)

    def store_changed(self, store: Store) -> None:
        """Add it to the index."""
        self._index.put_store(store)

    def namespace_changed(self, namespace: Namespace) -> None:
        """Add it to the index."""
        self._index.put_namespace(namespace)

    def push_secret_changed(self, push: PushSecret) -> None:
        """Add it to the index."""
        self._index.pushes.put(push)

    external_secret_removed = store_removed = push_secret_removed = namespace_removed = kube_is_back = ignore


def run_once(work: Coroutine[Any, Any, T]) -> T:
    """Run to completion; if Kubernetes or Vault fails or refuses, print the first such failure and end the process.

    Raises:
        InputError: on NoKubeConfig.
    """
    try:
        return asyncio.run(work)
    except NoKubeConfig as error:
        raise exit_codes.InputError(NO_KUBECONFIG.format(error)) from error
    except VaultsyncError as error:
        reason = str(error)
    except ExceptionGroup as errors:
        if errors.split(VaultsyncError)[1] is not None:
            raise
        reason = first_reason(errors)
    console.say(reason)
    return console.leave(exit_codes.FAILED)


async def for_each(keys: Iterable[K], work: Callable[[K], Coroutine[Any, Any, T]]) -> list[T]:
    """Process all keys at once, in a task group; vault.client limits its requests itself."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work(key)) for key in keys]
    return [task.result() for task in running]


@asynccontextmanager
async def vault_session(settings: Settings) -> AsyncIterator[tuple[VaultClient, Login]]:
    """A client and its login, which are closed at the end of the context. Does not log in."""
    login = factory.create_login(settings)
    vault = VaultClient(login, waits=True)
    try:
        yield vault, login
    finally:
        await login.close()
        await vault.close()


async def recorded_mounts(settings: Settings, kube: KubeClient) -> dict[str, str]:
    """The UUIDs of the mounts that a running vaultsync knows, none if its Lease can't be read."""
    if not settings.election_lease:
        return {}
    try:
        return await read_mounts(kube, settings.election_lease)
    except VaultsyncError as error:
        logger.warning("the record of Vault's mounts can't be read", reason=str(error))
        return {}


def connector(settings: Settings) -> Callable[[], Awaitable[KubeClient]]:
    """Connects to the API server with a client that writes nothing; see kube.client.connect."""
    return partial(connect, settings.kubeconfig, settings.kube_timeout, read_only=True)


@asynccontextmanager
async def kube_session(connect_kube: Callable[[], Awaitable[KubeClient]]) -> AsyncIterator[KubeClient]:
    """A client, which is closed at the end of the context.

    Raises:
        NoKubeConfig: there is no Kubernetes configuration.
    """
    kube = await connect_kube()
    try:
        yield kube
    finally:
        await kube.close()


async def list_once(kube: KubeClient, handler: EventHandler, selection: Selection) -> None:
    """List the selected objects of Kubernetes for the handler.

    Raises:
        VaultsyncError: external-secrets is not served, or the API server does not answer.
        ExceptionGroup: of VaultsyncErrors: a list failed.
    """
    found = await discover(kube)
    if found is None:
        raise KubeNotFound(NOT_SERVED)
    async with asyncio.TaskGroup() as tasks:
        await InformerManager(
            tasks, kube, found.version, selection, handler, once=True, push_version=found.push_version
        ).start()
