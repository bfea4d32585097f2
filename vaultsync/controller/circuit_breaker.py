"""Holds keys back while their server is unavailable: one key tries from time to time, the others wait for its result.

A sealed or overloaded server gets as few requests for ten thousand keys as for one. Nothing about servers or keys
enters. A circuit breaker belongs to one event loop.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic

from vaultsync.controller.workqueue import K, Priority


class CircuitBreaker(Generic[K]):
    """Closed until a pass finds the server unavailable, then open until a pass gets an answer.

    Args:
        delays: makes the seconds between the attempts of one outage.
        release: queues a key with its priority.
    """

    def __init__(self, delays: Callable[[], Iterator[float]], release: Callable[[K, Priority], None]) -> None:
        self._delays = delays
        self._release = release
        self._waits: Iterator[float] | None = None
        """Seconds until the next attempts; None while the circuit is closed."""
        self._held: dict[K, Priority] = {}
        self._trying: K | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The number of held keys."""
        return len(self._held)

    @property
    def is_open(self) -> bool:
        """Whether the circuit holds keys back."""
        return self._waits is not None

    def held(self) -> list[K]:
        """The held keys."""
        return list(self._held)

    def admit(self, key: K, priority: Priority) -> bool:
        """Whether a pass over the key may begin now; if not, the circuit holds the key and releases it later."""
        if self._waits is None or key == self._trying:
            return True
        self._held[key] = min(priority, self._held.get(key, priority))
        return False

    def record_failure(self, key: K) -> None:
        """A pass over the key has found the server unavailable; the caller schedules the next one."""
        if self._waits is None:
            self._waits = self._delays()
        elif key != self._trying:  # its request was sent before the circuit opened
            return
        self._trying = None
        self._timer = asyncio.get_running_loop().call_later(next(self._waits), self._try_next)

    def record_inconclusive(self, key: K) -> None:
        """A pass over the key has ended without a request to the server: another key tries in its place."""
        if key == self._trying:
            self._try_next()

    def close(self) -> None:
        """Close the circuit, as the server answers, and release the held keys."""
        if self._waits is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits = self._trying = self._timer = None
        held, self._held = self._held, {}
        for key, priority in held.items():
            self._release(key, priority)

    def _try_next(self) -> None:
        key = next(iter(self._held), None)
        if key is None:
            self.close()
            return
        self._trying = key
        self._release(key, self._held.pop(key))
