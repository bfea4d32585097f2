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
"""Of so many keys one is the oldest of the worse priorities, so that a storm does not starve them."""


class Priority(IntEnum):
    """Which keys go first. A key that is queued already keeps the better priority."""

    URGENT = 0
    NORMAL = 1
    READERS = 2  # of a path that was just seeded: first all values, then those who read them
    RESYNC = 3


class WorkQueue(Generic[K]):
    """Keys waiting for a worker.

    Args:
        delays: makes the waiting times of one key's consecutive failures, in seconds.
        at_once: how many keys of a priority may be in work together; of one that is not named, as many as are taken.
        clock: seconds, monotonic; the loop's own by default.
    """

    def __init__(
        self,
        delays: Callable[[], Iterator[float]],
        at_once: Mapping[Priority, int] = MappingProxyType({}),
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._delays = delays
        self._at_once = at_once
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._priorities: tuple[deque[K], ...] = tuple(deque() for _ in Priority)
        self._queued: dict[K, tuple[Priority, float]] = {}
        """The priority of each waiting key, and since when it waits; the longest waiting first."""
        self._processing: dict[K, Priority] = {}
        self._taken = 0
        self._again: dict[K, Priority] = {}
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

    def add(self, key: K, priority: Priority = Priority.NORMAL) -> None:
        """Ask for a pass over the key; at once if it is not being processed, else after that."""
        if key in self._processing:
            self._again[key] = min(priority, self._again.get(key, priority))
            return
        queued, since = self._queued.get(key) or (None, self._clock())
        if queued is not None and queued <= priority:
            return
        self._queued[key] = (priority, since)  # a copy left in a worse priority is skipped when it is met
        self._priorities[priority].append(key)
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

    def requeue_now(self) -> None:
        """The other side is back: whatever waits for its time is due now, and all failures are forgotten."""
        self._failures.clear()
        for key in list(self._due_of):
            self.add(key)
        self._due.clear()
        self._due_of.clear()

    def close(self) -> None:
        """Hand out no more keys: `get` waits until it is cancelled."""
        self._is_closed = True

    async def get(self) -> tuple[K, Priority]:
        """The next key and its priority: the oldest of the best priority. It stays with the caller until `done`."""
        while True:
            self._move_due()
            for priority in filter(self._may_begin, () if self._is_closed else self._priorities_in_turn()):
                keys = self._priorities[priority]
                while keys:
                    key = keys.popleft()
                    if key in self._queued and self._queued[key][0] == priority:
                        del self._queued[key]
                        self._processing[key] = priority
                        self._taken += 1
                        return key, priority
            await self._wait()

    def done(self, key: K) -> None:
        """The worker has ended its pass, for good or ill."""
        if self._processing.pop(key) in self._at_once:
            self._changed.set()
        priority = self._again.pop(key, None)
        if priority is not None:
            self.add(key, priority)

    def _may_begin(self, priority: Priority) -> bool:
        limit = self._at_once.get(priority)
        return limit is None or list(self._processing.values()).count(priority) < limit

    def _priorities_in_turn(self) -> Iterable[Priority]:
        turn, fair = divmod(self._taken, FAIR)
        if fair < FAIR - 1:
            return Priority
        worse = (Priority.READERS, Priority.RESYNC) if turn % 2 else (Priority.RESYNC, Priority.READERS)
        return Priority.URGENT, *worse, Priority.NORMAL

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
