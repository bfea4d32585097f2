"""vault/stream: one subscription, whatever the other side does. Against local websocket servers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tests.unit import enterprise
from tests.unit.build import eventually, logged, login, path, run_ahead, sample
from tests.unit.servers import Balancer, raw_server, unused_port
from vaultsync.core.events import VaultEvent
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault import silent_stream, stream
from vaultsync.vault.stream import EventStream, stream_uri
from vaultsync.vault.writes import OwnWrite


def frame(number: int = 1) -> str:
    metadata = {"path": f"secret/data/k{number}", "current_version": "1"}
    plugin = {"mount_path": "secret/"}
    return json.dumps(
        {"data": {"event_type": "kv-v2/data-write", "event": {"metadata": metadata}, "plugin_info": plugin}}
    )


class Listener:
    """Notes what the stream tells."""

    def __init__(self, address: str, namespace: str = "", servers: tuple[str, ...] = ()) -> None:
        self.connects = 0
        self.events: list[VaultEvent] = []
        self.told: list[tuple[bool, bool]] = []
        self.reasons: list[str] = []
        self.login = login(address, namespace=namespace, servers=servers)
        self.metrics = Metrics()
        self.stream = EventStream(self.login, self.metrics)
        self.stream.on_connect, self.stream.on_event = self.connected, self.events.append
        self.stream.on_change = self.changed

    def connected(self) -> None:
        self.connects += 1

    def changed(self) -> None:
        self.told.append((self.stream.is_connected, self.stream.is_refused))
        self.reasons.append(self.stream.reason.partition(";")[0])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.stream.run())
        try:
            yield
            if task.done():
                await task
                raise AssertionError("the stream has ended")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(stream, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(stream, "REFUSED_SECONDS", 0.05)


def against(
    handler: Callable[[ServerConnection], Awaitable[None]],
    test: Callable[[Listener], Awaitable[None]],
    process_request: Callable[[ServerConnection, Request], Response | None] | None = None,
) -> None:
    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, process_request=process_request, close_timeout=0.1) as server:
            host, port = next(iter(server.sockets)).getsockname()[:2]
            listener = Listener(f"http://{host}:{port}")
            async with listener.running():
                await test(listener)

    run_ahead(main())


async def stay(connection: ServerConnection) -> None:
    await connection.wait_closed()


def test_it_subscribes_with_the_token_and_says_so() -> None:
    seen: list[Request] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        await connection.send(frame())
        await stay(connection)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.events)
        assert listener.connects == 1
        assert listener.events[0].path.path == "secret/data/k1"
        assert seen[0].path == "/v1/sys/events/subscribe/kv*?json=true&namespaces=*"
        assert seen[0].headers["X-Vault-Token"] == "t0ken"
        assert "X-Vault-Namespace" not in seen[0].headers

    against(handler, test)


def test_a_subscription_in_a_vault_namespace_hears_of_those_below_it() -> None:
    """The header says where, `namespaces` what below it: https://developer.hashicorp.com/vault/api-docs/system/events."""
    seen: list[Request] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        for namespace in ("team-a/", "team-a/sub/"):
            await connection.send(enterprise.frame(namespace))
        await stay(connection)

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, close_timeout=0.1) as server:
            host, port = next(iter(server.sockets)).getsockname()[:2]
            listener = Listener(f"http://{host}:{port}", "team-a/")
            async with listener.running():
                await eventually(lambda: len(listener.events) == 2)
                assert [event.path.namespace for event in listener.events] == ["team-a", "team-a/sub"]
                assert seen[0].headers["X-Vault-Namespace"] == "team-a"
                assert seen[0].path == "/v1/sys/events/subscribe/kv*?json=true&namespaces=*"

    run_ahead(main())


def test_no_event_of_a_huge_burst_is_lost_or_out_of_order() -> None:
    async def handler(connection: ServerConnection) -> None:
        for number in range(10_000):
            await connection.send(frame(number))
        await stay(connection)

    async def test(listener: Listener) -> None:
        await eventually(lambda: len(listener.events) == 10_000, limit=8)
        assert [event.path.path for event in listener.events] == [f"secret/data/k{n}" for n in range(10_000)]

    against(handler, test)


def test_garbage_is_passed_over() -> None:
    async def handler(connection: ServerConnection) -> None:
        for garbage in ("", "nonsense", "[" * 10_000, b"\xff\x00", "{}", "null"):
            await connection.send(garbage)
        await connection.send(frame())
        await stay(connection)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.events)
        assert listener.connects == 1
        assert sample(listener.metrics, "events_total", source="events") == 1
        assert sample(listener.metrics, "events_not_understood_total") == 6
        last_event = sample(listener.metrics, "last_event_timestamp_seconds", source="events")
        assert last_event is not None
        assert abs(last_event - time.time()) < 10

    against(handler, test)


@pytest.mark.parametrize("how", ["close", "abort", "too large", "no UTF-8"])
def test_a_lost_stream_is_connected_again(how: str) -> None:
    async def handler(connection: ServerConnection) -> None:
        if how == "abort":
            connection.transport.abort()
        elif how == "too large":
            await connection.send("x" * (stream.MAX_FRAME + 1))
            await stay(connection)
        elif how == "no UTF-8":
            await connection.send(b"\xff", text=True)
            await stay(connection)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects >= 3)

    against(handler, test)


def test_a_stream_that_closes_at_once_is_not_hammered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection means a look at everything: the waits must grow although the handshake succeeds."""
    monkeypatch.setattr(stream, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(stream, "LONGEST_WAIT", 10.0)

    async def handler(connection: ServerConnection) -> None:
        return

    async def test(listener: Listener) -> None:
        await asyncio.sleep(0.6)
        assert listener.connects <= 8

    against(handler, test)


def test_a_dead_connection_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.05)

    async def handler(connection: ServerConnection) -> None:
        connection.transport.pause_reading()  # half-open: pings get no answer
        await asyncio.sleep(0.5)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects >= 2)

    against(handler, test)


def test_a_quiet_stream_whose_pings_are_answered_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.1)

    async def test(listener: Listener) -> None:
        await asyncio.sleep(0.5)
        assert listener.connects == 1

    against(stay, test)


# -- a silent stream


def own_write() -> OwnWrite:
    return OwnWrite(path("secret/data/k1"), 1, "id", asyncio.get_running_loop().time())


@pytest.fixture
def _soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent_stream, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(silent_stream, "SETTLE_SECONDS", 0.0)


@pytest.mark.usefixtures("_soon_silent")
def test_a_silent_stream_is_closed_and_counts_again_once_an_event_arrives() -> None:
    release = asyncio.Event()
    subscriptions: list[ServerConnection] = []

    async def handler(connection: ServerConnection) -> None:
        subscriptions.append(connection)
        if len(subscriptions) == 2:
            await release.wait()
            await connection.send(frame(2))
        await stay(connection)

    async def test(listener: Listener) -> None:
        found = listener.stream
        await eventually(lambda: listener.connects == 1)
        assert found.is_connected
        found.silence.wrote(own_write())
        await eventually(lambda: len(subscriptions) == 2)
        assert subscriptions[0].close_code is not None
        await eventually(lambda: listener.connects == 2)
        assert (found.is_connected, found.silence.is_unproven) == (False, True)
        assert sample(listener.metrics, "stream_deaf_total") == 1
        assert found.reason == silent_stream.REASON
        assert listener.events == []
        release.set()
        await eventually(lambda: listener.events)
        assert (found.is_connected, found.silence.is_unproven, found.reason) == (True, False, "")
        assert listener.connects == 3, "what was missed since the subscription is looked for"
        assert len(lines) == 1

    with logged("WARNING") as lines:
        against(handler, test)


@pytest.mark.usefixtures("_soon_silent")
def test_a_stream_that_reports_the_own_write_is_kept() -> None:
    async def handler(connection: ServerConnection) -> None:
        await asyncio.sleep(0.05)
        await connection.send(frame(1))
        await stay(connection)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects == 1)
        listener.stream.silence.wrote(own_write())
        await asyncio.sleep(0.3)
        assert listener.connects == 1
        assert sample(listener.metrics, "stream_deaf_total") == 0

    against(handler, test)


# -- behind a load balancer


def behind(balancer: Balancer, test: Callable[[Listener], Awaitable[None]]) -> None:
    """A Vault that sends the number of the connection at its start, behind the balancer."""

    async def handler(connection: ServerConnection) -> None:
        await connection.send(frame(balancer.connections))
        await stay(connection)

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, close_timeout=0.1, ping_interval=None) as server:
            host, port = next(iter(server.sockets)).getsockname()[:2]
            async with balancer.before(host, port) as address:
                listener = Listener(f"http://{address}")
                async with listener.running():
                    await test(listener)

    run_ahead(main())


def last_heard(listener: Listener) -> str:
    return listener.events[-1].path.path if listener.events else ""


@pytest.mark.parametrize("rst", [False, True])
def test_an_idle_stream_that_is_cut_is_connected_again(rst: bool) -> None:
    balancer = Balancer(idle=0.05, rst=rst)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects >= 3 and last_heard(listener) == "secret/data/k3")
        assert not any(refused for _, refused in listener.told)

    behind(balancer, test)


def test_an_idle_stream_is_kept_where_idle_ones_are_cut_after_more_than_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.1)
    balancer = Balancer(idle=0.4)

    async def test(listener: Listener) -> None:
        await asyncio.sleep(1.2)
        assert listener.connects == 1

    behind(balancer, test)


def test_a_stream_of_which_nothing_arrives_any_more_is_connected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open: neither side hears of the other's end."""
    monkeypatch.setattr(stream, "PING_SECONDS", 0.1)
    balancer = Balancer()

    async def test(listener: Listener) -> None:
        await eventually(lambda: last_heard(listener) == "secret/data/k1")
        balancer.drops = True
        await eventually(lambda: not listener.stream.is_connected)
        balancer.drops = False
        await eventually(lambda: last_heard(listener) in ("secret/data/k2", "secret/data/k3"))
        assert "keepalive ping timeout" in listener.reasons[1]

    behind(balancer, test)


def test_a_stream_that_never_lives_long_is_told_once_and_looked_behind_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "LONGEST_WAIT", 0.02)
    balancer = Balancer(lifetime=0.05, rst=True)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects >= 6)
        assert [line.partition(" {")[0] for line in lines] == [
            "subscribed to Vault's event stream",
            "no event stream from Vault",
            "subscribed to Vault's event stream",
        ]

    with logged() as lines:
        behind(balancer, test)


def test_such_a_stream_is_told_of_again_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REMIND_SECONDS", 0.3)
    monkeypatch.setattr(stream, "LONGEST_WAIT", 0.02)

    async def test(listener: Listener) -> None:
        await eventually(lambda: len(lines) >= 3)
        assert listener.connects > len(lines)

    with logged("WARNING") as lines:
        behind(Balancer(lifetime=0.02), test)


def test_an_outage_between_two_such_cuts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST_WAIT", 0.02)
    state = {"up": True}

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return None if state["up"] else connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no\n")

    async def handler(connection: ServerConnection) -> None:
        await asyncio.sleep(0.02)

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects >= 3)
        for _ in range(2):
            told, connects = len(lines), listener.connects
            state["up"] = False
            await eventually(lambda told=told: len(lines) == told + 1)  # type: ignore[misc]
            assert "503" in lines[-1]
            state["up"] = True
            await eventually(lambda connects=connects: listener.connects > connects + 2)  # type: ignore[misc]
        assert len(lines) == 1 + 2

    with logged("WARNING") as lines:
        against(handler, test, refuse)


def test_a_peer_can_not_fill_the_log_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST_WAIT", 0.01)
    closed: list[int] = []

    async def handler(connection: ServerConnection) -> None:
        closed.append(1)
        await connection.close(1011, f"reason {len(closed)}")

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects > 3 * stream.MAX_REASONS)
        assert len(lines) == stream.MAX_REASONS

    with logged("WARNING") as lines:
        against(handler, test)


@pytest.mark.parametrize("status", [403, 404, 400, 429, 500, 503, 200])
def test_a_refused_subscription_is_tried_again_and_told_once(status: int) -> None:
    refused: list[int] = []

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        if len(refused) < 3:
            refused.append(status)
            return connection.respond(HTTPStatus(status), "no\n")
        return None

    async def test(listener: Listener) -> None:
        await eventually(lambda: listener.connects == 1)
        assert len(refused) == 3
        assert len([line for line in lines if str(status) in line]) == 1

    with logged("WARNING") as lines:
        against(stay, test, refuse)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_what_vault_does_not_have_or_not_for_this_token_is_asked_for_seldom(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REFUSED_SECONDS", 60.0)
    asked: list[int] = []

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        if request.path.startswith("/v1/sys/events/"):  # not whether Vault knows the token
            asked.append(status)
        return connection.respond(HTTPStatus(status), "no\n")

    async def test(listener: Listener) -> None:
        found = listener.stream
        assert (found.is_connected, found.is_refused, found.reason) == (False, False, "")
        await found.tried.wait()
        await asyncio.sleep(0.3)
        assert (found.is_connected, found.is_refused) == (False, True)
        assert str(status) in found.reason
        assert len(asked) == 1

    against(stay, test, refuse)


def test_another_token_has_it_subscribe_again_at_once() -> None:
    """Vault itself leaves the old one's subscription open."""
    seen: list[str] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers["X-Vault-Token"])
        await stay(connection)

    async def test(listener: Listener) -> None:
        for number, token in enumerate(("one", "two"), 1):
            await eventually(lambda: listener.connects == number)  # noqa: B023 — awaited within the round
            listener.login._take(SecretStr(token))
        await eventually(lambda: len(seen) == 3)
        assert seen == ["t0ken", "one", "two"]

    with logged("WARNING") as lines:
        against(handler, test)
    assert lines == []


def test_a_refused_token_is_asked_about_and_the_next_one_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REFUSED_SECONDS", 60.0)

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        if request.headers["X-Vault-Token"] == "t0ken":
            return connection.respond(HTTPStatus.FORBIDDEN, "no\n")
        return None

    async def test(listener: Listener) -> None:
        await listener.stream.tried.wait()
        assert listener.stream.is_refused
        listener.login._take(SecretStr("another"))
        await eventually(lambda: listener.connects == 1)

    against(stay, test, refuse)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_no_refusal_and_asked_for_soon(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "REFUSED_SECONDS", 60.0)

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(HTTPStatus(status), "no\n")

    async def test(listener: Listener) -> None:
        await eventually(lambda: len(listener.told) >= 3)
        assert set(listener.told) == {(False, False)}
        assert not listener.stream.is_unanswered
        assert str(status) in listener.stream.reason
        assert not listener.stream.tried.is_set()

    against(stay, test, refuse)


def test_a_vault_that_learns_it_is_refused_no_more_and_a_lost_one_says_why() -> None:
    asked: list[int] = []

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        asked.append(1)
        return connection.respond(HTTPStatus.NOT_FOUND, "no\n") if len(asked) == 1 else None

    async def handler(connection: ServerConnection) -> None:
        if len(asked) > 2:
            await stay(connection)

    async def test(listener: Listener) -> None:
        await eventually(lambda: len(listener.told) == 4)
        assert listener.told == [(False, True), (True, False), (False, False), (True, False)]
        assert listener.reasons == ["Vault returned 404", "", "Vault closed the stream", ""]
        assert listener.stream.tried.is_set()

    against(handler, test, refuse)


# -- redirects: their rules are in test_redirects.py


def redirected(*locations: str) -> Callable[[ServerConnection, Request], Response | None]:
    """A node that redirects every subscription."""

    def redirect(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/v1/sys/leader":
            return connection.respond(HTTPStatus.OK, "{}")
        response = connection.respond(HTTPStatus.TEMPORARY_REDIRECT, "")
        for location in locations:
            response.headers["Location"] = location
        return response

    return redirect


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_a_standby_that_redirects_does_not_end_the_stream(scheme: str) -> None:
    """Vault's own Location is an http(s) address, with the path as Go writes it."""
    seen: list[Request] = []

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        await stay(connection)

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, close_timeout=0.1) as active:
            port = next(iter(active.sockets)).getsockname()[1]
            location = f"{scheme}://127.0.0.1:{port}/v1/sys/events/subscribe/kv%2A?json=true&namespaces=*"
            async with serve(stay, "127.0.0.1", 0, process_request=redirected(location)) as standby:
                own = next(iter(standby.sockets)).getsockname()[1]
                listener = Listener(f"http://127.0.0.1:{own}", servers=(f"http://127.0.0.1:{port}",))
                async with listener.running():
                    await eventually(lambda: listener.connects == 1)
        assert seen[0].path == "/v1/sys/events/subscribe/kv*?json=true&namespaces=*"
        assert seen[0].headers["X-Vault-Token"] == "t0ken"

    run_ahead(main())


def test_a_server_that_is_not_known_gets_no_subscription_and_is_told_once() -> None:
    connected: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(1)

    async def main() -> None:
        async with raw_server(talk) as elsewhere:
            location = f"http://{elsewhere}/v1/sys/events/subscribe/kv*?json=true&namespaces=*"

            async def test(listener: Listener) -> None:
                await eventually(lambda: len(listener.told) >= 3)
                assert not listener.stream.is_refused
                assert "VAULTSYNC_STORE_SERVERS" in listener.stream.reason
                assert len(lines) == 1

            async with serve(stay, "127.0.0.1", 0, process_request=redirected(location)) as standby:
                listener = Listener(f"http://127.0.0.1:{next(iter(standby.sockets)).getsockname()[1]}")
                async with listener.running():
                    await test(listener)
        assert connected == []

    with logged("WARNING") as lines:
        run_ahead(main())


@pytest.mark.parametrize("locations", [[], [""], ["http://[::1"], ["http://a:1", "http://b:1"], ["ws://a:99999/"]])
def test_a_redirect_to_nowhere_does_not_end_the_process(locations: list[str]) -> None:
    async def test(listener: Listener) -> None:
        await eventually(lambda: len(listener.told) >= 2)
        assert "it names no address" in listener.stream.reason

    against(stay, test, redirected(*locations))


def test_a_vault_that_comes_later_is_found() -> None:
    async def main() -> None:
        port = unused_port()
        listener = Listener(f"http://127.0.0.1:{port}")
        async with listener.running():
            await eventually(lambda: listener.stream.is_unanswered)
            assert listener.connects == 0
            assert sample(listener.metrics, "last_event_timestamp_seconds", source="events") is None
            async with serve(stay, "127.0.0.1", port, close_timeout=0.1):
                await eventually(lambda: listener.connects == 1)
                assert not listener.stream.is_unanswered

    run_ahead(main())


def test_it_stops_at_once_when_cancelled() -> None:
    async def main() -> None:
        async with serve(stay, "127.0.0.1", 0, close_timeout=0.1) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            listener = Listener(f"http://127.0.0.1:{port}")
            task = asyncio.create_task(listener.stream.run())
            await eventually(lambda: listener.connects == 1)
            task.cancel()
            async with asyncio.timeout(3):
                with pytest.raises(asyncio.CancelledError):
                    await task

    run_ahead(main())


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999", "http://[::1", "http://127.0.0.1:x"])
def test_an_impossible_address_does_not_end_the_process(address: str) -> None:
    async def main() -> None:
        async with Listener(address).running():
            await asyncio.sleep(0.05)

    run_ahead(main())


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("http://v:8200", "ws://v:8200/v1/sys/events/subscribe/kv*?json=true&namespaces=*"),
        ("https://v/", "wss://v/v1/sys/events/subscribe/kv*?json=true&namespaces=*"),
        ("https://v/prefix/", "wss://v/prefix/v1/sys/events/subscribe/kv*?json=true&namespaces=*"),
    ],
)
def test_the_streams_address(address: str, uri: str) -> None:
    assert stream_uri(address) == uri
