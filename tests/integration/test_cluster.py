"""A cluster of three nodes, vaultsync uses a standby node, and external-secrets another node."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from tests.integration.test_healing import SEED, another
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.servers import ROOT_TOKEN, Server, Vault
from tests.testbed.testbed import Options, Testbed
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.config.auth import AuthConfig
from vaultsync.core.paths import VaultPath
from vaultsync.vault import transport
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.transport import Response, VaultAccess

FAILOVER = 40.0
"""Seconds; raft elects within four, and ESO checks an unavailable store every five."""


@pytest.fixture(scope="module", params=["1.15", "openbao"])
def testbed(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    with Testbed(Options(vault_storage="raft", vault_nodes=3, vault=request.param)) as made:
        yield made


def nodes(testbed: Testbed) -> list[Vault]:
    return [testbed.vault, *testbed.standbys]


@pytest.fixture
def process(testbed: Testbed, place: Place, vaultsync: VaultsyncFactory) -> VaultsyncProcess:
    """A vaultsync that uses the first standby node."""
    own = testbed.standbys[0]
    servers = ",".join(node.address for node in nodes(testbed))  # external-secrets' stores name them
    return vaultsync({"VAULT_ADDR": own.address, "VAULTSYNC_STORE_SERVERS": servers})


def heals(place: Place, name: str, patience: float = 10.0) -> None:
    """A path is seeded, deleted and written; the Secret follows each time.

    External-secrets reads from the active node: OpenBao's standby nodes answer reads and may be behind.
    """
    active = next(node for node in nodes(place.testbed) if node.is_active)
    place.store(f"for-{name}", server=active.address)
    place.external_secret(name, {"p": (name, "password")}, annotations=SEED, store=f"for-{name}")
    first = place.wait_for_secret(name, patience)
    place.vault.delete(place.path(name))
    place.wait_for(lambda: another(place, name, first), patience)
    place.put(name, password="a person's")
    place.wait_for_secret(name, patience, p="a person's")


def test_it_works_through_a_standby_node(place: Place, process: VaultsyncProcess) -> None:
    heals(place, "app")
    source = "audit" if place.testbed.options.is_openbao else "events"
    place.wait_for(lambda: f'reported by", "source": "{source}"' in process.output(), 20, source)


def test_a_write_is_visible_at_once_on_every_node(testbed: Testbed, place: Place) -> None:
    """OpenBao's standby nodes answer reads, about 80 ms behind: with X-Vault-Index they forward to the active one."""

    async def versions(number: int) -> tuple[int, int]:
        node = testbed.standbys[number % len(testbed.standbys)]
        client = VaultClient(Login(VaultAccess(node.address), AuthConfig(token=SecretStr(ROOT_TOKEN))))
        path = VaultPath("", f"secret/data/{place.path(str(number))}")
        try:
            made = await client.create(path, await client.look(path, 2), {"p": SecretStr("x")})
            return made.version, (await client.look(path, 2)).version
        finally:
            await client.close()

    for number in range(10):
        assert asyncio.run(versions(number)) == (1, 1)


def test_a_redirect_from_a_standby_node_to_the_announced_leader_is_followed(testbed: Testbed, place: Place) -> None:
    """A standby node redirects requests that it does not forward, here because of a header; no extra setting."""

    def send(method: str, path: str, body: object = None) -> Response:
        adapter = transport.client(VaultAccess(testbed.standbys[0].address), 1, ROOT_TOKEN).adapter
        try:
            headers = {"X-Vault-No-Request-Forwarding": "true"}
            answer: Response = adapter.request(method, f"/v1/secret/{path}", headers=headers, json=body)
            return answer
        finally:
            adapter.close()

    own = place.path("app")
    assert send("post", f"data/{own}", {"data": {"p": "x"}}).status == 200
    assert place.read("app") == {"p": "x"}
    # OpenBao's standby nodes answer reads, and may be behind
    place.wait_for(lambda: send("get", f"subkeys/{own}").status == 200)
    assert send("list", f"metadata/{place.name}").status == 200


def test_a_sealed_node_is_reported_and_waited_for(place: Place, process: VaultsyncProcess) -> None:
    own = place.testbed.standbys[0]
    heals(place, "before")
    own.stop()
    Server.start(own)  # without unsealing it
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, store="for-before")
    place.wait_for(lambda: "sealed" in process.output(), 20, "the log says that Vault is sealed")
    own.unseal()
    place.wait_for_secret("app", FAILOVER)
    heals(place, "after", FAILOVER)


def test_it_survives_the_death_of_the_active_node(place: Place, process: VaultsyncProcess) -> None:
    heals(place, "before")
    place.testbed.vault.kill()
    place.wait_for(lambda: any(node.is_active for node in place.testbed.standbys), FAILOVER, "another node is active")
    heals(place, "after", FAILOVER)
