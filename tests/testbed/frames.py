"""A proxy in front of Vault that handles single frames of the event stream: it can drop them, and add forged ones.

Pings are always answered. Every other request passes through unchanged.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

from tests.testbed.looped import Looped

CHUNK = 64 * 1024
STREAM = b"GET /v1/sys/events/"
PASSED_ON = ("X-Vault-Token", "X-Vault-Namespace")


class FrameProxy(Looped):
    """Forwards connections on its port to Vault's; `with FrameProxy(port) as proxy`.

    Its asyncio loop runs in a thread of its own. All methods may be called from any other.

    Args:
        target: Vault's port.

    Attributes:
        port: where it listens.
        drops: whether Vault's frames are dropped.
        subscriptions: their number so far.
        frames: number of Vault's frames so far.
    """

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = target
        self.drops = False
        self.subscriptions = 0
        self.frames = 0
        self._front: asyncio.Server | None = None
        self._stream: Server | None = None
        self._vault: dict[ServerConnection, ClientConnection] = {}
        self._lines: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def inject(self, frame: str) -> None:
        """Sends a forged frame to every subscriber."""
        self._do(self._inject(frame))

    # -- from here on, on the loop

    async def _start(self) -> None:
        self._stream = await serve(
            self._subscribed, "127.0.0.1", 0, process_request=self._subscribe, ping_interval=None, close_timeout=0.2
        )
        self._front = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        assert self._front is not None
        assert self._stream is not None
        self._front.close()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        self._stream.close()
        await self._stream.wait_closed()

    async def _inject(self, frame: str) -> None:
        for connection in list(self._vault):
            await connection.send(frame)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            await self._pass_through(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._lines.discard(task)
            writer.transport.abort()

    async def _pass_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._stream is not None
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, OSError):
            return
        port = next(iter(self._stream.sockets)).getsockname()[1] if line.startswith(STREAM) else self.target
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # the target is not listening: the client is disconnected
            return
        try:
            back.write(line)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_pump(reader, back))
                tasks.create_task(_pump(there, writer))
        finally:
            back.transport.abort()

    async def _subscribe(self, connection: ServerConnection, request: Request) -> Response | None:
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        uri = f"ws://127.0.0.1:{self.target}{request.path}"
        try:
            self._vault[connection] = await connect(uri, additional_headers=headers, ping_interval=None, max_size=None)
        except InvalidStatus as error:
            return connection.respond(HTTPStatus(error.response.status_code), "refused\n")
        except OSError:
            return connection.respond(HTTPStatus.BAD_GATEWAY, "no Vault\n")
        return None

    async def _subscribed(self, connection: ServerConnection) -> None:
        self.subscriptions += 1
        vault = self._vault[connection]
        passing = asyncio.create_task(self._pass_frames(vault, connection))
        try:
            await connection.wait_closed()
        finally:
            del self._vault[connection]
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
            await vault.close()

    async def _pass_frames(self, vault: ClientConnection, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            async for frame in vault:
                self.frames += 1
                if not self.drops:
                    await connection.send(frame)
        await connection.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    with suppress(OSError):
        writer.write_eof()
