"""core/events.parse_audit_line and vault/audit: hints from a socket that anybody may connect to, or from a file."""

import asyncio
import json
import os
import shutil
import socket
import ssl
import stat
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, Anything, audit_line, eventually, logged, path, run, wrote
from tests.unit.servers import unused_port
from vaultsync.core.events import VaultEvent, parse_audit_line
from vaultsync.vault import audit
from vaultsync.vault.audit import (
    CHUNK,
    KEEPALIVE,
    MAX_LINE,
    MAX_SENDERS,
    UNIX,
    Audit,
    AuditAccess,
    Lines,
    Tail,
    _is_within,
)

A, B = path("secret/data/a"), path("secret/data/b")
DELETE_A, DELETE_B = (audit_line("delete", f"secret/metadata/{name}") + b"\n" for name in ("a", "b"))


# -- lines


@pytest.mark.parametrize(
    ("operation", "folder", "kind"),
    [
        ("create", "data", "data-write"),
        ("update", "data", "data-write"),
        ("patch", "data", "data-patch"),
        ("delete", "data", "data-delete"),
        ("update", "delete", "delete"),
        ("update", "undelete", "undelete"),
        ("update", "destroy", "destroy"),
        ("delete", "metadata", "metadata-delete"),
        ("create", "metadata", "metadata-write"),
        ("update", "metadata", "metadata-write"),
        ("patch", "metadata", "metadata-patch"),
    ],
)
def test_each_change_in_kv_v2_is_the_event_that_the_stream_would_tell(operation: str, folder: str, kind: str) -> None:
    version = 3 if kind in ("data-write", "data-patch") else 0
    found = parse_audit_line(audit_line(operation, f"secret/{folder}/a/b", **(wrote(version) if version else {})))
    event = VaultEvent(path("secret/data/a/b"), f"kv-v2/{kind}", version, NOON)
    assert event in found
    assert event.is_write == bool(version)
    assert event.is_deletion == (kind in ("data-delete", "delete", "destroy", "metadata-delete"))
    assert event.is_about_metadata == (kind in ("metadata-write", "metadata-patch"))


@pytest.mark.parametrize("operation", ["create", "update", "patch"])
def test_a_write_with_a_version_is_of_kv_v2_alone(operation: str) -> None:
    (found,) = parse_audit_line(audit_line(operation, "secret/data/a", **wrote(12)))
    assert (found.path, found.version, found.is_write) == (A, 12, True)


@pytest.mark.parametrize(
    ("operation", "kind"), [("create", "kv-v1/write"), ("update", "kv-v1/write"), ("delete", "kv-v1/delete")]
)
@pytest.mark.parametrize("where", ["kv1/a", "kv1/x/data/a", "kv1/metadata"])
def test_a_change_in_kv_v1_names_the_path_itself(operation: str, kind: str, where: str) -> None:
    assert parse_audit_line(audit_line(operation, where, "kv1/")) == (VaultEvent(path(where), kind, 0, NOON),)


@pytest.mark.parametrize("operation", ["create", "update"])
def test_a_write_under_data_without_a_version_is_of_kv_v1(operation: str) -> None:
    found = parse_audit_line(audit_line(operation, "kv1/data/a", "kv1/", response=None))
    assert found == (VaultEvent(path("kv1/data/a"), "kv-v1/write", 0, NOON),)


def test_a_deletion_under_data_may_be_of_either() -> None:
    found = parse_audit_line(audit_line("delete", "secret/data/a"))
    assert [(event.path, event.kind) for event in found] == [(A, "kv-v2/data-delete"), (A, "kv-v1/delete")]


def test_the_time_is_that_of_the_write_where_it_is_in_clear_and_else_that_of_the_line() -> None:
    written = NOON - timedelta(milliseconds=3)
    for created, told in ((written.isoformat(), written), ("hmac-sha256:94000c6f", NOON)):
        (found,) = parse_audit_line(audit_line("update", "secret/data/a", **wrote(1, created)))
        assert found.time == told
    (found,) = parse_audit_line(
        audit_line("update", "secret/data/a", time="2026-11-25T03:54:47.311569176Z", **wrote(1))
    )
    assert found.time == datetime(2026, 11, 25, 3, 54, 47, 311569, UTC)


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        ("secret/", "team/a/secret/"),  # OpenBao 2.7.2, and the router of Vault
        ("team/kv/", "team/a/team/kv/"),
        ("team/a/", "team/a/team/a/"),
        ("secret/", "secret/"),
        ("team/a/", "team/a/"),
    ],
)
def test_the_mount_is_within_the_namespace(mount: str, told: str) -> None:
    request = {"namespace": {"id": "m0FcVz", "path": "team/a/"}}
    found = parse_audit_line(audit_line("update", f"{mount}data/x", told, request=request, **wrote(1)))
    assert [event.path for event in found] == [path(f"{mount}data/x", "team/a")]
    found = parse_audit_line(audit_line("delete", f"{mount}x", told, request=request))
    assert [event.path for event in found] == [path(f"{mount}x", "team/a")]


def test_without_its_mount_the_first_segment_is_taken_for_it() -> None:
    request = {"mount_point": None, "mount_type": "kv", "namespace": None}
    assert (
        parse_audit_line(audit_line("delete", "secret/metadata/a/b", request=request))[0].path.path == "secret/data/a/b"
    )


@pytest.mark.parametrize(
    "text",
    [
        audit_line("read", "secret/data/a", **wrote(1)),
        audit_line("read", "secret/subkeys/a"),
        audit_line("list", "secret/metadata/a", response={"data": {"keys": ["create", "delete", "update"]}}),
        audit_line("revoke", "secret/data/a"),
        audit_line("delete", "secret/data/a", type="request"),
        audit_line("delete", "secret/data/a", type=None),
        audit_line("delete", "secret/data/a", error="permission denied"),
        audit_line("update", "secret/data/a", error="1 error occurred:\n\t* invalid request\n\n"),
        audit_line("patch", "secret/data/none", response={"data": {"http_status_code": 404}}),
        audit_line("patch", "kv1/a", "kv1/"),
        audit_line("delete", "auth/token/x", "auth/token/", request={"mount_type": "token"}),
        audit_line("update", "sys/audit/file", "sys/", request={"mount_type": "system"}),
        audit_line("update", "cubbyhole/data/x", "cubbyhole/", request={"mount_type": "cubbyhole"}),
        audit_line("delete", "hmac-sha256:94000c6f"),
        audit_line("delete", "other/data/a"),
        audit_line("delete", "secret"),
        audit_line("delete", ""),
        audit_line("delete", "//"),
        audit_line("delete", "secret/data/a", request={"operation": {"delete": "an object"}}),
        audit_line("delete", "secret/data/a", request={"mount_type": ["kv"]}),
        b"prefix " + audit_line("delete", "secret/data/a"),
        audit_line("delete", "secret/data/a")[:-1],
        audit_line("delete", "secret/data/a")[1:],
        b"",
        b'"response" "delete"',
        b'{"response":"delete"}',
        b'{"request":{},"response":"delete"}',
        b'["response","delete"]',
        b'"response""delete"' + b"[" * 100_000,
        b'{"response":"delete","x":' + b"9" * 10_000 + b"}",
        b'\xff"response""delete"',
    ],
)
def test_all_else_is_nothing(text: bytes) -> None:
    assert parse_audit_line(text) == ()


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["delete", "update", "response", "kv", "secret/", "secret/data/a", "secret/metadata", "data/"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "version", "created_time", "path", "id"]) | st.text(max_size=3), inner, max_size=3
        )
    ),
    max_leaves=8,
)
parts = st.sampled_from(["request", "response", "type", "error", "time", "x"])


@given(st.binary(max_size=80), st.dictionaries(parts, anything, max_size=5), st.tuples(*[anything] * 6))
def test_no_line_makes_it_raise(garbage: bytes, document: dict[str, object], values: tuple[object, ...]) -> None:
    marks = b'"response""delete"'
    assert parse_audit_line(garbage + marks) == ()
    assert parse_audit_line(marks + garbage) == ()
    parse_audit_line(json.dumps({"marks": ["response", "delete"], **document}).encode())
    where, mount, namespace, answer, time, operation = values
    for asked in ("delete", "update", "create", operation):
        for told in ("secret/", mount):
            request = {"path": where, "mount_point": told, "operation": asked, "namespace": namespace}
            answered = {"type": "response", "request": request, "response": answer, "time": time}
            for event in parse_audit_line(json.dumps({"marks": "delete", **answered}).encode()):
                assert event.path.path
                assert event.version >= 0


@pytest.mark.parametrize("depth", range(900, 1100, 7))
def test_no_depth_makes_it_raise(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    text = audit_line("update", "secret/data/a", response={"data": {"version": "@", "created_time": "@"}}, time="@")
    parse_audit_line(text.replace(b'"@"', deep.encode()))


# -- chunks


@given(st.lists(st.binary(max_size=6) | st.just(b"\n"), max_size=20))
def test_lines_are_what_newlines_end_however_they_were_cut(chunks: list[bytes]) -> None:
    lines = Lines()
    found = [line for chunk in chunks for line in lines.feed(chunk)]
    assert found == b"".join(chunks).split(b"\n")[:-1]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.integers(1, 20))
def test_whatever_is_sent_little_is_kept_and_no_short_line_is_lost(lengths: list[int], cut: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(audit, "MAX_LINE", 16)
        text = b"".join(b"%c" % (97 + number) * length + b"\n" for number, length in enumerate(lengths))
        lines, found = Lines(), []
        for start in range(0, len(text), cut):
            found += lines.feed(text[start : start + cut])
            assert len(lines._rest) <= 16
        sent = text.split(b"\n")[:-1]
        assert [line for line in found if len(line) <= 16] == [line for line in sent if len(line) <= 16]
        assert all(line in sent for line in found)


def test_a_line_without_an_end_takes_no_memory() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * CHUNK) == []
        assert len(lines._rest) <= MAX_LINE
    assert lines.feed(b"x\nshort\nrest") == [b"short"]
    assert lines.feed(b"\n") == [b"rest"]


# -- the listener


class Hearing:
    """An Audit, and what it tells."""

    def __init__(self, access: AuditAccess) -> None:
        self.access = access
        self.connects = 0
        self.events: list[VaultEvent] = []
        self.heard: list[bool] = []
        self.audit = Audit(access, self.connected, self.events.append)
        self.audit.on_change = lambda: self.heard.append(self.audit.is_heard)

    def connected(self) -> None:
        self.connects += 1

    def paths(self) -> list[str]:
        """The paths of KV v2 that it was told of, without the beginning."""
        return [event.path.path.removeprefix("secret/data/") for event in self.events if event.kind.startswith("kv-v2")]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.audit.start()
        task = asyncio.create_task(self.audit.run())
        try:
            yield
            if self.access.file:
                assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.audit.stop()
            await asyncio.sleep(0.01)

    async def connect(self, tls: ssl.SSLContext | None = None) -> asyncio.StreamWriter:
        listen = self.access.listen
        if listen.startswith(UNIX):
            _, writer = await asyncio.open_unix_connection(listen.removeprefix(UNIX))
            return writer
        host, _, port = listen.rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)
        return writer

    async def send(self, *pieces: bytes, tls: ssl.SSLContext | None = None) -> None:
        """As a sender that closes."""
        writer = await self.connect(tls)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await close(writer)


async def close(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def hearing(test: Callable[[Hearing], Awaitable[None]], **access: Anything) -> None:
    async def main() -> None:
        made = Hearing(AuditAccess(**{"listen": f"127.0.0.1:{unused_port()}", **access}))
        async with made.running():
            await test(made)

    run(main())


@pytest.fixture(params=["tcp", "unix"])
def listen(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{UNIX}{tmp_path}/audit.sock" if request.param == "unix" else f"127.0.0.1:{unused_port()}"


def test_changes_arrive_whatever_else_is_sent(listen: str) -> None:
    async def test(made: Hearing) -> None:
        garbage, long = b"garbage\n\xff\n", b"x" * (MAX_LINE + 100_000)
        assert made.audit.last_event is None
        await made.send(garbage, DELETE_A, DELETE_B[:20], DELETE_B[20:], long, b"\n" + DELETE_A)
        await eventually(lambda: made.paths() == ["a", "b", "a"])
        assert made.audit.events == 3
        assert abs((made.audit.last_event or 0.0) - time.time()) < 10

    hearing(test, listen=listen)


def test_senders_do_not_mix_and_one_is_enough_to_be_heard(listen: str) -> None:
    async def test(made: Hearing) -> None:
        assert not made.audit.is_heard
        one, other = await made.connect(), await made.connect()
        one.write(DELETE_A[:30])
        await one.drain()
        other.write(DELETE_B)
        await eventually(lambda: made.paths() == ["b"])
        one.write(DELETE_A[30:])
        await eventually(lambda: made.paths() == ["b", "a"])
        assert made.connects == 2
        assert made.audit.is_heard
        await close(one)
        await eventually(lambda: len(made.heard) == 3)
        await close(other)
        await eventually(lambda: made.heard == [True, True, True, False])
        await made.send(DELETE_A)
        await eventually(lambda: made.paths() == ["b", "a", "a"])
        assert made.connects == 3

    hearing(test, listen=listen)


def test_an_idle_sender_is_kept_and_its_host_asked_whether_it_is_still_there() -> None:
    """What happens when it is not is the system's part: packets can't be lost on cue here."""

    async def test(made: Hearing) -> None:
        writer = await made.connect()
        await eventually(lambda: made.audit.is_heard)
        await asyncio.sleep(0.2)
        (sender,) = made.audit._senders
        sock = sender.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = {name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in KEEPALIVE}
        assert options == KEEPALIVE
        assert made.audit.is_heard
        await close(writer)

    hearing(test)


def test_a_sender_that_is_gone_without_a_word_is_gone() -> None:
    async def test(made: Hearing) -> None:
        writer = await made.connect()
        await eventually(lambda: made.audit.is_heard)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # closes by a reset
        writer.transport.abort()
        await eventually(lambda: not made.audit.is_heard)

    hearing(test)


def test_when_it_stops_nobody_is_heard_any_more(listen: str) -> None:
    async def test(made: Hearing) -> None:
        writer = await made.connect()
        await eventually(lambda: made.audit.is_heard)
        await made.audit.stop()
        await eventually(lambda: not made.audit.is_heard)
        with pytest.raises(OSError):  # noqa: PT011 — refused, or reset
            await made.connect()
        await close(writer)

    hearing(test, listen=listen)


def test_more_senders_than_a_cluster_has_are_refused_until_one_goes() -> None:
    async def test(made: Hearing) -> None:
        writers = [await made.connect() for _ in range(MAX_SENDERS)]
        await eventually(lambda: made.connects == MAX_SENDERS)
        await made.send(DELETE_A)
        await eventually(lambda: any("more than 32" in line for line in lines))
        await close(writers.pop())
        await eventually(lambda: len(made.audit._senders) < MAX_SENDERS)
        await made.send(DELETE_B)
        await eventually(lambda: made.paths() == ["b"])
        await close(*writers)

    with logged() as lines:
        hearing(test)


def test_nothing_of_a_line_is_logged(listen: str) -> None:
    async def test(made: Hearing) -> None:
        odd = audit_line("delete", "hunter2/data/hunter2", "hunter2/", request={"data": {"hunter2": "hunter2"}})
        await made.send(b"hunter2\n", odd + b"\n", odd[1:] + b"\n", odd[:50], b"\n", DELETE_A)
        await eventually(lambda: "a" in made.paths())
        assert lines
        assert "hunter2" not in "".join(lines)

    with logged("TRACE") as lines:
        hearing(test, listen=listen)


def test_what_a_killed_process_has_left_does_not_prevent_the_next(tmp_path: Path) -> None:
    left = tmp_path / "audit.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(left))

    async def test(made: Hearing) -> None:
        await made.send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    assert left.is_socket()
    hearing(test, listen=f"{UNIX}{left}")


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a person's")
    with pytest.raises(OSError, match=str(file)):
        run(Audit(AuditAccess(f"{UNIX}{file}"), print, print).start())
    assert file.read_text() == "a person's"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_owner_and_group_may_connect_to_the_file_and_nobody_else(umask: int, tmp_path: Path) -> None:
    async def test(made: Hearing) -> None:
        assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o660
        await made.send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    before = os.umask(umask)
    try:
        hearing(test, listen=f"{UNIX}{tmp_path}/audit")
    finally:
        os.umask(before)


@pytest.mark.parametrize("listen", ["unix:/nowhere/audit.sock", "192.0.2.1:8220"])
def test_an_address_that_cannot_be_had_is_an_error(listen: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 — the system's own words
        run(Audit(AuditAccess(listen), print, print).start())


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
    async def test(made: Hearing) -> None:
        reader, writer = await asyncio.open_connection(*made.access.listen.split(":"))
        writer.write(DELETE_A)
        if may:
            await eventually(lambda: made.paths() == ["a"])
        else:
            await eventually(lambda: any("not in VAULTSYNC_AUDIT_ALLOW" in line for line in lines))
            with suppress(ConnectionResetError):  # as its line was not read
                assert await reader.read() == b""
            assert (made.connects, made.events, made.heard) == (0, [], [])
        await close(writer)

    with logged() as lines:
        hearing(test, allowed=tuple(map(ip_network, allowed)))


def test_a_socket_in_the_file_system_needs_no_list(tmp_path: Path) -> None:
    async def test(made: Hearing) -> None:
        await made.send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    hearing(test, listen=f"{UNIX}{tmp_path}/audit.sock", allowed=(ip_network("10.0.0.0/8"),))


def test_a_list_counts_for_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
            port = one.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 here")

    async def test(made: Hearing) -> None:
        await made.send(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])

    hearing(test, listen=f"[::1]:{port}", allowed=(ip_network("::1"),))


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
    assert _is_within(address, [ip_network("192.0.2.0/24"), ip_network(network)]) is within


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
    async def test(made: Hearing) -> None:
        plain = await made.connect()
        plain.write(DELETE_B)
        await made.send(DELETE_A, tls=ssl.create_default_context(cafile=certificate / "cert.pem"))
        await eventually(lambda: made.paths() == ["a"])
        assert made.connects == 1
        await close(plain)

    hearing(test, certificate=str(certificate / file), key=key and str(certificate / key))


@pytest.mark.parametrize(("file", "key"), [("none.pem", ""), ("cert.pem", ""), ("key.pem", "cert.pem")])
def test_a_certificate_that_is_none_is_an_error(certificate: Path, file: str, key: str) -> None:
    access = AuditAccess("127.0.0.1:0", certificate=str(certificate / file), key=key and str(certificate / key))
    with pytest.raises(OSError):  # noqa: PT011 — the system's own words
        run(Audit(access, print, print).start())


# -- silence


def test_a_device_that_tells_nothing_of_an_answered_request_is_not_heard_until_its_next_line() -> None:
    async def test(made: Hearing) -> None:
        clock = asyncio.get_running_loop().time
        writer = await made.connect()
        writer.write(DELETE_A)
        await eventually(lambda: made.paths() == ["a"])
        made.audit.expect_line_since(clock() - 60)
        assert made.audit.is_heard
        for _ in range(2):
            made.audit.expect_line_since(clock())
        assert made.heard == [True, False]
        assert len([line for line in lines if "silent" in line]) == 1
        writer.write(DELETE_B)
        await eventually(lambda: made.paths() == ["a", "b"])
        assert made.heard == [True, False, True]
        assert made.connects == 2  # lines before may be lost
        await close(writer)

    with logged() as lines:
        hearing(test)


def test_who_was_silent_is_not_heard_by_connecting_again() -> None:
    async def test(made: Hearing) -> None:
        first = await made.connect()
        await eventually(lambda: made.audit.is_heard)
        made.audit.expect_line_since(asyncio.get_running_loop().time())
        second = await made.connect()
        await eventually(lambda: made.connects == 2)
        assert not made.audit.is_heard
        second.write(b"{}\n")
        await eventually(lambda: made.audit.is_heard)
        await close(first, second)

    hearing(test)


def test_where_nobody_is_connected_silence_is_no_news() -> None:
    async def test(made: Hearing) -> None:
        made.audit.expect_line_since(asyncio.get_running_loop().time())
        assert made.heard == []

    hearing(test)


# -- the file


def append(file: Path, *texts: bytes) -> None:
    with file.open("ab") as opened:
        for text in texts:
            opened.write(text)


def rotate(file: Path, text: bytes) -> None:
    file.rename(file.with_suffix(".1"))
    append(file, text)


def rest(tail: Tail) -> bytes:
    """All that it has to tell now."""
    chunks = [tail.read() for _ in range(4)]
    while any(chunks[-3:]):
        chunks.append(tail.read())
    return b"".join(chunks)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "audit.log"
    append(made, b"old\n")
    return made


@pytest.fixture
def tail(file: Path) -> Iterator[Tail]:
    """At the end of the file."""
    made = Tail(file)
    assert rest(made) == b""
    yield made
    made.close()


def test_it_begins_at_the_end_and_follows(file: Path, tail: Tail) -> None:
    assert tail.is_open
    append(file, b"a\n", b"b")
    assert rest(tail) == b"a\nb"
    append(file, b"c\n" + b"x" * 3 * CHUNK)
    assert rest(tail) == b"c\n" + b"x" * 3 * CHUNK


@pytest.mark.parametrize("is_made_empty", [True, False])
def test_a_rotation_by_renaming_loses_nothing(file: Path, tail: Tail, is_made_empty: bool) -> None:
    """Vault writes to the renamed file until a HUP; logrotate may make the next one before that (`create`)."""
    moved = file.with_suffix(".1")
    append(file, b"a\n")
    file.rename(moved)
    append(moved, b"b\n")
    assert rest(tail) == b"a\nb\n"
    append(moved, b"c\n")
    if is_made_empty:
        append(file)
        assert rest(tail) == b"c\n"
        append(moved, b"d\n")
    assert tail.is_open
    append(file, b"e\n")
    assert rest(tail) == (b"d\ne\n" if is_made_empty else b"c\ne\n")
    append(file, b"f\n")
    assert rest(tail) == b"f\n"


def test_what_is_written_between_the_read_and_the_look_at_the_path_is_read(
    file: Path, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def meanwhile(path: Path) -> os.stat_result:
        monkeypatch.setattr(os, "stat", stat)
        append(file, b"a\n" * CHUNK)
        rotate(file, b"b\n")
        return stat(path)

    monkeypatch.setattr(os, "stat", meanwhile)
    assert rest(tail) == b"a\n" * CHUNK + b"b\n"


def test_a_file_that_is_copied_and_truncated_is_read_on_from_its_start(file: Path, tail: Tail) -> None:
    append(file, b"a\nb\n")
    assert rest(tail) == b"a\nb\n"
    shutil.copy(file, file.with_suffix(".1"))
    os.truncate(file, 0)
    assert rest(tail) == b""
    append(file, b"c\n")
    assert rest(tail) == b"c\n"


def test_a_file_that_comes_later_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "later.log"
    tail = Tail(file)
    assert (rest(tail), tail.is_open) == (b"", False)
    append(file, b"a\n")
    assert (rest(tail), tail.is_open) == (b"a\n", True)
    tail.close()


def test_a_file_that_is_removed_is_read_on_until_the_next_one_comes(file: Path, tail: Tail) -> None:
    """Its writer has it open too."""
    with file.open("ab", buffering=0) as writer:
        file.unlink()
        writer.write(b"a\n")
        assert rest(tail) == b"a\n"
        append(file, b"b\n")
        writer.write(b"c\n")
        assert rest(tail) == b"c\nb\n"


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FOLLOW_SECONDS", 0.001)


@pytest.mark.usefixtures("_quick")
def test_the_file_is_heard_as_a_device_is(file: Path) -> None:
    append(file, DELETE_B)

    async def test(made: Hearing) -> None:
        await eventually(lambda: made.audit.is_heard)
        assert (made.connects, made.heard) == (1, [True])
        append(file, DELETE_A[:30])
        await asyncio.sleep(0.05)
        assert made.events == []
        append(file, DELETE_A[30:], b"garbage\n")
        await eventually(lambda: made.paths() == ["a"])
        rotate(file, DELETE_B)
        await eventually(lambda: made.paths() == ["a", "b"])
        assert (made.connects, made.heard) == (1, [True])  # nothing is lost: no reason to look at everything
        os.unlink(file)
        made.audit.expect_line_since(asyncio.get_running_loop().time())
        assert not made.audit.is_heard
        append(file, DELETE_A)
        await eventually(lambda: made.audit.is_heard)
        assert made.paths() == ["a", "b", "a"]

    hearing(test, listen="", file=str(file))


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_file_that_cannot_be_read_is_told_once(tmp_path: Path, is_folder: bool) -> None:
    file = tmp_path / "none.log"
    if is_folder:
        file.mkdir()

    async def test(made: Hearing) -> None:
        await eventually(lambda: lines)
        await asyncio.sleep(0.05)
        assert not made.audit.is_heard
        assert len(lines) == 1
        if is_folder:
            file.rmdir()
        append(file, DELETE_A)
        await eventually(lambda: made.paths() == ["a"])
        assert made.heard[-1]

    with logged("WARNING") as lines:
        hearing(test, listen="", file=str(file))


@pytest.mark.usefixtures("_quick")
def test_a_socket_and_a_file_may_both_tell(file: Path) -> None:
    async def test(made: Hearing) -> None:
        await made.send(DELETE_A)
        await eventually(lambda: made.connects == 2)
        append(file, DELETE_B)
        await eventually(lambda: made.paths() == ["a", "b"])
        assert made.audit.is_heard

    hearing(test, file=str(file))


def test_without_either_it_is_not_configured() -> None:
    async def test(made: Hearing) -> None:
        assert not made.audit.is_configured
        assert not made.audit.is_heard

    hearing(test, listen="")
    assert AuditAccess(file="/x").is_configured
    assert AuditAccess("unix:/x").is_configured
