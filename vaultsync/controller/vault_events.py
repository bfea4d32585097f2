"""Turns Vault's events into passes over their paths: own writes are ignored, bursts thinned, stale reads repeated.

Events come from the event stream or an audit device. Only the time and the path of a pass are decided here.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from vaultsync.controller.index import Index, Key
from vaultsync.controller.own_writes import OwnWrites
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.sync_state import NEVER
from vaultsync.controller.workqueue import Priority, WorkQueue
from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath

RECHECK_SECONDS: Final = (0.1, 0.4, 1.5, 5.0)
"""Delays of further reads while the path does not show what an event reports: a standby node may be behind."""
EVENT_SPACING: Final = 0.05
"""Seconds between two reads of one path because of events; the first one is not delayed."""
MAX_DEFERRED: Final = 16
"""Events of one path that are kept during a pass over it. More cannot all be own writes."""


class VaultEvents:
    """The events of the last moments.

    Args:
        queue: the controller's.
        clock: seconds, monotonic.
    """

    def __init__(
        self, index: Index, paths: PathStates, queue: WorkQueue[Key], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._index = index
        self._paths = paths
        self._queue = queue
        self._clock = clock
        self.own_writes = OwnWrites(clock)
        self._deferred: dict[VaultPath, list[tuple[VaultEvent, float]]] = {}
        """Events that arrived during a pass over their path, and when."""
        self._unconfirmed: dict[VaultPath, tuple[VaultEvent, int]] = {}
        """By path, the last event that no read has shown, and how many reads have not."""
        self._read_at: OrderedDict[VaultPath, float] = OrderedDict()
        """When the last read because of an event was due; entries of the last moments."""
        self._received_at: dict[VaultPath, float] = {}
        """When the first event since the last pass over the path arrived."""

    def receive(self, event: VaultEvent) -> None:
        """Have the path read now, unless the event reports an own write.

        An event that arrives during a pass over its path waits for the end of the pass: it may report the write of
        this pass, whose response has not arrived yet.
        """
        if not self._index.knows(event.path):
            return
        now = self._clock()
        if self._queue.is_processing(event.path):
            deferred = self._deferred.setdefault(event.path, [])
            del deferred[MAX_DEFERRED - 1 :]
            deferred.append((event, now))
        else:
            self._follow(event, now)

    def begin_pass(self, path: VaultPath) -> float:
        """When the first event for this pass arrived, NEVER without one."""
        return self._received_at.pop(path, NEVER)

    def repeat_pass(self, path: VaultPath, received_at: float) -> None:
        """The pass has failed, and the next one is for the same events."""
        if received_at != NEVER:
            self._received_at[path] = received_at

    def end_pass(self, path: VaultPath) -> None:
        """Process the events that arrived during the pass, now that its own writes are known."""
        for event, at in self._deferred.pop(path, ()):
            self._follow(event, at)

    async def recheck(self, path: VaultPath, may_be_behind: Callable[[], Awaitable[bool]]) -> None:
        """Read the path again if the last read does not show an event, and a standby node may have answered it."""
        if path not in self._unconfirmed or self._queue.is_busy(path):  # the next pass rechecks
            return
        event, reads = self._unconfirmed.pop(path)
        if reads >= len(RECHECK_SECONDS) or self._paths.shows(event) or not await may_be_behind():
            return
        self._unconfirmed.setdefault(path, (event, reads + 1))  # a later event may have arrived meanwhile
        self._queue.add_after(path, RECHECK_SECONDS[reads])

    def _follow(self, event: VaultEvent, at: float) -> None:
        if self.own_writes.recognise(event):
            return
        if event.is_about_metadata and not self._index.reads_metadata(event.path):
            return
        if not self._paths.shows(event):
            self._unconfirmed[event.path] = (event, 0)
        self._received_at.setdefault(event.path, at)
        if event.is_unversioned_write:
            self._paths.record_change(event.path)
        self._read_soon(event.path)

    def _read_soon(self, path: VaultPath) -> None:
        """Read the path at once, or EVENT_SPACING after the last read because of an event."""
        now = self._clock()
        while self._read_at and next(iter(self._read_at.values())) + EVENT_SPACING <= now:
            self._read_at.popitem(last=False)
        due = self._read_at.setdefault(path, now)
        if due == now or self._queue.is_busy(path):  # a pass that waits for a worker covers this event too
            self._queue.add(path, Priority.URGENT)
            return
        if due < now:
            due = self._read_at[path] = due + EVENT_SPACING
            self._read_at.move_to_end(path)
        self._queue.add_after(path, due - now)
