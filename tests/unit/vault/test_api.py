"""Responses of Vault that the checks use, and what follows from its version."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from tests.unit.build import path, run
from tests.unit.servers import answer, http_server
from tests.unit.vault.test_client import with_client
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.core.errors import VaultDenied, VaultUnavailable
from vaultsync.core.paths import Mount
from vaultsync.vault.api import Health, has_event_stream, has_subscribe_capability
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.transport import VaultAccess


@pytest.mark.parametrize(
    ("version", "offers", "subscribe"),
    [
        ("1.12.9", False, False),
        ("1.13.0", True, False),
        ("1.14.1", True, False),
        ("1.15.1", True, True),
        ("1.16.0", False, False),
        ("1.16.0+ent", True, True),
        ("1.21.2+ent.hsm", True, True),
        ("2.7.2", False, False),
        ("", False, False),
        ("banana", False, False),
    ],
)
def test_versions_with_an_event_stream(version: str, offers: bool, subscribe: bool) -> None:
    assert (has_event_stream(version), has_subscribe_capability(version)) == (offers, subscribe)


Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


def responding(status: int, document: object) -> Respond:
    async def respond(request: web.Request) -> web.StreamResponse:
        await request.read()
        return answer(status, document)

    return respond


@pytest.mark.parametrize(
    ("status", "sealed", "standby"), [(200, False, False), (429, False, True), (473, False, True), (503, True, True)]
)
def test_health_is_told_by_any_status(status: int, sealed: bool, standby: bool) -> None:
    told = {"initialized": True, "sealed": sealed, "standby": standby, "version": "1.15.1"}

    async def test(client: VaultClient) -> None:
        assert await client.health() == Health(True, sealed, standby, "1.15.1")

    with_client(responding(status, told), test)


def test_health_is_told_to_who_has_not_logged_in_yet() -> None:
    told = {"initialized": True, "sealed": False, "standby": False, "version": "1.15.1"}

    async def main() -> None:
        async with http_server(responding(200, told)) as address:
            method = AuthConfig(Auth.KUBERNETES, role="vaultsync", jwt_file="/nowhere")
            client = VaultClient(Login(VaultAccess(address, "", 5.0), method))
            try:
                assert (await client.health()).version == "1.15.1"
            finally:
                await client.close()

    run(main())


@pytest.mark.parametrize("document", [{}, [], {"initialized": "yes"}, {"errors": ["x"]}])
def test_what_is_not_vault_has_no_health(document: object) -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultUnavailable, match="is not Vault"):
            await client.health()

    with_client(responding(200, document), test)


def test_capabilities_without_those_that_are_denied() -> None:
    async def test(client: VaultClient) -> None:
        found = await client.capabilities(["a", "b", "c", "odd"], "")
        assert found == {"a": {"read", "list"}, "b": set(), "c": set(), "odd": set()}

    with_client(responding(200, {"data": {"a": ["read", "list"], "b": ["deny"], "odd": 5}}), test)


def test_capabilities_may_be_refused() -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultDenied):
            await client.capabilities(["a"], "")

    with_client(responding(403, {"errors": ["permission denied"]}), test)


def test_a_mount_that_may_not_be_asked_for_is_guessed() -> None:
    async def test(client: VaultClient) -> None:
        assert await client.mount(path("team/kv/data/a/b"), 2) == Mount("team/kv/", 2)

    with_client(responding(403, {"errors": ["preflight capability check returned 403"]}), test)
