"""Runs the informers: over the whole cluster, or over each selected namespace. Decides nothing else.

Requests are limited to the selection, so that RBAC may be, too: a namespace given by name is listed and watched with a
field selector (as a rule with `resourceNames` requires), and its objects under the namespace's path (as a RoleBinding
requires).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TypeVar

from loguru import logger

from vaultsync.config.selection import Selection
from vaultsync.core.annotations import GROUP, Result
from vaultsync.core.external_secret import (
    ExternalSecret,
    Json,
    Namespace,
    Store,
    parse_external_secret,
    parse_namespace,
    parse_store,
)
from vaultsync.core.push_secret import PushSecret, parse_push_secret
from vaultsync.kube.client import KubeClient
from vaultsync.kube.informer import SILENCE_SECONDS, Informer

T = TypeVar("T")

NAMESPACES: Final = "namespaces"
CLUSTER_STORES: Final = "clustersecretstores"
STORES: Final = "secretstores"
EXTERNAL_SECRETS: Final = "externalsecrets"
PUSH_SECRETS: Final = "pushsecrets"
_KINDS: Final = {
    NAMESPACES: "Namespace",
    CLUSTER_STORES: "ClusterSecretStore",
    STORES: "SecretStore",
    EXTERNAL_SECRETS: "ExternalSecret",
    PUSH_SECRETS: "PushSecret",
}
RESOURCES: Final = tuple(_KINDS)


class EventHandler(Protocol):
    """Handles changes of Kubernetes objects; must not block.

    An object has changed also if it is new or listed again. It is removed also if it, or its namespace, is no longer
    selected; the objects in a removed namespace are removed with it.
    """

    def external_secret_changed(self, external_secret: ExternalSecret) -> None: ...
    def external_secret_removed(self, external_secret: ExternalSecret) -> None: ...
    def store_changed(self, store: Store) -> None: ...
    def store_removed(self, store: Store) -> None: ...
    def push_secret_changed(self, push: PushSecret) -> None: ...
    def push_secret_removed(self, push: PushSecret) -> None: ...
    def namespace_changed(self, namespace: Namespace) -> None: ...
    def namespace_removed(self, namespace: Namespace) -> None: ...
    def kube_is_back(self) -> None:
        """The API server answers again after a failure."""


class InformerManager:
    """Starts and stops informers, each in its task.

    Args:
        tasks: group of the informers' tasks; KubeNotFound of one of them ends it.
        version: of external-secrets.io.
        once: list without watching; any failure ends the task group.
        silence: seconds, as for `Informer`.
        push_version: of PushSecrets, "" if they are not served.

    Attributes:
        handler: of the changes from now on; a new term of leadership replaces it.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        client: KubeClient,
        version: str,
        selection: Selection,
        handler: EventHandler,
        once: bool = False,
        silence: float = SILENCE_SECONDS,
        push_version: str = "",
    ) -> None:
        self._tasks = tasks
        self._client = client
        self._version, self._push_version = version, push_version
        self._selection = selection
        self.handler = handler
        self._once = once
        self._silence = silence
        self._running: dict[tuple[str, str], tuple[Informer[Any], asyncio.Task[None]]] = {}
        """By resource and namespace ("" for the whole cluster)."""
        self._started = False

    async def start(self) -> None:
        """Start every informer, and wait until all selected objects are listed."""
        for name in self._selection.namespaces or ("",):
            self._start_namespaces(name)
        self._start_stores(CLUSTER_STORES, "")
        if self._selection.takes_every_namespace:
            self._start_inside("")
        # the informer of namespaces starts others before it is synced
        while waiting := [informer for informer, _ in self._running.values() if not informer.synced.is_set()]:
            await waiting[0].synced.wait()
        self._started = True

    def reopen(self) -> None:
        """Reopen each watch at its resourceVersion, after the connection to the API server was lost."""
        for informer, _ in self._running.values():
            informer.reopen()

    def ready(self) -> dict[str, bool]:
        """By resource, whether the first lists are complete; namespaces that are selected later do not count."""
        if self._started:
            return dict.fromkeys(RESOURCES, True)
        waiting = {resource for (resource, _), (informer, _) in self._running.items() if not informer.synced.is_set()}
        return {resource: resource not in waiting for resource in RESOURCES}

    def trouble(self) -> dict[str, list[Result]]:
        """By resource, the failures of lists and watches that do not work now."""
        found: dict[str, list[Result]] = {resource: [] for resource in RESOURCES}
        for (resource, _), (informer, _) in self._running.items():
            if informer.trouble is not None:
                found[resource].append(informer.trouble)
        return found

    def _start_namespaces(self, name: str) -> None:
        query = {"fieldSelector": f"metadata.name={name}"} if name else {}
        if self._selection.namespace_labels:
            query["labelSelector"] = self._selection.namespace_labels
        self._start(NAMESPACES, name, parse_namespace, self._namespace_changed, self._namespace_removed, query)

    def _namespace_changed(self, namespace: Namespace) -> None:
        self.handler.namespace_changed(namespace)
        if self._selection.takes_every_namespace or (EXTERNAL_SECRETS, namespace.name) in self._running:
            return
        logger.info("watching a namespace", namespace=namespace.name)
        self._start_inside(namespace.name)

    def _namespace_removed(self, namespace: Namespace) -> None:
        if not self._selection.takes_every_namespace:
            logger.info("a namespace is no longer watched: it is deleted or not selected", namespace=namespace.name)
            for resource in (EXTERNAL_SECRETS, STORES, PUSH_SECRETS):
                if (resource, namespace.name) in self._running:
                    self._stop(resource, namespace.name)
        self.handler.namespace_removed(namespace)

    def _start_inside(self, namespace: str) -> None:
        self._start_stores(STORES, namespace)
        if self._push_version:
            self._start(
                PUSH_SECRETS,
                namespace,
                parse_push_secret,
                lambda changed: self.handler.push_secret_changed(changed),
                lambda removed: self.handler.push_secret_removed(removed),
                {},
            )
        query = {"labelSelector": self._selection.labels} if self._selection.labels else {}
        self._start(
            EXTERNAL_SECRETS,
            namespace,
            parse_external_secret,
            lambda changed: self.handler.external_secret_changed(changed),
            lambda removed: self.handler.external_secret_removed(removed),
            query,
        )

    def _start_stores(self, resource: str, namespace: str) -> None:
        self._start(
            resource,
            namespace,
            parse_store,
            lambda changed: self.handler.store_changed(changed),
            lambda removed: self.handler.store_removed(removed),
            {},
        )

    def _start(
        self,
        resource: str,
        namespace: str,
        parse: Callable[[Json], T],
        changed: Callable[[T], None],
        removed: Callable[[T], None],
        query: Mapping[str, str],
    ) -> None:
        place = f"namespaces/{namespace}/{resource}" if namespace else resource
        version = self._push_version if resource == PUSH_SECRETS else self._version
        path = "/api/v1/namespaces" if resource == NAMESPACES else f"/apis/{GROUP}/{version}/{place}"
        optional = resource == PUSH_SECRETS
        informer = Informer(
            self._client, path, _KINDS[resource], parse, changed, removed, self._silence, query, optional
        )
        work = informer.list_once() if self._once else informer.run(lambda: self.handler.kube_is_back())
        self._running[resource, namespace] = (informer, self._tasks.create_task(work))

    def _stop(self, resource: str, namespace: str) -> None:
        informer, task = self._running.pop((resource, namespace))
        task.cancel()  # processes no further event
        informer.forget()
