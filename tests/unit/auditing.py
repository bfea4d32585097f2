"""An Audit under test, and a Vault that answers its canaries and reports them as its audit devices would."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from tests.unit.build import Anything, audit_line, canary_line, run, run_ahead, sample
from tests.unit.servers import unused_port
from vaultsync.config.change_source import AuditAccess, Transport
from vaultsync.core.errors import VaultUnavailable
from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.audit import Audit

DELETE_A, DELETE_B = (audit_line("delete", f"secret/metadata/{name}") + b"\n" for name in ("a", "b"))
READ: Final = audit_line("read", "secret/data/a") + b"\n"


class Device:
    """A sender: of lines over a stream, or of datagrams."""

    def __init__(self, send: Callable[[bytes], None], close: Callable[[], None]) -> None:
        self.send = send
        self.close = close


class Receiving:
    """An Audit, and what it reports.

    Attributes:
        devices: those that report the canaries.
        asked: the paths of the canaries.
        gaps: for each gap, whether more may be missed.
        connected: the values that `is_connected` has changed to.
        is_away: Vault does not answer.
    """

    def __init__(self, access: AuditAccess, interval: float = 300.0, *, is_only: bool = False) -> None:
        self.access = access
        self.devices: list[Device] = []
        self.asked: list[str] = []
        self.gaps: list[bool] = []
        self.events: list[VaultEvent] = []
        self.connected: list[bool] = []
        self.is_away = False
        self.known: Callable[[VaultPath], bool] = lambda _: True
        self.metrics = Metrics()
        self.audit = Audit(
            access,
            interval,
            self._ask,
            self._knows,
            self.metrics,
            is_only=is_only,
        )
        self.audit.on_gap = self.gaps.append
        self.audit.on_event = self.events.append
        self.audit.on_change = lambda: self.connected.append(self.audit.is_connected)

    async def _ask(self, path: str) -> None:
        if self.is_away:
            raise VaultUnavailable("no answer")
        self.asked.append(path)
        for device in self.devices:
            device.send(canary_line(path) + b"\n")

    def _knows(self, path: VaultPath) -> bool:
        return self.known(path)

    def paths(self) -> list[str]:
        """The paths of KV v2 that it reported, without the beginning."""
        return [event.path.path.removeprefix("secret/data/") for event in self.events if event.kind.startswith("kv-v2")]

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        return sample(self.metrics, name, **labels) or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.audit.start()
        task = asyncio.create_task(self.audit.run())
        try:
            yield
            assert not task.done() or not self.access.is_configured
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.audit.stop()
            for device in self.devices:
                device.close()
            await asyncio.sleep(0.01)

    async def connect(self, tls: ssl.SSLContext | None = None) -> asyncio.StreamWriter:
        """Connect to the listener, as a device or anybody."""
        address = self.access.address
        assert address
        if address.transport is Transport.UNIX:
            return (await asyncio.open_unix_connection(address.path))[1]
        return (await asyncio.open_connection(address.host, address.port, ssl=tls))[1]

    async def stranger(self, tls: ssl.SSLContext | None = None) -> Device:
        """A sender that does not report canaries."""
        address = self.access.address
        assert address
        if address.transport is not Transport.UDP:
            writer = await self.connect(tls)
            return Device(writer.write, writer.close)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect((address.host, address.port))
        return Device(lambda data: _send(sock, data), sock.close)

    async def device(self, tls: ssl.SSLContext | None = None) -> Device:
        """Vault's audit device: it reports canaries too."""
        made = await self.stranger(tls)
        self.devices.append(made)
        return made


def _send(sock: socket.socket, data: bytes) -> None:
    for entry in data.splitlines(keepends=True):
        sock.send(entry)


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def receiving(
    test: Callable[[Receiving], Awaitable[None]], *, interval: float = 300.0, is_only: bool = False, **access: Anything
) -> None:
    """Run a test with an Audit that listens on TCP unless told otherwise."""
    given = {"listen": f"tcp:127.0.0.1:{unused_port()}", **access}

    async def main() -> None:
        made = Receiving(AuditAccess(**given), interval, is_only=is_only)
        async with made.running():
            await test(made)

    if given["listen"].startswith("udp:"):  # which has a thread of its own
        run(main(), 30)
    else:
        run_ahead(main())
