"""Limits what audit entries can cause: each is a hint to read one path, and hints pass at a bounded rate."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from loguru import logger

from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath

LOG_SECONDS: Final = 60.0
"""Between two log lines for one reason that peers can cause."""

Sender = object
"""A connection, the address of a datagram's peer, or the audit file."""
_Key = tuple[tuple[VaultPath, bool], ...]


class TokenBucket:
    """So many at once, and then so many a second.

    Args:
        rate: tokens a second.
        burst: tokens at the start, and at most.
        clock: seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._at = burst, clock()

    def take(self) -> bool:
        """Take a token, if there is one."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def wait(self) -> float:
        """Seconds until the next token, as of the last `take`."""
        return max(0.0, (1 - self._tokens) / self._rate)


@dataclass(frozen=True, slots=True)
class Hint:
    """The events of one audit entry.

    Attributes:
        sender: who delivered it.
        events: at least one.
    """

    sender: Sender
    events: tuple[VaultEvent, ...]

    @property
    def key(self) -> _Key:
        """Hints with the same key cause the same reads: the later one replaces the earlier one."""
        return tuple((event.path, event.is_about_metadata) for event in self.events)


class HintQueue:
    """Passes hints on while tokens last; keeps the others until there are tokens again, one for each key.

    Args:
        deliver: takes the hint.
        bucket: a token for each hint.
        capacity: hints that are kept.
    """

    def __init__(self, deliver: Callable[[Hint], None], bucket: TokenBucket, capacity: int) -> None:
        self._deliver = deliver
        self._bucket = bucket
        self._capacity = capacity
        self._deferred: dict[_Key, Hint] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deferred)

    def put(self, hint: Hint) -> bool:
        """Pass the hint on, or keep it; returns False where there is no room for it."""
        if not self._deferred and self._bucket.take():
            self._deliver(hint)
            return True
        key = hint.key
        if key not in self._deferred and len(self._deferred) >= self._capacity:
            return False
        self._deferred[key] = hint
        self._schedule()
        return True

    def remove(self, sender: Sender) -> list[Hint]:
        """Take out the kept hints of one sender."""
        found = [hint for hint in self._deferred.values() if hint.sender == sender]
        for hint in found:
            del self._deferred[hint.key]
        return found

    def close(self) -> None:
        """Forget what is kept."""
        self._deferred.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._bucket.wait, self._pump)

    def _pump(self) -> None:
        self._timer = None
        while self._deferred and self._bucket.take():
            self._deliver(self._deferred.pop(next(iter(self._deferred))))
        if self._deferred:
            self._schedule()


class LimitedLog:
    """One line for each reason and minute, with how many it stands for.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def __call__(self, level: str, message: str, **fields: object) -> None:
        """Log it, or count it.

        Args:
            level: of loguru.
            message: the reason; a constant text, as each is remembered.
            fields: further fields of the line.
        """
        now = self._clock()
        at, unsaid = self._said.get(message, (float("-inf"), 0))
        if now - at < LOG_SECONDS:
            self._said[message] = (at, unsaid + 1)
            return
        self._said[message] = (now, 0)
        if unsaid:
            fields["not_logged_before"] = unsaid
        logger.log(level, message, **fields)
