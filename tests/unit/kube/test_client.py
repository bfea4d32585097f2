"""kube/client: what an answer means, and what is counted."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

from tests.unit.build import run
from tests.unit.kube.api import Api, Json, client_at, client_of, item, page
from tests.unit.servers import answer, unused_port
from vaultsync.core.errors import (
    KubeConflict,
    KubeDenied,
    KubeGone,
    KubeNotFound,
    KubeRejected,
    KubeUnavailable,
    VaultsyncError,
)
from vaultsync.kube.client import watch_error


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
            with pytest.raises(KubeUnavailable, match="not JSON"):
                await client.get("/api/v1/x")

    run(main())


@pytest.mark.parametrize("status", [{}, {"code": "x"}, {"code": 410}, {"code": 403}, {"message": ["x"]}])
def test_an_error_event_is_always_an_error_of_ours(status: Json) -> None:
    assert isinstance(watch_error(status), KubeGone if status.get("code") == 410 else VaultsyncError)


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
