"""Redirects to other servers than Vault's: nothing is sent there. test_cluster.py tests redirects in a cluster."""

import asyncio
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.integration.test_healing import SEED
from tests.integration.test_source_choice import sources
from tests.testbed.certificates import Authority
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.redirector import Redirector, Rule, Trap
from tests.testbed.servers import ROOT_TOKEN
from tests.testbed.testbed import Testbed
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.config.connection import TlsFiles
from vaultsync.core.errors import RedirectRefused
from vaultsync.core.paths import VaultPath
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.stream import EventStream
from vaultsync.vault.tls import Tls
from vaultsync.vault.transport import VaultAccess

BY_TOKEN = AuthConfig(token=SecretStr(ROOT_TOKEN))


@pytest.fixture
def redirector(testbed: Testbed) -> Iterator[Redirector]:
    with Redirector(testbed.vault.port) as made:
        yield made


@pytest.fixture
def trap() -> Iterator[Trap]:
    with Trap() as made:
        yield made
        assert (made.connections, made.received) == (0, b"")


def to(address: str, paths: str) -> Rule:
    """Redirects the requests for some paths, as Vault does: the same path on another server."""
    return lambda method, path: address + path if re.match(paths, path) else None


def written(access: VaultAccess, place: Place, name: str) -> int:
    """The version that a creation writes at a path."""

    async def main() -> int:
        client = VaultClient(Login(access, BY_TOKEN))
        path = VaultPath("", f"secret/data/{place.path(name)}")
        try:
            return (await client.create(path, await client.look(path, 2), {"p": SecretStr("5ecret")})).version
        finally:
            await client.close()

    return asyncio.run(main())


def test_no_token_and_no_value_go_to_an_unknown_server_and_the_rest_continues(
    place: Place, vaultsync: VaultsyncFactory, redirector: Redirector, trap: Trap
) -> None:
    """The redirects come from a tenant or an attacker; other paths of the same Vault are still healed."""
    redirector.rule = to(trap.address, "/v1/(secret|sys/events)/")
    env = {"VAULT_ADDR": redirector.address, "VAULTSYNC_STORE_SERVERS": place.testbed.vault.address}
    process = vaultsync(env)
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    refused = f"the redirect (307) from {redirector.address} to {trap.address} is not followed"
    place.wait_until_reported("app", refused, "VAULTSYNC_STORE_SERVERS", "api_addr")
    place.store("team", path="team/kv")
    started = time.monotonic()
    place.external_secret("other", {"p": ("other", "p")}, annotations=SEED, store="team")
    place.wait_for_secret("other")
    assert time.monotonic() - started < 5, "a redirected mount delays no other"
    place.wait_for(
        lambda: sources(process) == ["audit"], 20, "the stream is redirected too: the audit device is the source"
    )
    assert {path.split("/")[2] for _, path in redirector.redirected} == {"secret", "sys"}
    redirector.rule = to("", "^$")
    place.wait_for_secret("app", 70)
    assert place.testbed.identity.vault_token not in process.output()


def test_no_credential_goes_to_an_unknown_server(testbed: Testbed, redirector: Redirector, trap: Trap) -> None:
    root = testbed.vault_root
    root.api.request("POST", "/v1/sys/auth/redirected", {"type": "approle"})
    try:
        role = "/v1/auth/redirected/role/app"
        root.api.request("POST", role, {"token_policies": "default"})
        role_id = root.api.request("GET", f"{role}/role-id")["data"]["role_id"]
        secret_id = root.api.request("POST", f"{role}/secret-id", {})["data"]["secret_id"]
        method = AuthConfig(
            Auth.APPROLE, mount="redirected", role_id=SecretStr(role_id), secret_id=SecretStr(secret_id)
        )
        redirector.rule = to(trap.address, "/v1/auth/redirected/login")
        with pytest.raises(RedirectRefused):
            asyncio.run(logged_in(redirector, method))
        assert redirector.redirected
        redirector.rule = lambda _, path: f"{trap.address}/v1/login" if path.endswith("/login") else None
        with pytest.raises(RedirectRefused, match="another path"):
            asyncio.run(logged_in(redirector, method))
        redirector.rule = to("", "^$")
        asyncio.run(logged_in(redirector, method))
    finally:
        root.api.request("DELETE", "/v1/sys/auth/redirected")


async def logged_in(redirector: Redirector, method: AuthConfig) -> None:
    login = Login(VaultAccess(redirector.address), method)
    try:
        await login.log_in()
    finally:
        await login.close()


def test_another_port_of_the_same_host_is_another_server_unless_it_is_configured(
    place: Place, redirector: Redirector
) -> None:
    """The real Vault behind it, by its own address; it is not a cluster and announces no leader."""
    redirector.rule = to(place.testbed.vault.address, "/v1/secret/")
    with pytest.raises(RedirectRefused):
        written(VaultAccess(redirector.address), place, "app")
    assert place.read("app") is None
    assert written(VaultAccess(redirector.address, servers=(place.testbed.vault.address,)), place, "app") == 1
    assert place.read("app") == {"p": "5ecret"}
    redirector.status = 302
    with pytest.raises(RedirectRefused, match="turn a POST into a GET"):
        written(VaultAccess(redirector.address, servers=(place.testbed.vault.address,)), place, "other")
    assert place.read("other") is None


@pytest.fixture
def secure(testbed: Testbed, tmp_path: Path) -> Iterator[tuple[Redirector, Tls]]:
    """A TLS listener in front of Vault, and its CA."""
    authority = Authority("redirector")
    pair = authority.issue("127.0.0.1")
    ca, certificate = tmp_path / "ca.pem", tmp_path / "tls.pem"
    ca.write_text(authority.pem)
    certificate.write_text(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Redirector(testbed.vault.port, context) as made:
        yield made, Tls(TlsFiles(str(ca)))


def test_no_redirect_leaves_tls_even_to_a_configured_address(
    place: Place, secure: tuple[Redirector, Tls], trap: Trap
) -> None:
    redirector, tls = secure
    access = VaultAccess(redirector.address, tls=tls, servers=(trap.address, redirector.address))
    assert written(access, place, "before") == 1
    redirector.rule = to(trap.address, "/v1/")
    with pytest.raises(RedirectRefused, match="it leaves TLS"):
        written(access, place, "app")
    assert "it leaves TLS" in asyncio.run(reason_of_no_stream(access))


async def reason_of_no_stream(access: VaultAccess) -> str:
    stream = EventStream(Login(access, BY_TOKEN), Metrics())
    changed = asyncio.Event()
    stream.on_change = changed.set
    task = asyncio.create_task(stream.run())
    try:
        async with asyncio.timeout(10):
            await changed.wait()
        assert not stream.is_connected
        return stream.reason
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_redirect_may_lead_into_tls(place: Place, secure: tuple[Redirector, Tls], redirector: Redirector) -> None:
    behind, tls = secure
    redirector.rule = to(behind.address, "/v1/")
    access = VaultAccess(redirector.address, tls=tls, servers=(behind.address,))
    assert written(access, place, "app") == 1
    assert {method for method, _ in redirector.redirected} == {"GET", "POST"}
