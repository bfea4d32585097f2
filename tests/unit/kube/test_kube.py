"""kube/client and kube/informer against a local API server that misbehaves; kube/recorder's filter and deduplication.

What a real API server does is in tests/integration.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from tests.unit.build import Anything, Clock, eventually, external_secret, logged, run
from tests.unit.servers import answer, http_server, unused_port
from vaultsync.core.annotations import EventReason, Result
from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.core.errors import (
    KubeConflict,
    KubeDenied,
    KubeGone,
    KubeNotFound,
    KubeRejected,
    KubeUnavailable,
    VaultsyncError,
)
from vaultsync.core.external_secret import CreatedCondition
from vaultsync.kube import informer as informer_module
from vaultsync.kube.client import KubeClient, watch_error
from vaultsync.kube.discovery import ServedVersion, discover
from vaultsync.kube.events import BURST, REFILL_SECONDS, REMEMBERED, EventRecorder
from vaultsync.kube.external_secrets import ExternalSecretWriter
from vaultsync.kube.informer import Informer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]


@asynccontextmanager
async def client_of(
    handler: Handler, timeout: float = 5.0, count_request: CountRequest = ignore
) -> AsyncIterator[KubeClient]:
    async with http_server(handler) as address:
        client = client_at(address, timeout, count_request)
        try:
            yield client
        finally:
            await client.close()


def client_at(address: str, timeout: float = 5.0, count_request: CountRequest = ignore) -> KubeClient:
    configuration = Configuration()
    configuration.host = address
    return KubeClient(ApiClient(configuration), timeout, count_request=count_request)


def item(name: str, version: int, **more: Anything) -> Json:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **more}


def event(kind: str, name: str, version: int, **more: Anything) -> bytes:
    return json.dumps({"type": kind, "object": item(name, version, **more)}).encode() + b"\n"


def page(*items: Json, version: int = 10, token: str = "") -> web.Response:
    metadata = {"resourceVersion": str(version)} | ({"continue": token} if token else {})
    return answer(200, {"metadata": metadata, "items": list(items)})


GONE = {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old resource version", "code": 410}


class Api:
    """An API server whose lists and watches are given one by one; the last watch stays silent and open.

    Attributes:
        lists: one answer for each list request; the last is given again and again.
        watches: for each watch what it sends, in pieces; then it ends. An Exception resets the connection.
    """

    def __init__(
        self, lists: list[web.Response | Callable[[], web.Response]], watches: list[Any] | None = None
    ) -> None:
        self.lists, self.watches = lists, list(watches or [])
        self.listed: list[Mapping[str, str]] = []
        self.watched: list[Mapping[str, str]] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.listed.append(dict(request.query))
            found = self.lists[min(len(self.listed), len(self.lists)) - 1]
            made = found() if callable(found) else found
            return web.Response(status=made.status, body=made.body, content_type="application/json")
        self.watched.append(dict(request.query))
        script = self.watches.pop(0) if self.watches else None
        if isinstance(script, web.Response):
            return script
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in script or ():
            if isinstance(piece, Exception):
                assert request.transport is not None
                request.transport.abort()
                return response
            await response.write(piece)
            await asyncio.sleep(0)
        if script is None:
            await asyncio.sleep(60)
        return response


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
            lambda name: name,
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
    monkeypatch.setattr(informer_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(informer_module, "LONGEST_WAIT", 0.05)


# -- informer


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
        await asyncio.sleep(0.3)
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


def test_requests_are_counted_by_method_and_code() -> None:
    counted: Counter[tuple[str, int]] = Counter()

    def count(method: str, status: int) -> None:
        counted[method, status] += 1

    async def main() -> None:
        async with client_of(
            Api([page(item("a", 1)), answer(503, {"message": "no"})], [[]]), count_request=count
        ) as client:
            await client.get("/api/v1/things")
            for method in (client.get, lambda path: client.post(path, {}), lambda path: client.merge_patch(path, {})):
                with pytest.raises(KubeUnavailable):
                    await method("/api/v1/things")
            async with client.watch("/api/v1/things", {}, 5.0) as events:
                assert [event async for event in events] == []
            assert counted == {
                ("GET", 200): 1,
                ("GET", 503): 1,
                ("POST", 503): 1,
                ("PATCH", 503): 1,
                ("WATCH", 200): 1,
            }
        nobody = client_at(f"http://127.0.0.1:{unused_port()}", count_request=count)
        with pytest.raises(KubeUnavailable):
            await nobody.get("/api/v1/things")
        assert counted["GET", 0] == 1
        await nobody.close()

    run(main())


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


# -- client


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, KubeRejected),
        (401, KubeDenied),
        (403, KubeDenied),
        (404, KubeNotFound),
        (409, KubeConflict),
        (410, KubeGone),
        (422, KubeRejected),
        (429, KubeUnavailable),
        (500, KubeUnavailable),
        (503, KubeUnavailable),
        (302, KubeUnavailable),
    ],
)
@pytest.mark.parametrize("body", [b'{"message": "the reason"}', b"<html>", b"[]", b""])
def test_what_an_answer_means(status: int, kind: type[VaultsyncError], body: bytes) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    async def main() -> None:
        async with client_of(handler) as client:
            with pytest.raises(VaultsyncError) as caught:
                await client.get("/api/v1/x")
            assert type(caught.value) is kind
            assert str(status) in str(caught.value)
            assert b"reason" not in body or "the reason" in str(caught.value)

    run(main())


def test_no_answer_is_unavailable() -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    async def html(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>")

    async def main() -> None:
        refused = client_at(f"http://127.0.0.1:{unused_port()}")
        with pytest.raises(KubeUnavailable, match="no answer"):
            await refused.get("/api/v1/x")
        await refused.close()
        async with client_of(slow, timeout=0.1) as client:
            with pytest.raises(KubeUnavailable, match="no answer"):
                await client.get("/api/v1/x")
        async with client_of(html) as client:
            with pytest.raises(KubeUnavailable, match="no JSON"):
                await client.get("/api/v1/x")

    run(main())


@pytest.mark.parametrize("status", [{}, {"code": "x"}, {"code": 410}, {"code": 403}, {"message": ["x"]}])
def test_an_error_event_is_always_an_error_of_ours(status: Json) -> None:
    assert isinstance(watch_error(status), KubeGone if status.get("code") == 410 else VaultsyncError)


# -- what is written on ExternalSecrets


@pytest.mark.parametrize(
    ("versions", "best"),
    [(["v1", "v1beta1"], "v1"), (["v1beta1"], "v1beta1"), (["v1alpha1"], None), ([], None), (None, None)],
)
def test_the_best_served_version(versions: list[str] | None, best: str | None) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/openapi"):
            return answer(404, {"message": "no"})
        if versions is None:
            return answer(404, {"message": "no"})
        return answer(200, {"versions": [{"version": version} for version in versions]})

    async def main() -> None:
        async with client_of(handler) as client:
            assert await discover(client, waits=(0.0, 0.0)) == (
                ServedVersion(best, takes_condition=False) if best else None
            )

    run(main())


@pytest.mark.parametrize(
    ("schema", "takes"),
    [
        ({"type": "string"}, True),
        ({"type": "string", "enum": ["Ready", "Deleted", "Created"]}, True),
        ({"type": "string", "enum": ["Ready", "Deleted"]}, False),
        ([], False),
        (None, False),
    ],
)
def test_whether_the_crd_takes_the_condition(schema: object, takes: bool) -> None:
    conditions = {"items": {"properties": {"type": schema}}}
    properties = {"status": {"properties": {"conditions": conditions}}}
    schemas = {"io.external-secrets.v1.ExternalSecret": {"properties": properties}}

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/openapi/v3/apis/external-secrets.io/v1":
            return answer(200, {"components": {"schemas": schemas}})
        return answer(200, {"versions": [{"version": "v1"}]})

    async def main() -> None:
        async with client_of(handler) as client:
            assert await discover(client, waits=(0.0, 0.0)) == ServedVersion("v1", takes)

    run(main())


REPORT = CreatedCondition(True, "Success", "created secret/a")


def writing(takes_condition: bool) -> list[tuple[str, Json]]:
    """The patches of two reports, each with a force-sync."""
    patches: list[tuple[str, Json]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        patch = json.loads(await request.read())
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        patches.append((request.path, patch))
        document = {"metadata": {"namespace": "dev-1", "name": "app", "resourceVersion": "77"}}
        return answer(200, document | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    async def main() -> None:
        async with client_of(handler) as client:
            writer = ExternalSecretWriter(client)
            writer.takes_condition = takes_condition
            for _ in range(2):
                await writer.write(external_secret("a"), {"force-sync": "now"}, REPORT)

    run(main())
    return patches


OBJECT = "/apis/external-secrets.io/v1/namespaces/dev-1/externalsecrets/app"


def test_a_report_is_a_condition_beside_the_others_where_the_crd_takes_it() -> None:
    patches = writing(takes_condition=True)
    assert [where for where, _ in patches] == [OBJECT, OBJECT + "/status"] * 2
    assert patches[0][1] == {"metadata": {"annotations": {"force-sync": "now"}}}
    status = patches[1][1]
    assert status["metadata"]["resourceVersion"] == "77"
    assert [condition["type"] for condition in status["status"]["conditions"]] == ["Ready", "Created"]
    assert status["status"]["conditions"][1]["status"] == "True"


def test_a_report_is_annotations_in_the_same_patch_where_it_does_not() -> None:
    patches = writing(takes_condition=False)
    said = {"vaultsync.io/created": "True Success", "vaultsync.io/message": "created secret/a"}
    assert patches == [(OBJECT, {"metadata": {"annotations": {"force-sync": "now", **said}}})] * 2


# -- recorder


def test_an_object_has_a_burst_of_events_and_then_one_every_five_minutes() -> None:
    clock = Clock()
    recorder = EventRecorder(client_at("http://127.0.0.1:1"), clock=clock)

    def recorded(name: str, times: int) -> int:
        before = len(recorder._waiting)
        for number in range(times):
            recorder.record(external_secret("a", name=name), EventReason.SEEDED, f"created {number}")
        return len(recorder._waiting) - before

    assert recorded("a", BURST + 5) == BURST
    assert recorded("b", 1) == 1
    clock.forward(REFILL_SECONDS)
    assert recorded("a", 3) == 1
    clock.forward(REFILL_SECONDS * 1000)
    assert recorded("a", BURST + 5) == BURST


def test_the_recorder_remembers_a_limited_number_of_objects() -> None:
    recorder = EventRecorder(client_at("http://127.0.0.1:1"), clock=Clock())
    for number in range(REMEMBERED + 100):
        recorder.record(external_secret("a", name=str(number)), EventReason.SEEDED, "created")
    assert len(recorder._limits) == len(recorder._aggregator._groups) == REMEMBERED


def recording(
    record: Callable[[EventRecorder], None], forgotten: bool = False, down: int = 0
) -> list[tuple[str, str, Json]]:
    """What the recorder sends."""
    sent: list[tuple[str, str, Json]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        sent.append((request.method, request.path, json.loads(await request.read())))
        if len(sent) <= down:
            return answer(500, {"message": "no"})
        if request.method == "PATCH" and forgotten:
            return answer(404, {"message": "no such event"})
        return answer(201, {})

    async def main() -> None:
        async with client_of(handler) as client:
            recorder = EventRecorder(client, delay=0.0, pause=0.0)
            record(recorder)
            task = asyncio.create_task(recorder.run())
            await eventually(lambda: not recorder._waiting)
            await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main())
    return sent


def test_the_same_event_again_raises_the_count() -> None:
    def record(recorder: EventRecorder) -> None:
        for _ in range(3):
            recorder.record(external_secret("a"), EventReason.SEED_FAILED, "denied")
        recorder.record(external_secret("a"), EventReason.SEEDED, "created")

    first, second, third, other = recording(record)
    assert first[:2] == ("POST", "/api/v1/namespaces/dev-1/events")
    assert (first[2]["type"], first[2]["reason"], first[2]["count"]) == ("Warning", "SeedFailed", 1)
    assert first[2]["involvedObject"]["uid"] == "uid-dev-1-app"
    assert second[:2] == third[:2] == ("PATCH", f"/api/v1/namespaces/dev-1/events/{first[2]['metadata']['name']}")
    assert (second[2]["count"], third[2]["count"]) == (2, 3)
    assert (other[0], other[2]["type"]) == ("POST", "Normal")


def test_an_event_that_the_api_server_has_dropped_is_made_anew() -> None:
    def record(recorder: EventRecorder) -> None:
        for _ in range(2):
            recorder.record(external_secret("a"), EventReason.SEEDED, "created")

    assert [method for method, _, _ in recording(record, forgotten=True)] == ["POST", "PATCH", "POST"]


def test_a_lost_event_harms_nothing() -> None:
    def record(recorder: EventRecorder) -> None:
        for number in range(2):
            recorder.record(external_secret("a"), EventReason.SEEDED, f"created {number}")

    assert len(recording(record, down=1)) == 2


def test_a_long_name_and_message_are_cut_to_what_the_api_takes() -> None:
    def record(recorder: EventRecorder) -> None:
        recorder.record(external_secret("a", name="n" * 253), EventReason.SEEDED, "m" * 5000)

    ((_, _, body),) = recording(record)
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) <= 1024
