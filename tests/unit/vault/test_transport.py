"""vault/transport: redirects, proxies and time-outs, against small local servers; the real Vault is elsewhere."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web

from tests.unit.build import run_ahead
from tests.unit.servers import Handler, all_that_an_error_holds, answer, http_server, raw_server
from vaultsync.core.errors import RedirectRefused
from vaultsync.vault import replication, transport
from vaultsync.vault.transport import MAX_RETRY_AFTER, Response, VaultAccess

TOKEN, VALUE = "t0ken", "5ecret-value"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


async def request(
    address: str, method: str = "get", path: str = "/v1/x", servers: tuple[str, ...] = (), **arguments: object
) -> Response:
    adapter = transport.client(VaultAccess(address, timeout=2.0, servers=servers), 1, TOKEN).adapter
    try:
        answered: Response = await asyncio.to_thread(adapter.request, method, path, **arguments)
    finally:
        adapter.close()
    return answered


def served(handler: Handler, test: Callable[[str], Awaitable[None]]) -> None:
    async def main() -> None:
        async with http_server(handler) as address:
            await test(address)

    run_ahead(main())


async def echo(request: web.Request) -> web.Response:
    body = (await request.read()).decode()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return answer(200, {"data": {"method": request.method, "path": request.path, "body": body, "headers": headers}})


def data_of(answered: Response) -> dict[str, Any]:
    assert answered.status == 200
    assert isinstance(answered.document, dict)
    found = answered.document["data"]
    assert isinstance(found, dict)
    return found


def test_a_request_carries_vaults_headers_and_json() -> None:
    async def test(address: str) -> None:
        found = data_of(await request(address, "patch", "/v1/secret//a", headers={"X-Vault-Namespace": "n"}, json={}))
        assert (found["method"], found["path"], found["body"]) == ("PATCH", "/v1/secret/a", "{}")
        headers = found["headers"]
        assert (headers["x-vault-token"], headers["x-vault-request"]) == (TOKEN, "true")
        assert headers["x-vault-namespace"] == "n"

    served(echo, test)


# -- redirects: their rules are in test_redirects.py


def redirecting(status: int, location: Callable[[web.Request], str], leader: str = "") -> Handler:
    """A node that answers sys/leader, and redirects everything else."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/sys/leader":
            assert "X-Vault-Token" not in request.headers
            return answer(200, {"leader_address": leader})
        return web.Response(status=status, headers={"Location": location(request)})

    return handler


def from_a_standby(
    test: Callable[[str, str], Awaitable[None]], *, announces: bool = False, scheme: str = "http", status: int = 307
) -> None:
    """The test is given the addresses of a node that redirects all to a second one, and of that."""

    async def main() -> None:
        async with http_server(echo) as active:
            handler = redirecting(
                status,
                lambda request: f"{scheme}://{active.removeprefix('http://')}{request.path_qs}",
                active if announces else "",
            )
            async with http_server(handler) as standby:
                await test(standby, active)

    run_ahead(main())


@pytest.mark.parametrize("announces", [False, True])
def test_a_standby_node_sends_a_write_on_to_the_active_one(announces: bool) -> None:
    """307 keeps method and body: https://developer.hashicorp.com/vault/docs/concepts/ha."""

    async def test(standby: str, active: str) -> None:
        servers = () if announces else (active,)
        found = data_of(await request(standby, "post", servers=servers, json={"a": 1}))
        assert (found["method"], found["path"], found["body"]) == ("POST", "/v1/x", '{"a": 1}')
        assert found["headers"]["x-vault-token"] == TOKEN
        assert found["headers"]["host"] == active.removeprefix("http://")

    from_a_standby(test, announces=announces)


def test_a_server_that_is_not_known_is_not_even_connected_to() -> None:
    connected: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(1)

    async def main() -> None:
        async with raw_server(talk) as elsewhere:
            handler = redirecting(307, lambda request: f"http://{elsewhere}{request.path_qs}")
            async with http_server(handler) as standby:
                for method in ("get", "post", "patch"):
                    with pytest.raises(RedirectRefused, match="VAULTSYNC_STORE_SERVERS") as caught:
                        await request(standby, method, json={"a": VALUE})
                    held = all_that_an_error_holds(caught.value)
                    assert VALUE not in held
                    assert TOKEN not in held
        assert connected == []

    run_ahead(main())


def test_a_redirect_that_a_leader_answer_redirects_too_is_not_followed() -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return answer(200, {"leader_address": f"http://{request.host}"})

    async def main() -> None:
        async with http_server(elsewhere) as other:

            async def handler(request: web.Request) -> web.StreamResponse:
                return web.Response(status=307, headers={"Location": f"{other}{request.path_qs}"})

            async with http_server(handler) as standby:
                with pytest.raises(RedirectRefused):
                    await request(standby)
        assert asked == []

    run_ahead(main())


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_write_never_becomes_a_read(status: int) -> None:
    async def test(standby: str, active: str) -> None:
        with pytest.raises(RedirectRefused, match="would turn a POST into a GET"):
            await request(standby, "post", servers=(active,), json={"a": 1})
        assert data_of(await request(standby, servers=(active,)))["method"] == "GET"

    from_a_standby(test, status=status)


def test_redirects_in_a_circle_end() -> None:
    async def test(address: str) -> None:
        with pytest.raises(RedirectRefused, match="circle"):
            await request(address)

    served(redirecting(307, lambda request: f"http://{request.host}/v1/x"), test)


def test_a_location_that_is_garbage_is_refused() -> None:
    async def test(address: str) -> None:
        with pytest.raises(RedirectRefused, match="names no address"):
            await request(address)

    served(redirecting(307, lambda _: "http://[::1"), test)


@pytest.mark.parametrize("status", [300, 304, 305])
def test_other_statuses_of_their_kind_are_answers(status: int) -> None:
    async def test(address: str) -> None:
        assert (await request(address)).status == status

    served(redirecting(status, lambda request: f"http://{request.host}/v1/y"), test)


def test_what_redirects_has_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address is asked directly, and the one that it redirects to by the proxy."""

    async def test(proxy: str) -> None:
        handler = redirecting(307, lambda request: f"http://vault.invalid:8200{request.path_qs}")
        async with http_server(handler) as standby:
            monkeypatch.setenv("http_proxy", proxy)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            found = data_of(await request(standby, servers=("http://vault.invalid:8200",)))
            assert found["headers"]["host"] == "vault.invalid:8200"

    served(echo, test)


def test_the_environments_proxy_is_asked_with_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(address: str) -> None:
        monkeypatch.setenv("http_proxy", address.replace("http://", "http://me:p%40ss@"))
        found = data_of(await request("http://vault.invalid:8200"))
        assert found["headers"]["host"] == "vault.invalid:8200"
        login = base64.b64decode(found["headers"]["proxy-authorization"].removeprefix("Basic ")).decode()
        assert login == "me:p@ss"

    served(echo, test)


def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(address: str) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert data_of(await request(address))["path"] == "/v1/x"

    served(echo, test)


# -- nodes that are behind: Vault Enterprise's can't be run here, OpenBao's are in tests/integration/test_cluster.py


Ask = Callable[[str], Awaitable[Response]]


@dataclass
class Behind:
    """A cluster whose node that answers is behind.

    Attributes:
        forwards: whether it asks the active node, where it is asked to.
        refusal: what it answers to who asks for more than it knows.
        catches_up: by one write with each such answer.
        written, known: how many writes there were, and how many the node knows of.
        asked: method and index of each request.
    """

    forwards: bool = False
    refusal: int = 412
    catches_up: bool = True
    written: int = 0
    known: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("X-Vault-Index", "")
        self.asked.append((request.method, asked))
        forward = request.headers.get("X-Vault-Inconsistent", "") == "forward-active-node"
        if forward and not self.forwards:
            return answer(400, {"errors": ["forwarding via header X-Vault-Inconsistent disabled in configuration"]})
        if request.method == "POST":
            self.written += 1
            return web.Response(status=204, headers={"X-Vault-Index": f"index-{self.written}"})
        if asked and int(asked.removeprefix("index-")) > self.known:
            if forward:
                return answer(200, {"data": {"known": self.written}})
            self.known += self.catches_up
            return answer(self.refusal, {"errors": ["required index state not present"]})
        return answer(200, {"data": {"known": self.known}})


def asking(handler: Handler, test: Callable[[Ask], Awaitable[None]]) -> None:
    """The test is given a way to ask, by one adapter."""

    async def main(address: str) -> None:
        adapter = transport.client(VaultAccess(address, timeout=2.0), 1, TOKEN).adapter

        async def ask(method: str) -> Response:
            answered: Response = await asyncio.to_thread(adapter.request, method, "/v1/x")
            return answered

        await test(ask)
        adapter.close()

    served(handler, main)


def test_what_was_written_is_seen_by_the_next_request_as_the_active_node_is_asked() -> None:
    node = Behind(forwards=True)

    async def test(ask: Ask) -> None:
        assert (await ask("get")).document == {"data": {"known": 0}}
        await ask("post")
        await ask("post")
        assert (await ask("get")).document == {"data": {"known": 2}}
        assert node.asked == [("GET", ""), ("POST", ""), ("POST", "index-1"), ("GET", "index-2")]

    asking(node, test)


def test_a_node_that_may_not_forward_is_waited_for() -> None:
    """The default of Vault Enterprise, and it refuses who asks it to."""
    node = Behind()

    async def test(ask: Ask) -> None:
        await ask("post")
        await ask("post")
        assert (await ask("get")).document == {"data": {"known": 2}}
        refused = [("POST", "index-1"), ("POST", "")]
        assert node.asked == [("POST", ""), *refused, *[("GET", "index-2")] * 3]

    asking(node, test)


def test_a_node_that_stays_behind_is_told_and_its_index_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Behind(catches_up=False)

    async def test(ask: Ask) -> None:
        await ask("post")
        await ask("post")
        node.asked.clear()
        assert (await ask("get")).status == 412
        assert node.asked == [("GET", "index-2")] * (1 + transport.TRIES_BEHIND)
        monkeypatch.setattr(replication, "BEHIND_SECONDS", 0.0)
        assert (await ask("get")).status == 412
        assert (await ask("get")).status == 200
        assert node.asked[-1] == ("GET", "")

    asking(node, test)


def test_a_node_that_is_behind_and_answers_429_is_asked_again_by_whoever_has_asked() -> None:
    """OpenBao's way; the same status says that requests are too many."""
    node = Behind(refusal=429)

    async def test(ask: Ask) -> None:
        await ask("post")
        await ask("post")
        assert [(await ask("get")).status for _ in range(3)] == [429, 429, 200]

    asking(node, test)


@pytest.mark.parametrize("named", ["", "x" * (replication.MAX_INDEX + 1), "a b", "ä", "index\t"])
def test_an_index_that_could_not_be_one_is_not_sent_back(named: str) -> None:
    asked: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("X-Vault-Index"))
        return web.Response(status=204, headers={"X-Vault-Index": named})

    async def test(ask: Ask) -> None:
        assert [(await ask("post")).status for _ in range(2)] == [204, 204]
        assert asked == [None, None]

    asking(handler, test)


def test_an_index_that_another_vault_does_not_understand_is_forgotten() -> None:
    asked: list[tuple[str, bool]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        has_index = "X-Vault-Index" in request.headers
        asked.append((request.method, has_index))
        if request.method == "POST":
            return web.Response(status=204, headers={"X-Vault-Index": "old"})
        return answer(400, {"errors": ["failed to decode"]}) if has_index else answer(200, {"data": {}})

    async def test(ask: Ask) -> None:
        assert [(await ask(method)).status for method in ("post", "get", "get", "get")] == [204, 200, 200, 200]
        assert asked[1:] == [("GET", True), ("GET", False)] * 2 + [("GET", False)]

    asking(handler, test)


def test_a_400_for_another_reason_changes_nothing() -> None:
    """Such as a check-and-set that does not match."""
    asked: list[bool] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("X-Vault-Inconsistent") == "forward-active-node")
        if request.method == "POST":
            return web.Response(status=204, headers={"X-Vault-Index": "1"})
        return answer(400, {"errors": ["check-and-set parameter did not match the current version"]})

    async def test(ask: Ask) -> None:
        assert [(await ask(method)).status for method in ("post", "patch", "patch")] == [204, 400, 400]
        assert asked == [False, True, False, True, False]

    asking(handler, test)


@pytest.mark.parametrize("status", [429, 503])
def test_an_answer_that_says_when_to_come_back_is_an_answer(status: int) -> None:
    """It is not waited for in a thread: a server could hold up all of them."""
    asked: list[int] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(1)
        return web.Response(status=status, headers={"Retry-After": "3600"}, text='{"errors": ["too many"]}')

    async def test(address: str) -> None:
        assert await request(address) == Response(status, {"errors": ["too many"]}, retry_after=MAX_RETRY_AFTER)
        assert len(asked) == 1

    served(handler, test)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("3600", MAX_RETRY_AFTER),
        ("9" * 400, 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2099 07:28:00 GMT", MAX_RETRY_AFTER),
        ("Wed, 99 Oct 2099 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_is_none(header: str, seconds: float) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": header}, text="{}")

    async def test(address: str) -> None:
        assert (await request(address)).retry_after == seconds

    served(handler, test)


def test_a_date_to_come_back_at_is_so_many_seconds_ahead() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
        return web.Response(status=429, headers={"Retry-After": date}, text="{}")

    async def test(address: str) -> None:
        assert 30 < (await request(address)).retry_after <= 40

    served(handler, test)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_is_none(body: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, body=body)

    async def test(address: str) -> None:
        assert await request(address) == Response(503, None)

    served(handler, test)


def test_a_login_keeps_its_token() -> None:
    """Hvac's own way to log in, which asks the adapter for the token."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return answer(200, {"auth": {"client_token": "new"}})

    async def test(address: str) -> None:
        made = transport.client(VaultAccess(address, timeout=2.0), 1)
        await asyncio.to_thread(made.auth.approle.login, "role", "id")
        assert made.token == "new"
        made.adapter.close()

    served(handler, test)
