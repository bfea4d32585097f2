"""vault/poll: every path in its turn, evenly, never faster than allowed, and none that a listing tells of."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from tests.unit.build import logged, path, run_ahead
from vaultsync.core.errors import (
    VaultDenied,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.vault.poll import BACKLOG, FIRST_WAIT, LONGEST_WAIT, STEP_SECONDS, Poller

INTERVAL, PER_SECOND = 60.0, 200.0
FIND = FindPrefix("", "secret/data/dev/", 2)
CLOSE = 1e-6
"""What sums of floats may differ by."""


def paths(number: int, folder: str = "secret/data/dev") -> list[VaultPath]:
    return [path(f"{folder}/p{index}") for index in range(number)]


class Environment:
    """A fake Vault and controller for a poller.

    Attributes:
        used: the paths in use, with the KV version of their stores.
        prefixes: the listings in use.
        live: the live paths, as the controller last read them.
        there: the paths that Vault lists.
        waiting: the number of queued reads.
        failure: raised by the next lists.
        takes: seconds for each list.
        folders: the number of folders of each listing.
        lists, looks: the times of the list requests and reads.
    """

    def __init__(self, *used: VaultPath, kv: int = 2, live: bool = True) -> None:
        self.used = [(one, kv) for one in used]
        self.prefixes: list[FindPrefix] = []
        self.live = set(used) if live else set()
        self.there = set(self.live)
        self.waiting = 0
        self.failure: VaultsyncError | None = None
        self.takes = 0.0
        self.folders = 1
        self.lists: list[tuple[float, VaultPath | FindPrefix]] = []
        self.looks: list[tuple[float, VaultPath | FindPrefix]] = []

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        self.lists.append((_now(), path))
        await asyncio.sleep(self.takes)
        if self.failure is not None:
            raise self.failure
        folder = path.path.rpartition("/")[0]
        beside = [one for one in self.there if (one.namespace, one.path.rpartition("/")[0]) == (path.namespace, folder)]
        return frozenset(one.path.rpartition("/")[2] for one in beside)

    async def find(
        self, prefix: FindPrefix, limit: int = 10_000, may_list: Callable[[], Awaitable[bool]] | None = None
    ) -> set[VaultPath]:
        found: set[VaultPath] = set()
        for _ in range(self.folders):
            if may_list is not None and not await may_list():
                return found
            self.lists.append((_now(), prefix))
            await asyncio.sleep(self.takes)
            if self.failure is not None:
                raise self.failure
            found = self.there
        return {one for one in found if prefix.covers(one)}

    def live_under(self, prefix: FindPrefix) -> set[VaultPath]:
        return {one for one in self.live if prefix.covers(one)}

    def polled_paths(self) -> list[tuple[VaultPath, int]]:
        return list(self.used)

    def polled_prefixes(self) -> list[FindPrefix]:
        return list(self.prefixes)

    def is_live(self, path: VaultPath) -> bool:
        return path in self.live

    def backlog(self) -> int:
        return self.waiting

    def poll(self, key: VaultPath | FindPrefix) -> None:
        self.looks.append((_now(), key))

    def looked_at(self) -> Counter[VaultPath | FindPrefix]:
        return Counter(key for _, key in self.looks)

    def times(self) -> list[float]:
        """Of everything that was asked for, in order."""
        return sorted([time for time, _ in self.lists] + [time for time, _ in self.looks])


def _now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def polling(
    environment: Environment, interval: float = INTERVAL, per_second: float = PER_SECOND, *, needed: bool = True
) -> AsyncIterator[Poller]:
    poller = Poller(environment, environment, interval, per_second)
    if needed:
        poller.needed.set()
    task = asyncio.create_task(poller.run())
    try:
        yield poller
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def after(
    seconds: float, environment: Environment, interval: float = INTERVAL, per_second: float = PER_SECOND
) -> Environment:
    """So much later."""

    async def main() -> None:
        async with polling(environment, interval, per_second):
            await asyncio.sleep(seconds)

    run_ahead(main())
    return environment


def with_poller(
    steps: Callable[[Environment, Poller], Awaitable[None]], environment: Environment, *, needed: bool = True
) -> None:
    async def main() -> None:
        async with polling(environment, needed=needed) as poller:
            await steps(environment, poller)

    run_ahead(main())


# -- a round


def test_a_round_looks_at_each_live_path_once_and_lists_each_folder_once() -> None:
    used = paths(50) + paths(30, "secret/data/other") + [path("secret/data/root"), path("secret/data/x", "team")]
    environment = after(INTERVAL - CLOSE, Environment(*used))
    assert environment.looked_at() == Counter(used)
    assert len(environment.lists) == 4
    environment = after(3 * INTERVAL - CLOSE, Environment(*used))
    assert set(environment.looked_at().values()) == {3}


def test_a_round_is_spread_evenly_over_the_interval() -> None:
    environment = after(INTERVAL - CLOSE, Environment(*paths(19), *paths(9, "secret/data/other")))
    times = environment.times()
    assert len(times) == 30
    assert times == pytest.approx([INTERVAL / 31 * (number + 1) for number in range(30)])


def test_the_folders_take_turns() -> None:
    used = [path(f"secret/data/f{number}/a") for number in range(20)]
    environment = after(2 * INTERVAL - CLOSE, Environment(*used))
    first, second = environment.looks[:20], environment.looks[20:]
    assert [key for _, key in first] != [key for _, key in second]


def test_more_paths_than_the_rate_allows_take_longer_than_the_interval() -> None:
    environment = after(100, Environment(*paths(400)), interval=1.0, per_second=5)
    times = environment.times()
    assert 490 <= len(times) <= 501
    assert min(late - early for early, late in pairwise(times)) >= 1 / 5 - CLOSE


@pytest.mark.parametrize("per_second", [10, 49, 51, 1000, 10_000])
def test_the_rate_is_a_limit_whatever_it_is(per_second: int) -> None:
    environment = after(10, Environment(*paths(20_000)), interval=1.0, per_second=per_second)
    times = environment.times()
    for start in range(10):
        within = [time for time in times if start <= time < start + 1]
        assert len(within) <= per_second + 1


def test_what_a_slow_vault_has_delayed_is_not_caught_up_in_a_rush() -> None:
    environment = Environment(*paths(10_000))
    environment.takes = 50.0
    after(54, environment, interval=1.0, per_second=100)
    times = [time for time, _ in environment.looks]
    assert len(times) > 100
    assert all(sum(start <= time < start + 1 for time in times) <= 101 for start in times)


def test_what_is_newly_used_is_in_the_next_round() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        await asyncio.sleep(INTERVAL / 2)
        environment.used = [(one, 2) for one in paths(4)]
        await asyncio.sleep(INTERVAL * 1.5)
        assert set(environment.looked_at()) == set(paths(4))
        assert environment.looked_at()[paths(1)[0]] == 2

    environment = Environment(*paths(4))
    environment.used = environment.used[:1]
    with_poller(steps, environment)


@pytest.mark.parametrize("used", [0, 1])
def test_where_little_is_used_little_is_asked(used: int) -> None:
    environment = after(INTERVAL * 10 - CLOSE, Environment(*paths(used)))
    assert len(environment.times()) == 20 * used


# -- listings


def finding(*live: VaultPath, kv: int = 2) -> Environment:
    """A environment where a listing alone leads to these paths."""
    environment = Environment()
    environment.prefixes = [FIND if kv == 2 else FindPrefix("", "kv1/dev/", 1)]
    environment.live = environment.there = set(live)
    return environment


def test_what_a_listing_finds_is_looked_at_once_a_round() -> None:
    environment = after(INTERVAL * 3 - CLOSE, finding(*paths(20)))
    assert environment.looked_at() == Counter(paths(20) * 3)
    assert len(environment.lists) == 3
    first, *looks = environment.times()[:21]
    assert first <= STEP_SECONDS
    assert looks == pytest.approx([INTERVAL / 21 * (number + 1) for number in range(20)], abs=STEP_SECONDS)


def test_what_is_in_use_besides_is_not_looked_at_twice() -> None:
    environment = Environment(*paths(3))
    environment.prefixes = [FIND, FindPrefix("", "kv1/", 1)]
    after(INTERVAL - CLOSE, environment)
    assert environment.looked_at() == Counter(paths(3))
    assert len(environment.lists) == 3


def test_a_listing_keeps_to_the_rate_however_long_it_is() -> None:
    environment = finding()
    environment.folders, environment.there = 400, set(paths(400))
    after(100, environment, interval=1.0, per_second=5)
    times = environment.times()
    assert 490 <= len(times) <= 501
    assert min(late - early for early, late in pairwise(times)) >= 1 / 5 - CLOSE
    assert len(environment.lists) == 400


def test_what_vanished_from_a_listing_or_came_is_looked_at() -> None:
    vanished, came = paths(2, "kv1/dev")
    environment = finding(kv=1)
    environment.live, environment.there = {vanished}, {came}
    assert after(INTERVAL - CLOSE, environment).looked_at() == Counter([vanished, came])


def test_in_kv_v1_a_listing_alone_tells() -> None:
    environment = after(INTERVAL * 4 - CLOSE, finding(*paths(50, "kv1/dev"), kv=1))
    assert (len(environment.lists), environment.looks) == (4, [])


@pytest.mark.parametrize("failure", [VaultDenied("403"), VaultRejected("400")])
def test_a_listing_that_is_refused_is_left_to_the_controller(failure: VaultsyncError) -> None:
    environment = finding(*paths(5))
    environment.failure = failure
    assert after(INTERVAL - CLOSE, environment).looked_at() == {FIND: 1}


def test_a_listing_ends_when_it_is_not_needed_any_more() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        environment.folders = 1000
        await asyncio.sleep(1)
        poller.needed.clear()
        before = environment.times()
        assert 0 < len(before) < 1000
        await asyncio.sleep(INTERVAL * 50)
        assert environment.times() == before

    with_poller(steps, finding(*paths(5)))


# -- what a list tells


def test_a_path_that_is_known_to_be_missing_costs_no_look() -> None:
    environment = Environment(*paths(100), live=False)
    environment.there = {path("secret/data/dev/another")}
    after(INTERVAL * 5 - CLOSE, environment)
    assert (len(environment.lists), environment.looks) == (5, [])


@pytest.mark.parametrize("kv", [1, 2])
def test_a_path_that_vanished_or_came_is_looked_at(kv: int) -> None:
    vanished, came, missing = paths(3, "kv1/dev" if kv == 1 else "secret/data/dev")
    environment = Environment(vanished, came, missing, kv=kv)
    environment.live, environment.there = {vanished}, {came}
    assert after(INTERVAL - CLOSE, environment).looked_at() == Counter([vanished, came])


def test_a_listed_path_of_kv_v2_may_be_deleted_or_have_a_new_version() -> None:
    deleted, live = paths(2)
    environment = Environment(deleted, live)
    environment.live = {live}
    assert after(INTERVAL - CLOSE, environment).looked_at() == Counter([deleted, live])


def test_in_kv_v1_the_list_alone_tells() -> None:
    environment = after(INTERVAL * 4 - CLOSE, Environment(*paths(50, "kv1/dev"), kv=1))
    assert (len(environment.lists), environment.looks) == (4, [])


def test_what_stores_claim_differently_is_listed_apart() -> None:
    environment = Environment()
    environment.used = [(path("kv/data/a"), 1), (path("kv/data/b"), 2)]
    environment.live = environment.there = {one for one, _ in environment.used}
    after(INTERVAL - CLOSE, environment)
    assert len(environment.lists) == 2
    assert environment.looked_at() == {path("kv/data/b"): 1}


@pytest.mark.parametrize("failure", [VaultDenied("403"), VaultRejected("400")])
@pytest.mark.parametrize("kv", [1, 2])
def test_where_no_list_may_be_had_each_path_is_looked_at(failure: VaultsyncError, kv: int) -> None:
    environment = Environment(*paths(10), kv=kv, live=False)
    environment.failure = failure
    with logged() as lines:
        after(INTERVAL - CLOSE, environment)
    assert environment.looked_at() == Counter(paths(10))
    assert lines == []


@pytest.mark.parametrize("finds", [False, True])
def test_a_folder_on_which_vault_fails_is_left_to_looks_at_each_path(finds: bool) -> None:
    environment = finding(*paths(5)) if finds else Environment(*paths(10), live=False)
    environment.failure = VaultRequestFailed("500")
    with logged() as lines:
        after(INTERVAL - CLOSE, environment)
    assert environment.looked_at() == (Counter([FIND]) if finds else Counter(paths(10)))
    assert lines == []


@pytest.mark.parametrize("failure", [VaultNamespaceUnavailable("503", "team"), VaultThrottled("429", 5.0)])
@pytest.mark.parametrize("finds", [False, True])
def test_a_folder_of_which_looks_would_fail_as_well_is_left_out_for_a_round(
    failure: VaultsyncError, finds: bool
) -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        await asyncio.sleep(INTERVAL - CLOSE)
        assert environment.looks == []
        assert len(environment.lists) == (1 if finds else 4), "each folder was asked for"
        environment.failure = None
        await asyncio.sleep(INTERVAL)
        assert len(environment.looked_at()) == (5 if finds else 20)

    environment = finding(*paths(5)) if finds else Environment(*(path(f"secret/data/{n % 4}/p{n}") for n in range(20)))
    environment.failure = failure
    with logged() as lines:
        with_poller(steps, environment)
    assert lines == []


# -- an outage


def test_while_vault_is_away_it_waits_longer_and_longer_and_says_so_once() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        environment.failure = VaultUnavailable("no answer from Vault")
        await asyncio.sleep(1000)
        times = [time for time, _ in environment.lists]
        waits = [late - early for early, late in pairwise(times)]
        assert FIRST_WAIT / 2 < waits[0] < waits[3] < waits[-1]
        assert all(wait <= LONGEST_WAIT + INTERVAL for wait in waits)
        assert len(waits) > 10
        assert environment.looks == []
        environment.failure = None
        await asyncio.sleep(LONGEST_WAIT + INTERVAL)
        assert set(environment.looked_at()) == set(paths(5))
        for _ in range(2):  # the next outage is another one
            environment.failure = VaultUnavailable("no answer from Vault")
            await asyncio.sleep(INTERVAL)

    with logged() as lines:
        with_poller(steps, Environment(*paths(5)))
    assert [line.partition(" {")[0] for line in lines] == ["the poll waits for Vault"] * 2


# -- only while it is needed


def test_nothing_is_asked_before_it_is_needed() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        await asyncio.sleep(INTERVAL * 10)
        assert environment.times() == []
        poller.needed.set()
        await asyncio.sleep(INTERVAL - CLOSE)
        assert environment.looked_at() == Counter(paths(5))

    with_poller(steps, Environment(*paths(5)), needed=False)


@pytest.mark.parametrize("moment", [step / 10 for step in range(2, 40)])
def test_nothing_is_asked_once_it_is_not_needed_any_more(moment: float) -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        await asyncio.sleep(INTERVAL + moment)
        poller.needed.clear()
        before = environment.times()
        await asyncio.sleep(INTERVAL * 3)
        assert environment.times() == before
        poller.needed.set()
        await asyncio.sleep(INTERVAL)
        assert len(environment.times()) > len(before)

    environment = Environment(*paths(10), *paths(5, "secret/data/other"))
    environment.prefixes = [FIND, FindPrefix("", "kv1/", 1)]
    with_poller(steps, environment)


def test_when_it_is_needed_again_each_path_gets_its_look_within_the_interval() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        await asyncio.sleep(INTERVAL / 2)
        poller.needed.clear()
        await asyncio.sleep(INTERVAL / 5)
        before = environment.looked_at()
        poller.needed.set()
        await asyncio.sleep(INTERVAL)
        assert environment.looked_at() - before == Counter(paths(10))

    with_poller(steps, Environment(*paths(10)))


def test_a_list_that_comes_when_it_is_not_needed_any_more_leads_to_no_look() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        environment.takes = 5.0
        await asyncio.sleep(INTERVAL / 12 + 1)
        assert len(environment.lists) == 1
        poller.needed.clear()
        await asyncio.sleep(INTERVAL * 3)
        assert (len(environment.lists), environment.looks) == (1, [])

    with_poller(steps, Environment(*paths(10)))


# -- the controller's own pace


def test_it_waits_for_the_looks_that_wait() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        environment.waiting = BACKLOG + 1
        await asyncio.sleep(INTERVAL)
        assert environment.looks == []
        environment.waiting = BACKLOG
        await asyncio.sleep(INTERVAL)
        assert set(environment.looked_at()) == set(paths(10))

    with_poller(steps, Environment(*paths(10)))


def test_nor_does_it_ask_if_it_is_not_needed_any_more_when_they_are_done() -> None:
    async def steps(environment: Environment, poller: Poller) -> None:
        environment.waiting = BACKLOG + 1
        await asyncio.sleep(INTERVAL)
        poller.needed.clear()
        await asyncio.sleep(1)
        environment.waiting = 0
        await asyncio.sleep(INTERVAL)
        assert environment.looks == []

    with_poller(steps, Environment(*paths(10)))
