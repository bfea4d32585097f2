"""A queue of keys, like client-go's workqueue: no duplicates, one worker per key; a key may be added during its pass.

Nothing about the meaning of keys enters. A queue is not thread-safe: it belongs to one event loop.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import IntEnum
from types import MappingProxyType
from typing import Generic, TypeVar

from vaultsync.core.callbacks import Clock

K = TypeVar("K", bound=Hashable)

FAIR = 16
"""One of so many keys is the oldest of the lower priorities, so that a storm does not starve them."""


class Priority(IntEnum):
    """The order of keys. A key that is queued twice keeps the higher priority."""

    URGENT = 0
    NORMAL = 1
    READERS = 2  # of a path that was just seeded: all values come first
    RESYNC = 3


class WorkQueue(Generic[K]):
    """Keys waiting for a worker.

    Args:
        delays: makes the seconds of back-off after one key's consecutive failures.
        at_once: the most keys of a priority that workers may have at a time; unlimited by default.
        clock: the loop's by default.
    """

    def __init__(
        self,
        delays: Callable[[], Iterator[float]],
        at_once: Mapping[Priority, int] = MappingProxyType({}),
        clock: Clock | None = None,
    ) -> None:
        self._delays = delays
        self._at_once = at_once
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._priorities: tuple[deque[K], ...] = tuple(deque() for _ in Priority)
        # the priority of each waiting key, and since when it waits; the oldest first
        self._queued: dict[K, tuple[Priority, float]] = {}
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
        """Keys that wait for a worker, without those that are due later."""
        return len(self._queued)

    def oldest(self) -> float:
        """How many seconds the oldest key has waited for a worker, 0 without one."""
        return self._clock() - next(iter(self._queued.values()))[1] if self._queued else 0.0

    def failing(self) -> int:
        """Keys whose last pass failed and is retried."""
        return len(self._failures)

    def is_busy(self, key: K) -> bool:
        """Whether a worker has the key, or the key waits for one."""
        return key in self._queued or key in self._processing

    def is_processing(self, key: K) -> bool:
        """Whether a worker has the key."""
        return key in self._processing

    def is_idle(self) -> bool:
        """Whether no worker has a key, and no key waits for one."""
        return not self._queued and not self._processing

    def add(self, key: K, priority: Priority = Priority.NORMAL) -> None:
        """Queue the key; if a worker has it, after its pass."""
        if key in self._processing:
            self._again[key] = min(priority, self._again.get(key, priority))
            return
        queued, since = self._queued.get(key) or (None, self._clock())
        if queued is not None and queued <= priority:
            return
        self._queued[key] = (priority, since)  # `get` skips the copy in the lower priority
        self._priorities[priority].append(key)
        self._changed.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Queue the key after a time; of several times, the earliest one counts."""
        due = self._clock() + seconds
        if seconds <= 0:
            self.add(key)
        elif due < self._due_of.get(key, float("inf")):
            self._due_of[key] = due
            heapq.heappush(self._due, (due, next(self._sequence), key))
            self._changed.set()

    def retry(self, key: K) -> float:
        """Queue the key after its back-off; returns the seconds until then."""
        seconds = next(self._failures.setdefault(key, self._delays()))
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: K) -> None:
        """Reset the key's back-off, as its pass succeeded."""
        self._failures.pop(key, None)

    def requeue_now(self) -> None:
        """Queue all keys that are due later now, and reset all back-offs: the server is available again."""
        self._failures.clear()
        for key in list(self._due_of):
            self.add(key)
        self._due.clear()
        self._due_of.clear()

    def close(self) -> None:
        """Return no more keys from `get`: it waits until it is cancelled."""
        self._is_closed = True

    async def get(self) -> tuple[K, Priority]:
        """The oldest key of the highest priority, and that priority. The caller has the key until `done`."""
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
        """The worker has ended its pass."""
        if self._processing.pop(key) in self._at_once:
            self._changed.set()
        if (priority := self._again.pop(key, None)) is not None:
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
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()
