"""Network namespaces: two machines and the cable between them, whose packets can be lost.

A namespace has no name and no holder process. It is kept by a file descriptor of this process, and by the processes in
it: when all have ended, in any way, the kernel removes the namespace and its devices. Nothing is changed in the
namespace that this process itself runs in.

Threads and processes that are started in a namespace stay in it: `namespace.run(server.start)` starts a server there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.testbed.errors import MissingToolError, TestbedError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
DEVICE = "veth0"
DEAD_MAC = "02:00:00:00:00:00"
"""An address without a device: packets to it are lost."""
IP_SECONDS = 10


class Namespace:
    """A network namespace with a loopback device that is up; `with Namespace() as namespace`."""

    def __init__(self) -> None:
        _ensure_possible()
        self._stack = contextlib.ExitStack()
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="netns"))
        try:
            self._file = self._thread.submit(_new_namespace).result()
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(os.close, self._file)
        self.ip("link", "set", "lo", "up")

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> str:
        """A path by which other processes can open it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    @property
    def inode(self) -> int:
        """The number by which the kernel identifies the namespace."""
        return os.fstat(self._file).st_ino

    def close(self) -> None:
        """Closes it; it is removed once the processes in it have ended."""
        self._stack.close()

    def run(self, task: Callable[[], T]) -> T:
        """Runs a task in it, in a thread: sockets, threads and processes that the task creates belong to it."""
        return self._thread.submit(task).result()

    def threads(self, number: int) -> ThreadPoolExecutor:
        """A pool of threads in it."""
        return ThreadPoolExecutor(number, thread_name_prefix="netns", initializer=self._enter)

    def ip(self, *arguments: str) -> str:
        """Runs `ip` in it; returns what it prints."""
        return self.run(lambda: _ip(*arguments))

    def sysctl(self, name: str, value: object) -> None:
        """Sets a kernel parameter in it, such as `net.ipv4.ip_forward`."""
        self.run(lambda: _write(f"/proc/sys/{name.replace('.', '/')}", str(value)))

    def _enter(self) -> None:
        _call("setns", self._file, CLONE_NEWNET)


class Cable:
    """A veth pair between two namespaces, each of which has an address on it.

    The addresses are of 198.18.0.0/15, which is reserved for benchmarks (RFC 2544) and routed nowhere.
    """

    def __init__(self, near: Namespace, far: Namespace) -> None:
        self.near, self.far = near, far
        self.near_address, self.far_address = "198.18.0.1", "198.18.0.2"
        self.lost_address, self.absent_address = "198.18.0.3", "198.18.0.4"
        near.ip("link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", far.path)
        for namespace, address in ((near, self.near_address), (far, self.far_address)):
            namespace.ip("addr", "add", f"{address}/24", "dev", DEVICE)
            namespace.ip("link", "set", DEVICE, "up")
        self._lose(self.lost_address)

    def lose(self) -> None:
        """From now on, packets from the near side to the far one are lost without an error."""
        self._lose(self.far_address)

    def silence(self) -> None:
        """The far machine disappears: it answers no ARP request, so the near side cannot address packets."""
        self.far.ip("link", "set", DEVICE, "arp", "off")
        self._forget()

    def heal(self) -> None:
        """Ends all packet loss."""
        self.far.ip("link", "set", DEVICE, "arp", "on")
        self._forget()

    def mtu(self, size: int) -> None:
        """Sets the MTU: longer packets are fragmented."""
        for namespace in (self.near, self.far):
            namespace.ip("link", "set", DEVICE, "mtu", str(size))

    def _lose(self, address: str) -> None:
        self.near.ip("neigh", "replace", address, "lladdr", DEAD_MAC, "nud", "permanent", "dev", DEVICE)

    def _forget(self) -> None:
        for namespace, address in ((self.near, self.far_address), (self.far, self.near_address)):
            namespace.ip("neigh", "flush", "to", address, "dev", DEVICE, "nud", "all")


def hangs(namespace: Namespace, address: str, port: int, seconds: float) -> bool:
    """Whether a TCP connection from there gets no response within the time, not even a refusal."""

    def connect() -> bool:
        try:
            socket.create_connection((address, port), seconds).close()
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    return namespace.run(connect)


def udp_sink(namespace: Namespace, address: str) -> socket.socket:
    """A UDP socket there, on its own port, which is not read."""

    def bind() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, 0))
        return made

    return namespace.run(bind)


def dropped(namespace: Namespace, port: int) -> int:
    """Number of datagrams that the kernel has dropped there because the socket's buffer was full."""
    rows = namespace.run(lambda: Path("/proc/thread-self/net/udp").read_text(encoding="ascii").splitlines()[1:])
    return sum(int(row.split()[-1]) for row in rows if int(row.split()[1].split(":")[1], 16) == port)


@contextlib.contextmanager
def joined() -> Iterator[Cable]:
    """Two new namespaces with a cable between them."""
    with Namespace() as near, Namespace() as far:
        yield Cable(near, far)


def _ensure_possible() -> None:
    if not hasattr(ctypes.CDLL(None), "unshare"):
        raise MissingToolError("network namespaces are Linux's: these tests run on Linux alone")
    if shutil.which("ip") is None:
        raise MissingToolError("`ip` is missing, which sets up network namespaces; on Debian: apt-get install iproute2")


def _new_namespace() -> int:
    """Moves this thread into a new namespace; returns a file descriptor of it."""
    try:
        _call("unshare", CLONE_NEWNET)
    except PermissionError:
        raise MissingToolError(
            "network namespaces need root (CAP_SYS_ADMIN and CAP_NET_ADMIN), as CI has it; in a container: --privileged"
        ) from None
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(name: str, *arguments: int) -> None:
    """A function of libc that Python has only from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _ip(*arguments: str) -> str:
    done = subprocess.run(
        ["ip", *arguments], check=False, capture_output=True, text=True, timeout=IP_SECONDS, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise TestbedError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout


def _write(file: str, text: str) -> None:
    Path(file).write_text(text, encoding="ascii")
