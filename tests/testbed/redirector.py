"""A server in front of Vault that redirects some requests, and one that must receive no connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress

from tests.testbed.looped import Looped

Rule = Callable[[str, str], str | None]
"""Maps method and path to the `Location` of a redirect; None forwards the request."""


class _Listener(Looped):
    """An asyncio server in its own thread; `with` starts it.

    Args:
        tls: of the listener, None for plain TCP.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self._tls)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await task
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Trap(_Listener):
    """A server to which nothing may be sent.

    Attributes:
        connections: number of connections; must be 0.
        received: what came by them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0
        self.received = b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while chunk := await reader.read(65536):
            self.received += chunk


class Redirector(_Listener):
    """A proxy to a port of this machine that redirects requests by its rule; one request per connection.

    Args:
        target: the port to forward to.
        tls: of the listener.

    Attributes:
        rule: may be replaced at any time.
        status: of the redirects.
        redirected: method and path of the redirected requests.
    """

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._target = target
        self.rule: Rule = lambda method, path: None
        self.status = 307
        self.redirected: list[tuple[str, str]] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.decode("latin-1").split(" ", 2)
        location = self.rule(method, path)
        if location is not None:
            self.redirected.append((method, path))
            writer.write(
                f"HTTP/1.1 {self.status} Elsewhere\r\nLocation: {location}\r\n"
                "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            await writer.drain()
            writer.close()
            return
        if b"\r\nupgrade: websocket" not in head.lower():
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            back.write(head)
            ways = [asyncio.ensure_future(_carry(reader, back)), asyncio.ensure_future(_carry(there, writer))]
            await asyncio.wait(ways[1:])
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
        finally:
            back.transport.abort()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
