"""The KV mounts that Vault has named, kept for a while. For any thread; sends nothing by itself."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vaultsync.core.errors import VaultRejected
from vaultsync.core.paths import Mount, VaultPath

MAX_AGE: Final = 60.0
"""Seconds after which Vault is asked for a mount again, at its next use: no event tells that a mount was upgraded,
moved, or disabled and enabled anew."""
FRESH_SECONDS: Final = 0.25
"""The age that is allowed after Vault has refused a request, and where it says nothing about the mount. So many such
requests in a row ask for their mount four times a second at most."""
WRITE_SECONDS: Final = 0.005
"""The age that is allowed before a write that could create something at the wrong place: less time than it takes to
disable a mount and to enable another one there (10 ms). Writes at the same time still share an answer."""
SLOW_SECONDS: Final = 1.0
"""An answer's age counts from its arrival: a Vault that is far away would never give a fresh one otherwise. That of a
slower answer counts from its request, as this process may have been frozen meanwhile."""


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

    def resolve(self, path: VaultPath, max_age: float, ask: Callable[[], Mount | None]) -> Mount | None:
        """The mount of a path.

        Threads that need the same mount at the same time ask once; where that fails, each asks for itself.

        Args:
            path: the secret.
            max_age: in seconds; what was answered longer ago is asked for again.
            ask: asks Vault, and returns None if it does not say.

        Raises:
            VaultsyncError: as `ask`.
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
            other.wait()  # its request has a time-out
            return self._find(path, max_age) or self._ask(path, ask)
        try:
            return self._ask(path, ask)
        finally:
            with self._lock:
                del self._flights[flight]
            mine.set()

    def forget_all(self) -> None:
        """The mounts may have changed; what is being asked for now is not kept either."""
        with self._lock:
            self._entries.clear()
            self._forgotten += 1

    def _ask(self, path: VaultPath, ask: Callable[[], Mount | None]) -> Mount | None:
        with self._lock:
            forgotten, asked = self._forgotten, self._clock()
        try:
            mount = ask()
        except VaultRejected:
            self._forget(path)
            raise
        if mount is None:
            self._forget(path)
        else:
            with self._lock:
                now = self._clock()
                since = now if now - asked <= SLOW_SECONDS else asked
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
        """That of the innermost mount: a mount's path may have slashes."""
        mounts = self._entries.get(path.namespace, {})
        end = path.path.rfind("/")
        while end >= 0:
            entry = mounts.get(path.path[: end + 1])
            if entry is not None:
                return entry
            end = path.path.rfind("/", 0, end)
        return None
