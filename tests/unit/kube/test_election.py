"""kube/election: several candidates before one Lease, in a time that passes only when all of them wait.

The API server here answers as the real one does to reads, creations and patches of one Lease, and fails on cue; the
real one, with real processes that are killed and frozen, is in tests/integration/test_failover.py.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.build import logged
from tests.unit.build import run_ahead as run
from vaultsync.core.errors import (
    KubeConflict,
    KubeDenied,
    KubeNotFound,
    KubeRejected,
    KubeUnavailable,
    NotLeading,
    VaultsyncError,
)
from vaultsync.core.fence import Fence
from vaultsync.kube.client import KubeClient
from vaultsync.kube.election import (
    LONGEST_SECONDS,
    MAX_TRANSITIONS,
    TIMING,
    Election,
    LeadershipLost,
    Release,
    Timing,
    boottime,
    parse_lease,
)

Json = dict[str, Any]

LEASES = "/apis/coordination.k8s.io/v1/namespaces/vaultsync/leases"
LATER = 0.2
"""Seconds within which what needs no waiting is done."""
AWAY = KubeUnavailable("no answer")


class Leases:
    """The API server, as far as it knows one Lease."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.written = 0
        self._watches: list[asyncio.Queue[Json]] = []

    @property
    def spec(self) -> Json:
        assert self.lease is not None
        return cast(Json, self.lease["spec"])

    @property
    def holder(self) -> str:
        return cast(str, self.spec.get("holderIdentity", "")) if self.lease else ""

    def put(self, spec: object, **labels: str) -> None:
        """Write it as a person with all rights does."""
        kind = "MODIFIED" if self.lease else "ADDED"
        self.written += 1
        metadata = {"name": "vaultsync", "resourceVersion": str(self.written), "labels": labels}
        self.lease = {"metadata": metadata, "spec": spec}
        self._tell(kind, self.lease)

    def delete(self) -> None:
        """As a person does."""
        assert self.lease is not None
        self.written += 1
        old, self.lease = self.lease, None
        self._tell("DELETED", {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.written)}})

    def create(self, body: Mapping[str, Any]) -> Json:
        if self.lease is not None:
            raise KubeConflict("it exists")
        self.put(copy.deepcopy(body["spec"]))
        return self.read()

    def patch(self, body: Mapping[str, Any]) -> Json:
        if self.lease is None:
            raise KubeNotFound("there is none")
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubeConflict("it has changed")
        assert 0 <= body["spec"].get("leaseTransitions", 0) <= MAX_TRANSITIONS
        before = self.lease["spec"] if isinstance(self.lease["spec"], dict) else {}
        self.put({**before, **body["spec"]})
        return self.read()

    def read(self) -> Json:
        if self.lease is None:
            raise KubeNotFound("there is none")
        return copy.deepcopy(self.lease)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[Json]]:
        told: asyncio.Queue[Json] = asyncio.Queue()
        self._watches.append(told)
        try:
            yield told
        finally:
            self._watches.remove(told)

    def _tell(self, kind: str, lease: Json) -> None:
        for told in self._watches:
            told.put_nowait({"type": kind, "object": copy.deepcopy(lease)})


class Wire:
    """One candidate's way to the API server; stands in for KubeClient.

    Attributes:
        fails: what each request ends with, None: its answer.
        hangs: requests are not answered, nor do they arrive; an open watch tells nothing.
        forgets: a write arrives, and its answer does not.
        slow: seconds that a request is on its way, and its answer again.
        asked: the kinds of requests so far.
    """

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.fails: VaultsyncError | None = None
        self.hangs = False
        self.forgets = False
        self.slow = 0.001
        self.asked: list[str] = []

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        if path != LEASES:
            return await self._ask("get", self._leases.read)
        assert query is not None
        assert query["fieldSelector"] == "metadata.name=vaultsync"
        return await self._ask("list", self._list)

    async def post(self, path: str, body: Mapping[str, Any]) -> Json:
        assert path == LEASES
        return await self._ask("create", lambda: self._leases.create(body))

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> Json:
        assert path == f"{LEASES}/vaultsync"
        return await self._ask("patch", lambda: self._leases.patch(body))

    @asynccontextmanager
    async def watch(self, path: str, query: Mapping[str, str], silence: float) -> AsyncIterator[AsyncIterator[Json]]:
        assert path == LEASES
        if self.fails or self.hangs:
            raise self.fails or AWAY
        with self._leases.watch() as told:
            yield self._told(told, silence)

    async def _told(self, told: asyncio.Queue[Json], silence: float) -> AsyncIterator[Json]:
        while True:
            try:
                event = await asyncio.wait_for(told.get(), silence)
            except TimeoutError:
                raise KubeUnavailable("silent") from None
            if self.fails:
                raise self.fails
            if not self.hangs:
                yield event

    def _list(self) -> Json:
        items = [self._leases.read()] if self._leases.lease else []
        return {"metadata": {"resourceVersion": str(self._leases.written)}, "items": items}

    async def _ask(self, kind: str, answer: Callable[[], Json]) -> Json:
        self.asked.append(kind)
        try:
            async with asyncio.timeout(TIMING.request):
                await asyncio.sleep(self.slow)
                if self.hangs:
                    await asyncio.sleep(3600)
                if self.fails:
                    raise self.fails
                found = answer()
                await asyncio.sleep(3600 if self.forgets and kind in ("create", "patch") else self.slow)
                return found
        except TimeoutError:
            raise AWAY from None


class Candidate:
    """One process that wants to lead.

    Attributes:
        ahead: seconds that its clock has leapt, as when only its machine slept.
        led: how often it began to.
        lost: why it lost the leadership, each time.
        release: how it lets go of the Lease.
    """

    def __init__(self, leases: Leases, name: str) -> None:
        self.leases = leases
        self.name = name
        self.wire = Wire(leases)
        self.ahead = 0.0
        self.led = 0
        self.lost: list[str] = []
        self.last_wish: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.release = Release()
        self.fence = Fence(self.clock)
        self.task = asyncio.get_running_loop().create_task(self._run())

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    @property
    def leads(self) -> bool:
        return self.fence.is_open

    async def _run(self) -> None:
        """As app.run does: what lost the leadership stands by anew."""
        while True:
            self.fence = Fence(self.clock)
            client = cast(KubeClient, self.wire)
            try:
                election = Election(client, "vaultsync", "vaultsync", self.name, self.fence, self.clock)
                await election.run(self._lead, lambda: self.release)
            except* LeadershipLost as errors:
                assert not self.fence.is_open
                self.lost.append(str(errors.exceptions[0]))
            except* KubeNotFound:  # of a list: the API server does not serve Leases
                pass
            await asyncio.sleep(1.0)

    async def _lead(self) -> None:
        self.led += 1
        try:
            await asyncio.Event().wait()
        finally:
            if self.last_wish:
                await self.last_wish()

    async def stop(self) -> None:
        """Asked to stop, as by SIGTERM."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task

    def die(self) -> None:
        """As by SIGKILL: nothing of it is heard any more."""
        self.wire.hangs = True
        self.fence.close()
        self.task.cancel()


@asynccontextmanager
async def candidates(*names: str, leases: Leases | None = None) -> AsyncIterator[list[Candidate]]:
    """Each starts once the one before had the time to lead; never do two of them lead at once."""
    leases = leases or Leases()
    made: list[Candidate] = []

    async def observe() -> None:
        while True:
            assert sum(one.leads for one in made) <= 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        observing = tasks.create_task(observe())
        for name in names:
            made.append(Candidate(leases, name))
            await asyncio.sleep(LATER)
        yield made
        observing.cancel()
    for one in made:
        one.wire.hangs = True
        await one.stop()


async def until(holds: Callable[[], object], limit: float) -> float:
    """Wait until it holds; the seconds that it took."""
    started = asyncio.get_running_loop().time()
    while not holds():
        passed = asyncio.get_running_loop().time() - started
        assert passed < limit, f"it did not come to hold within {limit} s"
        await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - started


def test_the_first_makes_the_lease_and_leads_at_once() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            assert a.leads
            assert a.leases.holder == "a"
            assert a.leases.spec["leaseDurationSeconds"] == 15
            assert a.leases.spec["renewTime"] == a.leases.spec["acquireTime"]
            assert a.wire.asked == ["list", "create"]

    run(test())


def test_times_in_the_lease_are_those_of_the_api() -> None:
    """metav1.MicroTime: RFC 3339 in UTC with six digits."""

    async def test() -> None:
        async with candidates("a") as [a]:
            for name in ("renewTime", "acquireTime"):
                age = datetime.now(UTC) - datetime.strptime(a.leases.spec[name], "%Y-%m-%dT%H:%M:%S.%f%z")
                assert abs(age.total_seconds()) < 60

    run(test())


def test_a_leader_renews_and_keeps_the_time_at_which_it_began() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            before = dict(a.leases.spec)
            await asyncio.sleep(60)
            assert a.leads
            assert a.led == 1
            assert a.leases.spec["renewTime"] > before["renewTime"]
            assert a.leases.spec["acquireTime"] == before["acquireTime"]
            assert set(a.wire.asked[2:]) == {"patch"}
            assert 28 <= len(a.wire.asked[2:]) <= 31  # one request in two seconds, and no other

    run(test())


def test_a_standby_asks_nothing_as_long_as_somebody_leads() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await asyncio.sleep(200)
            assert (a.leads, b.leads) == (True, False)
            assert b.wire.asked == ["list"]

    run(test())


def test_a_leader_that_stops_lets_go_and_the_standby_leads_at_once() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await asyncio.sleep(7)
            await a.stop()
            assert await until(lambda: b.leads, 0.2) < 0.1
            assert b.leases.holder == "b"
            assert b.leases.spec["leaseTransitions"] == 1

    run(test())


def test_a_released_lease_is_as_client_go_leaves_it() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            await a.stop()
            assert (a.leases.holder, a.leases.spec["leaseDurationSeconds"]) == ("", 1)

    run(test())


def test_what_a_leader_does_last_is_done_before_the_lease_is_free() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            seen = []

            async def wish() -> None:
                await asyncio.sleep(0.5)
                a.fence.check()
                seen.append(a.leases.holder)

            a.last_wish = wish
            await a.stop()
            assert seen == ["a"]
            await until(lambda: b.leads, 0.2)

    run(test())


def test_a_leader_that_is_killed_is_followed_after_the_leases_duration() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await asyncio.sleep(30)
            a.die()
            assert 12 < await until(lambda: b.leads, 20) < 15.5

    run(test())


def test_of_many_standbys_one_follows() -> None:
    async def test() -> None:
        async with candidates(*"abcdefgh") as [a, *others]:
            await a.stop()
            await until(lambda: any(one.leads for one in others), 0.2)
            await asyncio.sleep(60)
            assert sum(one.led for one in others) == 1

    run(test())


@pytest.mark.parametrize(
    "error", [AWAY, KubeDenied("forbidden"), KubeRejected("no"), KubeConflict("stale"), KubeNotFound("gone")]
)
def test_a_leader_that_cannot_renew_stops_acting_before_another_starts(error: VaultsyncError) -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await asyncio.sleep(30)
            a.wire.fails = error
            ended = await until(lambda: not a.leads, 11)
            assert 7.9 < ended <= 10
            began = await until(lambda: b.leads, 20)
            assert began >= 4.9
            assert a.lost

    run(test())


def test_a_leader_whose_requests_hang_stops_acting_before_another_starts() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await asyncio.sleep(30)
            a.wire.hangs = True
            assert 7.9 < await until(lambda: not a.leads, 11) <= 10
            assert await until(lambda: b.leads, 20) >= 4.9
            a.wire.hangs = False
            await asyncio.sleep(60)
            assert (a.leads, b.leads) == (False, True)

    run(test())


def test_the_deadline_counts_from_when_the_renewal_was_sent() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            a.wire.slow = 1.0  # there, and back again
            await asyncio.sleep(30)
            left = []
            for _ in range(500):
                await asyncio.sleep(0.01)
                left.append(a.fence.left)
            assert 7.9 < max(left) <= 8.0

    run(test())


def test_a_short_failure_costs_nothing() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, _]:
            await asyncio.sleep(30)
            with logged() as lines:
                a.wire.fails = AWAY
                await asyncio.sleep(7)
                a.wire.fails = None
                await asyncio.sleep(60)
            assert (a.led, a.lost, a.leads) == (1, [], True)
            assert len([line for line in lines if "can't be renewed" in line]) == 1

    run(test())


def test_a_renewal_whose_answer_is_lost_is_no_other_leader() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            a.wire.forgets = True
            await asyncio.sleep(3)
            a.wire.forgets = False
            await asyncio.sleep(60)
            assert (a.led, a.lost, a.leads) == (1, [], True)
            assert "get" in a.wire.asked

    run(test())


def test_a_takeover_whose_answer_is_lost_is_still_its_own() -> None:
    async def test() -> None:
        leases = Leases()
        async with candidates("a", "b", leases=leases) as [a, b]:
            b.wire.forgets = True
            await a.stop()
            await asyncio.sleep(1)
            assert (leases.holder, b.leads) == ("b", False)
            b.wire.forgets = False
            assert await until(lambda: b.leads, 15) < 6

    run(test())


def test_a_lease_that_must_not_be_released_is_left_to_run_out() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            a.release = Release(refusal="a write is under way")
            with logged() as lines:
                await a.stop()
            assert not a.leads
            assert [line for line in lines if "left to expire" in line and "a write is under way" in line]
            assert await until(lambda: b.leads, 60) >= Timing().deadline

    run(test())


def test_a_release_finds_its_way_past_a_renewal_that_was_under_way() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            a.wire.slow = 0.1
            await until(lambda: a.wire.asked[-1] == "patch", 5)
            await asyncio.sleep(0.15)  # it has arrived, and is not answered yet
            await a.stop()
            assert await until(lambda: b.leads, 1) < 0.5

    run(test())


def test_a_stop_waits_no_longer_than_a_moment_for_the_api_server() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            a.wire.hangs = True
            started = asyncio.get_running_loop().time()
            with logged() as lines:
                await a.stop()
            assert asyncio.get_running_loop().time() - started <= 1.1
            assert any("left to expire" in line for line in lines)

    run(test())


def test_a_leader_that_was_frozen_finds_the_fence_closed_before_it_is_told() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            a.fence.check()
            a.ahead = 10.1  # at the very next instruction
            with pytest.raises(NotLeading):
                a.fence.check()
            fence = a.fence
            await until(lambda: a.lost, 2.1)
            assert not fence.is_open
            assert "in time" in a.lost[0]
            await until(lambda: a.leads, 3)  # its own Lease it need not wait for
            assert not fence.is_open

    run(test())


def test_a_standby_whose_clock_leaps_takes_no_lease_that_was_renewed() -> None:
    """The patch is refused, as the Lease is not what it was."""

    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            b.wire.hangs = True  # what the leader writes does not arrive
            await asyncio.sleep(4)
            b.ahead = 3600.0
            b.wire.hangs = False
            await asyncio.sleep(30)
            assert (a.leads, b.leads, a.lost) == (True, False, [])

    run(test())


def test_a_person_who_hands_over_the_lease_is_obeyed() -> None:
    async def test() -> None:
        async with candidates("a") as [a]:
            await asyncio.sleep(5)
            a.leases.put({**a.leases.spec, "holderIdentity": "z" * 500})
            await until(lambda: a.lost, 2.1)
            assert a.lost == ["Lease vaultsync/vaultsync: it is held by " + "z" * 100]
            assert await until(lambda: a.leads, 20) > 14

    run(test())


def test_a_label_is_no_renewal_and_no_other_leader() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            a.leases.put(dict(a.leases.spec), owner="me")
            await asyncio.sleep(10)
            assert (a.lost, a.leads) == ([], True)
            a.die()
            for _ in range(14):
                a.leases.put(dict(a.leases.spec), owner="me")
                await asyncio.sleep(1)
            await until(lambda: b.leads, 1.5)

    run(test())


def test_a_lease_that_is_deleted_is_made_anew_by_its_leader() -> None:
    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await asyncio.sleep(5)
            a.leases.delete()
            await asyncio.sleep(60)
            assert (a.leads, a.led, b.led) == (True, 1, 0)
            a.leases.delete()
            a.die()
            assert await until(lambda: b.leads, 20) > 12

    run(test())


def test_who_starts_after_the_lease_was_deleted_leads_and_the_old_leader_stops_at_its_next_renewal() -> None:
    """The one case in which two lead, and for how long."""

    async def test() -> None:
        leases = Leases()
        a = Candidate(leases, "a")
        await asyncio.sleep(2 * TIMING.retry + 0.5)
        leases.delete()
        b = Candidate(leases, "b")
        await until(lambda: b.leads, LATER)
        assert a.leads
        await until(lambda: not a.leads, TIMING.retry)
        await asyncio.sleep(60)
        assert (a.lost, a.led, b.lost, b.led) == (["Lease vaultsync/vaultsync: it is held by b"], 1, [], 1)
        assert (a.leads, b.leads) == (False, True)
        for one in (a, b):
            await one.stop()

    run(test())


def test_without_its_namespace_a_candidate_waits() -> None:
    async def test() -> None:
        leases = Leases()

        def refuse(_: object) -> Json:
            raise KubeNotFound("there is no such namespace")

        create, leases.create = leases.create, refuse  # type: ignore[method-assign, assignment]
        with logged() as lines:
            async with candidates("a", leases=leases) as [a]:
                await asyncio.sleep(20)
                assert len(a.wire.asked) < 15
                leases.create = create  # type: ignore[method-assign]
                await until(lambda: a.leads, 3)
        assert len([line for line in lines if "can't be taken" in line]) == 1

    run(test())


GARBAGE: tuple[object, ...] = (
    None,
    "held",
    {},
    {"holderIdentity": None},
    {"holderIdentity": 7, "leaseDurationSeconds": "long"},
    {"holderIdentity": "", "leaseDurationSeconds": 10**9, "leaseTransitions": MAX_TRANSITIONS},
    {"leaseTransitions": -5},
    {"leaseTransitions": "many", "renewTime": 3},
)


@pytest.mark.parametrize("spec", GARBAGE, ids=str)
def test_nonsense_in_a_lease_that_nobody_holds_is_replaced(spec: object) -> None:
    async def test() -> None:
        leases = Leases()
        leases.put(spec)
        async with candidates("a", leases=leases) as [a]:
            await until(lambda: a.leads, 1)
            assert leases.holder == "a"

    run(test())


@pytest.mark.parametrize(
    ("spec", "waits"),
    [
        ({}, 15.0),
        ({"leaseDurationSeconds": 1}, 15.0),
        ({"leaseDurationSeconds": 40}, 40.0),
        ({"leaseDurationSeconds": 2**31 - 1, "renewTime": "2999-01-01T00:00:00.000000Z"}, LONGEST_SECONDS),
        ({"leaseDurationSeconds": None, "renewTime": "never"}, 15.0),
    ],
    ids=str,
)
def test_a_holder_whom_nobody_knows_is_waited_for_but_not_for_ever(spec: Json, waits: float) -> None:
    async def test() -> None:
        leases = Leases()
        leases.put({"holderIdentity": "x", **spec})
        async with candidates("a", leases=leases) as [a]:
            waited = await until(lambda: a.leads, waits + 2)
            assert waits - LATER - 0.1 < waited < waits + 0.5

    run(test())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=3))
def test_a_lease_of_any_kind_can_be_read(value: object) -> None:
    names = ("holderIdentity", "leaseDurationSeconds", "leaseTransitions")
    for document in ({"spec": value, "metadata": value}, {"spec": dict.fromkeys(names, value)}):
        lease = parse_lease(document)
        assert 0 <= lease.seconds <= LONGEST_SECONDS
        assert isinstance(lease.holder, str)


FAULTS = ("fails", "hangs", "forgets", "slow", "leap", "die", "stop", "label", "delete", "mend")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(0, 2), st.floats(0.1, 12.0)), max_size=25))
def test_whatever_happens_two_never_lead_at_once_and_in_the_end_one_does(
    happens: list[tuple[str, int, float]],
) -> None:
    """`candidates` sees to the first. Nobody starts who can't know of a leader: see kube.election on deletions."""

    async def test() -> None:
        async with candidates("a", "b", "c") as made:
            leases, now = made[0].leases, asyncio.get_running_loop().time
            known_from = now()
            for number, (what, who, seconds) in enumerate(happens):
                one = made[who]
                if what in ("die", "stop"):
                    if what == "die":
                        one.die()
                    else:
                        await one.stop()
                    await asyncio.sleep(known_from - now())
                    made[who] = Candidate(leases, f"{one.name}{number}")
                elif what == "mend":
                    one.wire.fails, one.wire.hangs, one.wire.forgets, one.wire.slow = None, False, False, 0.001
                elif what == "leap" and one.leads:  # a standby's clock may not
                    one.ahead += seconds
                elif what == "label" and leases.lease:
                    leases.put(leases.spec, number=str(number))
                elif what == "delete" and leases.lease:
                    leases.delete()
                    known_from = now() + TIMING.deadline
                elif what == "fails":
                    one.wire.fails = AWAY
                elif what == "slow":
                    one.wire.slow = min(seconds, 1.2)
                elif what in ("hangs", "forgets"):
                    setattr(one.wire, what, True)
                await asyncio.sleep(seconds)
            for one in made:
                one.wire.fails, one.wire.hangs, one.wire.forgets, one.wire.slow = None, False, False, 0.001
            await until(lambda: any(one.leads for one in made), 40)

    run(test())


def test_a_standby_that_was_cut_off_waits_from_the_deletion_of_the_lease() -> None:
    """It has missed renewals, and the leader, which is cut off now, acts for its deadline after the last one."""

    async def test() -> None:
        async with candidates("a", "b") as [a, b]:
            await until(lambda: a.leads, 1)
            b.wire.fails = AWAY
            await asyncio.sleep(6)
            a.wire.fails = AWAY
            a.leases.delete()
            b.wire.fails = None
            await until(lambda: b.leads, TIMING.duration + 6)
            assert not a.leads

    run(test())


def test_timing_is_client_gos_and_leaves_a_margin() -> None:
    assert Timing() == Timing(15.0, 10.0, 2.0)
    assert TIMING.retry + 2 * TIMING.request < TIMING.deadline < TIMING.duration


def test_the_clock_goes_on_while_the_machine_sleeps() -> None:
    assert boottime() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)
