"""Which informers run: over the whole cluster, or over each selected namespace on its own. Decides nothing else.

The API server is asked for nothing but what is selected, in such a way that RBAC may allow no more than that: a
namespace given by name is listed and watched with a field selector (which a rule with `resourceNames` allows), and what
is in a namespace under the namespace's path (which a RoleBinding in it allows).
"""

import asyncio
from operator import attrgetter
from typing import Any, Final, Protocol

from loguru import logger

from vaultsync.config.selection import Selection
from vaultsync.core.annotations import GROUP, Result
from vaultsync.core.external_secret import (
    ExternalSecret,
    Namespace,
    Store,
    parse_external_secret,
    parse_namespace,
    parse_store,
)
from vaultsync.kube.client import KubeClient
from vaultsync.kube.informer import Informer

NAMESPACES: Final = "namespaces"
CLUSTER_STORES: Final = "clustersecretstores"
STORES: Final = "secretstores"
EXTERNAL_SECRETS: Final = "externalsecrets"
RESOURCES: Final = (NAMESPACES, CLUSTER_STORES, STORES, EXTERNAL_SECRETS)


class EventHandler(Protocol):
    """Who is told of what is seen, by calls that do not block."""

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        """It is new, has changed or was listed again."""

    def external_secret_removed(self, external_secret: ExternalSecret) -> None:
        """It is gone, or not selected any more."""

    def store_changed(self, store: Store) -> None:
        """It is new, has changed or was listed again."""

    def store_removed(self, store: Store) -> None:
        """It is gone, or its namespace is not selected any more."""

    def namespace_changed(self, namespace: Namespace) -> None:
        """It is new, has changed or was listed again."""

    def namespace_removed(self, namespace: Namespace) -> None:
        """It is gone, or not selected any more; so is all that was in it."""

    def kube_is_back(self) -> None:
        """The API server answers again after it did not."""


class InformerManager:
    """All informers, each a task.

    Args:
        tasks: owns the informers' tasks; KubeNotFound of one of them ends it.
        version: of external-secrets.io.
        once: list and do not watch; what fails then ends the task group.
    """

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        client: KubeClient,
        version: str,
        selection: Selection,
        listener: EventHandler,
        once: bool = False,
    ) -> None:
        self._tasks = tasks
        self._client = client
        self._group = f"/apis/{GROUP}/{version}"
        self._selection = selection
        self._on = listener
        self._once = once
        self._running: dict[tuple[str, str], tuple[Informer[Any], asyncio.Task[None]]] = {}
        """By resource and namespace ("" where it is of the whole cluster)."""
        self._started = False

    async def start(self) -> None:
        """Start every informer, and wait until all that exists and is selected is listed."""
        for name in self._selection.namespaces or ("",):
            self._start_namespaces(name)
        self._start_stores(CLUSTER_STORES, "ClusterSecretStore", "")
        if self._selection.takes_every_namespace:
            self._start_inside("")
        # the list of namespaces starts further informers before it counts as synced
        while waiting := [informer for informer, _ in self._running.values() if not informer.synced.is_set()]:
            await waiting[0].synced.wait()
        self._started = True

    def reopen(self) -> None:
        """Open each watch anew where it was: the way to the API server was lost for a while."""
        for informer, _ in self._running.values():
            informer.reopen()

    def ready(self) -> dict[str, bool]:
        """By resource, whether all that there was at the start is listed; later namespaces change nothing."""
        if self._started:
            return dict.fromkeys(RESOURCES, True)
        waiting = {resource for (resource, _), (informer, _) in self._running.items() if not informer.synced.is_set()}
        return {resource: resource not in waiting for resource in RESOURCES}

    def trouble(self) -> dict[str, list[Result]]:
        """By resource, how its lists and watches have failed that are not up now."""
        found: dict[str, list[Result]] = {resource: [] for resource in RESOURCES}
        for (resource, _), (informer, _) in self._running.items():
            if informer.trouble is not None:
                found[resource].append(informer.trouble)
        return found

    def _start_namespaces(self, name: str) -> None:
        query = {"fieldSelector": f"metadata.name={name}"} if name else {}
        if self._selection.namespace_labels:
            query["labelSelector"] = self._selection.namespace_labels
        self._start(
            NAMESPACES,
            name,
            Informer(
                self._client,
                "/api/v1/namespaces",
                "Namespace",
                parse_namespace,
                attrgetter("name"),
                self._namespace_changed,
                self._namespace_removed,
                query=query,
            ),
        )

    def _namespace_changed(self, namespace: Namespace) -> None:
        self._on.namespace_changed(namespace)
        if self._selection.takes_every_namespace or (EXTERNAL_SECRETS, namespace.name) in self._running:
            return
        logger.info("watching a namespace", namespace=namespace.name)
        self._start_inside(namespace.name)

    def _namespace_removed(self, namespace: Namespace) -> None:
        if not self._selection.takes_every_namespace:
            logger.info("a namespace is not watched any more: deleted, or not selected", namespace=namespace.name)
            for resource in (EXTERNAL_SECRETS, STORES):
                self._stop(resource, namespace.name)
        self._on.namespace_removed(namespace)

    def _start_inside(self, namespace: str) -> None:
        self._start_stores(STORES, "SecretStore", namespace)
        self._start(
            EXTERNAL_SECRETS,
            namespace,
            Informer(
                self._client,
                self._path(EXTERNAL_SECRETS, namespace),
                "ExternalSecret",
                parse_external_secret,
                attrgetter("name"),
                self._on.external_secret_changed,
                self._on.external_secret_removed,
                query={"labelSelector": self._selection.labels} if self._selection.labels else {},
            ),
        )

    def _start_stores(self, resource: str, kind: str, namespace: str) -> None:
        informer = Informer(
            self._client,
            self._path(resource, namespace),
            kind,
            parse_store,
            attrgetter("name"),
            self._on.store_changed,
            self._on.store_removed,
        )
        self._start(resource, namespace, informer)

    def _path(self, resource: str, namespace: str) -> str:
        return f"{self._group}/namespaces/{namespace}/{resource}" if namespace else f"{self._group}/{resource}"

    def _start(self, resource: str, namespace: str, informer: Informer[Any]) -> None:
        work = informer.list_once() if self._once else informer.run(self._on.kube_is_back)
        task = self._tasks.create_task(work)
        self._running[resource, namespace] = (informer, task)

    def _stop(self, resource: str, namespace: str) -> None:
        informer, task = self._running.pop((resource, namespace))
        task.cancel()  # takes in nothing more from here on
        informer.forget()
