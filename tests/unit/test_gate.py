"""engine/gate.py: of many keys whose server is away one asks, and the others wait for what becomes of it."""

import asyncio

import pytest

from tests.unit.build import run_ahead
from vaultsync.engine.gate import Gate
from vaultsync.engine.workqueue import Lane


class Queue:
    """Notes what is released."""

    def __init__(self) -> None:
        self.released: list[tuple[str, Lane]] = []
        self.gate: Gate[str] = Gate(lambda: iter((1.0, 2.0, 4.0)), lambda key, lane: self.released.append((key, lane)))

    async def releases(self, seconds: float) -> list[tuple[str, Lane]]:
        """What is released within that time."""
        await asyncio.sleep(seconds)
        found, self.released = self.released, []
        return found


def test_an_open_gate_holds_nothing() -> None:
    gate = Queue().gate
    assert not gate.holds("a", Lane.NORMAL)
    gate.open()
    gate.passed("a")
    assert len(gate) == 0


def test_one_asks_from_time_to_time_and_the_others_follow_the_answer() -> None:
    async def test() -> None:
        queue = Queue()
        gate = queue.gate
        gate.away("a")
        gate.away("in flight")
        assert gate.holds("b", Lane.RESYNC)
        assert gate.holds("c", Lane.NORMAL)
        assert len(gate) == 2
        assert await queue.releases(0.9) == []
        assert await queue.releases(0.2) == [("b", Lane.RESYNC)]
        assert not gate.holds("b", Lane.RESYNC), "it is the one that asks"
        assert gate.holds("d", Lane.NORMAL)
        gate.away("b")
        assert gate.holds("b", Lane.RESYNC)
        assert await queue.releases(1.9) == []
        assert await queue.releases(0.2) == [("c", Lane.NORMAL)]
        gate.open()
        assert queue.released == [("d", Lane.NORMAL), ("b", Lane.RESYNC)]
        assert len(gate) == 0
        assert not gate.holds("a", Lane.NORMAL)

    run_ahead(test())


def test_a_key_that_waits_keeps_its_best_lane_and_its_turn() -> None:
    async def test() -> None:
        queue = Queue()
        queue.gate.away("a")
        for key, lane in (("b", Lane.RESYNC), ("c", Lane.RESYNC), ("b", Lane.URGENT), ("b", Lane.NORMAL)):
            assert queue.gate.holds(key, lane)
        assert await queue.releases(1.1) == [("b", Lane.URGENT)]

    run_ahead(test())


def test_who_has_nothing_to_ask_lets_the_next_one() -> None:
    async def test() -> None:
        queue = Queue()
        queue.gate.away("a")
        assert queue.gate.holds("b", Lane.NORMAL)
        assert queue.gate.holds("c", Lane.NORMAL)
        assert await queue.releases(1.1) == [("b", Lane.NORMAL)]
        queue.gate.passed("c")
        assert queue.released == []
        queue.gate.passed("b")
        assert queue.released == [("c", Lane.NORMAL)]
        queue.gate.passed("c")
        assert not queue.gate.holds("b", Lane.NORMAL), "nobody is left to ask"

    run_ahead(test())


def test_it_does_not_stay_closed_for_nobody() -> None:
    async def test() -> None:
        queue = Queue()
        queue.gate.away("a")
        assert await queue.releases(1.1) == []
        assert not queue.gate.holds("b", Lane.NORMAL)

    run_ahead(test())


@pytest.mark.parametrize("absences", [1, 2])
def test_each_absence_begins_with_the_shortest_wait(absences: int) -> None:
    async def test() -> None:
        queue = Queue()
        for _ in range(absences):
            queue.gate.away("a")
            assert queue.gate.holds("b", Lane.NORMAL)
            assert await queue.releases(1.1) == [("b", Lane.NORMAL)]
            queue.gate.open()

    run_ahead(test())
