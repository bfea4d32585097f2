"""vault/audit_udp: what is received, what is lost, and that it ends."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_network

import pytest

from tests.unit.auditing import DELETE_A, READ, Receiving, receiving
from tests.unit.build import audit_line, eventually, logged, run
from tests.unit.servers import unused_port
from vaultsync.config.change_source import AuditAddress, Transport, is_within
from vaultsync.vault import audit_udp
from vaultsync.vault.audit_udp import KEPT, KEPT_UNVERIFIED, Batch, Peer, UdpReceiver
from vaultsync.vault.limited_log import LimitedLog

WRITE = audit_line("update", "secret/data/a") + b"\n"


class Scene:
    """A receiver, and what it has handed over."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.address = AuditAddress(Transport.UDP, host, unused_port())
        self.allowed = [ip_network("0.0.0.0/0"), ip_network("::/0")]
        self.batches: list[Batch] = []
        self.nonces: tuple[bytes, ...] = ()
        self.receiver = UdpReceiver(
            self.address,
            lambda host: is_within(host, self.allowed),
            lambda: self.nonces,
            self.batches.append,
            LimitedLog(),
        )

    def sender(self, host: str = "127.0.0.1") -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((host, self.address.port))
        return sock

    def entries(self) -> list[bytes]:
        return [entry for batch in self.batches for _, entry in batch.entries]

    def peers(self) -> set[str]:
        return {peer.host for batch in self.batches for peer, _ in batch.entries}

    def lost(self) -> int:
        return sum(batch.lost for batch in self.batches)


def scene(test: Callable[[Scene], Awaitable[None]], host: str = "127.0.0.1") -> None:
    async def main() -> None:
        made = Scene(host)
        await made.receiver.start()
        try:
            await test(made)
        finally:
            began = time.monotonic()
            await made.receiver.stop()
            assert time.monotonic() - began < 2
        assert not any(thread.name == "audit" for thread in threading.enumerate())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", made.address.port))  # it was let go of

    run(main(), 30)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("listen", "senders"),
    [
        ("127.0.0.1", {"127.0.0.1": "127.0.0.1"}),
        ("localhost", {}),
        ("::1", {"::1": "::1"}),
        ("::", {"::1": "::1", "127.0.0.1": "::ffff:127.0.0.1"}),
        ("", {"::1": "::1", "127.0.0.1": "::ffff:127.0.0.1"}),
    ],
)
def test_datagrams_of_either_version_of_ip_arrive_with_their_sender(listen: str, senders: dict[str, str]) -> None:
    async def test(made: Scene) -> None:
        for host in senders:
            with made.sender(host) as sock:
                sock.send(WRITE)
        await eventually(lambda: made.peers() == {*senders.values()})
        assert made.entries() == [WRITE] * len(senders)

    if not has_ipv6() and "::1" in senders:
        pytest.skip("no IPv6 here")
    scene(test, listen)


def test_reads_are_dropped_at_once_and_a_new_sender_is_reported_once() -> None:
    async def test(made: Scene) -> None:
        with made.sender() as sock:
            for _ in range(1000):
                sock.send(READ)
        await eventually(lambda: made.batches)
        await asyncio.sleep(0.5)
        assert made.entries() == []
        assert all(batch.strangers for batch in made.batches)
        assert len(made.batches) < 10

    scene(test)


def test_garbage_and_datagrams_of_any_size_are_nothing() -> None:
    async def test(made: Scene) -> None:
        with made.sender() as sock:
            for data in (b"", b"\n", b"garbage", b"\xff" * 65_507, b"x" * 40_000, b"@cee: " + READ):
                sock.send(data)
            sock.send(WRITE)
        await eventually(lambda: made.entries() == [WRITE])

    scene(test)


def test_of_unverified_senders_few_entries_are_kept_and_of_verified_ones_all() -> None:
    async def test(made: Scene) -> None:
        with made.sender() as sock, made.sender() as other:
            family = socket.AF_INET.to_bytes(2, "little")
            host, port = other.getsockname()
            address = family + port.to_bytes(2, "big") + socket.inet_aton(host) + bytes(20)
            made.receiver.verified = frozenset({address})
            for _ in range(2 * KEPT_UNVERIFIED):
                sock.send(WRITE)
                other.send(DELETE_A)
            time.sleep(0.3)  # noqa: ASYNC251 — the loop is held up
            await eventually(lambda: made.entries().count(DELETE_A) == 2 * KEPT_UNVERIFIED)
            assert made.entries().count(WRITE) == KEPT_UNVERIFIED
            assert made.lost() == 0
            assert {str(peer) for batch in made.batches for peer, _ in batch.entries} == {
                f"127.0.0.1 port {one.getsockname()[1]}" for one in (sock, other)
            }

    scene(test)


def test_a_canary_gets_through_whatever_else_is_sent() -> None:
    async def test(made: Scene) -> None:
        made.nonces = (b"n0nce",)
        genuine = audit_line("read", "sys/internal/ui/mounts/sys/vaultsync-canary/n0nce") + b"\n"
        forged = genuine.replace(b"n0nce", b"other")
        with made.sender() as sock:
            for _ in range(2 * KEPT_UNVERIFIED):
                sock.send(forged)
            time.sleep(0.3)  # noqa: ASYNC251 — the loop is held up
            sock.send(genuine)
        await eventually(lambda: genuine in made.entries())
        assert made.entries().count(forged) == KEPT_UNVERIFIED

    scene(test)


def test_who_is_not_allowed_is_counted_and_nothing_else() -> None:
    async def test(made: Scene) -> None:
        made.allowed = [ip_network("10.0.0.0/8")]
        with made.sender() as sock:
            sock.send(READ)
            sock.send(WRITE)
        await eventually(lambda: made.batches)
        assert made.batches == [Batch(refused=1)]

    scene(test)


def test_what_the_kernel_drops_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_udp, "BUFFER_BYTES", 4096)
    number = 5000

    async def test(made: Scene) -> None:
        with made.sender() as sock:
            family = socket.AF_INET.to_bytes(2, "little")
            host, port = sock.getsockname()
            made.receiver.verified = frozenset({family + port.to_bytes(2, "big") + socket.inet_aton(host) + bytes(20)})
            for _ in range(number):
                sock.send(WRITE)
        await eventually(lambda: len(made.entries()) + made.lost() == number)
        assert made.lost() > 0

    with logged("WARNING") as lines:
        scene(test)
    (line,) = [line for line in lines if "receive buffer" in line]
    assert "net.core.rmem_max" in line


def test_entries_that_the_loop_does_not_take_are_a_loss_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_udp, "KEPT", 100)

    async def test(made: Scene) -> None:
        made.nonces = (b"secret",)  # which is in each
        entry = audit_line("read", "sys/internal/ui/mounts/sys/vaultsync-canary/secret") + b"\n"
        with made.sender() as sock:
            for _ in range(250):
                sock.send(entry)
        time.sleep(0.3)  # noqa: ASYNC251 — the loop is held up
        await eventually(lambda: len(made.entries()) + made.lost() == 250)
        assert made.lost() == 150

    assert KEPT > 100
    scene(test)


def test_an_ipv6_sender_has_its_name() -> None:
    address = socket.AF_INET6.to_bytes(2, "little") + (8220).to_bytes(2, "big") + bytes(4)
    address += socket.inet_pton(socket.AF_INET6, "fd00::1") + bytes(4)
    assert str(Peer(address)) == "fd00::1 port 8220"


def test_a_loss_is_reported_with_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_udp, "BUFFER_BYTES", 4096)

    async def test(made: Receiving) -> None:
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        for _ in range(5000):
            device.send(READ)
        await eventually(lambda: made.count("audit_lost_total") > 0)
        assert True in made.gaps
        assert made.audit.is_connected
        assert len([line for line in lines if "has overflowed" in line]) == 1

    with logged("WARNING") as lines:
        receiving(test, listen=f"udp:127.0.0.1:{unused_port()}")
