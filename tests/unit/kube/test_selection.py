"""kube/informer_manager against a local API server that implements the queries of a selection.

tests/integration has the selectors of a real API server.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from aiohttp import web

from tests.unit.build import eventually, external_secret_json, run, store_json
from tests.unit.servers import answer, http_server
from vaultsync.config.selection import Selection
from vaultsync.core.errors import KubeNotFound
from vaultsync.core.external_secret import ExternalSecret, Namespace, Store
from vaultsync.core.push_secret import PushSecret
from vaultsync.kube import informer as informer_module
from vaultsync.kube.client import KubeClient, connect
from vaultsync.kube.informer_manager import InformerManager

Json = dict[str, Any]

GROUP = "/apis/external-secrets.io/v1"
NAMESPACES = "/api/v1/namespaces"
CLUSTER_STORES = f"{GROUP}/clustersecretstores"


def external_secrets_in(namespace: str) -> str:
    return f"{GROUP}/namespaces/{namespace}/externalsecrets"


def stores_in(namespace: str) -> str:
    return f"{GROUP}/namespaces/{namespace}/secretstores"


class Cluster:
    """An API server that lists what it is given, by path, and watches what is sent.

    Attributes:
        items: of each list.
        asked: the queries of each path's lists.
        watched: the queries of each path's watches.
        watching: the paths of the watches that are open.
        refused: paths that answer 403 as long as they are in it.
        missing: paths that answer 404.
    """

    def __init__(self) -> None:
        self.items: dict[str, list[Json]] = defaultdict(list)
        self.asked: dict[str, list[Mapping[str, str]]] = defaultdict(list)
        self.watched: dict[str, list[Mapping[str, str]]] = defaultdict(list)
        self.watching: set[str] = set()
        self.refused: set[str] = set()
        self.missing: set[str] = set()
        self._events: dict[str, asyncio.Queue[Json]] = defaultdict(asyncio.Queue)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path, dict(request.query)
        if path in self.refused | self.missing:
            return answer(404 if path in self.missing else 403, {"message": "no"})
        if "watch" in query:
            return await self._watch(request, path, query)
        self.asked[path].append(query)
        name = query.get("fieldSelector", "").removeprefix("metadata.name=")
        items = [item for item in self.items[path] if not name or item["metadata"]["name"] == name]
        return answer(200, {"metadata": {"resourceVersion": "1"}, "items": items})

    async def _watch(self, request: web.Request, path: str, query: Mapping[str, str]) -> web.StreamResponse:
        self.watched[path].append(query)
        response = web.StreamResponse()
        await response.prepare(request)
        self.watching.add(path)
        while request.transport is not None and not request.transport.is_closing():
            with suppress(TimeoutError):
                event = await asyncio.wait_for(self._events[path].get(), 0.02)
                await response.write(json.dumps(event).encode() + b"\n")
        self.watching.discard(path)
        return response

    def send(self, path: str, kind: str, document: Json) -> None:
        self._events[path].put_nowait({"type": kind, "object": document})

    def namespace(self, name: str) -> None:
        """One that exists, with a store and an ExternalSecret."""
        self.items[NAMESPACES].append(namespace_json(name))
        self.items[stores_in(name)].append(store_json("vault", name))
        self.items[external_secrets_in(name)].append(external_secret_json("app", name))


def namespace_json(name: str) -> Json:
    return {"metadata": {"name": name, "resourceVersion": "2"}}


class Seen:
    """The listener: what is there now."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.told: list[str] = []
        self.backs = 0

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        self.now.add(str(external_secret.name))

    def external_secret_removed(self, external_secret: ExternalSecret) -> None:
        self._removed(str(external_secret.name))

    def store_changed(self, store: Store) -> None:
        self.now.add(str(store.name))

    def store_removed(self, store: Store) -> None:
        self._removed(str(store.name))

    def push_secret_changed(self, push: PushSecret) -> None:
        self.now.add(str(push.name))

    def push_secret_removed(self, push: PushSecret) -> None:
        self._removed(str(push.name))

    def namespace_changed(self, namespace: Namespace) -> None:
        self.now.add(namespace.name)

    def namespace_removed(self, namespace: Namespace) -> None:
        self._removed(namespace.name)

    def kube_is_back(self) -> None:
        self.backs += 1

    def _removed(self, name: str) -> None:
        self.now.remove(name)
        self.told.append(name)


def all_of(*namespaces: str) -> set[str]:
    return {name for one in namespaces for name in (one, f"SecretStore {one}/vault", f"{one}/app")}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(informer_module, "LONGEST_WAIT", 0.05)


Test = Callable[[InformerManager, Seen, "asyncio.Task[None]"], Awaitable[None]]


@asynccontextmanager
async def client_of(cluster: Cluster) -> AsyncIterator[KubeClient]:
    """Configured as in earnest: the number of connections counts here."""
    async with http_server(cluster) as address:
        with NamedTemporaryFile("w") as kubeconfig:
            clusters = [{"name": "c", "cluster": {"server": address}}]
            contexts = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
            users = [{"name": "u", "user": {"token": "t"}}]
            parts = {"clusters": clusters, "contexts": contexts, "users": users, "current-context": "x"}
            json.dump({"apiVersion": "v1", "kind": "Config", **parts}, kubeconfig)
            kubeconfig.flush()
            client = await connect(kubeconfig.name, 5.0)
        try:
            yield client
        finally:
            await client.close()


def watching(cluster: Cluster, selection: Selection, test: Test) -> None:
    """Runs a test beside the watches; it gets them, what they tell, and the task that waits for the first lists."""

    async def main() -> None:
        async with client_of(cluster) as client:
            seen = Seen()
            try:
                async with asyncio.TaskGroup() as tasks:
                    watches = InformerManager(tasks, client, "v1", selection, seen)
                    start = tasks.create_task(watches.start())
                    await test(watches, seen, start)
                    raise _Ended
            except* _Ended:
                pass

    run(main())


class _Ended(Exception):
    """So that the watches are cancelled."""


def test_without_a_selection_four_watches_see_the_cluster() -> None:
    cluster = Cluster()
    cluster.items[NAMESPACES] = [namespace_json("a"), namespace_json("b")]
    cluster.items[f"{GROUP}/externalsecrets"] = [external_secret_json("app", name) for name in "ab"]

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        everything = {NAMESPACES, CLUSTER_STORES, f"{GROUP}/secretstores", f"{GROUP}/externalsecrets"}
        await eventually(lambda: cluster.watching == everything)
        assert seen.now == {"a", "b", "a/app", "b/app"}
        assert [set(query) for queries in cluster.asked.values() for query in queries] == [{"limit"}] * 4
        assert all(watches.ready().values())
        cluster.send(NAMESPACES, "DELETED", namespace_json("a"))
        await eventually(lambda: seen.told == ["a"])
        assert cluster.watching == everything

    watching(cluster, Selection(), test)


def test_namespaces_by_name_are_the_only_ones_that_are_asked_for() -> None:
    cluster = Cluster()
    for name in ("a", "b", "c"):
        cluster.namespace(name)

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        assert seen.now == all_of("a", "b")
        inside = {of(name) for name in "ab" for of in (stores_in, external_secrets_in)}
        await eventually(lambda: cluster.watching == {NAMESPACES, CLUSTER_STORES, *inside})
        assert set(cluster.asked) == cluster.watching
        for queries in (cluster.asked[NAMESPACES], cluster.watched[NAMESPACES]):
            selected = sorted(query["fieldSelector"] for query in queries)
            assert selected == ["metadata.name=a", "metadata.name=b"]
        assert all(watches.ready().values())

    watching(cluster, Selection(namespaces=("a", "b")), test)


def test_names_and_labels_must_both_hold() -> None:
    cluster = Cluster()

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        await eventually(lambda: cluster.watched[NAMESPACES])
        for query in (cluster.asked[NAMESPACES][0], cluster.watched[NAMESPACES][0]):
            assert query["fieldSelector"] == "metadata.name=a"
            assert query["labelSelector"] == "env!=prod"

    watching(cluster, Selection(namespaces=("a",), namespace_labels="env!=prod"), test)


def test_a_namespace_is_watched_from_its_selection_to_its_end() -> None:
    cluster = Cluster()
    cluster.namespace("a")
    cluster.items[stores_in("b")].append(store_json("vault", "b"))
    cluster.items[external_secrets_in("b")].append(external_secret_json("app", "b"))

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        assert cluster.asked[NAMESPACES] == [{"limit": "500", "labelSelector": "on"}]
        assert seen.now == all_of("a")
        await eventually(lambda: NAMESPACES in cluster.watching)
        for _ in range(2):
            cluster.send(NAMESPACES, "ADDED", namespace_json("b"))
            cluster.send(NAMESPACES, "MODIFIED", namespace_json("b"))
            await eventually(lambda: seen.now == all_of("a", "b"))
            await eventually(lambda: {stores_in("b"), external_secrets_in("b")} <= cluster.watching)
            assert all(watches.ready().values())
            seen.told.clear()
            cluster.send(NAMESPACES, "DELETED", namespace_json("b"))
            await eventually(lambda: not {stores_in("b"), external_secrets_in("b")} & cluster.watching)
            assert seen.now == all_of("a")
            assert seen.told == ["b/app", "SecretStore b/vault", "b"]
        assert len(cluster.asked[external_secrets_in("b")]) == 2
        assert len(cluster.asked[external_secrets_in("a")]) == 1

    watching(cluster, Selection(namespace_labels="on"), test)


@pytest.mark.parametrize("selection", [Selection(labels="tier in (web)"), Selection(("a",), labels="tier in (web)")])
def test_the_selector_for_external_secrets_is_for_them_alone(selection: Selection) -> None:
    cluster = Cluster()
    cluster.namespace("a")
    path = external_secrets_in("a") if selection.namespaces else f"{GROUP}/externalsecrets"

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        await eventually(lambda: cluster.watched[path])
        for asked in (cluster.asked, cluster.watched):
            assert {of for of, (query, *_) in asked.items() if "labelSelector" in query} == {path}
            assert asked[path][0]["labelSelector"] == "tier in (web)"
        cluster.send(path, "ADDED", external_secret_json("web", "a"))
        await eventually(lambda: "a/web" in seen.now)
        cluster.send(path, "DELETED", external_secret_json("web", "a"))  # as when it is not selected any more
        await eventually(lambda: "a/web" not in seen.now)

    watching(cluster, selection, test)


def test_the_start_waits_for_every_namespace_that_is_there() -> None:
    cluster = Cluster()
    cluster.namespace("a")
    cluster.namespace("b")
    cluster.refused.add(stores_in("b"))

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await eventually(lambda: all_of("a") <= seen.now)
        await asyncio.sleep(0.05)
        assert not start.done()
        assert [resource for resource, ready in watches.ready().items() if not ready] == ["secretstores"]
        cluster.refused.clear()
        await start
        assert seen.now == all_of("a", "b")
        assert all(watches.ready().values())
        assert seen.backs == 1

    watching(cluster, Selection(namespace_labels="on"), test)


def test_the_start_waits_no_longer_for_a_namespace_that_goes() -> None:
    cluster = Cluster()
    cluster.namespace("a")
    cluster.namespace("b")
    cluster.refused.add(stores_in("b"))

    async def test(_: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await eventually(lambda: NAMESPACES in cluster.watching)
        cluster.send(NAMESPACES, "DELETED", namespace_json("b"))
        await start
        assert seen.now == all_of("a")

    watching(cluster, Selection(namespace_labels="on"), test)


def test_a_later_namespace_that_cannot_be_read_leaves_it_ready() -> None:
    cluster = Cluster()
    cluster.refused.add(external_secrets_in("b"))

    async def test(watches: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        await eventually(lambda: NAMESPACES in cluster.watching)
        cluster.send(NAMESPACES, "ADDED", namespace_json("b"))
        await eventually(lambda: stores_in("b") in cluster.watching)
        assert all(watches.ready().values())
        cluster.refused.clear()
        await eventually(lambda: external_secrets_in("b") in cluster.watching)

    watching(cluster, Selection(namespace_labels="on"), test)


def test_a_resource_that_is_not_served_ends_all() -> None:
    cluster = Cluster()
    cluster.namespace("a")
    cluster.missing.add(external_secrets_in("a"))

    async def test(_: InformerManager, __: Seen, start: "asyncio.Task[None]") -> None:
        await start

    with pytest.raises(ExceptionGroup) as caught:
        watching(cluster, Selection(namespace_labels="on"), test)
    assert [type(error) for error in caught.value.exceptions] == [KubeNotFound]


def test_watches_on_many_namespaces_leave_connections_for_the_work() -> None:
    cluster = Cluster()
    for number in range(60):
        cluster.namespace(f"n{number}")

    async def test(_: InformerManager, seen: Seen, start: "asyncio.Task[None]") -> None:
        await start
        assert len(seen.now) == 3 * 60
        await eventually(lambda: len(cluster.watching) == 2 + 2 * 60)

    watching(cluster, Selection(namespace_labels="on"), test)
