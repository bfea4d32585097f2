"""Limits what audit entries can cause: each is a hint to read one path, and hints pass at a bounded rate."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath
from vaultsync.core.rate_limit import TokenBucket

Sender = object
"""A connection, the address of a datagram's peer, or the audit file."""
_Key = tuple[tuple[VaultPath, bool], ...]


@dataclass(frozen=True, slots=True)
class Hint:
    """The events of one audit entry, at least one."""

    sender: Sender
    events: tuple[VaultEvent, ...]

    @property
    def key(self) -> _Key:
        """Hints with the same key cause the same reads: the later one replaces the earlier one."""
        return tuple((event.path, event.is_about_metadata) for event in self.events)


class HintQueue:
    """Passes hints on while tokens last; keeps the others, one for each key, until there are tokens again.

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

    def put(self, hint: Hint) -> bool:
        """Pass the hint on, or keep it; returns False if there is no room for it."""
        if not self._deferred and not self._bucket.take():
            self._deliver(hint)
            return True
        key = hint.key
        if key not in self._deferred and len(self._deferred) >= self._capacity:
            return False
        self._deferred[key] = hint
        self._schedule()
        return True

    def remove(self, sender: Sender) -> list[Hint]:
        """Remove and return the kept hints of one sender."""
        found = [hint for hint in self._deferred.values() if hint.sender == sender]
        for hint in found:
            del self._deferred[hint.key]
        return found

    def close(self) -> None:
        """Drop all kept hints."""
        self._deferred.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._bucket.wait, self._pump)

    def _pump(self) -> None:
        self._timer = None
        while self._deferred and not self._bucket.take():
            self._deliver(self._deferred.pop(next(iter(self._deferred))))
        if self._deferred:
            self._schedule()
