"""A client of a local API server, and one whose lists and watches are given."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from tests.unit.build import Anything
from tests.unit.servers import answer, http_server
from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.kube.client import KubeClient

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
