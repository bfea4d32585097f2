"""core/events.parse_deletion and vault/audit: hints from a socket that anybody may connect to."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import Anything, eventually, path, run
from tests.unit.servers import unused_port
from vaultsync.core.events import parse_deletion
from vaultsync.core.paths import VaultPath
from vaultsync.vault.audit import MAX_LINE, MAX_SENDERS, AuditListener


def line(operation: str, where: str, **more: Anything) -> bytes:
    """As an audit device of Vault 1.15.1 writes it."""
    request = {"operation": operation, "path": where, "mount_point": "secret/", "mount_type": "kv"}
    document = {"type": "response", "request": request | more.pop("request", {}), "response": {}} | more
    return json.dumps(document, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("operation", "where"),
    [
        ("delete", "secret/data/a/b"),
        ("update", "secret/delete/a/b"),
        ("update", "secret/destroy/a/b"),
        ("delete", "secret/metadata/a/b"),
    ],
)
def test_every_way_to_delete_names_the_api_path(operation: str, where: str) -> None:
    assert path("secret/data/a/b") in parse_deletion(line(operation, where))


def test_a_v1_deletion_names_the_path_itself() -> None:
    found = parse_deletion(line("delete", "kv1/a", request={"mount_point": "kv1/"}))
    assert found == (path("kv1/a"),)


def test_namespaces_and_mounts_with_slashes() -> None:
    more = {"mount_point": "team/kv/", "namespace": {"id": "x", "path": "team/"}}
    assert path("team/kv/data/a", "team") in parse_deletion(line("delete", "team/kv/data/a", request=more))


@pytest.mark.parametrize(
    "text",
    [
        line("read", "secret/data/a"),
        line("update", "secret/data/a"),
        line("update", "secret/undelete/a"),
        line("list", "secret/metadata/a"),
        line("delete", "secret/data/a", type="request"),
        line("delete", "secret/data/a", error="permission denied"),
        line("delete", "auth/token/x", request={"mount_type": "token", "mount_point": "auth/token/"}),
        line("delete", ""),
        line("delete", "//"),
        line("delete", "secret/data/a", request={"operation": {"delete": "an object"}}),
        b"",
        b'"response" "delete"',
        b'{"response":"delete"}',
        b'"response""delete"' + b"[" * 100_000,
        b'\xff"response""delete"',
    ],
)
def test_all_else_is_nothing(text: bytes) -> None:
    assert parse_deletion(text) == ()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["delete", "response", "kv"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["request", "type", "error", "x"]), anything, max_size=4), anything, anything)
def test_no_line_makes_it_raise(document: dict[str, object], where: object, mount: object) -> None:
    parse_deletion(json.dumps(document).encode() + b'"response""delete"')
    document["marks"] = ["response", "delete"]
    parse_deletion(json.dumps(document).encode())
    request = {"path": where, "mount_point": mount, "operation": "delete", "namespace": mount, "mount_type": "kv"}
    parse_deletion(json.dumps(document | {"type": "response", "request": request}).encode())


class Listening:
    def __init__(self) -> None:
        self.connects = 0
        self.deleted: list[VaultPath] = []
        self.port = unused_port()
        self.listener = AuditListener(self.connected, self.deleted.append)

    def connected(self) -> None:
        self.connects += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.listener.start(f"127.0.0.1:{self.port}")
        try:
            yield
        finally:
            await self.listener.stop()
            await asyncio.sleep(0.01)

    async def send(self, *pieces: bytes) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


def listening(test: Callable[[Listening], Awaitable[None]]) -> None:
    async def main() -> None:
        made = Listening()
        async with made.running():
            await test(made)

    run(main())


def test_deletions_arrive_whatever_else_is_sent() -> None:
    good = line("delete", "secret/data/a") + b"\n"
    half = line("delete", "secret/data/b") + b"\n"

    async def test(made: Listening) -> None:
        await made.send(b"garbage\n\xff\n", good, half[:20], half[20:], b"x" * (MAX_LINE + 100_000), b"\n" + good)
        await eventually(lambda: len(made.deleted) >= 3)
        a, b = path("secret/data/a"), path("secret/data/b")
        assert [where for where in made.deleted if where in (a, b)] == [a, b, a]

    listening(test)


def test_more_senders_than_a_cluster_has_are_refused() -> None:
    async def test(made: Listening) -> None:
        writers = [(await asyncio.open_connection("127.0.0.1", made.port))[1] for _ in range(MAX_SENDERS + 5)]
        await eventually(lambda: made.connects == MAX_SENDERS)
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.05)
        assert made.connects == MAX_SENDERS

    listening(test)
