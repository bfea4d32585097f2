"""vault/transport: redirects, proxies and time-outs, against small local servers; the real Vault is elsewhere."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from urllib3.exceptions import HTTPError

from tests.unit.build import run
from tests.unit.servers import answer, http_server
from vaultsync.vault import transport
from vaultsync.vault.transport import Answer, VaultAccess

TOKEN = "t0ken"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


async def request(address: str, method: str = "get", path: str = "/v1/x", **arguments: object) -> Answer:
    adapter = transport.client(VaultAccess(address, timeout=2.0), 1, TOKEN).adapter
    try:
        answered: Answer = await asyncio.to_thread(adapter.request, method, path, **arguments)
    finally:
        adapter.close()
    return answered


def served(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], test: Callable[[str], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with http_server(handler) as address:
            await test(address)

    run(main())


async def echo(request: web.Request) -> web.Response:
    body = (await request.read()).decode()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return answer(200, {"data": {"method": request.method, "path": request.path, "body": body, "headers": headers}})


def data_of(answered: Answer) -> dict[str, Any]:
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


def test_a_standby_node_sends_a_write_on_to_the_active_one() -> None:
    """307 keeps method and body: https://developer.hashicorp.com/vault/docs/concepts/ha."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/x":
            return web.Response(status=307, headers={"Location": f"http://{request.host}/v1/active"})
        return await echo(request)

    async def test(address: str) -> None:
        found = data_of(await request(address, "post", json={"a": 1}))
        assert (found["method"], found["path"], found["body"]) == ("POST", "/v1/active", '{"a": 1}')
        assert found["headers"]["x-vault-token"] == TOKEN

    served(handler, test)


def test_redirects_in_a_circle_end() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"http://{request.host}/v1/x"})

    async def test(address: str) -> None:
        with pytest.raises(HTTPError):
            await request(address)

    served(handler, test)


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


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_json_is_none(body: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, body=body)

    async def test(address: str) -> None:
        assert await request(address) == Answer(503, None)

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
