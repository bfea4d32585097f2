"""The queue keeps the promises of client-go's workqueue."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import Clock, run
from vaultsync.controller.workqueue import FAIR, Priority, WorkQueue


def doubling() -> Iterator[float]:
    return (float(2**attempt) for attempt in count())


def queue(clock: Clock | None = None) -> WorkQueue[str]:
    return WorkQueue(doubling, clock=clock or Clock())


async def take(work: WorkQueue[str], limit: float = 1.0) -> str:
    async with asyncio.timeout(limit):
        key, _ = await work.get()
        return key


async def drain(work: WorkQueue[str]) -> list[str]:
    """Every key that is due now, each done at once."""
    found: list[str] = []
    while True:
        work._move_due()
        if not len(work):
            return found
        key = await take(work)
        work.done(key)
        found.append(key)


def test_a_key_is_queued_once() -> None:
    async def test() -> None:
        work = queue()
        for key in "abaab":
            work.add(key)
        assert len(work) == 2
        assert await drain(work) == ["a", "b"]

    run(test())


def test_a_key_has_one_worker_and_comes_again_when_added_meanwhile() -> None:
    async def test() -> None:
        work = queue()
        work.add("a")
        assert await take(work) == "a"
        work.add("a")
        work.add("a")
        assert len(work) == 0
        assert work.is_busy("a")
        work.done("a")
        assert await drain(work) == ["a"]
        assert not work.is_busy("a")

    run(test())


def test_done_alone_brings_nothing_again() -> None:
    async def test() -> None:
        work = queue()
        work.add("a")
        work.done(await take(work))
        assert len(work) == 0

    run(test())


def test_better_priorities_go_first() -> None:
    async def test() -> None:
        work = queue()
        work.add("resync", Priority.RESYNC)
        work.add("normal")
        work.add("urgent", Priority.URGENT)
        assert await drain(work) == ["urgent", "normal", "resync"]

    run(test())


def test_get_returns_the_priority_of_the_key() -> None:
    async def test() -> None:
        work = queue()
        work.add("late", Priority.RESYNC)
        work.add("reader", Priority.READERS)
        assert [await work.get(), await work.get()] == [("reader", Priority.READERS), ("late", Priority.RESYNC)]

    run(test())


def test_a_storm_does_not_starve_the_worse_priorities() -> None:
    async def test() -> None:
        work = queue()
        for number in range(3 * FAIR):
            work.add(f"storm {number}")
        for priority in (Priority.READERS, Priority.RESYNC):
            work.add(priority.name, priority)
        found = await drain(work)
        assert {found[FAIR - 1], found[2 * FAIR - 1]} == {"READERS", "RESYNC"}
        assert [key for key in found if key.startswith("storm")] == [f"storm {number}" for number in range(3 * FAIR)]

    run(test())


def test_what_is_urgent_waits_for_no_turn() -> None:
    async def test() -> None:
        work = queue()
        for number in range(2 * FAIR):
            work.add(f"urgent {number}", Priority.URGENT)
        work.add("late", Priority.RESYNC)
        assert (await drain(work))[-1] == "late"

    run(test())


def test_a_key_keeps_its_better_priority_and_moves_up_into_one() -> None:
    async def test() -> None:
        work = queue()
        work.add("x", Priority.RESYNC)
        work.add("a", Priority.NORMAL)
        work.add("b", Priority.URGENT)
        work.add("b", Priority.RESYNC)
        work.add("x", Priority.URGENT)
        assert len(work) == 3
        assert await drain(work) == ["b", "x", "a"]

    run(test())


def test_a_key_added_while_processed_comes_again_in_the_best_priority_asked_for() -> None:
    async def test() -> None:
        work = queue()
        work.add("a")
        await take(work)
        work.add("a", Priority.RESYNC)
        work.add("a", Priority.URGENT)
        work.add("b")
        work.done("a")
        assert await drain(work) == ["a", "b"]

    run(test())


def test_a_delayed_key_comes_when_its_time_has_come() -> None:
    async def test() -> None:
        clock = Clock()
        work = queue(clock)
        work.add_after("a", 10)
        assert await drain(work) == []
        clock.forward(9.9)
        assert await drain(work) == []
        clock.forward(0.2)
        assert await drain(work) == ["a"]
        clock.forward(100)
        assert await drain(work) == []

    run(test())


def test_the_earliest_time_counts() -> None:
    async def test() -> None:
        clock = Clock()
        work = queue(clock)
        work.add_after("a", 10)
        work.add_after("a", 5)
        work.add_after("a", 20)
        clock.forward(6)
        assert await drain(work) == ["a"]
        clock.forward(100)
        assert await drain(work) == []

    run(test())


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_delay_is_now(seconds: float) -> None:
    async def test() -> None:
        work = queue()
        work.add_after("a", seconds)
        assert await drain(work) == ["a"]

    run(test())


def test_failures_wait_longer_each_time_until_forgotten() -> None:
    async def test() -> None:
        work = queue()
        assert [work.retry("a"), work.retry("a"), work.retry("b"), work.retry("a")] == [1, 2, 1, 4]
        work.forget("a")
        work.forget("never seen")
        assert work.retry("a") == 1

    run(test())


def test_the_age_of_the_oldest_key_counts_in_each_priority() -> None:
    async def test() -> None:
        clock = Clock()
        work = queue(clock)
        assert work.oldest() == 0
        work.add("a", Priority.RESYNC)
        clock.forward(2)
        work.add("b")
        work.add_after("c", 1)
        clock.forward(3)
        work.add("a", Priority.URGENT)  # it waits on, before the others
        assert work.oldest() == 5
        assert await take(work) == "a"
        assert work.oldest() == 3
        work.add("a")
        assert await drain(work) == ["b", "c"]
        assert work.oldest() == 0
        work.done("a")
        clock.forward(1)
        assert work.oldest() == 1

    run(test())


def test_failing_are_those_whose_last_pass_failed() -> None:
    async def test() -> None:
        work = queue()
        for key in "aab":
            work.retry(key)
        assert work.failing() == 2
        work.forget("a")
        assert work.failing() == 1
        work.requeue_now()
        assert work.failing() == 0

    run(test())


def test_no_more_of_a_priority_are_in_work_than_may_be_and_the_others_go_on() -> None:
    async def test() -> None:
        work: WorkQueue[str] = WorkQueue(doubling, {Priority.RESYNC: 2}, Clock())
        for key in "abc":
            work.add(key, Priority.RESYNC)
        assert [await take(work), await take(work)] == ["a", "b"]
        getting = asyncio.create_task(take(work, 5))
        await asyncio.sleep(0.01)
        assert not getting.done()
        work.add("urgent", Priority.URGENT)
        assert await getting == "urgent"
        getting = asyncio.create_task(take(work, 5))
        await asyncio.sleep(0.01)
        work.done("urgent")
        await asyncio.sleep(0.01)
        assert not getting.done()
        work.done("a")
        assert await getting == "c"

    run(test())


def test_requeue_now_makes_all_due_and_forgets_failures() -> None:
    async def test() -> None:
        work = queue()
        work.retry("a")
        work.retry("a")
        work.add_after("b", 100)
        work.requeue_now()
        assert sorted(await drain(work)) == ["a", "b"]
        assert work.retry("a") == 1

    run(test())


def test_get_wakes_up_for_a_key_that_comes_later() -> None:
    async def test() -> None:
        work: WorkQueue[str] = WorkQueue(doubling)
        getting = asyncio.create_task(take(work, 5))
        await asyncio.sleep(0.01)
        assert not getting.done()
        work.add("a")
        assert await getting == "a"

    run(test())


def test_get_wakes_up_for_a_time_that_comes_sooner_than_it_knew() -> None:
    async def test() -> None:
        work: WorkQueue[str] = WorkQueue(doubling)
        work.add_after("late", 60)
        getting = asyncio.create_task(take(work, 5))
        await asyncio.sleep(0.01)
        work.add_after("soon", 0.02)
        assert await getting == "soon"

    run(test())


def test_a_cancelled_get_loses_no_key() -> None:
    async def test() -> None:
        work: WorkQueue[str] = WorkQueue(doubling)
        getting = asyncio.create_task(work.get())
        await asyncio.sleep(0.01)
        work.add("a")
        getting.cancel()
        await asyncio.gather(getting, return_exceptions=True)
        assert await take(work) == "a" or getting.result()[0] == "a"

    run(test())


steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "done", "later", "time"]), st.sampled_from("abc"), st.sampled_from(Priority)
    ),
    max_size=40,
)


@given(steps)
def test_no_key_is_lost_doubled_or_given_to_two_workers(plan: list[tuple[str, str, Priority]]) -> None:
    async def test() -> None:
        clock = Clock()
        work = queue(clock)
        wanted: set[str] = set()
        held: set[str] = set()
        for kind, key, priority in plan:
            if kind == "add":
                work.add(key, priority)
                wanted.add(key)
            elif kind == "later":
                work.add_after(key, 1)
            elif kind == "time":
                clock.forward(2)
            elif kind == "done" and key in held:
                held.remove(key)
                work.done(key)
            elif kind == "take" and len(work):
                got = await take(work)
                assert got not in held
                held.add(got)
                wanted.discard(got)
        for key in held:
            work.done(key)
        rest = await drain(work)
        assert wanted <= set(rest)
        assert len(rest) == len(set(rest))

    run(test())
