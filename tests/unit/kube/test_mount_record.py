"""The UUIDs of Vault's mounts on the Lease: what the next process gets to know."""

import asyncio
import json

import pytest
from aiohttp import web

from tests.unit.build import logged, run
from tests.unit.kube.api import client_of
from tests.unit.servers import answer
from vaultsync.kube import mount_record as module
from vaultsync.kube.mount_record import MountRecord

LEASE = {"metadata": {"annotations": {"vaultsync.io/mounts": json.dumps({"secret/": "one"})}}}


async def loaded(*answers: web.Response) -> tuple[dict[str, str], int]:
    """What is loaded, and the number of answers that are left."""
    left = list(answers)

    async def respond(request: web.Request) -> web.Response:
        assert request.path == "/apis/coordination.k8s.io/v1/namespaces/vaultsync/leases/vaultsync"
        return left.pop(0)

    async with client_of(respond) as client:
        record = MountRecord(client, "vaultsync/vaultsync")
        await record.load()
        return dict(record), len(left)


def test_an_outage_of_the_api_server_does_not_hide_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the next mount would count as known, and its UUID would be written over the former one."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    assert run(loaded(answer(503, {}), answer(500, {}), answer(200, LEASE))) == ({"secret/": "one"}, 0)


@pytest.mark.parametrize("status", [403, 404])
def test_without_the_lease_or_the_permission_it_starts_without_a_record(status: int) -> None:
    assert run(loaded(answer(status, {}), answer(200, LEASE))) == ({}, 1)


def test_a_forged_record_is_no_error() -> None:
    lease = {"metadata": {"annotations": {"vaultsync.io/mounts": '{"secret/": 1, "kv/": "two", "x": ["'}}}
    assert run(loaded(answer(200, lease))) == ({}, 0)


def test_a_record_that_is_too_large_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async def respond(request: web.Request) -> web.Response:
            raise AssertionError("nothing is written")

        async with client_of(respond) as client:
            record = MountRecord(client, "vaultsync/vaultsync")
            record["secret/"] = "x" * module.MAX_BYTES
            task = asyncio.create_task(record.run())
            with logged("WARNING") as lines:
                await asyncio.sleep(0.1)
            task.cancel()
            assert "1 mounts need more than" in "".join(lines)

    monkeypatch.setattr(module, "BEHIND_SECONDS", 0.0)
    run(test())
