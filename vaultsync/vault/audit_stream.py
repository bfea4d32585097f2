"""Receives the lines of audit devices: over TCP or a unix socket, or from a file."""

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from vaultsync.config.change_source import AuditAccess, Transport
from vaultsync.vault.limited_log import LimitedLog

CHUNK: Final = 64 * 1024
MAX_LINE: Final = 1024 * 1024
"""A longer line is skipped: the response to a request that changes something is short."""
MAX_CONNECTIONS: Final = 32
"""The nodes of an HA cluster, and old connections that are not closed yet."""
UNIX_MODE: Final = 0o660
"""Mode of the unix socket, whatever the umask is: Vault's user connects by its group."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence before the first probe, seconds between probes, and failed probes before the connection ends."""


class Lines:
    """Joins chunks to lines, with bounded memory."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that the chunk ends."""
        *lines, rest = (self._rest + chunk).split(b"\n")
        if lines and self._skipping:
            lines, self._skipping = lines[1:], False
        if self._skipping or len(rest) > MAX_LINE:
            rest, self._skipping = b"", True
        self._rest = rest
        return lines


class Connection:
    """One connected sender.

    Attributes:
        host: its IP address, "" on a unix socket.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        peer = writer.get_extra_info("peername")
        self.host: str
        self.host, self._port = peer[:2] if isinstance(peer, tuple) else ("", 0)

    def __str__(self) -> str:
        return f"{self.host} port {self._port}" if self.host else "unix socket"


class StreamListener:
    """A listening socket and its connections.

    Args:
        access: where to listen, and which hosts may connect.
        log: for lines that peers can cause.
        verified: the connections that make no room for others.
        on_lines: called with each connection's lines.
        on_closed: called when a connection has ended.
    """

    def __init__(
        self,
        access: AuditAccess,
        log: LimitedLog,
        verified: Container[object],
        on_lines: Callable[[Connection, Sequence[bytes]], None],
        on_closed: Callable[[Connection], None],
    ) -> None:
        self._access = access
        self._log = log
        self._verified = verified
        self._on_lines = on_lines
        self._on_closed = on_closed
        self._server: asyncio.Server | None = None
        self._connections: dict[Connection, None] = {}

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is not available, or the certificate can't be read.
        """
        address = self._access.address
        if address is None:
            return
        if address.transport is Transport.UNIX:
            start = asyncio.start_unix_server(self._receive, address.path, limit=CHUNK, start_serving=False)
            self._server = await start
            await asyncio.to_thread(Path(address.path).chmod, UNIX_MODE)
            await self._server.start_serving()
            return
        tls = None
        if self._access.certificate:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(self._access.certificate, self._access.key or None)
        host = address.host or None
        self._server = await asyncio.start_server(self._receive, host, address.port, limit=CHUNK, ssl=tls)

    async def stop(self) -> None:
        """Stop listening, and close the connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.writer.close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, lines = Connection(writer), Lines()
        if connection.host and not self._access.allows(connection.host):
            self._refuse(connection, "not in VAULTSYNC_AUDIT_ALLOW")
            return
        if len(self._connections) >= MAX_CONNECTIONS and not self._make_room():
            self._refuse(connection, f"{MAX_CONNECTIONS} verified ones are connected")
            return
        _detect_dead_peer(writer)
        self._connections[connection] = None
        try:
            while chunk := await reader.read(CHUNK):
                self._on_lines(connection, lines.feed(chunk))
                if connection not in self._connections:  # closed to make room
                    break
        except OSError as error:
            reason = f"{type(error).__name__}: {error}"
            self._log("WARNING", "an audit connection is lost", peer=str(connection), reason=reason)
        finally:
            self._connections.pop(connection, None)
            writer.close()
            self._on_closed(connection)

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._log("WARNING", f"audit sender refused: {reason}", peer=str(connection))
        connection.writer.close()

    def _make_room(self) -> bool:
        """Close the oldest unverified connection of the host that has most of them."""
        unverified = [connection for connection in self._connections if connection not in self._verified]
        if not unverified:
            return False
        number = Counter(connection.host for connection in unverified)
        evicted = max(unverified, key=lambda connection: number[connection.host])  # the first, thus oldest, of equals
        self._log("WARNING", "an unverified audit connection is closed to make room", peer=str(evicted))
        del self._connections[evicted]
        evicted.writer.transport.abort()
        return True


def _detect_dead_peer(writer: asyncio.StreamWriter) -> None:
    """Close the connection of a host that is gone, or that a firewall has dropped; an idle one stays."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:  # Linux
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Tail:
    """Reads the end of a file that others write, rotate and truncate. Its calls block.

    Attributes:
        is_open: whether the file was there at the last read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._was_there = False
        self.is_open = False

    def read(self) -> bytes:
        """Read what was written since the last read, at most a chunk; b"" for nothing."""
        if self._file is None:
            self._open()
        if self._file is None:
            return b""
        try:
            return self._file.read(CHUNK) or self._at_the_end(self._file)
        except OSError:  # such as a network disk that is gone
            self.close()
            return b""

    def _at_the_end(self, file: BinaryIO) -> bytes:
        try:
            now, own = os.stat(self._path), os.fstat(file.fileno())
        except OSError:  # moved, and still written to until the next file exists
            return b""
        if (now.st_ino, now.st_dev) == (own.st_ino, own.st_dev):
            if now.st_size < file.tell():  # truncated
                file.seek(0)
            return b""
        rest = file.read(CHUNK)  # written between the read and the stat
        if not rest and now.st_size:  # while the next file is empty, the old one may still be written to
            self.close()
        return rest

    def close(self) -> None:
        """Close the file; the next read opens the current one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """Open the file at its end the first time, later files at their start."""
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 — stays open
            if not self._was_there:
                self._file.seek(0, os.SEEK_END)
        except OSError:
            self._file = None
        self.is_open = self._file is not None
        self._was_there = True
