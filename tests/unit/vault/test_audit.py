"""vault/audit: entries from a socket that anybody may reach, or from a file; who is believed, and what is missed."""

import asyncio
import os
import socket
import ssl
import stat
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.unit.auditing import DELETE_A, DELETE_B, READ, Device, Receiving, close, receiving
from tests.unit.build import Anything, audit_line, eventually, logged, run, sample, wrote
from tests.unit.servers import unused_port
from vaultsync.config.change_source import AuditAccess, is_within
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault import audit, canary
from vaultsync.vault.audit import MISSED_WRITES, UNVERIFIED_BURST, Audit, Delivery
from vaultsync.vault.audit_stream import KEEPALIVE, MAX_CONNECTIONS, MAX_LINE, Connection, StreamListener

STREAMS = ["tcp", "unix"]
ALL = [*STREAMS, "udp"]


def address(kind: str, folder: Path) -> str:
    return f"unix:{folder}/audit.sock" if kind == "unix" else f"{kind}:127.0.0.1:{unused_port()}"


@pytest.fixture(params=ALL)
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address of each kind."""
    return address(request.param, tmp_path)


@pytest.fixture(params=STREAMS)
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address of each kind that is connected to."""
    return address(request.param, tmp_path)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FOLLOW_SECONDS", 0.001)
    monkeypatch.setattr(audit, "WRITE_SECONDS", 0.05)
    monkeypatch.setattr(canary, "WAIT_SECONDS", (0.05, 0.05, 0.05))
    monkeypatch.setattr(canary, "FIRST_PACE", 0.05)


def unlisted(*_: object) -> Anything:
    """For an Audit that is only started."""


def only_started(access: AuditAccess) -> Audit:
    return Audit(access, 300.0, unlisted, unlisted, Metrics())


# -- entries


def test_changes_arrive_whatever_else_is_sent(stream: str) -> None:
    async def test(made: Receiving) -> None:
        garbage, long = b"garbage\n\xff\n", b"x" * (MAX_LINE + 100_000)
        assert sample(made.metrics, "last_event_timestamp_seconds", source="audit") is None
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        for piece in (garbage, DELETE_A, DELETE_B[:20], DELETE_B[20:], long, b"\n" + DELETE_A):
            device.send(piece)
        await eventually(lambda: made.paths() == ["a", "b", "a"])
        assert made.count("events_total", source="audit") == 3
        assert abs(made.count("last_event_timestamp_seconds", source="audit") - time.time()) < 10

    receiving(test, listen=stream)


def test_senders_do_not_mix_and_one_is_enough(stream: str) -> None:
    async def test(made: Receiving) -> None:
        assert not made.audit.is_connected
        one, other = await made.device(), await made.device()
        one.send(READ)
        other.send(READ)
        await eventually(lambda: len(made.gaps) == 2)
        one.send(DELETE_A[:30])
        await asyncio.sleep(0.02)
        one.send(DELETE_A[30:])
        other.send(DELETE_B)
        await eventually(lambda: sorted(made.paths()) == ["a", "b"])
        made.devices.remove(one)
        one.close()
        await asyncio.sleep(0.05)
        assert made.audit.is_connected
        made.devices.remove(other)
        other.close()
        await eventually(lambda: made.connected == [True, False])

    receiving(test, listen=stream)


def test_nothing_of_an_entry_is_logged(listen: str) -> None:
    async def test(made: Receiving) -> None:
        odd = audit_line("delete", "hunter2/data/hunter2", "hunter2/", request={"data": {"hunter2": "hunter2"}})
        device = await made.device()
        for piece in (b"hunter2\n", odd + b"\n", odd[1:] + b"\n", odd[:50] + b"\n", DELETE_A):
            device.send(piece)
        await eventually(lambda: "a" in made.paths())
        assert lines
        assert "hunter2" not in "".join(lines)

    with logged("TRACE") as lines:
        receiving(test, listen=listen)


def test_hints_about_paths_that_nobody_reads_are_dropped(listen: str) -> None:
    async def test(made: Receiving) -> None:
        made.known = lambda path: path.path == "secret/data/b"
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        device.send(DELETE_A + DELETE_B)
        await eventually(lambda: made.paths() == ["b"])
        assert [event.kind for event in made.events] == ["kv-v2/metadata-delete"]

    receiving(test, listen=listen)


# -- the listener


def test_an_idle_sender_is_kept_and_its_host_asked_whether_it_is_still_there() -> None:
    """What happens when it is not is the system's part: packets can't be lost on cue here."""

    async def test(made: Receiving) -> None:
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        await asyncio.sleep(0.2)
        assert isinstance(made.audit._listener, StreamListener)
        (connection,) = made.audit._listener._connections
        sock = connection.writer.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE}
        assert options == KEEPALIVE
        assert made.audit.is_connected

    receiving(test)


def test_a_sender_that_resets_its_connection_is_gone() -> None:
    async def test(made: Receiving) -> None:
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        made.devices.clear()
        writer = device.send.__self__  # type: ignore[attr-defined]
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await eventually(lambda: not made.audit.is_connected)

    receiving(test)


def test_when_it_stops_nobody_is_connected_any_more(stream: str) -> None:
    async def test(made: Receiving) -> None:
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        await made.audit.stop()
        await eventually(lambda: not made.audit.is_connected)
        with pytest.raises(OSError):  # noqa: PT011 — refused, or reset
            await made.connect()

    receiving(test, listen=stream)


def test_what_a_killed_process_has_left_does_not_prevent_the_next(tmp_path: Path) -> None:
    left = tmp_path / "audit.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))

    async def test(made: Receiving) -> None:
        (await made.device()).send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    assert left.is_socket()
    receiving(test, listen=f"unix:{left}")


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a person's")
    with pytest.raises(OSError, match=str(file)):
        run(only_started(AuditAccess(f"unix:{file}")).start())
    assert file.read_text() == "a person's"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_owner_and_group_may_connect_to_the_file_and_nobody_else(umask: int, tmp_path: Path) -> None:
    async def test(made: Receiving) -> None:
        assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o660
        (await made.device()).send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    before = os.umask(umask)
    try:
        receiving(test, listen=f"unix:{tmp_path}/audit")
    finally:
        os.umask(before)


@pytest.mark.parametrize("listen", ["unix:/nowhere/audit.sock", "192.0.2.1:8220", "udp:192.0.2.1:8220"])
def test_an_address_that_cannot_be_had_is_an_error(listen: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 — the system's own words
        run(only_started(AuditAccess(listen)).start())


@pytest.mark.parametrize(("host", "warns"), [("", True), ("127.0.0.1", False), ("localhost", False)])
@pytest.mark.parametrize("transport", ["", "tcp:", "udp:"])
def test_a_tcp_listener_for_other_machines_is_warned_of(transport: str, host: str, warns: bool) -> None:
    async def main() -> None:
        made = only_started(AuditAccess(f"{transport}{host}:{port}"))
        await made.start()
        await made.stop()

    port = unused_port()
    with logged("WARNING") as lines:
        run(main())
    found = [line for line in lines if "can block Vault" in line]
    assert len(found) == (warns and transport != "udp:")
    assert all(f"VAULTSYNC_AUDIT_LISTEN=udp:{host}:{port}" in line for line in found)


# -- who is believed


def test_a_silent_sender_is_not_connected(stream: str) -> None:
    async def test(made: Receiving) -> None:
        writer = await made.connect()
        await asyncio.sleep(0.1)
        assert (made.audit.is_connected, made.connected, made.gaps) == (False, [], [])
        await close(writer)

    receiving(test, listen=stream)


def test_a_forging_sender_causes_few_looks_and_nothing_else(listen: str) -> None:
    async def test(made: Receiving) -> None:
        forger = await made.stranger()
        for number in range(500):
            forger.send(audit_line("update", f"secret/data/{number % 50}", request={"id": "x"}, **wrote(9)) + b"\n")
        for nonce in ("", "abc", "0" * 32):
            forger.send(audit_line("read", f"sys/internal/ui/mounts/sys/vaultsync-canary/{nonce}") + b"\n")
        await eventually(lambda: made.events)
        await asyncio.sleep(0.3)
        assert len(made.events) <= UNVERIFIED_BURST + 2
        assert (made.audit.is_connected, made.connected, made.gaps) == (False, [], [])
        assert made.count("events_total", source="audit") == 0
        assert sample(made.metrics, "last_event_timestamp_seconds", source="audit") is None
        assert len(made.asked) <= 3
        assert len(lines) <= 4
        forger.close()

    with logged() as lines:
        receiving(test, listen=listen)


@pytest.mark.usefixtures("_quick")
def test_a_write_in_kv_v1_is_believed_of_a_verified_sender_alone(listen: str) -> None:
    """Its state does not show it; what came before the verification may have been missed, and is looked for."""

    async def test(made: Receiving) -> None:
        forger = await made.stranger()
        for operation in ("create", "update", "delete"):
            forger.send(audit_line(operation, "kv1/a", "kv1/") + b"\n")
        await eventually(lambda: made.events)
        await asyncio.sleep(0.1)
        assert {event.kind for event in made.events} == {"kv-v1/delete"}
        forger.close()
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        device.send(audit_line("update", "kv1/a", "kv1/") + b"\n")
        await eventually(lambda: made.events[-1].kind == "kv-v1/write")

    receiving(test, listen=listen)


def test_a_new_sender_is_verified_by_a_canary_at_once(listen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "FIRST_PACE", 0.5)

    async def test(made: Receiving) -> None:
        await eventually(lambda: made.asked)
        await asyncio.sleep(0.6)  # one canary was just sent
        device = await made.device()
        loop = asyncio.get_running_loop()
        began = loop.time()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        assert loop.time() - began < 0.4
        assert (made.connected, made.gaps) == ([True], [False])
        assert made.count("canaries_total", result="delivered") >= 0
        assert any("audit device is connected" in line for line in lines)

    with logged() as lines:
        receiving(test, listen=listen)


def test_what_a_new_sender_has_sent_before_it_was_verified_is_not_lost(listen: str) -> None:
    async def test(made: Receiving) -> None:
        await eventually(lambda: made.asked)
        device = await made.device()
        names = [f"n{number}" for number in range(200)]
        for name in names:
            device.send(audit_line("delete", f"secret/metadata/{name}") + b"\n")
        await eventually(lambda: sorted(made.paths()) == sorted(names))

    receiving(test, listen=listen)


@pytest.mark.parametrize("is_first", [True, False])
def test_an_own_write_verifies_who_reports_it(listen: str, is_first: bool) -> None:
    """The entry comes before the response that tells its ID; where the machine is busy, after it."""

    async def test(made: Receiving) -> None:
        device = await made.stranger()
        entry = audit_line("create", "secret/data/a", request={"id": "own"}, **wrote(1)) + b"\n"
        if is_first:
            device.send(entry)
            await eventually(lambda: made.paths() == ["a"])
            made.audit.wrote("own")
        else:
            other = await made.device()
            other.send(READ)
            await eventually(lambda: made.audit.is_connected)
            made.devices.remove(other)
            made.audit.wrote("own")
            device.send(entry)
            other.close()
        await eventually(lambda: made.audit.is_connected and made.paths() == ["a"])
        assert made.count("audit_lost_total") == 0
        device.close()

    receiving(test, listen=listen)


def test_silent_senders_do_not_keep_vault_out() -> None:
    async def test(made: Receiving) -> None:
        silent = [await made.connect() for _ in range(MAX_CONNECTIONS + 8)]
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        silent += [await made.connect() for _ in range(MAX_CONNECTIONS + 8)]
        device.send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])
        assert made.connected == [True]
        assert isinstance(made.audit._listener, StreamListener)
        assert len(made.audit._listener._connections) <= MAX_CONNECTIONS
        assert len([line for line in lines if "make room" in line]) == 1
        await close(*silent)

    with logged() as lines:
        receiving(test)


def test_verified_senders_are_not_evicted() -> None:
    async def test(made: Receiving) -> None:
        for _ in range(MAX_CONNECTIONS):
            (await made.device()).send(READ)
        await eventually(lambda: len(made.audit._verified) == MAX_CONNECTIONS)
        late = await made.stranger()
        late.send(DELETE_A)
        await eventually(lambda: any(f"{MAX_CONNECTIONS} verified ones" in line for line in lines))
        assert len(made.audit._verified) == MAX_CONNECTIONS
        late.close()

    with logged() as lines:
        receiving(test)


def test_of_many_unverified_ones_the_oldest_of_the_host_with_most_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an attacker evicts its own connections, not that of a Vault that has just come."""

    class Writer:
        def __init__(self, host: str) -> None:
            self.host, self.transport, self.aborted = host, self, False

        def get_extra_info(self, _: str) -> tuple[str, int]:
            return self.host, 1

        def abort(self) -> None:
            self.aborted = True

    writers: list[Any] = [Writer(host) for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.2")]
    verified: set[object] = set()
    listener = StreamListener(AuditAccess(), lambda *_, **__: None, verified, unlisted, unlisted)  # type: ignore[arg-type]
    listener._connections = {Connection(writer): None for writer in writers}
    assert listener._make_room()
    assert [writer.aborted for writer in writers] == [False, True, False, False]
    verified.update(listener._connections)
    assert not listener._make_room()


# -- what is missed


@pytest.mark.usefixtures("_quick")
def test_a_device_that_does_not_deliver_is_not_connected_until_it_does_again(listen: str) -> None:
    async def test(made: Receiving) -> None:
        seen = [made.audit.delivery]
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        seen.append(made.audit.delivery)
        made.devices.clear()  # it was disabled, but its connection stays open
        await eventually(lambda: made.connected == [True, False])
        assert [*seen, made.audit.delivery] == [Delivery.UNKNOWN, Delivery.DELIVERS, Delivery.SILENT]
        assert made.gaps == [False, False]
        await asyncio.sleep(0.5)
        assert len([line for line in lines if "does not deliver" in line]) == 1
        made.devices.append(device)
        await eventually(lambda: made.connected == [True, False, True])
        assert made.gaps == [False, False, False]
        assert made.count("canaries_total", result="missing") >= 1

    with logged() as lines:
        receiving(test, listen=listen, interval=0.2)


@pytest.mark.usefixtures("_quick")
def test_any_entry_of_a_device_that_was_given_up_is_reason_for_a_canary(listen: str) -> None:
    async def test(made: Receiving) -> None:
        await eventually(lambda: made.count("canaries_total", result="missing"))
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)

    receiving(test, listen=listen)


@pytest.mark.usefixtures("_quick")
def test_a_vault_that_does_not_answer_proves_nothing(listen: str) -> None:
    async def test(made: Receiving) -> None:
        (await made.device()).send(READ)
        await eventually(lambda: made.audit.is_connected)
        made.is_away = True
        await eventually(lambda: made.count("canaries_total", result="unanswered") >= 2)
        assert made.connected == [True]

    receiving(test, listen=listen, interval=0.1)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("is_only", [True, False])
def test_without_another_source_everything_is_looked_at_as_long_as_nothing_is_delivered(is_only: bool) -> None:
    async def test(made: Receiving) -> None:
        await eventually(lambda: made.count("canaries_total", result="missing") >= 3)
        assert len(made.gaps) >= 2 if is_only else made.gaps == []

    receiving(test, interval=0.1, is_only=is_only)


@pytest.mark.usefixtures("_quick")
def test_an_own_write_that_is_not_reported_while_canaries_are_is_a_loss(listen: str) -> None:
    async def test(made: Receiving) -> None:
        (await made.device()).send(READ)
        await eventually(lambda: made.audit.is_connected)
        made.audit.wrote("lost")
        await eventually(lambda: made.count("audit_lost_total") == 1)
        assert made.gaps == [False, True]
        assert made.connected == [True]

    receiving(test, listen=listen)


@pytest.mark.usefixtures("_quick")
def test_a_device_that_never_reports_own_writes_is_not_connected_until_it_does(listen: str) -> None:
    """Such as one with a filter (Vault Enterprise)."""

    async def test(made: Receiving) -> None:
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        for number in range(MISSED_WRITES):
            assert made.audit.is_connected
            made.audit.wrote(f"lost-{number}")
            await eventually(lambda number=number: made.count("audit_lost_total") == number + 1)  # type: ignore[misc]
        await eventually(lambda: made.connected == [True, False])
        assert made.audit.delivery is Delivery.SILENT
        device.send(audit_line("create", "secret/data/a", request={"id": "own"}, **wrote(1)) + b"\n")
        await eventually(lambda: made.paths() == ["a"])
        made.audit.wrote("own")
        await eventually(lambda: made.connected == [True, False, True])

    receiving(test, listen=listen)


@pytest.mark.usefixtures("_quick")
def test_one_canary_that_is_lost_on_its_way_is_a_loss_of_one(listen: str) -> None:
    async def test(made: Receiving) -> None:
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        made.devices.clear()
        asked = len(made.asked)
        made.audit.canary.request()
        await eventually(lambda: len(made.asked) > asked)
        made.devices.append(device)
        await eventually(lambda: made.count("audit_lost_total") == 1)
        assert made.connected == [True]

    receiving(test, listen=listen)


def test_where_nobody_is_connected_own_writes_are_not_missed() -> None:
    async def test(made: Receiving) -> None:
        made.audit.wrote("own")
        made.audit.wrote("")
        assert made.audit._awaited == {}

    receiving(test)


# -- who may connect


@pytest.mark.parametrize(
    ("allowed", "may"),
    [
        ([], True),
        (["127.0.0.0/8"], True),
        (["10.0.0.0/8", "127.0.0.1"], True),
        (["10.0.0.0/8", "::/0"], False),
    ],
)
def test_only_who_is_in_the_list_may_connect(allowed: list[str], may: bool) -> None:
    async def test(made: Receiving) -> None:
        host, port = made.access.listen.split(":")[1:]
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(DELETE_A)
        if may:
            await eventually(lambda: made.paths() == ["a"])
        else:
            await eventually(lambda: any("not in VAULTSYNC_AUDIT_ALLOW" in line for line in lines))
            with suppress(ConnectionResetError):  # as its line was not read
                assert await reader.read() == b""
            assert (made.events, made.connected) == ([], [])
        await close(writer)

    with logged() as lines:
        receiving(test, allowed=tuple(map(ip_network, allowed)))


def test_a_socket_in_the_file_system_needs_no_list(tmp_path: Path) -> None:
    async def test(made: Receiving) -> None:
        (await made.device()).send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    receiving(test, listen=f"unix:{tmp_path}/audit.sock", allowed=(ip_network("10.0.0.0/8"),))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_list_counts_for_ipv6(transport: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
            port = one.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 here")

    async def test(made: Receiving) -> None:
        (await made.device()).send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    receiving(test, listen=f"{transport}:[::1]:{port}", allowed=(ip_network("::1"),))


@pytest.mark.parametrize(
    ("address", "network", "within"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("::ffff:11.1.2.3", "10.0.0.0/8", False),
        ("fd00::1", "fd00::/8", True),
        ("fe80::1%eth0", "fe80::/10", True),
        ("fd00::1", "10.0.0.0/8", False),
        ("10.1.2.3", "::/0", False),
        ("", "::/0", False),
        ("nonsense", "0.0.0.0/0", False),
    ],
)
def test_an_address_within_a_network(address: str, network: str, within: bool) -> None:
    assert is_within(address, [ip_network("192.0.2.0/24"), ip_network(network)]) is within


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, key.pem and both.pem."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vaultsync")])
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate = made.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(private)
    (folder / "both.pem").write_bytes(private + certificate)
    return folder


@pytest.mark.parametrize(("file", "key"), [("cert.pem", "key.pem"), ("both.pem", "")])
def test_with_a_certificate_only_tls_is_heard(certificate: Path, file: str, key: str) -> None:
    async def test(made: Receiving) -> None:
        plain = await made.connect()
        plain.write(DELETE_B)
        device = await made.device(ssl.create_default_context(cafile=certificate / "cert.pem"))
        device.send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"] and made.audit.is_connected)
        await close(plain)

    receiving(test, certificate=str(certificate / file), key=key and str(certificate / key))


def test_a_tls_listener_for_other_machines_is_not_warned_of(certificate: Path) -> None:
    """Vault's device speaks no TLS: it sends to a tunnel on its own machine."""

    async def main() -> None:
        made = only_started(AuditAccess(f":{unused_port()}", certificate=str(certificate / "both.pem")))
        await made.start()
        await made.stop()

    with logged("WARNING") as lines:
        run(main())
    assert lines == []


@pytest.mark.parametrize(("file", "key"), [("none.pem", ""), ("cert.pem", ""), ("key.pem", "cert.pem")])
def test_a_certificate_that_is_none_is_an_error(certificate: Path, file: str, key: str) -> None:
    access = AuditAccess("127.0.0.1:0", certificate=str(certificate / file), key=key and str(certificate / key))
    with pytest.raises(OSError):  # noqa: PT011 — the system's own words
        run(only_started(access).start())


# -- the file


def append(file: Path, *texts: bytes) -> None:
    with file.open("ab") as opened:
        for text in texts:
            opened.write(text)


def rotate(file: Path, text: bytes) -> None:
    file.rename(file.with_suffix(".1"))
    append(file, text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "audit.log"
    append(made, b"old\n")
    return made


def following(file: Path, test: Callable[[Receiving], Awaitable[None]], **access: Anything) -> None:
    """A file that the device writes canaries to as well."""

    async def main(made: Receiving) -> None:
        made.devices.append(Device(lambda entry: append(file, entry), lambda: None))
        await test(made)

    receiving(main, **{"listen": "", "file": str(file), **access})


@pytest.mark.usefixtures("_quick")
def test_the_file_is_followed_as_a_device(file: Path) -> None:
    append(file, DELETE_B)

    async def test(made: Receiving) -> None:
        await eventually(lambda: made.audit.is_connected)
        assert (made.gaps, made.connected) == ([False], [True])
        append(file, DELETE_A[:30])
        await asyncio.sleep(0.05)
        assert made.events == []
        append(file, DELETE_A[30:], b"garbage\n")
        await eventually(lambda: made.paths() == ["a"])
        rotate(file, DELETE_B)
        await eventually(lambda: made.paths() == ["a", "b"])
        assert (made.gaps, made.connected) == ([False], [True])  # nothing is lost: no reason for a rescan

    following(file, test)


@pytest.mark.usefixtures("_quick")
def test_a_file_that_nothing_is_written_to_is_not_connected(file: Path) -> None:
    """The device was disabled, or the file is another's. What is written to it all the same is believed."""

    async def test(made: Receiving) -> None:
        await eventually(lambda: made.audit.is_connected)
        made.devices.clear()
        await eventually(lambda: made.connected == [True, False])
        append(file, DELETE_A)
        await eventually(lambda: made.paths() == ["a"])
        assert not made.audit.is_connected

    following(file, test, interval=0.2)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_file_that_cannot_be_read_is_logged_once(tmp_path: Path, is_folder: bool) -> None:
    file = tmp_path / "none.log"
    if is_folder:
        file.mkdir()

    async def test(made: Receiving) -> None:
        device = made.devices.pop()
        await eventually(lambda: lines)
        await asyncio.sleep(0.05)
        assert not made.audit.is_connected
        assert len([line for line in lines if "not there" in line]) == 1
        if is_folder:
            file.rmdir()
        append(file, DELETE_A)
        made.devices.append(device)
        await eventually(lambda: made.paths() == ["a"])
        await eventually(lambda: made.audit.is_connected)

    with logged("WARNING") as lines:
        following(file, test)


@pytest.mark.usefixtures("_quick")
def test_a_socket_and_a_file_may_both_report(file: Path, listen: str) -> None:
    async def test(made: Receiving) -> None:
        (await made.device()).send(DELETE_A)
        await eventually(lambda: len(made.audit._verified) == 2)
        append(file, DELETE_B)
        await eventually(lambda: made.paths() == ["a", "b"])

    following(file, test, listen=listen)


def test_without_either_it_is_not_configured() -> None:
    async def test(made: Receiving) -> None:
        assert not made.audit.is_configured
        assert made.audit.delivery is Delivery.NOT_CONFIGURED
        assert not made.audit.is_connected
        assert made.asked == []

    receiving(test, listen="")
    assert AuditAccess(file="/x").is_configured
    assert AuditAccess("unix:/x").is_configured
