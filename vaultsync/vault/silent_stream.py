"""Detects an event stream that is open, answers pings, and delivers nothing: own writes must appear on it.

Known of Vault Enterprise: on a performance standby, a subscriber that leaves can silence others with the same filter.
"""

import asyncio
from collections import OrderedDict
from typing import Final

from loguru import logger

from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath
from vaultsync.core.retry import backoff
from vaultsync.vault.clock import loop_time
from vaultsync.vault.metrics import SourceMetrics
from vaultsync.vault.writes import OwnWrite

SILENT_SECONDS: Final = 5.0
"""The event of an own write arrives within this time."""
SETTLE_SECONDS: Final = 1.0
"""Vault accepts a subscription a moment before it delivers to it: an earlier write proves nothing."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
"""Seconds after a detection in which no own write is expected; doubled each time until one appears."""
LATE_SECONDS: Final = 1.0
"""A timer that is later than this shows that the process was held up: events may still wait to be read."""
MAX_RECENT: Final = 4096
"""Writes that are remembered, as an event may arrive before the response to its write."""
REASON: Final = "the event stream is silent: it did not report an own write"

Write = tuple[VaultPath, int]


class SilenceDetector:
    """Watches one subscription after the other. Belongs to one event loop.

    Attributes:
        is_unproven: a subscription was silent, and no event has arrived since.
        found: set once the current subscription is known to be silent.
    """

    def __init__(self, metrics: SourceMetrics) -> None:
        self._metrics = metrics
        self.is_unproven = False
        self.found = asyncio.Event()
        self._since: float | None = None
        self._recent: OrderedDict[Write, float] = OrderedDict()
        self._awaited: dict[Write, asyncio.TimerHandle] = {}
        self._pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._paused_until = float("-inf")

    def subscribed(self) -> None:
        """Start to watch a subscription."""
        self._since = loop_time()
        self._recent.clear()

    def unsubscribed(self) -> bool:
        """End it; returns whether the subscription was silent."""
        self._since = None
        self._forget_awaited()
        was_found = self.found.is_set()
        self.found.clear()
        return was_found

    def wrote(self, own: OwnWrite) -> None:
        """Expect the event of an own write that Vault has accepted, if there was a subscription by then."""
        if self._since is None or own.sent < self._since + SETTLE_SECONDS:
            return
        write = (own.path, own.version)
        if self._recent.pop(write, float("-inf")) >= own.sent:
            self._delivered()
        elif loop_time() >= self._paused_until and write not in self._awaited and not self.found.is_set():
            self._await(own)

    def received(self, event: VaultEvent) -> bool:
        """Note an event; returns whether it is the first one after a silent subscription."""
        is_first, self.is_unproven = self.is_unproven, False
        if event.is_write or event.is_unversioned_write:
            write = (event.path, event.version)
            timer = self._awaited.pop(write, None)
            if timer is not None:
                timer.cancel()
                self._delivered()
                return is_first
            self._recent[write] = loop_time()
            self._recent.move_to_end(write)
            if len(self._recent) > MAX_RECENT:
                self._recent.popitem(last=False)
        return is_first

    def _await(self, own: OwnWrite) -> None:
        due = loop_time() + SILENT_SECONDS
        timer = asyncio.get_running_loop().call_at(due, self._missed, own, due)
        self._awaited[own.path, own.version] = timer

    def _delivered(self) -> None:
        self._pauses = backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._paused_until = float("-inf")

    def _missed(self, own: OwnWrite, due: float) -> None:
        if loop_time() - due > LATE_SECONDS:
            self._await(own)
            return
        self._forget_awaited()
        pause = next(self._pauses)
        self._paused_until = loop_time() + pause
        self._metrics.stream_deaf.inc()
        self.is_unproven = True
        self.found.set()
        logger.warning(
            "Vault's event stream is silent: it did not report a write of vaultsync; subscribing again",
            path=str(own.path),
            within_s=SILENT_SECONDS,
            next_check_s=round(pause),
            to_do="if it repeats: does the token's policy allow `subscribe` to kv-v2/data-write on this path? Does a "
            "restart of the Vault node help? Until events arrive again, an audit device or the poll takes over",
        )

    def _forget_awaited(self) -> None:
        for timer in self._awaited.values():
            timer.cancel()
        self._awaited.clear()
