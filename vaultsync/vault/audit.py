"""Hears of changes from an audit device of Vault: a socket that Vault connects to, or a file that it writes.

(https://developer.hashicorp.com/vault/docs/audit.) Lines are untrusted input, and from the network: each is at most a
hint to look at a path, none is kept or logged, and the sender is never made to wait. Vault hashes the values in them.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import BinaryIO, Final

from loguru import logger

from vaultsync.core.events import MountChange, VaultEvent, parse_audit_line, parse_mount_change

CHUNK: Final = 64 * 1024
MAX_LINE: Final = 1024 * 1024
"""A longer line is passed over: the answer to a request that changes something is short."""
MAX_SENDERS: Final = 32
"""Connections at once: the nodes of an HA cluster, and old ones that were not closed yet."""
FOLLOW_SECONDS: Final = 0.02
"""Between two looks at the end of the file."""
UNIX: Final = "unix:"
UNIX_MODE: Final = 0o660
"""Of the socket: Vault's user connects by its group, whatever the umask is."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence until a sender's host is asked, seconds between two questions, and how many may get no answer."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class AuditAccess:
    """Where audit lines come from.

    Attributes:
        listen: host:port, or unix:/path; "": nowhere.
        file: of a file audit device, "": none.
        allowed: addresses that may connect; none: all.
        certificate, key: PEM files of the listener, "": no TLS.
    """

    listen: str = ""
    file: str = ""
    allowed: tuple[Network, ...] = ()
    certificate: str = ""
    key: str = ""

    @property
    def is_configured(self) -> bool:
        """Whether lines may come at all."""
        return bool(self.listen or self.file)


class Lines:
    """Puts chunks together to lines, with bounded memory."""

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


class Audit:
    """The hearing end of an audit device.

    Args:
        access: where lines come from.
        on_connect: called when a sender connects or the file is opened: lines before may be lost.
        on_event: called for each change that a line may tell of; must not block.

    Attributes:
        on_change: called when `is_heard` changes.
        on_mounts: called for each line that tells of a changed mount; must not block.
        events: how many changes lines have told of.
        last_event: when the last one came, in seconds since 1970, None before the first.
    """

    def __init__(
        self, access: AuditAccess, on_connect: Callable[[], None], on_event: Callable[[VaultEvent], None]
    ) -> None:
        self._access = access
        self._on_connect = on_connect
        self._on_event = on_event
        self._senders: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._follows: bool | None = None
        self._last_line = float("-inf")
        self._is_deaf = False
        self.events = 0
        self.last_event: float | None = None
        self.on_change: Callable[[], None] = _nothing
        self.on_mounts: Callable[[MountChange], None] = _nothing

    @property
    def is_configured(self) -> bool:
        """Whether lines may come at all."""
        return self._access.is_configured

    @property
    def is_heard(self) -> bool:
        """Whether a device is connected, or its file is there, so that a change would be told."""
        return bool(self._senders or self._follows) and not self._is_deaf

    def expect_line_since(self, written: float) -> None:
        """Vault has taken a write, and so must have told its audit devices of it before.

        A device that was disabled leaves its connection open and its file where it is (seen on OpenBao 2.7.2). Only
        writes count: a device may be set to leave out the rest.

        Args:
            written: when the request was sent, by the loop's clock; at least a moment ago.
        """
        if not self._is_deaf and self._last_line < written and self.is_heard:
            logger.warning("Vault's audit device is silent: is it still enabled?")
            self._is_deaf = True
            self.on_change()

    async def start(self) -> None:
        """Listen, where that is wanted.

        Raises:
            OSError: the address can't be had, or the certificate can't be read.
        """
        listen = self._access.listen
        if not listen:
            return
        tls = None
        if self._access.certificate:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(self._access.certificate, self._access.key or None)
        if listen.startswith(UNIX):
            path = listen.removeprefix(UNIX)
            self._server = await asyncio.start_unix_server(self._receive, path, limit=CHUNK, start_serving=False)
            await asyncio.to_thread(Path(path).chmod, UNIX_MODE)
            await self._server.start_serving()
        else:
            host, _, port = listen.rpartition(":")
            self._server = await asyncio.start_server(
                self._receive, host.strip("[]") or None, int(port), limit=CHUNK, ssl=tls
            )
        logger.info("listening for Vault's audit device", address=listen)

    async def stop(self) -> None:
        """Stop listening, and let go of the senders."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for sender in list(self._senders):
            sender.close()

    async def run(self) -> None:
        """Follow the file, where there is one to follow, until cancelled."""
        if not self._access.file:
            return
        lines = Lines()
        with closing(Tail(Path(self._access.file))) as tail:
            while True:
                chunk = await asyncio.to_thread(tail.read)
                if tail.is_open != self._follows:
                    self._follow(is_open=tail.is_open)
                if chunk:
                    self._hear(lines.feed(chunk))
                await asyncio.sleep(0 if chunk else FOLLOW_SECONDS)

    def _follow(self, *, is_open: bool) -> None:
        self._follows = is_open
        if is_open:
            logger.info("following Vault's audit file", file=self._access.file)
            self._on_connect()
        else:
            logger.warning("Vault's audit file is not there", file=self._access.file)
        self.on_change()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername"))
        refusal = self._refusal(writer)
        if refusal:
            logger.warning("audit sender refused", peer=peer, reason=refusal)
            writer.close()
            return
        _let_go_if_gone(writer)
        self._senders.add(writer)
        logger.info("Vault's audit device is connected", peer=peer)
        self._on_connect()
        self.on_change()
        lines = Lines()
        try:
            while chunk := await reader.read(CHUNK):
                self._hear(lines.feed(chunk))
        except OSError as error:
            logger.warning("Vault's audit device is lost", peer=peer, reason=f"{type(error).__name__}: {error}")
        finally:
            self._senders.discard(writer)
            writer.close()
            self.on_change()

    def _refusal(self, writer: asyncio.StreamWriter) -> str:
        peer = writer.get_extra_info("peername")
        if self._access.allowed and isinstance(peer, tuple) and not _is_within(str(peer[0]), self._access.allowed):
            return "not in VAULTSYNC_AUDIT_ALLOW"
        return f"more than {MAX_SENDERS}" if len(self._senders) >= MAX_SENDERS else ""

    def _hear(self, lines: Sequence[bytes]) -> None:
        heard = any(line.startswith(b"{") for line in lines)  # else its format is not JSON, or it has a prefix
        if heard:
            self._last_line = asyncio.get_running_loop().time()
        if heard and self._is_deaf:
            self._is_deaf = False
            self._on_connect()
            self.on_change()
        for line in lines:
            if (change := parse_mount_change(line)) is not None:
                self.on_mounts(change)
            events = parse_audit_line(line)
            if events:  # one change, even where it may be one in either version of KV
                self.events += 1
                self.last_event = time.time()
            for event in events:
                self._on_event(event)


class Tail:
    """The end of a file that is written, rotated and truncated by others. Blocks, as disks do.

    Attributes:
        is_open: whether the file was there at the last read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._was_there = False
        self.is_open = False

    def read(self) -> bytes:
        """What was written since the last read, at most a chunk; b"" for nothing."""
        if self._file is None:
            self._open()
        if self._file is None:
            return b""
        try:
            return self._file.read(CHUNK) or self._at_the_end(self._file)
        except OSError:  # such as a network's disk that is gone: opened anew
            self.close()
            return b""

    def _at_the_end(self, file: BinaryIO) -> bytes:
        try:
            now, own = os.stat(self._path), os.fstat(file.fileno())
        except OSError:  # moved away, and still written to until the next one is there
            return b""
        if (now.st_ino, now.st_dev) == (own.st_ino, own.st_dev):
            if now.st_size < file.tell():  # truncated
                file.seek(0)
            return b""
        rest = file.read(CHUNK)  # written between the read and the look at the path
        if not rest and now.st_size:  # as long as the next one is empty, the old one may still be written to
            self.close()
        return rest

    def close(self) -> None:
        """Let go of the file; the next read opens the one that is there then."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        """What is there before the first look is old; a file that comes later is new from its start."""
        try:
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115 — stays open
        except OSError:
            self.is_open = False
        else:
            if not self._was_there:
                self._file.seek(0, os.SEEK_END)
            self.is_open = True
        self._was_there = True


def _let_go_if_gone(writer: asyncio.StreamWriter) -> None:
    """An idle sender may stay; but one whose host is gone, or whose connection a firewall has dropped, is let go."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:  # not every system has all
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)


def _nothing(*_: object) -> None:
    """Nobody wants to know."""
