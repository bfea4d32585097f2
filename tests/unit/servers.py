"""Local servers that misbehave on cue, and all that an error holds, to be searched for values."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler) -> AsyncIterator[str]:
    """Serve every request by the handler; yields the address."""

    async def one(request: web.BaseRequest) -> web.StreamResponse:
        return await handler(cast(web.Request, request))

    runner = web.ServerRunner(web.Server(one, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve every connection by the function, which may break HTTP's rules; yields host:port."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


def answer(status: int, document: object) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=json.dumps(document).encode(), content_type="application/json")


def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that hangs on it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]


def all_that_an_error_holds(error: BaseException) -> str:
    """Texts of an error's chain, and of the requests that its members hold."""
    texts = []
    for one in chain(error):
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        for holder in (one, getattr(one, "response", None)):
            request = getattr(holder, "request", None)
            texts += [repr(getattr(request, "body", None)), repr(getattr(request, "headers", None))]
    return "\n".join(texts)
