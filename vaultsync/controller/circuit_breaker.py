"""Holds keys back while their server is away: one key tries from time to time, and the others wait for its result.

So a server that is sealed or overloaded is asked as seldom for ten thousand keys as for one. Knows neither server nor
key, and sends nothing. It belongs to one event loop.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic

from vaultsync.controller.workqueue import K, Priority


class CircuitBreaker(Generic[K]):
    """Closed until a pass finds the server away, and open from then on until a pass gets an answer.

    Args:
        delays: makes the seconds between the attempts of one outage.
        release: queues a key in its priority.
    """

    def __init__(self, delays: Callable[[], Iterator[float]], release: Callable[[K, Priority], None]) -> None:
        self._delays = delays
        self._release = release
        self._waits: Iterator[float] | None = None
        """Until the next attempts; None while the circuit is closed."""
        self._held: dict[K, Priority] = {}
        self._trying: K | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Keys that are held back."""
        return len(self._held)

    @property
    def is_open(self) -> bool:
        """Whether keys are held back."""
        return self._waits is not None

    def held(self) -> list[K]:
        """The keys that are held back."""
        return list(self._held)

    def admit(self, key: K, priority: Priority) -> bool:
        """Whether a pass over the key may begin now; if not, the key is held, and released by itself later."""
        if self._waits is None or key == self._trying:
            return True
        self._held[key] = min(priority, self._held.get(key, priority))
        return False

    def record_failure(self, key: K) -> None:
        """A pass over the key has found the server away; when the key is tried again is up to the caller."""
        if self._waits is None:
            self._waits = self._delays()
        elif key != self._trying:  # its request was sent before the circuit opened
            return
        self._trying = None
        self._timer = asyncio.get_running_loop().call_later(next(self._waits), self._try_next)

    def record_inconclusive(self, key: K) -> None:
        """A pass over the key has ended, and shows nothing of the server: another key tries in its place."""
        if key == self._trying:
            self._try_next()

    def close(self) -> None:
        """The server answers: close the circuit and release the held keys."""
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
