"""Holds back passes whose server is away: one asks from time to time, and the others follow its answer.

So a server that is sealed or overloaded is asked as seldom for ten thousand keys as for one. Knows neither server nor
key, and sends nothing. It belongs to one event loop.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic

from vaultsync.engine.workqueue import K, Lane


class Gate(Generic[K]):
    """Open until a pass finds the server away, and from then on until one finds that it answers.

    Args:
        delays: makes the seconds between the attempts of one absence.
        release: queues a key in its lane.
    """

    def __init__(self, delays: Callable[[], Iterator[float]], release: Callable[[K, Lane], None]) -> None:
        self._delays = delays
        self._release = release
        self._waits: Iterator[float] | None = None
        """Until the next attempts; None where it is open."""
        self._held: dict[K, Lane] = {}
        self._asking: K | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Keys that are held back."""
        return len(self._held)

    def holds(self, key: K, lane: Lane) -> bool:
        """Whether a pass over the key may not begin now; it then follows by itself."""
        if self._waits is None or key == self._asking:
            return False
        self._held[key] = min(lane, self._held.get(key, lane))
        return True

    def away(self, key: K) -> None:
        """A pass over the key has found the server away; when it is tried again is its own affair."""
        if self._waits is None:
            self._waits = self._delays()
        elif key != self._asking:  # it has asked before that was known
            return
        self._asking = None
        self._timer = asyncio.get_running_loop().call_later(next(self._waits), self._ask)

    def passed(self, key: K) -> None:
        """A pass over the key has ended, and has told nothing of the server: another one asks in its place."""
        if key == self._asking:
            self._ask()

    def open(self) -> None:
        """The server answers: all go on."""
        if self._waits is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits = self._asking = self._timer = None
        held, self._held = self._held, {}
        for key, lane in held.items():
            self._release(key, lane)

    def _ask(self) -> None:
        key = next(iter(self._held), None)
        if key is None:
            self.open()
            return
        self._asking = key
        self._release(key, self._held.pop(key))
