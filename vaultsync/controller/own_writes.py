"""Recognises the events of vaultsync's own writes, so that they cause no request. Memory only; no I/O."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import VaultPath

EXPECTED_SECONDS: Final = 5.0
"""The event of an own write arrives within this time. A later one that names no request is treated as anybody's."""
KEPT_SECONDS: Final = 60.0
"""How long a request ID is remembered: in a burst, audit entries may wait until they are processed."""


@dataclass(slots=True)
class _Expected:
    """One own write whose events are still expected.

    Attributes:
        added: seconds, monotonic.
        told_by: the kinds of source that have reported it without naming the request: True for an audit device.
    """

    path: VaultPath
    version: int
    request_id: str
    added: float
    told_by: set[bool] = field(default_factory=set)


class OwnWrites:
    """The own writes of the last seconds.

    Vault's request ID identifies a write exactly. The event stream has no such ID, and neither does the response to a
    write in KV v1. There the path, the version and the kind must match, and each source may report the write once: a
    second event with the same version is somebody else's write, as after `kv metadata delete` and `kv put`.

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
        """Events may have been lost: expect none of them any more."""
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
    if not kind or event.version != expected.version or source in expected.told_by:
        return False
    expected.told_by.add(source)
    return True
