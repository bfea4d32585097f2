"""Finds the KV mount of a path, and caches it. Runs in the threads of the requester.

https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts
"""

import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from vaultsync.core.errors import RedirectRefused, VaultDenied, VaultRejected
from vaultsync.core.paths import Mount, VaultPath, guessed_mount
from vaultsync.core.untrusted import mapping, text
from vaultsync.vault.requester import Requester

T = TypeVar("T")

MOUNTS: Final = "sys/internal/ui/mounts"
MAX_AGE: Final = 60.0
"""Seconds after which a mount is requested again, at its next use: no event reports that a mount was upgraded, moved,
or disabled and enabled again."""
FRESH_SECONDS: Final = 0.25
"""The age that is allowed after Vault has refused a request, and where its response does not report the mount: many
such requests in a row request their mount at most four times a second."""
SLOW_SECONDS: Final = 1.0
"""The age of a response counts from its arrival, or from its request if the response took longer than this: then the
process may have been frozen meanwhile."""


class Mounts:
    """The KV mounts that the token can see."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester
        self.cache = MountCache()

    def find(self, path: VaultPath, kv: int) -> Mount:
        """The mount of a path; a guess by `kv` if the token may not read it: the next request returns Vault's reason.

        Raises:
            VaultRejected: the path is in no KV mount.
        """
        return self._find(path, kv, MAX_AGE)

    def find_fresh(self, path: VaultPath, kv: int) -> Mount:
        """The same, at most FRESH_SECONDS old."""
        return self._find(path, kv, FRESH_SECONDS)

    def find_before_write(self, path: VaultPath, kv: int) -> Mount:
        """The same, from a request of its own: a mount can be disabled and enabled again in less than 5 ms."""
        return self.cache.renew(path, lambda: self._request(path)) or guessed_mount(path.path, kv)

    def use(self, path: VaultPath, kv: int, call: Callable[[Mount], T]) -> T:
        """Send requests for a path to its mount; again if Vault refuses them and the mount has changed."""
        mount = self.find(path, kv)
        try:
            return call(mount)
        except RedirectRefused:
            raise
        except (VaultDenied, VaultRejected) as error:
            refused = error
        fresh = self.find_fresh(path, kv)
        if fresh == mount:
            raise refused
        return call(fresh)

    def all_v2(self, namespace: str) -> dict[str, Mount]:
        """The KV v2 mounts in a Vault namespace, by accessor."""
        response = self._requester.request("get", MOUNTS, namespace)
        found = {}
        for path, value in mapping(mapping(response.get("data")).get("secret")).items():
            mount = mapping(value)
            if mount.get("type") == "kv" and mapping(mount.get("options")).get("version") == "2":
                found[str(mount.get("accessor") or f"{namespace}/{path}")] = Mount(path.strip("/") + "/", 2)
        return found

    def _find(self, path: VaultPath, kv: int, max_age: float) -> Mount:
        return self.cache.resolve(path, max_age, lambda: self._request(path)) or guessed_mount(path.path, kv)

    def _request(self, path: VaultPath) -> Mount | None:
        try:
            response = self._requester.request("get", f"{MOUNTS}/{path.path}", path.namespace)
        except VaultDenied:
            return None
        data = mapping(response.get("data"))
        if data.get("type") not in ("kv", "generic"):
            raise VaultRejected(f"{path} is in no KV mount, but one of type {str(data.get('type'))[:40]}")
        version = mapping(data.get("options")).get("version")
        mount = Mount(str(data.get("path", "")).strip("/") + "/", 2 if version == "2" else 1, text(data.get("uuid")))
        if inner := self._inner_namespace(path, mount.path, data.get("accessor")):
            raise VaultRejected(
                f"{path} is in the Vault namespace {inner}, which its path names: "
                "name it in the store's spec.provider.vault.namespace instead"
            )
        if not path.path.startswith(mount.path):
            raise VaultRejected(f"{path} is in no mount now: Vault is moving it to {mount.path[:200]}")
        return mount

    def _inner_namespace(self, path: VaultPath, mount: str, accessor: object) -> str:
        """The Vault namespace that the path itself names, "" where the path begins with the mount.

        Vault accepts both spellings, and returns the path of such a mount from the root on: only the accessor
        distinguishes it from a mount with slashes (OpenBao 2.7.2). Change sources and VAULTSYNC_SEED_PATHS name the
        Vault namespace separately.
        """
        within = mount if path.path.startswith(mount) else mount.removeprefix(f"{path.namespace}/")
        names = within.strip("/").split("/")
        for depth in range(len(names) - 1 if accessor else 0, 0, -1):  # innermost first: its parents return the same
            namespace = "/".join(filter(None, (path.namespace, *names[:depth])))
            inner = path.path.removeprefix("/".join(names[:depth]) + "/")
            try:
                response = self._requester.request("get", f"{MOUNTS}/{inner}", namespace)
            except (VaultDenied, VaultRejected):
                continue  # no such namespace
            if mapping(response.get("data")).get("accessor") == accessor:
                return namespace
        return ""


class _Entry(NamedTuple):
    mount: Mount
    since: float


class MountCache:
    """Mounts by Vault namespace and path. For any thread; it sends no request itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, _Entry]] = {}
        self._flights: dict[tuple[str, str], threading.Event] = {}
        self._forgotten = 0

    def resolve(self, path: VaultPath, max_age: float, request: Callable[[], Mount | None]) -> Mount | None:
        """The mount of a path, at most `max_age` seconds old; None if the token may not read it.

        Threads that need the same mount at the same time send one request; if that fails, each sends its own.
        """
        if (found := self._find(path, max_age)) is not None:
            return found
        flight = path.namespace, path.path.partition("/")[0]
        with self._lock:
            if (other := self._flights.get(flight)) is None:
                mine = self._flights[flight] = threading.Event()
        if other is not None:
            other.wait()  # its request has a timeout
            return self._find(path, max_age) or self.renew(path, request)
        try:
            return self.renew(path, request)
        finally:
            with self._lock:
                del self._flights[flight]
            mine.set()

    def forget_all(self) -> None:
        """Drop all entries, and the responses to requests under way."""
        with self._lock:
            self._entries.clear()
            self._forgotten += 1

    def renew(self, path: VaultPath, request: Callable[[], Mount | None]) -> Mount | None:
        """The mount of a path by a request that no other thread shares; None if the token may not read it."""
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
            if (entry := self._entry(path)) is not None:
                del self._entries[path.namespace][entry.mount.path]

    def _entry(self, path: VaultPath) -> _Entry | None:
        """The entry of the innermost mount, as the path of a mount may have slashes."""
        mounts = self._entries.get(path.namespace, {})
        end = path.path.rfind("/")
        while end >= 0:
            if (entry := mounts.get(path.path[: end + 1])) is not None:
                return entry
            end = path.path.rfind("/", 0, end)
        return None
