"""A queue of keys after client-go's workqueue: each key once, one worker a key, added while processed → once more.

Knows nothing of what the keys mean. Not thread-safe: it belongs to one event loop.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FAIR = 16
"""Of so many keys one is the oldest of the worse lanes, so that a storm does not starve them."""


class Lane(IntEnum):
    """Which keys go first. A key that is queued already keeps the better lane."""

    URGENT = 0
    NORMAL = 1
    READERS = 2  # of a path that was just seeded: first all values, then those who read them
    RESYNC = 3


class WorkQueue(Generic[K]):
    """Keys waiting for a worker.

    Args:
        delays: makes the waiting times of one key's consecutive failures, in seconds.
        at_once: how many keys of a lane may be in work together; of one that is not named, as many as are taken.
        clock: seconds, monotonic; the loop's own by default.
    """

    def __init__(
        self,
        delays: Callable[[], Iterator[float]],
        at_once: Mapping[Lane, int] = MappingProxyType({}),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._delays = delays
        self._at_once = at_once
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._lanes: tuple[deque[K], ...] = tuple(deque() for _ in Lane)
        self._queued: dict[K, tuple[Lane, float]] = {}
        """The lane of each waiting key, and since when it waits; the longest waiting first."""
        self._processing: dict[K, Lane] = {}
        self._taken = 0
        self._again: dict[K, Lane] = {}
        self._failures: dict[K, Iterator[float]] = {}
        self._due: list[tuple[float, int, K]] = []
        self._due_of: dict[K, float] = {}
        self._sequence = itertools.count()
        self._changed = asyncio.Event()
        self._is_closed = False

    def __len__(self) -> int:
        """Keys that wait for a worker now (not those that wait for their time)."""
        return len(self._queued)

    def oldest(self) -> float:
        """How many seconds the longest waiting key has waited for a worker, 0 if none waits."""
        _, since = next(iter(self._queued.values()), (None, None))
        return 0.0 if since is None else self._clock() - since

    def failing(self) -> int:
        """Keys whose last pass failed, and which are tried again."""
        return len(self._failures)

    def is_busy(self, key: K) -> bool:
        """Whether a worker has the key or is about to get it."""
        return key in self._queued or key in self._processing

    def is_processing(self, key: K) -> bool:
        """Whether a worker has the key."""
        return key in self._processing

    def is_idle(self) -> bool:
        """Whether no key waits for a worker, and none has one."""
        return not self._queued and not self._processing

    def add(self, key: K, lane: Lane = Lane.NORMAL) -> None:
        """Ask for a pass over the key; at once if it is not being processed, else after that."""
        if key in self._processing:
            self._again[key] = min(lane, self._again.get(key, lane))
            return
        queued, since = self._queued.get(key) or (None, self._clock())
        if queued is not None and queued <= lane:
            return
        self._queued[key] = (lane, since)  # a copy left in a worse lane is skipped when it is met
        self._lanes[lane].append(key)
        self._changed.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Ask for a pass over the key when the time has gone by; the earliest time asked for counts."""
        due = self._clock() + seconds
        if seconds <= 0:
            self.add(key)
        elif due < self._due_of.get(key, float("inf")):
            self._due_of[key] = due
            heapq.heappush(self._due, (due, next(self._sequence), key))
            self._changed.set()

    def retry(self, key: K) -> float:
        """Ask for a pass after a failure; returns the seconds until then."""
        seconds = next(self._failures.setdefault(key, self._delays()))
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """The key's last pass was fine: its next failure starts from the shortest wait."""
        self._failures.pop(key, None)

    def hasten(self) -> None:
        """The other side is back: whatever waits for its time is due now, and all failures are forgotten."""
        self._failures.clear()
        for key in list(self._due_of):
            self.add(key)
        self._due.clear()
        self._due_of.clear()

    def close(self) -> None:
        """Hand out no more keys: `get` waits until it is cancelled."""
        self._is_closed = True

    async def get(self) -> tuple[K, Lane]:
        """The next key and its lane: the oldest of the best lane. It stays with the caller until `done`."""
        while True:
            self._move_due()
            for lane in filter(self._may_begin, () if self._is_closed else self._lanes_in_turn()):
                keys = self._lanes[lane]
                while keys:
                    key = keys.popleft()
                    if key in self._queued and self._queued[key][0] == lane:
                        del self._queued[key]
                        self._processing[key] = lane
                        self._taken += 1
                        return key, lane
            await self._wait()

    def done(self, key: K) -> None:
        """The worker has ended its pass, for good or ill."""
        if self._processing.pop(key) in self._at_once:
            self._changed.set()
        lane = self._again.pop(key, None)
        if lane is not None:
            self.add(key, lane)

    def _may_begin(self, lane: Lane) -> bool:
        limit = self._at_once.get(lane)
        return limit is None or list(self._processing.values()).count(lane) < limit

    def _lanes_in_turn(self) -> Iterable[Lane]:
        turn, fair = divmod(self._taken, FAIR)
        if fair < FAIR - 1:
            return Lane
        worse = (Lane.READERS, Lane.RESYNC) if turn % 2 else (Lane.RESYNC, Lane.READERS)
        return Lane.URGENT, *worse, Lane.NORMAL

    def _move_due(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, _, key = heapq.heappop(self._due)
            if self._due_of.get(key) == due:
                del self._due_of[key]
                self.add(key)

    async def _wait(self) -> None:
        self._changed.clear()
        timeout = max(0.0, self._due[0][0] - self._clock()) if self._due else None
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            pass
