"""runtime/lifecycle: the bounds of a stop's steps, the report of an unexpected error, and the parts during a stop."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.unit.build import V2, eventually, logged, login, path, run
from tests.unit.servers import http_server
from vaultsync.controller.workqueue import WorkQueue
from vaultsync.core.errors import KubeUnavailable, NotLeading
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.rule_parser import parse_rules
from vaultsync.generation.rules import RuleError
from vaultsync.runtime.lifecycle import LEAST_SECONDS, Stop, crash, report_callback
from vaultsync.vault.client import VaultClient

SECRET = "hvs.a-value-that-nobody-may-see"
MISSING = SecretState(V2, exists=False)


@contextmanager
def handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_the_stop_and_a_second_one_changes_nothing_even_when_the_loop_is_closed(
    number: signal.Signals,
) -> None:
    stop: Stop

    async def main() -> None:
        nonlocal stop
        stop = Stop()
        stop.on_signals()
        assert stop.left(3.0, otherwise=1.0) == 1.0
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 5)
        first = stop.left(30.0, otherwise=1.0)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        assert stop.left(30.0, otherwise=1.0) < first <= 30.0
        assert stop.left(0.0, otherwise=1.0) == LEAST_SECONDS

    with handlers_kept():
        asyncio.run(main())
        os.kill(os.getpid(), number)


def test_the_report_names_task_error_and_place_and_omits_the_message() -> None:
    async def careless() -> None:
        await asyncio.sleep(0)
        parse_rules({SECRET: SECRET})  # type: ignore[arg-type]

    async def waits() -> None:
        async with asyncio.TaskGroup() as inner:
            inner.create_task(asyncio.sleep(60))

    async def unlucky() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise KubeUnavailable("no answer")

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waits())
            tasks.create_task(unlucky())
            tasks.create_task(careless())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    found = crash(caught.value)
    assert found["error"] in ("TypeError", "AttributeError", RuleError.__name__)
    assert found["where"].startswith("vaultsync/generation/")
    assert " in " in found["where"]
    assert found["task"]
    assert SECRET not in str(found)


def test_a_plain_exception_is_reported_too() -> None:
    assert crash(LookupError(SECRET)) == {"task": "", "error": "LookupError", "where": ""}
    assert crash(ExceptionGroup("", [KubeUnavailable("x")]))["error"] == "KubeUnavailable"


def test_a_failed_callback_is_logged_in_one_line_without_values() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(report_callback)

        def callback(value: str) -> None:
            raise LookupError(value)

        loop.call_soon(callback, SECRET)
        loop.call_exception_handler({"message": "odd"})
        await asyncio.sleep(0.01)

    with logged() as lines:
        run(main())
    assert [line.partition(" {")[0] for line in lines] == ["asyncio reports an error", "a callback failed unexpectedly"]
    assert "LookupError" in lines[1]
    assert SECRET not in "".join(lines)


def test_a_closed_queue_starts_no_key_and_accepts_finished_ones() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda: iter((0.01,) * 9))
        queue.add("a")
        await queue.get()
        queue.close()
        queue.add("a")
        queue.add("b")
        queue.add_after("c", 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await queue.get()
        queue.done("a")
        assert len(queue) == 3

    run(main())


class SlowVault:
    """Answers a write once it is told to.

    Attributes:
        writes: how many have arrived.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.answers = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            mount = {"type": "kv", "path": "secret/", "options": {"version": "2"}}
            return web.json_response({"data": mount})
        self.writes += 1
        await self.answers.wait()
        return web.json_response({"data": {"version": 1, "created_time": "2026-01-01T00:00:00Z"}})


def test_a_stop_waits_for_pending_writes_sends_no_further_values_and_still_writes_ownership_metadata() -> None:
    async def main() -> None:
        vault = SlowVault()
        async with http_server(vault) as address:
            client = VaultClient(login(address))
            values = {"p": SecretStr("v")}
            try:
                writing = asyncio.create_task(client.create(path("secret/data/a"), MISSING, values))
                await eventually(lambda: vault.writes == 1)
                assert client.writes.is_sending
                started = time.monotonic()
                assert await client.writes.finish(0.1) == 1
                assert time.monotonic() - started < 2
                with pytest.raises(NotLeading):
                    await client.create(path("secret/data/b"), MISSING, values)
                finishing = asyncio.create_task(client.writes.finish(10))
                await asyncio.sleep(0.05)
                assert not finishing.done()
                vault.answers.set()
                assert await finishing == 0
                assert (await writing).version == 1
                await client.mark(path("secret/data/a"), {})
                assert vault.writes == 2
                assert not client.writes.is_sending
            finally:
                await client.close()

    run(main())


def test_a_cancelled_write_is_still_pending() -> None:
    async def main() -> None:
        vault = SlowVault()
        async with http_server(vault) as address:
            client = VaultClient(login(address))
            try:
                writing = asyncio.create_task(client.create(path("secret/data/a"), MISSING, {"p": SecretStr("v")}))
                await eventually(lambda: vault.writes == 1)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                assert await client.writes.finish(0.01) == 0
                assert client.writes.is_sending
                vault.answers.set()
                await eventually(lambda: not client.writes.is_sending)
            finally:
                await client.close()

    run(main())
