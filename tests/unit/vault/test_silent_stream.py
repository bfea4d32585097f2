"""vault/silent_stream: when an event stream counts as silent, and when it does not."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from tests.unit.build import logged, path, run, run_ahead
from vaultsync.core.events import VaultEvent
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault import silent_stream
from vaultsync.vault.silent_stream import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MAX_RECENT,
    SETTLE_SECONDS,
    SILENT_SECONDS,
    SilenceDetector,
)
from vaultsync.vault.writes import OwnWrite

A, KV1 = path("secret/data/a"), path("kv1/a")


def event(version: int = 1, kind: str = "kv-v2/data-write") -> VaultEvent:
    return VaultEvent(KV1 if kind.startswith("kv-v1/") else A, kind, version)


def write(version: int = 1, *, ago: float = 0.0) -> OwnWrite:
    where = A if version else KV1
    return OwnWrite(where, version, "id" if version else "", asyncio.get_running_loop().time() - ago)


def subscribed(test: Callable[[SilenceDetector], Awaitable[None]]) -> None:
    """With a subscription that is old enough to deliver."""

    async def main() -> None:
        made = SilenceDetector(Metrics())
        made.subscribed()
        await asyncio.sleep(SETTLE_SECONDS)
        try:
            await test(made)
        finally:
            made.unsubscribed()

    run_ahead(main())


def detections(made: SilenceDetector) -> float:
    [family] = made._metrics.stream_deaf.collect()
    return family.samples[0].value


async def is_found(made: SilenceDetector, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            await made.found.wait()
    except TimeoutError:
        return False
    return True


async def again(made: SilenceDetector) -> None:
    """It is subscribed again, some time ago."""
    made.unsubscribed()
    made.subscribed()
    await asyncio.sleep(SETTLE_SECONDS)


def test_an_own_write_that_does_not_appear_shows_a_silent_stream() -> None:
    async def test(made: SilenceDetector) -> None:
        made.wrote(write())
        assert not await is_found(made, SILENT_SECONDS - 0.1)
        assert (made.is_unproven, detections(made)) == (False, 0)
        assert await is_found(made, 0.2)
        assert (made.is_unproven, detections(made)) == (True, 1)
        (line,) = lines
        assert "Vault's event stream is silent" in line
        assert "secret/data/a" in line

    with logged("WARNING") as lines:
        subscribed(test)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("early", [True, False])
def test_one_that_appears_before_or_after_its_response_shows_that_it_is_not(version: int, early: bool) -> None:
    told = event(version, "kv-v2/data-patch" if version else "kv-v1/write")

    async def test(made: SilenceDetector) -> None:
        own = write(version, ago=-0.01)
        await asyncio.sleep(0.02)
        if early:
            made.received(told)
        made.wrote(own)
        await asyncio.sleep(SILENT_SECONDS - 0.1)
        if not early:
            made.received(told)
        assert not await is_found(made, 100)
        assert detections(made) == 0

    subscribed(test)


@pytest.mark.parametrize("told", [event(2), event(1, "kv-v2/data-delete"), event(0, "kv-v1/write")])
def test_other_events_are_not_its_own(told: VaultEvent) -> None:
    async def test(made: SilenceDetector) -> None:
        made.wrote(write())
        made.received(told)
        assert await is_found(made, SILENT_SECONDS + 0.1)

    subscribed(test)


def test_an_event_from_before_the_write_is_not_its_own() -> None:
    """Somebody else's in KV v1, where there are no versions."""

    async def test(made: SilenceDetector) -> None:
        made.received(event(0, "kv-v1/write"))
        await asyncio.sleep(0.1)
        made.wrote(write(0))
        assert await is_found(made, SILENT_SECONDS + 0.1)

    subscribed(test)


def test_a_write_while_nothing_is_subscribed_or_right_after_proves_nothing() -> None:
    async def test(made: SilenceDetector) -> None:
        made.wrote(write(ago=SETTLE_SECONDS / 2))
        made.unsubscribed()
        made.wrote(write())
        made.subscribed()
        made.wrote(write())
        assert not await is_found(made, 100)

    subscribed(test)


def test_the_end_of_a_subscription_ends_its_expectations() -> None:
    async def test(made: SilenceDetector) -> None:
        made.wrote(write())
        await again(made)
        assert not await is_found(made, 100)
        assert not made.is_unproven

    subscribed(test)


def test_an_unproven_subscription_is_proven_by_any_event_once() -> None:
    async def test(made: SilenceDetector) -> None:
        made.wrote(write())
        assert await is_found(made, SILENT_SECONDS + 0.1)
        assert made.unsubscribed()
        assert not made.unsubscribed(), "an attempt to subscribe that fails has another reason"
        made.subscribed()
        assert made.is_unproven
        assert made.received(event(7, "kv-v2/metadata-patch"))
        assert not made.is_unproven
        assert not made.received(event(8))
        assert not made.unsubscribed()

    subscribed(test)


def test_silence_that_repeats_is_looked_for_more_and_more_seldom_until_an_own_write_appears() -> None:
    async def test(made: SilenceDetector) -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []

        async def repeat(until: float) -> None:
            version = 1
            while loop.time() < until:
                version += 1
                made.wrote(write(version))
                made.received(event(99_999, "kv-v2/undelete"))  # the policy allows other paths: proof is no end of it
                if await is_found(made, 1.0):
                    times.append(loop.time())
                    await again(made)

        await repeat(loop.time() + 24 * 3600)
        gaps = [after - before for before, after in pairwise(times)]
        assert FIRST_PAUSE / 2 <= gaps[0] <= FIRST_PAUSE + SILENT_SECONDS + 3
        assert len(times) <= 10 + 24 * 2
        assert max(gaps) <= LONGEST_PAUSE + SILENT_SECONDS + 3
        made.received(event(5))
        await asyncio.sleep(0.01)
        own = write(6, ago=-0.001)
        await asyncio.sleep(0.01)
        made.received(event(6))
        made.wrote(own)
        before = len(times)
        await repeat(loop.time() + 60)
        assert len(times) - before >= 3

    subscribed(test)


def test_while_the_process_was_held_up_events_may_wait_to_be_read() -> None:
    async def test() -> None:
        made = SilenceDetector(Metrics())
        made.subscribed()
        await asyncio.sleep(0.05)
        made.wrote(write())
        time.sleep(0.5)  # noqa: ASYNC251 — as if the process was stopped
        await asyncio.sleep(0.05)
        assert detections(made) == 0
        assert await is_found(made, 1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(silent_stream, "SILENT_SECONDS", 0.2)
        patched.setattr(silent_stream, "SETTLE_SECONDS", 0.0)
        patched.setattr(silent_stream, "LATE_SECONDS", 0.1)
        run(test())


def test_what_is_remembered_is_bounded() -> None:
    async def test(made: SilenceDetector) -> None:
        for version in range(1, 2 * MAX_RECENT):
            made.received(event(version))
        assert len(made._recent) == MAX_RECENT

    subscribed(test)
