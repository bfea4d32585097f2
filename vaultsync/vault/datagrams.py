"""Reads many datagrams from a UDP socket in one system call, recvmmsg(2).

Python's recvfrom acquires the interpreter lock for each datagram. While the event loop computes, that takes up to 5 ms
each, and the kernel's buffer overflows in a burst (measured). One recvmmsg acquires it once for all datagrams.
"""

import ctypes
import errno
import os
import socket
import struct
from typing import Final

AT_ONCE: Final = 128
SLOT: Final = 64 * 1024
"""The maximum length of a datagram. Only pages that were written to use memory."""
SOCKADDR_BYTES: Final = 28
"""Size of an IPv6 address; an IPv4 address is shorter."""
WAIT_SECONDS: Final = 0.25
_MSG_WAITFORONE: Final = 0x10000


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
    """The datagrams of one socket.

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
