"""runtime/health: the response to each request, and that no client can block the server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import repeat

import aiohttp
import pytest

from tests.unit.build import eventually, run
from tests.unit.servers import unused_port
from vaultsync.runtime import health
from vaultsync.runtime.health import HealthServer, PartStatus

LISTED = PartStatus("externalsecrets", "watched", is_required=True)
NOT_LISTED = PartStatus("externalsecrets", "not listed yet", is_healthy=False, is_required=True)
NO_VAULT = PartStatus("vault", "no answer; waiting for it", is_healthy=False)


@asynccontextmanager
async def served(
    parts: Callable[[], Iterable[PartStatus]] = lambda: (), metrics: Callable[[], bytes] = lambda: b"a 1\n"
) -> AsyncIterator[int]:
    """The endpoint; yields its port."""
    made = HealthServer(parts, metrics)
    port = unused_port()
    await made.start(f"127.0.0.1:{port}")
    try:
        yield port
    finally:
        await made.stop()


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and text."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}{path}") as answer,
    ):
        assert answer.headers["Connection"] == "close"
        return answer.status, await answer.text()


def test_only_the_documented_paths_are_served() -> None:
    async def test() -> None:
        async with served() as port:
            assert await get(port, "/livez") == (200, "ok\n")
            assert await get(port, "/readyz") == (200, "ok\n")
            assert await get(port, "/metrics") == (200, "a 1\n")
            assert await get(port, "/metrics?name[]=x") == (200, "a 1\n")
            assert (await get(port, "/"))[0] == 404
            assert (await get(port, "/metrics/"))[0] == 404
            assert (await get(port, "/livez", "POST"))[0] == 405
            assert await get(port, "/livez", "HEAD") == (200, "")

    run(test())


def test_only_required_parts_decide_about_readiness_and_all_are_reported() -> None:
    said: list[PartStatus] = [NOT_LISTED, NO_VAULT]

    async def test() -> None:
        async with served(lambda: said) as port:
            text = "not ready\n[-] externalsecrets: not listed yet\n[-] vault: no answer; waiting for it\n"
            assert await get(port, "/readyz") == (503, text)
            assert (await get(port, "/livez"))[0] == 200
            said[0] = LISTED
            text = "ok\n[+] externalsecrets: watched\n[-] vault: no answer; waiting for it\n"
            assert await get(port, "/readyz") == (200, text)

    run(test())


SLOW = [b"", b"GET /livez HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"]


@pytest.mark.parametrize("sent", SLOW, ids=["nothing", "half a request", "no body"])
def test_a_client_that_does_not_end_its_request_is_disconnected(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.2)

    async def test() -> None:
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            with suppress(ConnectionError):
                await reader.read()  # to the connection's end
            writer.close()

    run(test())


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.3)

    async def test() -> None:
        made = HealthServer(lambda: (), lambda: b"x" * 50_000_000)
        port = unused_port()
        await made.start(f"127.0.0.1:{port}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            runner = made._runner
            assert runner is not None
            assert runner.server is not None
            connected = runner.server
            await eventually(lambda: connected.connections)
            await eventually(lambda: not connected.connections)
            writer.transport.abort()
        finally:
            await made.stop()

    run(test())


def test_the_number_of_connections_is_limited_and_idle_ones_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.5)

    async def test() -> None:
        async with served() as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in repeat(None, health.MAX_CONNECTIONS)]
            with pytest.raises(aiohttp.ClientError):
                await get(port, "/livez")
            await asyncio.gather(*(reader.read() for reader, _ in idle), return_exceptions=True)
            assert (await get(port, "/livez"))[0] == 200
            for _, writer in idle:
                writer.transport.abort()

    run(test())


def test_a_long_header_is_refused() -> None:
    async def test() -> None:
        async with served() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
            assert b" 400 " in await reader.readline()
            writer.close()

    run(test())


def test_it_stops_while_a_client_is_connected_and_if_it_was_never_started() -> None:
    async def test() -> None:
        async with served() as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /livez")
            await writer.drain()
        writer.transport.abort()
        await HealthServer(lambda: (), bytes).stop()

    run(test(), limit=5)
