"""Receives the datagrams of a socket audit device, with one entry each, in a thread of its own.

A UDP device with write_timeout=10ms and an IP address can't block Vault. While nothing reads, the kernel keeps
datagrams up to the size of its buffer, and drops others. Hence a thread that does not depend on the event loop; it also
counts the dropped datagrams.
"""

import asyncio
import ctypes
import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from loguru import logger

from vaultsync.config.change_source import AuditAddress
from vaultsync.core.events import may_matter
from vaultsync.vault.limited_log import LimitedLog

BUFFER_BYTES: Final = 16 * 1024 * 1024
"""Requested from the kernel, which doubles it for its own data: room for 5,000 writes, of two entries each."""
ENOUGH_BYTES: Final = 3 * 1024 * 1024
"""Below that a burst of 1,000 writes may overflow the buffer."""
RETRY_SECONDS: Final = 0.25
"""After an error of the socket, such as a lack of memory."""
KEPT: Final = 20_000
"""Maximum entries that wait for the event loop."""
KEPT_BYTES: Final = 32 * 1024 * 1024
"""The same in bytes: senders can be forged, and a datagram has up to 64 kB."""
KEPT_UNVERIFIED: Final = 256
PAUSE_SECONDS: Final = 0.1
"""Between two calls of the loop only because of unverified senders."""
SO_MEMINFO: Final = 55
"""Of <asm-generic/socket.h>; since Linux 4.12."""
AT_ONCE: Final = 128
SLOT: Final = 64 * 1024
"""The maximum length of a datagram. Only pages that were written to use memory."""
SOCKADDR_BYTES: Final = 28
"""Size of an IPv6 address; an IPv4 address is shorter."""
WAIT_SECONDS: Final = 0.25
_MSG_WAITFORONE: Final = 0x10000


@dataclass(frozen=True, slots=True)
class Peer:
    """A sender of datagrams; the address has the kernel's format (sockaddr)."""

    address: bytes

    @property
    def host(self) -> str:
        """Its IP address."""
        if int.from_bytes(self.address[:2], sys.byteorder) == socket.AF_INET6:
            return socket.inet_ntop(socket.AF_INET6, self.address[8:24])
        return socket.inet_ntop(socket.AF_INET, self.address[4:8])

    def __str__(self) -> str:
        return f"{self.host} port {int.from_bytes(self.address[2:4], 'big')}"


@dataclass(slots=True)
class Batch:
    """What the thread has received since the previous batch.

    Attributes:
        entries: those that may matter, with their senders.
        size: of the entries, in bytes.
        unverified: number of kept entries from unverified senders.
        refused: number of datagrams from addresses that are not allowed.
        strangers: whether an unverified sender has sent a possible entry.
    """

    entries: list[tuple[Peer, bytes]] = field(default_factory=list)
    size: int = 0
    unverified: int = 0
    lost: int = 0
    refused: int = 0
    strangers: bool = False

    def add(self, peer: Peer, entry: bytes) -> None:
        """Add an entry, or count it as lost if there are too many."""
        if len(self.entries) < KEPT and self.size + len(entry) <= KEPT_BYTES:
            self.entries.append((peer, entry))
            self.size += len(entry)
        else:
            self.lost += 1


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("length", ctypes.c_uint))


class Datagrams:
    """Reads many datagrams from one socket in one system call, recvmmsg(2).

    Python's recvfrom acquires the interpreter lock for each datagram. While the event loop computes, that takes up to
    5 ms each, and the kernel's buffer overflows in a burst (measured). One recvmmsg acquires it once for all datagrams.

    Args:
        sock: bound and blocking; gets a timeout for reading.

    Raises:
        OSError: the system has no recvmmsg; Linux has.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(WAIT_SECONDS * 1e6)))
        self._sock = sock
        self._data = bytearray(AT_ONCE * SLOT)
        self._names = bytearray(AT_ONCE * SOCKADDR_BYTES)
        data = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        names = ctypes.addressof(ctypes.c_char.from_buffer(self._names))
        self._vectors = (_Vector * AT_ONCE)(*(_Vector(data + number * SLOT, SLOT) for number in range(AT_ONCE)))
        self._messages = (_Message * AT_ONCE)()
        vectors, size = ctypes.addressof(self._vectors), ctypes.sizeof(_Vector)
        for number, message in enumerate(self._messages):
            header = message.header
            header.name, header.name_length = names + number * SOCKADDR_BYTES, SOCKADDR_BYTES
            header.vectors, header.vector_count = vectors + number * size, 1
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "recvmmsg"):
            raise OSError(errno.ENOSYS, "an audit listener over UDP needs Linux")
        self._receive = library.recvmmsg
        self._receive.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]

    def receive(self) -> list[tuple[bytes, bytes]]:
        """Read sender address (sockaddr) and content of each datagram; empty after WAIT_SECONDS.

        Raises:
            OSError: the socket has an error.
        """
        number = self._receive(self._sock.fileno(), self._messages, AT_ONCE, _MSG_WAITFORONE, None)
        if number < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(code, os.strerror(code))
        data, names, found = self._data, self._names, []
        for slot, message in enumerate(self._messages[:number]):
            name, start = slot * SOCKADDR_BYTES, slot * SLOT
            found.append((bytes(names[name : name + SOCKADDR_BYTES]), bytes(data[start : start + message.length])))
        return found


class UdpReceiver:
    """A socket and the thread that reads it.

    Args:
        address: where to listen.
        is_allowed: whether an IP address may send.
        nonces: of the canaries whose entries are accepted from any sender.
        on_batch: called on the loop with each batch.
        log: for lines that peers can cause.

    Attributes:
        verified: the addresses whose entries have priority; the loop replaces the set as a whole.
    """

    def __init__(
        self,
        address: AuditAddress,
        is_allowed: Callable[[str], bool],
        nonces: Callable[[], tuple[bytes, ...]],
        on_batch: Callable[[Batch], None],
        log: LimitedLog,
    ) -> None:
        self._address = address
        self._log = log
        self._is_allowed = lru_cache(4096)(is_allowed)
        self._nonces = nonces
        self._on_batch = on_batch
        self._thread: threading.Thread | None = None
        self._stops = threading.Event()
        self._lock = threading.Lock()
        self._batch = Batch()
        self._is_scheduled = False
        self._handed_over = float("-inf")
        self.verified: frozenset[bytes] = frozenset()

    async def start(self) -> None:
        """Bind the socket, and start the thread.

        Raises:
            OSError: the address is not available.
        """
        sock = await self._bound()
        try:
            datagrams = Datagrams(sock)
        except OSError:
            sock.close()
            raise
        _log_buffer(sock)
        self._stops.clear()
        self._thread = threading.Thread(
            target=self._run, args=(asyncio.get_running_loop(), sock, datagrams), name="audit", daemon=True
        )
        self._thread.start()

    async def stop(self) -> None:
        """End the thread, and close the socket."""
        self._stops.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(thread.join)

    async def _bound(self) -> socket.socket:
        """A bound socket; without a host it receives over IPv4 and, if the system has it, IPv6."""
        host, port = self._address.host, self._address.port
        if host:
            loop = asyncio.get_running_loop()
            family, *_, where = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
            return _bind(family, where)
        try:
            return _bind(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bind(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 — as VAULTSYNC_AUDIT_LISTEN says

    # -- in the thread

    def _run(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, datagrams: Datagrams) -> None:
        dropped = 0
        with sock:
            while not self._stops.is_set():
                try:
                    received = datagrams.receive()
                except OSError as error:
                    self._log("WARNING", "can't read from the audit listener", reason=str(error))
                    self._stops.wait(RETRY_SECONDS)
                    continue
                self._sort(received)
                before, dropped = dropped, _drops_of(sock)
                with self._lock:
                    self._batch.lost += (dropped - before) % (1 << 32)
                self._wake(loop)

    def _sort(self, received: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep the entries that may matter, up to the limits."""
        verified, nonces = self.verified, self._nonces()
        kept: list[tuple[Peer, bytes]] = []
        refused, unverified, strangers = 0, 0, False
        for address, entry in received:
            known = address in verified
            if may_matter(entry):
                peer = Peer(address)
                if not self._is_allowed(peer.host):
                    refused += 1
                elif known or (b"vaultsync-canary" in entry and any(nonce in entry for nonce in nonces)):
                    kept.append((peer, entry))
                else:
                    strangers = True
                    if self._batch.unverified + unverified < KEPT_UNVERIFIED:
                        unverified += 1
                        kept.append((peer, entry))
            elif not known and entry.startswith(b"{"):
                strangers |= self._is_allowed(Peer(address).host)
        with self._lock:
            for peer, entry in kept:
                self._batch.add(peer, entry)
            self._batch.unverified += unverified
            self._batch.refused += refused
            self._batch.strangers |= strangers

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule one call on the loop for all that there is."""
        with self._lock:
            batch = self._batch
            is_urgent = bool(batch.entries or batch.lost)
            is_due = time.monotonic() - self._handed_over > PAUSE_SECONDS and (batch.refused or batch.strangers)
            if self._is_scheduled or not (is_urgent or is_due):
                return
            self._is_scheduled = True
        try:
            loop.call_soon_threadsafe(self._hand_over)
        except RuntimeError:  # the loop is closed
            self._stops.set()

    # -- on the loop

    def _hand_over(self) -> None:
        with self._lock:
            batch, self._batch = self._batch, Batch()
            self._is_scheduled = False
        self._handed_over = time.monotonic()
        if self._thread is not None:  # not stopped
            self._on_batch(batch)


def _bind(family: socket.AddressFamily, where: tuple[str | int, ...] | tuple[int, bytes]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6 and where[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _log_buffer(sock: socket.socket) -> None:
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    if granted >= ENOUGH_BYTES:
        logger.info("receive buffer of the audit listener", bytes=granted)
    else:
        logger.warning(
            "the receive buffer of the audit listener is too small for a burst of 1,000 writes; an overflow causes a "
            "rescan of everything",
            bytes=granted,
            fix=f"on the node: sysctl -w net.core.rmem_max={BUFFER_BYTES}",
        )


def _drops_of(sock: socket.socket) -> int:
    """The number of datagrams that the kernel has dropped, modulo 2³²; 0 on gVisor, which does not count them.

    SO_RXQ_OVFL reports the same only with the next datagram, which may never arrive.
    """
    try:
        *_, drops = struct.unpack("=9I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))
    except OSError:
        return 0
    return int(drops)
