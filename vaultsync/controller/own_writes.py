"""Recognises the events of vaultsync's own writes, which cause no pass. Memory only; no I/O."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath

EXPECTED_SECONDS: Final = 5.0
"""The event of an own write arrives within this time. A later one without a request ID counts as somebody else's."""
KEPT_SECONDS: Final = 60.0
"""How long vaultsync remembers a request ID: in a burst, audit entries may wait for their processing."""


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
    """The own writes of the last seconds.

    Vault's request ID identifies a write exactly. Events of the event stream and responses to writes in KV v1 have no
    such ID. For them path, version and kind must match, and each source may report the write once: a second event with
    the same version is somebody else's write, for example after `kv metadata delete` and `kv put`.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_path: dict[VaultPath, list[_Expected]] = {}
        self._in_order: deque[_Expected] = deque()

    def add(self, path: VaultPath, version: int, request_id: str) -> None:
        """Expect the events of a write that Vault has accepted.

        Args:
            path: the secret.
            version: the version that the write created, 0 in KV v1.
            request_id: Vault's ID of the request, "" where the response names none.
        """
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
            left = self._by_path.get(path, [])[1:]
            if left:
                self._by_path[path] = left
            else:
                self._by_path.pop(path, None)


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
