"""vault/canary: when one is sent, and what its end proves. Seconds pass at once."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.build import run_ahead, sample
from vaultsync.core.errors import VaultDenied, VaultsyncError, VaultUnavailable
from vaultsync.core.events import CANARY_PATH
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.canary import FIRST_PACE, LONGEST_PACE, LONGEST_RETRY, WAIT_SECONDS, Canary, CanaryResult

INTERVAL = 300.0
DELIVERED, MISSING, UNANSWERED = CanaryResult.DELIVERED, CanaryResult.MISSING, CanaryResult.UNANSWERED


class Scene:
    """A Canary, and a Vault that reports it unless told otherwise."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.canary = Canary(self._ask, INTERVAL, self._ended, self.metrics)
        self.asked: list[float] = []
        self.ended: list[tuple[CanaryResult, int]] = []
        self.error: VaultsyncError | None = None
        self.swallowed = 0
        """So many are not reported from now on."""
        self.is_news = False
        self.nonces: list[str] = []

    async def _ask(self, path: str) -> None:
        self.asked.append(asyncio.get_running_loop().time())
        if self.error is not None and not isinstance(self.error, VaultDenied):
            raise self.error
        nonce = path.removeprefix(CANARY_PATH)
        self.nonces.append(nonce)
        if self.swallowed:
            self.swallowed -= 1
        else:
            assert self.canary.arrived(nonce)
        if self.error is not None:
            raise self.error

    def _ended(self, result: CanaryResult, missed: int) -> bool:
        self.ended.append((result, missed))
        return self.is_news

    def pauses(self) -> list[float]:
        """Seconds between the requests, rounded."""
        return [round(later - earlier, 1) for earlier, later in zip(self.asked, self.asked[1:], strict=False)]


def scene(test: Callable[[Scene], Awaitable[None]], **given: object) -> None:
    async def main() -> None:
        made = Scene()
        for name, value in given.items():
            setattr(made, name, value)
        task = asyncio.create_task(made.canary.run())
        await asyncio.sleep(0)
        await test(made)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_ahead(main())


def test_one_at_the_start_and_one_each_interval() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(INTERVAL * 3.5)
        assert made.pauses() == [INTERVAL] * 3
        assert made.ended == [(DELIVERED, 0)] * 4
        found = {result.value: sample(made.metrics, "canaries_total", result=result.value) for result in CanaryResult}
        assert found == {"delivered": 4, "missing": 0, "unanswered": 0}
        assert len(set(made.nonces)) == 4
        assert all(len(nonce) == 32 for nonce in made.nonces)

    scene(test)


@pytest.mark.parametrize("swallowed", [1, 2])
def test_a_datagram_that_is_lost_is_tried_again(swallowed: int) -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(INTERVAL / 2)
        assert made.ended == [(DELIVERED, swallowed)]
        assert made.pauses() == list(WAIT_SECONDS[:swallowed])

    scene(test, swallowed=swallowed)


def test_what_is_never_reported_is_missing() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(sum(WAIT_SECONDS) + 0.1)
        assert made.ended == [(MISSING, 0)]
        await asyncio.sleep(INTERVAL)
        assert made.ended == [(MISSING, 0), (DELIVERED, 0)]

    scene(test, swallowed=len(WAIT_SECONDS))


def test_one_that_arrives_late_counts() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(sum(WAIT_SECONDS[:2]) + 0.1)
        assert made.canary.arrived(made.nonces[0])
        await asyncio.sleep(0.1)
        assert made.ended == [(DELIVERED, 1)]

    scene(test, swallowed=len(WAIT_SECONDS))


def test_a_refused_canary_is_reported_too() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(1)
        assert made.ended == [(DELIVERED, 0)]

    scene(test, error=VaultDenied("403"))


def test_without_an_answer_nothing_is_learned_and_it_is_tried_again_soon() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(INTERVAL)
        assert {result for result, _ in made.ended} == {UNANSWERED}
        assert len(made.asked) > INTERVAL / LONGEST_RETRY
        assert max(made.pauses()) <= LONGEST_RETRY
        made.error = None
        await asyncio.sleep(LONGEST_RETRY)
        assert made.ended[-1] == (DELIVERED, 0)
        number = len(made.asked)
        await asyncio.sleep(INTERVAL - LONGEST_RETRY)
        assert len(made.asked) == number

    scene(test, error=VaultUnavailable("no answer"))


def test_a_request_is_served_at_once() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(INTERVAL / 2)
        made.canary.request()
        await asyncio.sleep(0.001)
        assert len(made.asked) == 2

    scene(test)


def test_requests_that_bring_nothing_new_are_served_ever_more_seldom() -> None:
    async def test(made: Scene) -> None:
        for _ in range(int(INTERVAL)):
            made.canary.request()
            await asyncio.sleep(1)
        assert len(made.asked) < 20
        assert max(made.pauses()) == LONGEST_PACE
        assert min(made.pauses()) >= FIRST_PACE
        made.is_news = True
        made.canary.request()
        await asyncio.sleep(LONGEST_PACE)
        number = len(made.asked)
        for _ in range(10):
            made.canary.request()
            await asyncio.sleep(FIRST_PACE)
        assert len(made.asked) >= number + 9

    scene(test)


def test_a_sender_that_comes_while_one_is_waited_for_is_not_kept_waiting() -> None:
    """Nor does it use up a try."""

    async def test(made: Scene) -> None:
        await asyncio.sleep(0.1)
        made.canary.request()
        await asyncio.sleep(0.001)
        assert len(made.asked) == 2
        made.canary.request()
        await asyncio.sleep(0.001)
        assert len(made.asked) == 2
        await asyncio.sleep(sum(WAIT_SECONDS))
        assert len(made.asked) == 1 + len(WAIT_SECONDS)

    scene(test, swallowed=100)


def test_foreign_and_old_nonces_are_none() -> None:
    async def test(made: Scene) -> None:
        await asyncio.sleep(INTERVAL * 20)
        assert not made.canary.arrived("")
        assert not made.canary.arrived("0" * 32)
        assert not made.canary.arrived(made.nonces[0])
        assert made.canary.arrived(made.nonces[-1])
        assert made.nonces[-1].encode() in made.canary.nonces

    scene(test)
