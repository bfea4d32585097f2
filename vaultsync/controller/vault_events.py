"""Turns Vault's events into passes over their paths: own writes are ignored, bursts thinned, stale reads repeated.

Events come from the event stream or an audit device. Only the time and the path of a pass are decided here.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from vaultsync.controller.entry import Key
from vaultsync.controller.index import Index
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.sync_state import NEVER
from vaultsync.controller.workqueue import Priority, WorkQueue
from vaultsync.core.callbacks import Clock
from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath

RECHECK_SECONDS: Final = (0.1, 0.4, 1.5, 5.0)
"""Delays of further reads while the path does not show what an event reports: a standby node may be behind."""
EVENT_SPACING: Final = 0.05
"""Seconds between two reads of one path because of events; the first one is not delayed."""
MAX_DEFERRED: Final = 16
"""Events of one path that are kept during a pass over it. More cannot all be own writes."""
EXPECTED_SECONDS: Final = 5.0
"""The event of an own write arrives within this time. A later one without a request ID counts as another client's."""
KEPT_SECONDS: Final = 60.0
"""How long vaultsync remembers a request ID: in a burst, audit entries may wait for their processing."""


class VaultEvents:
    """The events of the last moments."""

    def __init__(self, index: Index, paths: PathStates, queue: WorkQueue[Key], clock: Clock) -> None:
        self._index = index
        self._paths = paths
        self._queue = queue
        self._clock = clock
        self.own_writes = OwnWrites(clock)
        # events that arrived during a pass over their path, and when
        self._deferred: dict[VaultPath, list[tuple[VaultEvent, float]]] = {}
        # by path, the last event that no read has shown, and how many reads have not
        self._unconfirmed: dict[VaultPath, tuple[VaultEvent, int]] = {}
        # when the last read because of an event was due; entries of the last moments
        self._read_at: OrderedDict[VaultPath, float] = OrderedDict()
        # when the first event since the last pass over the path arrived
        self._received_at: dict[VaultPath, float] = {}

    def receive(self, event: VaultEvent) -> None:
        """Read the path now, unless the event reports an own write.

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
        self._record_deletion(event)  # the stale read has shown a live version
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
        self._record_deletion(event)
        self._read_soon(event.path)

    def _record_deletion(self, event: VaultEvent) -> None:
        if event.is_deletion and event.is_verified:
            self._paths.record_deletion(event.path)

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


@dataclass(slots=True)
class _Expected:
    """One own write whose events are still expected.

    Attributes:
        added: seconds, monotonic.
        reported_by: the sources that have reported it without its request ID: True for an audit device.
    """

    path: VaultPath
    version: int
    request_id: str
    added: float
    reported_by: set[bool] = field(default_factory=set)


class OwnWrites:
    """The own writes of the last seconds, whose events cause no pass.

    Vault's request ID identifies a write exactly. Events of the event stream and responses to writes in KV v1 have no
    such ID. For them path, version and kind must match, and each source may report the write once: a second event with
    the same version is another client's write, for example after `kv metadata delete` and `kv put`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_path: dict[VaultPath, list[_Expected]] = {}
        self._in_order: deque[_Expected] = deque()

    def add(self, path: VaultPath, version: int, request_id: str) -> None:
        """Expect the events of a write. The version is 0 in KV v1, the ID is "" where the response names none."""
        self._expire()
        expected = _Expected(path, version, request_id, self._clock())
        self._by_path.setdefault(path, []).append(expected)
        self._in_order.append(expected)

    def recognise(self, event: VaultEvent) -> bool:
        """Whether the event reports one of the own writes."""
        self._expire()
        now = self._clock()
        return any(_matches(expected, event, now) for expected in self._by_path.get(event.path, ()))

    def clear(self) -> None:
        """Expect no more events, as some may have been lost."""
        self._by_path.clear()
        self._in_order.clear()

    def _expire(self) -> None:
        earliest = self._clock() - KEPT_SECONDS
        while self._in_order and self._in_order[0].added <= earliest:
            path = self._in_order.popleft().path
            self._by_path[path] = self._by_path[path][1:]
            if not self._by_path[path]:
                del self._by_path[path]


def _matches(expected: _Expected, event: VaultEvent, now: float) -> bool:
    if event.request_id and expected.request_id:
        return event.request_id == expected.request_id
    if now - expected.added >= EXPECTED_SECONDS:
        return False
    kind = event.is_write if expected.version else event.is_unversioned_write
    source = bool(event.request_id)
    if not kind or event.version != expected.version or source in expected.reported_by:
        return False
    expected.reported_by.add(source)
    return True
