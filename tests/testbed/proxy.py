"""A TCP proxy that injects network faults: latency, low rate, stalls, silence, refused or reset connections."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from tests.testbed.looped import Looped

CHUNK = 64 * 1024
CHUNKS_UNDER_WAY = 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with time 0: closing sends a reset."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of a line. None by default.

    Attributes:
        latency: additional seconds per byte, in each direction.
        rate: bytes a second of each connection and direction, 0 for no limit.
        stalled: no bytes are forwarded until the fault ends.
        silent: half-open. Bytes are lost, no end is signalled, new connections are accepted and never answered;
            an affected connection stays silent when the fault ends, because its other end no longer knows it.
        refused: new connections are reset. Existing ones continue; see `Proxy.reset`.
        lost: the response to a request with these bytes is replaced by a reset.
    """

    latency: float = 0.0
    rate: float = 0.0
    stalled: bool = False
    silent: bool = False
    refused: bool = False
    lost: bytes = b""


NONE = Fault()


class Proxy(Looped):
    """Forwards connections on its port to another port of this machine; `with Proxy(port) as proxy`.

    Its asyncio loop runs in a thread of its own. All methods may be called from any other.

    Args:
        target: the port to forward to.

    Attributes:
        port: where it listens.
        lost: number of responses that `Fault.lost` dropped.
    """

    def __init__(self, target: int) -> None:
        super().__init__()
        self.target = target
        self.lost = 0
        self._fault = NONE
        self._lines: set[_Line] = set()
        self._server: asyncio.Server | None = None
        self._moved = asyncio.Event()

    @property
    def fault(self) -> Fault:
        """The current fault."""
        return self._fault

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._lines)

    def set(self, fault: Fault) -> None:
        """Replaces the current fault."""
        self._do(self._set(fault))

    def heal(self) -> None:
        """Ends the fault; connections that were silent stay silent."""
        self.set(NONE)

    def reset(self) -> None:
        """Closes all connections, with a reset to both ends."""
        self._do(self._reset())

    # -- from here on, on the loop

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._reset()

    async def _set(self, fault: Fault) -> None:
        self._fault = fault
        for line in self._lines:
            line.is_dead |= fault.silent
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _reset(self) -> None:
        for line in list(self._lines):
            line.cut()
        await asyncio.gather(*(line.task for line in list(self._lines)), return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(self, reader, writer)
        self._lines.add(line)
        try:
            await line.task
        except asyncio.CancelledError:
            pass
        finally:
            self._lines.discard(line)

    async def moving(self, line: _Line) -> Fault:
        """Waits while the line is stalled; returns the current fault."""
        while self._fault.stalled or line.is_dead:
            await self._moved.wait()
        return self._fault


class _Line:
    """One connection: its two ends, and the data between them."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.is_dead = proxy.fault.silent
        self.loses = False
        self.ends = [(reader, writer)]
        self.task = asyncio.ensure_future(self._run())

    def cut(self) -> None:
        """Ends it with a reset to both."""
        for _, writer in self.ends:
            _reset_at_close(writer)
        self.task.cancel()

    async def _run(self) -> None:
        reader, writer = self.ends[0]
        try:
            if self.proxy.fault.refused:
                _reset_at_close(writer)
                return
            await self.proxy.moving(self)
            there, back = await asyncio.open_connection("127.0.0.1", self.proxy.target)
            self.ends.append((there, back))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass_on(reader, back, is_answer=False))
                tasks.create_task(self._pass_on(there, writer, is_answer=True))
        except* OSError:  # an end is closed or not listening: the other end is disconnected
            for _, end in self.ends:
                _reset_at_close(end)
        finally:
            for _, end in self.ends:
                end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        """Reads ahead during the latency, so that latency does not limit the rate."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_UNDER_WAY)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send(under_way, writer))
            loop = asyncio.get_running_loop()
            while True:
                chunk = await reader.read(CHUNK)
                fault = self.proxy.fault
                self.loses |= not is_answer and fault.lost != b"" and fault.lost in chunk
                if is_answer and self.loses:
                    self.proxy.lost += 1
                    raise ConnectionResetError("the answer is lost")
                await under_way.put((loop.time() + fault.latency, chunk))
                if not chunk:
                    return

    async def _send(self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await under_way.get()
            fault = await self.proxy.moving(self)
            await asyncio.sleep(due - loop.time())
            if not chunk:
                with suppress(OSError):
                    writer.write_eof()
                return
            if fault.rate:
                await asyncio.sleep(len(chunk) / fault.rate)
            writer.write(chunk)
            await writer.drain()


def _reset_at_close(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset instead of an end of stream."""
    made: socket.socket | None = writer.get_extra_info("socket")
    with suppress(OSError):
        if made is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
