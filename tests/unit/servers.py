"""Local servers that misbehave on cue, and all that an error holds, to be searched for values."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler) -> AsyncIterator[str]:
    """Serve every request by the handler; yields the address."""

    async def one(request: web.BaseRequest) -> web.StreamResponse:
        return await handler(cast(web.Request, request))

    runner = web.ServerRunner(web.Server(one, access_log=None), shutdown_timeout=0.01)
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


@dataclass
class Balancer:
    """A load balancer between a client and a server, of the kinds that do not like streams.

    Attributes:
        idle: cut what has carried nothing for so many seconds.
        lifetime: cut each connection after so many seconds.
        rst: cut by a reset, not by an end.
        drops: carry nothing any more, and say nothing of it.
        connections: that were made.
        address: host:port, once it runs.
    """

    idle: float = float("inf")
    lifetime: float = float("inf")
    rst: bool = False
    drops: bool = False
    connections: int = 0
    address: str = ""

    @asynccontextmanager
    async def before(self, host: str, port: int) -> AsyncIterator[str]:
        """Stand before a server; yields host:port."""

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            there, back = await asyncio.open_connection(host, port)
            carried = [time.monotonic()]

            async def one_way(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while chunk := await source.read(65536):
                    carried.append(time.monotonic())
                    if not self.drops:
                        target.write(chunk)

            async def patience() -> None:
                end = time.monotonic() + self.lifetime
                while True:
                    left = min(end, carried[-1] + self.idle) - time.monotonic()
                    if left <= 0:
                        return
                    await asyncio.sleep(left)

            ways = [asyncio.ensure_future(one) for one in (one_way(reader, back), one_way(there, writer), patience())]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
                for end in (writer, back):
                    if self.rst:
                        end.transport.abort()
                    end.close()

        async with raw_server(carry) as self.address:
            yield self.address


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
