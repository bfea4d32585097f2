"""A cache of KV mounts. For any thread; it sends no request itself."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vaultsync.core.errors import VaultRejected
from vaultsync.core.paths import Mount, VaultPath

SLOW_SECONDS: Final = 1.0
"""The age of a response counts from its arrival, or from its request if the response took longer than this: then the
process may have been frozen meanwhile."""


@dataclass(frozen=True, slots=True)
class _Entry:
    mount: Mount
    since: float


class MountCache:
    """Mounts by Vault namespace and path.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, _Entry]] = {}
        self._flights: dict[tuple[str, str], threading.Event] = {}
        self._forgotten = 0

    def resolve(self, path: VaultPath, max_age: float, request: Callable[[], Mount | None]) -> Mount | None:
        """The mount of a path.

        Threads that need the same mount at the same time send one request; if that fails, each sends its own.

        Args:
            path: the secret.
            max_age: seconds; an older entry is requested again.
            request: requests the mount; None if the token may not read it.

        Raises:
            VaultsyncError: of `request`.
        """
        found = self._find(path, max_age)
        if found is not None:
            return found
        flight = path.namespace, path.path.partition("/")[0]
        with self._lock:
            other = self._flights.get(flight)
            if other is None:
                mine = self._flights[flight] = threading.Event()
        if other is not None:
            other.wait()  # its request has a timeout
            return self._find(path, max_age) or self._request(path, request)
        try:
            return self._request(path, request)
        finally:
            with self._lock:
                del self._flights[flight]
            mine.set()

    def forget_all(self) -> None:
        """Drop all entries, and the responses to requests under way."""
        with self._lock:
            self._entries.clear()
            self._forgotten += 1

    def _request(self, path: VaultPath, request: Callable[[], Mount | None]) -> Mount | None:
        with self._lock:
            forgotten, sent = self._forgotten, self._clock()
        try:
            mount = request()
        except VaultRejected:
            self._forget(path)
            raise
        if mount is None:
            self._forget(path)
        else:
            with self._lock:
                now = self._clock()
                since = now if now - sent <= SLOW_SECONDS else sent
                if forgotten == self._forgotten:
                    self._entries.setdefault(path.namespace, {})[mount.path] = _Entry(mount, since)
        return mount

    def _find(self, path: VaultPath, max_age: float) -> Mount | None:
        with self._lock:
            entry = self._entry(path)
            return entry.mount if entry is not None and self._clock() - entry.since <= max_age else None

    def _forget(self, path: VaultPath) -> None:
        with self._lock:
            entry = self._entry(path)
            if entry is not None:
                del self._entries[path.namespace][entry.mount.path]

    def _entry(self, path: VaultPath) -> _Entry | None:
        """The entry of the innermost mount, as the path of a mount may have slashes."""
        mounts = self._entries.get(path.namespace, {})
        end = path.path.rfind("/")
        while end >= 0:
            entry = mounts.get(path.path[: end + 1])
            if entry is not None:
                return entry
            end = path.path.rfind("/", 0, end)
        return None
