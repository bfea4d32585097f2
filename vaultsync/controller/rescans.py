"""Schedules the rescans that audit devices cause: after lost entries, new senders and changed mounts.

Anyone may send audit entries, so each kind of rescan has a shortest interval. What a rescan reads is the controller's.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from vaultsync.core.events import MountChange

SENDER_SECONDS: Final = 30.0
"""The shortest interval between two rescans because of new senders of audit entries."""
LOSS_SECONDS: Final = (10.0, 60.0)
"""The same for lost entries: the first interval, and the longest while losses go on."""
SETTLE_SECONDS, LONGEST_SETTLING = 1.0, 5.0
"""Delay of a rescan after the last loss, and the longest one after the first loss."""
MOUNT_SECONDS: Final = (1.0, 10.0)
"""Delay of the rescan after a change of a mount, as moving one takes a moment; and the shortest interval."""
MAX_MOUNTS: Final = 16
"""Changed mounts at most that wait for their rescan; with more, all mounts count as changed."""


class AuditRescans:
    """After gaps in the audit entries. `rescan` receives whether the device was the only source of writes at one."""

    def __init__(self, rescan: Callable[[bool], None]) -> None:
        self._rescan = rescan
        self._timer: asyncio.TimerHandle | None = None
        self._rescanned_at = float("-inf")
        self._settled_by = 0.0
        self._loss_interval = LOSS_SECONDS[0]
        self._is_only_source = False

    def schedule(self, alone: bool, *, settles: bool = False) -> None:
        """An audit device may have missed entries: rescan soon.

        Args:
            alone: the device is the only source of writes; otherwise it only reports deletions.
            settles: more entries may get lost in the next moments, as in a burst: the rescan waits for its end.
        """
        self._is_only_source |= alone
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._settled_by = now + LONGEST_SETTLING
            interval = self._next_loss_interval(now) if settles else SENDER_SECONDS
            at = max(now + (SETTLE_SECONDS if settles else 0.0), self._rescanned_at + interval)
        elif settles:
            at = max(self._timer.when(), min(now + SETTLE_SECONDS, self._settled_by))
            self._timer.cancel()
        else:
            return
        self._timer = loop.call_at(at, self._run)

    def _next_loss_interval(self, now: float) -> float:
        """Seconds between two rescans because of losses: longer and longer while they go on."""
        goes_on = now - self._rescanned_at < 2 * self._loss_interval
        self._loss_interval = min(2 * self._loss_interval, LOSS_SECONDS[1]) if goes_on else LOSS_SECONDS[0]
        return self._loss_interval

    def _run(self) -> None:
        self._timer = None
        self._rescanned_at = asyncio.get_running_loop().time()
        is_only_source, self._is_only_source = self._is_only_source, False
        self._rescan(is_only_source)


class MountRescans:
    """After changes of mounts, which `rescan` receives."""

    def __init__(self, rescan: Callable[[set[MountChange]], None]) -> None:
        self._rescan = rescan
        self._changes: set[MountChange] = set()
        self._due = float("-inf")

    def schedule(self, change: MountChange) -> None:
        """KV paths may be in another mount, in none, or have another version of KV: rescan those in the mount soon."""
        if len(self._changes) >= MAX_MOUNTS:
            self._changes = {MountChange(None)}
        is_scheduled = bool(self._changes)
        self._changes.add(change)
        if not is_scheduled:
            delay, interval = MOUNT_SECONDS
            loop = asyncio.get_running_loop()
            self._due = max(loop.time() + delay, self._due + interval)
            loop.call_at(self._due, self._run)

    def _run(self) -> None:
        changes, self._changes = self._changes, set()
        self._rescan(changes)
