"""vault/failures: how large a failure is, which sys/health decides, and how seldom that is asked.

Against a small local server; the real ones are in tests/integration/test_isolation*.py.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.unit.build import Json, gone, login, path, run_ahead
from tests.unit.servers import answer, http_server, unused_port
from vaultsync.core.errors import (
    RequestImpossible,
    VaultFailure,
    VaultNamespaceUnavailable,
    VaultRequestFailed,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.paths import MAX_NAMESPACE, MAX_PATH, FindPrefix, VaultPath
from vaultsync.vault.client import VaultClient

A = path("secret/data/a")
WORKS = {"initialized": True, "sealed": False, "standby": False, "version": "1.15.1"}
MOUNT = {"data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}}
THERE = {"data": {"subkeys": {"a": None}, "metadata": {"version": 1}}}
HEALTH, LOOK_UP = "/v1/sys/health", "/v1/auth/token/lookup-self"

Reply = tuple[int, object]


@dataclass
class Server:
    """A Vault that answers each path as it is told to; 0 is a connection that is cut.

    Attributes:
        health, look_up, secret: what these are answered with.
        namespaces: what everything in a Vault namespace is answered with.
        asked: how often each path was asked for.
        takes: seconds for each answer.
    """

    health: Reply = (200, WORKS)
    look_up: Reply = (403, {"errors": ["permission denied"]})
    secret: Reply = (200, THERE)
    namespaces: dict[str, Reply] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    takes: float = 0.0

    async def handler(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked[request.path] += 1
        await asyncio.sleep(self.takes)
        namespace = request.headers.get("X-Vault-Namespace", "")
        status, body = self._reply(request.path)
        if namespace in self.namespaces:
            status, body = self.namespaces[namespace]
        if not status:
            assert request.transport is not None
            request.transport.abort()
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        return answer(status or 500, body)

    def _reply(self, path: str) -> Reply:
        if path == HEALTH:
            return self.health
        if path == LOOK_UP:
            return self.look_up
        return (200, MOUNT) if "/ui/mounts/" in path else self.secret


def with_client(server: Server, test: Callable[[VaultClient], Awaitable[Any]], *, waits: bool = False) -> None:
    async def main() -> None:
        async with http_server(server.handler) as address:
            client = VaultClient(login(address, timeout=2.0), waits=waits)
            try:
                await test(client)
            finally:
                await client.close()

    run_ahead(main())


async def failed(client: VaultClient, where: VaultPath = A) -> VaultsyncError:
    with pytest.raises(VaultsyncError) as caught:
        await client.look(where, 2)
    return caught.value


SEALED = {**WORKS, "sealed": True}
ERROR: Json = {"errors": ["internal error"]}
PAGE = "<html>"


@pytest.mark.parametrize(
    ("secret", "health", "kind", "trouble"),
    [
        ((500, ERROR), (200, WORKS), VaultRequestFailed, ""),
        ((502, PAGE), (200, WORKS), VaultRequestFailed, ""),
        ((404, PAGE), (200, WORKS), VaultRequestFailed, ""),
        ((0, ERROR), (200, WORKS), VaultRequestFailed, ""),
        ((503, ERROR), (200, WORKS), VaultRequestFailed, ""),
        ((500, ERROR), (473, WORKS), VaultRequestFailed, ""),
        ((503, ERROR), (503, SEALED), VaultUnavailable, "it is sealed"),
        ((503, ERROR), (501, {**WORKS, "initialized": False}), VaultUnavailable, "it is not initialised"),
        ((500, ERROR), (0, ERROR), VaultUnavailable, "no answer"),
        ((0, ERROR), (0, ERROR), VaultUnavailable, "no answer"),
        ((502, PAGE), (502, PAGE), VaultUnavailable, "it returns 502"),
        ((404, PAGE), (404, PAGE), VaultUnavailable, "no answer"),
        ((0, ERROR), (403, PAGE), VaultUnavailable, "no answer"),
        ((500, ERROR), (403, PAGE), VaultRequestFailed, ""),
    ],
)
def test_the_scope_of_a_failure_is_what_sys_health_says(
    secret: Reply, health: Reply, kind: type[VaultFailure], trouble: str
) -> None:
    async def test(client: VaultClient) -> None:
        error = await failed(client)
        assert type(error) is kind
        assert client.outage == trouble

    with_client(Server(secret=secret, health=health), test)


@pytest.mark.parametrize(("look_up", "kind"), [((403, ERROR), VaultRequestFailed), ((500, ERROR), VaultUnavailable)])
def test_a_standby_node_without_an_active_one_is_an_outage(look_up: Reply, kind: type[VaultFailure]) -> None:
    async def test(client: VaultClient) -> None:
        assert type(await failed(client)) is kind

    with_client(Server(secret=(500, ERROR), health=(429, {**WORKS, "standby": True}), look_up=look_up), test)


@pytest.mark.parametrize(("status", "kind"), [(503, VaultNamespaceUnavailable), (403, VaultRequestFailed)])
def test_a_503_in_a_vault_namespace_is_the_namespaces_if_all_of_it_answers_so(
    status: int, kind: type[VaultFailure]
) -> None:
    async def test(client: VaultClient) -> None:
        server.namespaces = {"team": (503, ERROR)}
        if status != 503:
            server.namespaces, server.secret, server.look_up = {}, (503, ERROR), (status, ERROR)
        error = await failed(client, path("secret/data/a", "team"))
        assert type(error) is kind
        assert client.outage == ""

    server = Server()
    with_client(server, test)


def test_while_vault_is_away_sys_health_alone_is_asked_and_one_answer_is_enough() -> None:
    async def test(client: VaultClient) -> None:
        await failed(client)
        before = server.asked.copy()
        await asyncio.sleep(0.15)
        assert isinstance(await failed(client), VaultUnavailable)
        assert server.asked - before == {HEALTH: 1}
        server.secret, server.health = (200, THERE), (200, WORKS)
        await asyncio.sleep(0.15)
        assert (await client.look(A, 2)).exists
        assert client.outage == ""

    server = Server(secret=(503, ERROR), health=(503, SEALED))
    with_client(server, test)


@pytest.mark.parametrize("status", [500, 0])
def test_a_hundred_failures_are_few_questions(status: int) -> None:
    async def test(client: VaultClient) -> None:
        where = [path(f"secret/data/{number}") for number in range(100)]
        errors = await asyncio.gather(*(client.look(one, 2) for one in where), return_exceptions=True)
        assert {type(error) for error in errors} == {VaultRequestFailed}
        assert server.asked[HEALTH] <= (2 if status else 20)

    server = Server(secret=(status, ERROR))
    with_client(server, test)


def test_sys_health_is_asked_while_all_other_requests_hang() -> None:
    async def test(client: VaultClient) -> None:
        server.takes = 0.6
        waiting = [asyncio.ensure_future(client.look(path(f"secret/data/{number}"), 2)) for number in range(8)]
        await asyncio.sleep(0.1)
        server.takes = 0.0
        async with asyncio.timeout(0.3):
            assert (await client.health()).initialized
        await asyncio.gather(*waiting)

    server = Server()
    with_client(server, test)


# -- requests that can't be sent


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (path("secret/data/a", "€"), ["'€' (U+20AC)", "not ASCII", "spec.provider.vault.namespace"]),
        (path("secret/data/a", "é"), ["(U+00E9)"]),
        (path("secret/data/a", "a\nX-Vault-Token: b"), ["'\\n' (U+000A)", "control character"]),
        (path("secret/data/a", "a b"), ["a space"]),
        (path("secret/data/a", "x" * (MAX_NAMESPACE + 1)), [f"{MAX_NAMESPACE + 1} characters"]),
        (path("secret/data/" + "x" * MAX_PATH), [f"more than {MAX_PATH}"]),
        (path("secret/data/\ud800"), ["can't be built"]),
    ],
)
def test_a_request_that_cannot_be_built_is_not_sent_and_says_why(where: VaultPath, words: list[str]) -> None:
    async def test(client: VaultClient) -> None:
        for error in (await failed(client, where), await failed_to_find(client, where)):
            assert type(error) is RequestImpossible
            assert not error.retryable
            assert all(word in str(error) for word in words)
            assert len(str(error)) < 500
        assert server.asked == {}
        assert client.outage == ""

    server = Server()
    with_client(server, test)


async def failed_to_find(client: VaultClient, where: VaultPath) -> VaultsyncError:
    with pytest.raises(VaultsyncError) as caught:
        await client.find(FindPrefix(where.namespace, where.path + "/", 2))
    return caught.value


# -- answers of the other KV version


def test_a_404_with_a_warning_alone_is_no_missing_secret() -> None:
    """What Vault answers in KV v2 to a path of KV v1: the cached version is wrong."""

    async def test(client: VaultClient) -> None:
        assert "Invalid path for a versioned K/V secrets engine" in str(await failed(client))

    warned = {"data": None, "warnings": ["Invalid path for a versioned K/V secrets engine."]}
    with_client(Server(secret=(404, warned)), test)


# -- 429


@dataclass
class Limited(Server):
    """Takes so many requests a second, as Vault's quotas do: each second has new tokens."""

    per_second: int = 5
    refusals: int = 0
    times: list[float] = field(default_factory=list)
    second: float = float("-inf")
    left: int = 0

    async def handler(self, request: web.Request) -> web.StreamResponse:
        now = asyncio.get_running_loop().time()
        if now - self.second >= 1.0:
            self.second, self.left = now, self.per_second
        if request.path != HEALTH:
            self.left -= 1
            if self.left < 0:
                self.refusals += 1
                body = json.dumps({"errors": ["rate limit quota exceeded"]})
                return web.Response(status=429, text=body, headers={"Retry-After": "0"})
            self.times.append(now)
        return await super().handler(request)


def test_a_refused_request_is_postponed_and_those_after_it_are_not_sent() -> None:
    async def test(client: VaultClient) -> None:
        where = [path(f"secret/data/{number}") for number in range(50)]
        results = await asyncio.gather(*(client.look(one, 2) for one in where), return_exceptions=True)
        postponed = [one for one in results if isinstance(one, VaultThrottled)]
        assert 50 - server.per_second <= len(postponed) < 50  # some requests are for the mount
        assert server.refusals <= 4, "as many as were under way"
        waits = sorted(one.wait for one in postponed)
        assert 0.9 < waits[0] < 1.5
        assert waits[-1] > 5, "each has a turn of its own"
        assert client.outage == ""
        with pytest.raises(VaultThrottled):
            await client.create(A, gone(), {"a": SecretStr("b")})

    server = Limited()
    with_client(server, test)


def test_what_waits_by_itself_gets_through_at_the_rate_that_vault_takes() -> None:
    async def test(client: VaultClient) -> None:
        where = [path(f"secret/data/{number}") for number in range(100)]
        states = await asyncio.gather(*(client.look(one, 2) for one in where))
        assert all(state.exists for state in states)
        assert server.refusals <= 20
        assert server.times[-1] - server.times[0] < 2 * len(where) / server.per_second

    server = Limited(per_second=40)
    with_client(server, test, waits=True)


def test_another_mount_is_not_slowed_down() -> None:
    async def test(client: VaultClient) -> None:
        server.secret = (429, {"errors": ["rate limit quota exceeded"]})
        assert isinstance(await failed(client), VaultThrottled)
        server.secret = (200, THERE)
        assert isinstance(await failed(client), VaultThrottled)
        assert (await client.look(path("secret/data/a", "team"), 2)).exists

    server = Server()
    with_client(server, test)


def test_no_answer_at_all_is_an_outage_with_the_systems_own_words() -> None:
    async def main() -> None:
        client = VaultClient(login(f"http://127.0.0.1:{unused_port()}", timeout=2.0))
        error = await failed(client)
        assert type(error) is VaultUnavailable
        assert "Connection refused" in str(error)
        await client.close()

    run_ahead(main())
