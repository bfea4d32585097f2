"""Who does not lead writes nothing: the fence, the two clients behind it, and what the engine makes of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration
from pydantic import SecretStr

from tests.unit.build import Clock, eventually, external_secret, logged, login, path, run
from tests.unit.controller.harness import SEED, A, Engine
from tests.unit.fakes import FakeVault
from tests.unit.servers import answer, http_server
from vaultsync.core.errors import NotLeading
from vaultsync.core.fence import Fence
from vaultsync.core.paths import Mount
from vaultsync.core.vault_state import SecretState
from vaultsync.kube.client import KubeClient
from vaultsync.vault.client import VaultClient

MISSING = SecretState(Mount("secret/", 2), exists=False)


class Server:
    """Knows the mount `secret`, takes everything, and counts what is written.

    Attributes:
        refusals: how many of the next writes it refuses.
    """

    def __init__(self) -> None:
        self.writes: list[tuple[str, str]] = []
        self.bodies: list[object] = []
        self.refusals = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            mount = {"path": "secret/", "type": "kv", "options": {"version": "2"}}
            return answer(200, {"data": mount, "items": []})
        self.writes.append((request.method, request.path))
        self.bodies.append(json.loads(await request.read()))
        if self.refusals:
            self.refusals -= 1
            return answer(404, {"message": "there is none"})
        return answer(200, {"data": {"version": 1, "created_time": "2026-01-01T00:00:00Z"}})


def a_fence() -> tuple[Fence, Clock]:
    clock = Clock()
    return Fence(clock), clock


def test_a_fence_is_closed_at_first_and_when_its_time_is_over() -> None:
    fence, clock = a_fence()
    assert (fence.is_open, fence.left) == (False, 0)
    fence.open(clock() + 10)
    clock.forward(9.9)
    fence.check()
    assert fence.left == pytest.approx(0.1)
    clock.forward(0.1)
    assert not fence.is_open
    with pytest.raises(NotLeading):
        fence.check()
    fence.open(clock() + 10)
    fence.close()
    assert not fence.is_open


@asynccontextmanager
async def kube(fence: Fence | None) -> AsyncIterator[tuple[Server, KubeClient]]:
    server = Server()
    async with http_server(server) as address:
        configuration = Configuration()
        configuration.host = address
        client = KubeClient(ApiClient(configuration), 5.0).fenced(fence)
        try:
            yield server, client
        finally:
            await client.close()


def test_nothing_that_writes_reaches_kubernetes_past_a_closed_fence() -> None:
    async def main() -> None:
        fence, clock = a_fence()
        async with kube(fence) as (server, client):
            await client.get("/api/v1/x")
            for write in (client.post, client.merge_patch):
                with pytest.raises(NotLeading):
                    await write("/api/v1/x", {})
            assert server.writes == []
            await client.unfenced(5.0).post("/apis/lease", {})
            fence.open(clock() + 1)
            await client.merge_patch("/api/v1/x", {})
            assert server.writes == [("POST", "/apis/lease"), ("PATCH", "/api/v1/x")]

    run(main())


def test_nothing_that_writes_reaches_vault_past_a_closed_fence() -> None:
    async def main() -> None:
        fence, clock = a_fence()
        server = Server()
        async with http_server(server) as address:
            client = VaultClient(login(address), fence)
            where, values = path("secret/data/a"), {"p": SecretStr("v")}
            try:
                for write in (client.create, client.rotate):
                    with pytest.raises(NotLeading):
                        await write(where, MISSING, values)
                with pytest.raises(NotLeading):
                    await client.mark(where, {})
                assert server.writes == []
                fence.open(clock() + 1)
                await client.create(where, MISSING, values)
                await client.mark(where, {})
                assert server.writes == [("POST", "/v1/secret/data/a"), ("PATCH", "/v1/secret/metadata/a")]
            finally:
                await client.close()

    run(main())


def fenced_vault() -> FakeVault:
    """A Vault that this process may only look at."""
    vault = FakeVault()
    vault.denied_writes[A] = vault.marks_refused = NotLeading("not sent")
    return vault


def test_a_pass_that_may_not_write_is_given_up_without_a_word_on_anything() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault = fenced_vault()
        engine.controller._path_reconciler = engine.create_path_reconciler(engine.vault)
        engine.index.put(external_secret("a", annotations=SEED))
        with logged() as lines:
            async with engine.working():
                await eventually(lambda: engine.vault.looks)
                await engine.settled()
        assert engine.writer.writes == []
        assert [line.partition(" {")[0] for line in lines] == ["initial scan complete"]

    run(test())


def test_a_mark_that_may_not_be_left_does_not_end_the_marker() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", annotations=SEED))
        engine.vault.marks_refused = NotLeading("not sent")
        task = asyncio.create_task(engine.ownership.run())
        engine.ownership.schedule_last(A)
        await asyncio.sleep(0.05)
        assert not task.done()
        with logged() as lines:
            await engine.ownership.flush()
        assert len(lines) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(test())


def test_a_standby_keeps_what_it_hears_and_queues_nothing_until_it_works() -> None:
    async def test() -> None:
        engine = Engine()
        asked = [external_secret(f"a{number}", name=f"n{number}", annotations=SEED) for number in range(3)]
        for one in asked:
            engine.controller.external_secret_changed(one)
        for one in asked[:2]:
            engine.controller.external_secret_removed(one)
        assert engine.controller.backlog() == 0
        assert len(list(engine.index.paths())) == 1
        async with engine.working():
            await eventually(lambda: engine.vault.creates)
            await engine.settled()
        assert list(engine.vault.creates) == [path("secret/data/a2")]
        assert len(engine.writer.force_syncs()) == 1

    run(test())
