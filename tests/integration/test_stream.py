"""The event stream of a real Vault if the policy denies it, and behind a load balancer that closes every stream."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.test_healing import SEED, another
from tests.integration.test_source_choice import sources
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.unit.servers import Balancer

ALLOWED = 'path "sys/events/subscribe/*" {'


def test_a_policy_that_denies_the_stream_is_reported_and_another_source_is_used(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    root = place.testbed.vault_root
    assert ALLOWED in place.testbed.vault_policy
    root.policy(place.name, place.testbed.vault_policy.replace(ALLOWED, 'path "sys/events/nothing" {'))
    env = {"VAULT_TOKEN": root.token([place.name]), "VAULTSYNC_POLL_INTERVAL": "1s"}
    process = vaultsync(env, audit=False)
    place.wait_for(lambda: sources(process) == ["poll"], 20, "the poll")
    assert "Vault returned 403; the token's policy needs read on sys/events/subscribe/*" in process.output()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    first = place.wait_for_secret("app")
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: another(place, "app", first))
    place.testbed.audit_to(process.audit_name, process.audit_address)
    place.wait_for(lambda: sources(process) == ["poll", "audit"], what="the audit device")


@contextmanager
def running(balancer: Balancer, host: str, port: int) -> Iterator[str]:
    """The balancer, in a thread; yields its host:port."""
    ready, stop, runner = threading.Event(), asyncio.Event(), asyncio.Runner()
    loop = runner.get_loop()

    async def main() -> None:
        async with balancer.before(host, port):
            ready.set()
            await stop.wait()

    def run() -> None:
        with runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(5)
        yield balancer.address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.mark.parametrize("rst", [False, True])
def test_a_balancer_that_closes_every_stream_is_tolerated_and_reported_once(
    place: Place, vaultsync: VaultsyncFactory, rst: bool
) -> None:
    vault = place.testbed.vault
    host, _, port = vault.address.rpartition("/")[2].partition(":")
    balancer = Balancer(lifetime=0.7, rst=rst)
    with running(balancer, host, int(port)) as address:
        process = vaultsync({"VAULT_ADDR": f"http://{address}", "VAULTSYNC_STORE_SERVERS": vault.address})
        for number in range(6):
            name, before = f"app-{number}", balancer.connections
            place.wait_for(lambda before=before: balancer.connections > before, what="the next stream")  # type: ignore[misc]
            place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
            place.wait_for_secret(name, 20)
            place.put(name, password="a person's")
            place.wait_for_secret(name, 20, p="a person's")
        assert process.output().count("no event stream from Vault") == 1
        assert process.output().count("subscribed to Vault's event stream") == 2
        assert sources(process) == ["events"]
