"""Of many keys whose server is unavailable one tries, and the others wait for its result."""

import asyncio

import pytest

from tests.unit.build import run_ahead
from vaultsync.controller.failure_scopes import CircuitBreaker
from vaultsync.controller.workqueue import Priority


class Queue:
    """Notes what is released."""

    def __init__(self) -> None:
        self.released: list[tuple[str, Priority]] = []
        self.breaker: CircuitBreaker[str] = CircuitBreaker(
            lambda: iter((1.0, 2.0, 4.0)), lambda key, priority: self.released.append((key, priority))
        )

    async def releases(self, seconds: float) -> list[tuple[str, Priority]]:
        """What is released within that time."""
        await asyncio.sleep(seconds)
        found, self.released = self.released, []
        return found


def test_a_closed_circuit_holds_nothing() -> None:
    breaker = Queue().breaker
    assert breaker.admit("a", Priority.NORMAL)
    breaker.close()
    breaker.record_inconclusive("a")
    assert len(breaker.held) == 0


def test_one_key_tries_from_time_to_time_and_the_others_wait_for_the_result() -> None:
    async def test() -> None:
        queue = Queue()
        breaker = queue.breaker
        breaker.record_failure("a")
        breaker.record_failure("in flight")
        assert not breaker.admit("b", Priority.RESYNC)
        assert not breaker.admit("c", Priority.NORMAL)
        assert len(breaker.held) == 2
        assert await queue.releases(0.9) == []
        assert await queue.releases(0.2) == [("b", Priority.RESYNC)]
        assert breaker.admit("b", Priority.RESYNC), "it is the one that tries"
        assert not breaker.admit("d", Priority.NORMAL)
        breaker.record_failure("b")
        assert not breaker.admit("b", Priority.RESYNC)
        assert await queue.releases(1.9) == []
        assert await queue.releases(0.2) == [("c", Priority.NORMAL)]
        breaker.close()
        assert queue.released == [("d", Priority.NORMAL), ("b", Priority.RESYNC)]
        assert len(breaker.held) == 0
        assert breaker.admit("a", Priority.NORMAL)

    run_ahead(test())


def test_a_key_that_waits_keeps_its_best_priority_and_its_turn() -> None:
    async def test() -> None:
        queue = Queue()
        queue.breaker.record_failure("a")
        for key, priority in (
            ("b", Priority.RESYNC),
            ("c", Priority.RESYNC),
            ("b", Priority.URGENT),
            ("b", Priority.NORMAL),
        ):
            assert not queue.breaker.admit(key, priority)
        assert await queue.releases(1.1) == [("b", Priority.URGENT)]

    run_ahead(test())


def test_an_inconclusive_pass_lets_the_next_key_try() -> None:
    async def test() -> None:
        queue = Queue()
        queue.breaker.record_failure("a")
        assert not queue.breaker.admit("b", Priority.NORMAL)
        assert not queue.breaker.admit("c", Priority.NORMAL)
        assert await queue.releases(1.1) == [("b", Priority.NORMAL)]
        queue.breaker.record_inconclusive("c")
        assert queue.released == []
        queue.breaker.record_inconclusive("b")
        assert queue.released == [("c", Priority.NORMAL)]
        queue.breaker.record_inconclusive("c")
        assert queue.breaker.admit("b", Priority.NORMAL), "no key is left to try"

    run_ahead(test())


def test_it_does_not_stay_open_without_keys() -> None:
    async def test() -> None:
        queue = Queue()
        queue.breaker.record_failure("a")
        assert await queue.releases(1.1) == []
        assert queue.breaker.admit("b", Priority.NORMAL)

    run_ahead(test())


@pytest.mark.parametrize("outages", [1, 2])
def test_each_outage_begins_with_the_shortest_wait(outages: int) -> None:
    async def test() -> None:
        queue = Queue()
        for _ in range(outages):
            queue.breaker.record_failure("a")
            assert not queue.breaker.admit("b", Priority.NORMAL)
            assert await queue.releases(1.1) == [("b", Priority.NORMAL)]
            queue.breaker.close()

    run_ahead(test())
