"""kube/informer against a local API server that misbehaves; the real one is in tests/integration."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from tests.unit.build import eventually, logged
from tests.unit.build import run_ahead as run
from tests.unit.kube.api import GONE, Api, Handler, client_of, event, item, page
from tests.unit.servers import answer
from vaultsync.core.annotations import Result
from vaultsync.core.errors import (
    KubeNotFound,
)
from vaultsync.kube import informer as informer_module
from vaultsync.kube.client import KubeClient
from vaultsync.kube.informer import Informer


class Watcher:
    """An informer over names, and what it told."""

    def __init__(self, client: KubeClient, silence: float = 5.0, query: Mapping[str, str] | None = None) -> None:
        self.told: list[str] = []
        self.now: set[str] = set()
        self.backs = 0
        self.sizes: dict[str, int] = {}
        self.informer: Informer[str] = Informer(
            client,
            "/api/v1/things",
            "Thing",
            self.parse,
            self.changed,
            self.removed,
            silence,
            query,
        )

    def parse(self, document: Mapping[str, Any]) -> str:
        name = str(document["metadata"]["name"])
        self.sizes[name] = len(json.dumps(document))
        assert document.get("kind", "Thing") == "Thing"
        return name

    def changed(self, name: str) -> None:
        self.told.append(f"+{name}")
        self.now.add(name)

    def removed(self, name: str) -> None:
        self.told.append(f"-{name}")
        self.now.discard(name)

    def back(self) -> None:
        self.backs += 1


def watching(
    api: Handler,
    test: Callable[[Watcher], Awaitable[None]],
    silence: float = 5.0,
    query: Mapping[str, str] | None = None,
) -> None:
    async def main() -> None:
        async with client_of(api) as client:
            watcher = Watcher(client, silence, query)
            task = asyncio.create_task(watcher.informer.run(watcher.back))
            try:
                await test(watcher)
                assert not task.done(), "the informer has ended"
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    run(main())


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "FIRST_WAIT", 0.1)
    monkeypatch.setattr(informer_module, "LONGEST_WAIT", 0.5)


def test_it_lists_and_then_watches_from_there() -> None:
    api = Api(
        [page(item("a", 1), item("b", 2), version=7)],
        [[event("ADDED", "c", 8), event("MODIFIED", "a", 9), event("DELETED", "b", 10), event("BOOKMARK", "", 20)]],
    )

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: len(api.watched) == 2)
        assert watcher.told == ["+a", "+b", "+c", "+a", "-b"]
        assert [query["resourceVersion"] for query in api.watched] == ["7", "20"]
        assert api.watched[0]["allowWatchBookmarks"] == "true"
        assert len(api.listed) == 1
        assert watcher.informer.synced.is_set()

    watching(api, test)


def test_a_long_list_comes_in_pages() -> None:
    token = "a+b/c=&d"
    api = Api([page(item("a", 1), token=token), page(item("b", 2), token="z"), page(item("c", 3), version=9)])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: api.watched)
        assert watcher.told == ["+a", "+b", "+c"]
        assert [query.get("continue") for query in api.listed] == [None, token, "z"]
        assert api.watched[0]["resourceVersion"] == "9"

    watching(api, test)


def test_a_list_that_expires_in_the_middle_starts_again() -> None:
    api = Api([page(item("a", 1), token="x"), answer(410, GONE), page(item("b", 2))])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: api.watched)
        assert watcher.now == {"b"}
        assert "continue" not in api.listed[2]

    watching(api, test)


@pytest.mark.parametrize(
    "gone",
    [answer(410, GONE), [json.dumps({"type": "ERROR", "object": GONE}).encode() + b"\n"]],
    ids=["status", "event"],
)
def test_on_410_it_lists_again_and_notices_deletions(gone: web.Response | list[bytes]) -> None:
    api = Api([page(item("a", 1), item("b", 2)), page(item("b", 2), item("c", 5), version=50)], [gone])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: len(api.watched) == 2)
        assert watcher.now == {"b", "c"}
        assert api.watched[1]["resourceVersion"] == "50"

    watching(api, test)


@pytest.mark.parametrize("where", ["list", "watch"])
def test_an_endless_410_is_no_busy_loop(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informer_module, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(informer_module, "LONGEST_WAIT", 10.0)
    api = Api([answer(410, GONE)]) if where == "list" else Api([page()], [answer(410, GONE) for _ in range(5000)])

    async def test(_: Watcher) -> None:
        await asyncio.sleep(0.3)
        assert len(api.listed) < 12

    watching(api, test)


def test_a_watch_that_ends_at_once_is_no_busy_loop() -> None:
    api = Api([page()], [[] for _ in range(5000)])

    async def test(_: Watcher) -> None:
        await asyncio.sleep(3)
        assert len(api.watched) < 100

    watching(api, test)


def test_a_silent_watch_is_opened_anew_where_it_was_and_is_no_trouble() -> None:
    """An API server that was just started sends no bookmarks for what does not change."""
    api = Api([page(item("a", 1), version=7)], [[event("ADDED", "b", 9)]])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: len(api.watched) >= 3)
        assert watcher.now == {"a", "b"}
        assert [query["resourceVersion"] for query in api.watched[:3]] == ["7", "9", "9"]
        assert (len(api.listed), watcher.backs, watcher.informer.trouble) == (1, 0, None)

    with logged("DEBUG") as lines:
        watching(api, test, silence=0.1)
    assert lines == []


def test_a_watch_is_opened_anew_where_it_was_when_that_is_asked_for() -> None:
    api = Api([page(item("a", 1))], [[event("ADDED", "b", 12)]])

    async def test(watcher: Watcher) -> None:
        watcher.informer.reopen()  # nothing is open yet
        await eventually(lambda: len(api.watched) == 2)
        await asyncio.sleep(0.05)
        for _ in range(2):
            watcher.informer.reopen()
        await eventually(lambda: len(api.watched) == 3)
        assert [query["resourceVersion"] for query in api.watched] == ["10", "12", "12"]
        assert len(api.listed) == 1
        assert watcher.informer.trouble is None

    watching(api, test)


def test_bookmarks_keep_a_watch_alive() -> None:
    async def api(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return page()
        watches.append(1)
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(10):
            await response.write(event("BOOKMARK", "", 100 + number))
            await asyncio.sleep(0.05)
        await asyncio.sleep(60)
        return response

    watches: list[int] = []

    async def test(_: Watcher) -> None:
        await asyncio.sleep(0.4)
        assert len(watches) == 1

    watching(api, test, silence=0.25)


def test_an_object_of_any_size_arrives() -> None:
    api = Api([page()], [[event("ADDED", "big", 5, data="x" * 2_000_000), event("ADDED", "small", 6)]])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: "small" in watcher.now)
        assert watcher.sizes["big"] > 2_000_000

    watching(api, test)


def test_half_lines_are_put_together() -> None:
    whole = event("ADDED", "ü", 5) + event("ADDED", "b", 6) + b"\n\n" + event("ADDED", "c", 7)
    api = Api([page()], [[whole[at : at + 1] for at in range(len(whole))]])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: watcher.now == {"ü", "b", "c"})

    watching(api, test)


def test_a_half_line_at_the_end_is_not_taken() -> None:
    api = Api([page()], [[event("ADDED", "a", 5), event("ADDED", "b", 6)[:-20]]])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: len(api.watched) >= 2)
        assert watcher.now == {"a"}
        assert api.watched[1]["resourceVersion"] == "5"

    watching(api, test)


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense\n",
        b"[]\n",
        b"\xff\xfe\n",
        b'{"type":"ADDED"}\n',
        b'{"type":"ERROR","object":{}}\n',
        b"[" * 100_000 + b"\n",
        OSError(),
    ],
    ids=["text", "list", "binary", "no object", "odd error", "deep", "reset"],
)
def test_a_broken_watch_is_started_again_with_a_list(garbage: bytes | OSError) -> None:
    api = Api([page(item("a", 1)), page(item("b", 2))], [[event("BOOKMARK", "", 5), garbage]])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: len(api.watched) >= 2)
        assert watcher.now == {"b"}
        assert watcher.backs == 1

    watching(api, test)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_refused_list_is_tried_until_it_is_there(status: int) -> None:
    refusal = answer(status, {"message": "no"})
    api = Api([refusal, refusal, page(item("a", 1))])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: watcher.informer.trouble)
        assert watcher.informer.trouble is (Result.REFUSED if status < 404 else Result.UNAVAILABLE)
        await eventually(watcher.informer.synced.is_set)
        assert watcher.now == {"a"}
        assert watcher.backs == 1
        assert watcher.informer.trouble is None

    watching(api, test)


def test_a_resource_that_is_not_served_ends_the_informer() -> None:
    async def main() -> None:
        async with client_of(Api([answer(404, {"message": "no"})])) as client:
            with pytest.raises(KubeNotFound):
                await Watcher(client).informer.run()

    run(main())


def test_what_narrows_it_is_part_of_every_request() -> None:
    api = Api([page(item("a", 1), token="x"), page(item("b", 2))], [[event("BOOKMARK", "", 5)]])
    narrow = {"labelSelector": "a in (b,c)"}

    async def test(_: Watcher) -> None:
        await eventually(lambda: len(api.watched) == 2)
        assert len(api.listed) == 2
        assert all(query.items() >= narrow.items() for query in api.listed + api.watched)

    watching(api, test, query=narrow)


def test_forgetting_tells_of_every_object_as_removed() -> None:
    async def test(watcher: Watcher) -> None:
        await eventually(lambda: watcher.now == {"a", "b"})
        watcher.informer.forget()
        assert watcher.told == ["+a", "+b", "-a", "-b"]

    watching(Api([page(item("a", 1), item("b", 2))]), test)


def test_an_unknown_event_type_is_passed_over() -> None:
    api = Api([page()], [[event("NEWFANGLED", "x", 5), event("ADDED", "a", 6)]])

    async def test(watcher: Watcher) -> None:
        await eventually(lambda: watcher.now == {"a"})

    watching(api, test)
