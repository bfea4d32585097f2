"""Lists and watches the objects of one resource, and reports changes to callbacks. Decides nothing.

See https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes. Bookmarks keep the
resourceVersion fresh; 410 requires a new list; a watch without data for longer than the interval of bookmarks may be
half-open, and is reopened at the same resourceVersion.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from loguru import logger

from vaultsync.core.annotations import Result
from vaultsync.core.callbacks import ignore
from vaultsync.core.errors import KubeDenied, KubeGone, KubeNotFound, KubeUnavailable, VaultsyncError
from vaultsync.core.retry import backoff
from vaultsync.core.untrusted import mapping, text
from vaultsync.kube.client import KubeClient, watch_error

T = TypeVar("T")

PAGE: Final = 500
WATCH_SECONDS: Final = 300
"""Minimum time after which the server ends a watch; the maximum is twice that."""
SILENCE_SECONDS: Final = 150.0
"""The API server sends a bookmark about every minute, as soon as the resource has changed since the server's start."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between attempts."""


class Informer(Generic[T]):
    """Lists and watches one resource.

    Args:
        path: of the list, such as /api/v1/namespaces.
        kind: of the items; lists omit it.
        parse: reduces an object to what is needed; must not raise.
        changed: called with each object that is new, has changed or was listed again; must not block.
        removed: called with each object that is deleted; must not block.
        silence: seconds without data after which the watch is reopened.
        query: labelSelector and fieldSelector of list and watch.
        optional: while the API server refuses the list, there are no objects; otherwise nothing is `synced` without it.

    Attributes:
        synced: set after the first list.
        trouble: how the last attempt to list or watch failed, None after a success.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        kind: str,
        parse: Callable[[Mapping[str, Any]], T],
        changed: Callable[[T], None],
        removed: Callable[[T], None],
        silence: float = SILENCE_SECONDS,
        query: Mapping[str, str] | None = None,
        optional: bool = False,
    ) -> None:
        self._client = client
        self._path = path
        self._kind = kind
        self._parse = parse
        self._changed = changed
        self._removed = removed
        self._silence = silence
        self._query = dict(query or {})
        self._optional = optional
        self._cache: dict[tuple[str, str], T] = {}
        self._version = ""
        self._open: asyncio.Timeout | None = None
        """Ends the open watch."""
        self.synced = asyncio.Event()
        self.trouble: Result | None = None

    async def run(self, back: Callable[[], None] = ignore) -> None:
        """List and watch until cancelled; calls `back` when a list succeeds after a failure.

        Raises:
            KubeNotFound: the resource is not served.
        """
        waits = backoff(FIRST_WAIT, LONGEST_WAIT)
        while True:
            started = time.monotonic()
            try:
                if not self._version:
                    await self._list()
                    if self.trouble is not None:
                        logger.info("the API server answers again", resource=self._kind)
                        self.trouble = None
                        back()
                await self._watch()
            except KubeGone:
                self._version = ""
            except KubeNotFound:
                raise
            except VaultsyncError as error:
                self._version = ""  # only a list shows whether the server works, and what was missed
                if self.trouble is None:
                    logger.warning("waiting for the API server", resource=self._kind, reason=str(error))
                self.trouble = error.result
                if self._optional and error.result is Result.REFUSED:
                    self.synced.set()
            if time.monotonic() - started > LONGEST_WAIT:
                waits = backoff(FIRST_WAIT, LONGEST_WAIT)
            await asyncio.sleep(next(waits))

    def reopen(self) -> None:
        """Reopen the watch at its resourceVersion: its connection may be dead."""
        if self._open is not None:
            self._open.reschedule(asyncio.get_running_loop().time())
            self._open = None

    def forget(self) -> None:
        """Report every object as removed. For a cancelled task: nothing waits for its list any more either."""
        for identity in list(self._cache):
            self._removed(self._cache.pop(identity))
        self.synced.set()

    async def list_once(self) -> None:
        """List once, and report every object as changed.

        Raises:
            VaultsyncError: the list is not complete.
        """
        try:
            await self._list()
        except KubeDenied:
            if not self._optional:
                raise
            logger.warning("the API server refuses a list: vaultsync works without it", resource=self._kind)
            self.synced.set()

    async def _list(self) -> None:
        seen: set[tuple[str, str]] = set()
        version, token = "", ""
        while True:
            query = self._query | {"limit": str(PAGE)} | ({"continue": token} if token else {})
            page = await self._client.get(self._path, query)
            for item in page.get("items") or ():
                seen.add(self._put({"kind": self._kind, **item}))
            metadata = page.get("metadata") or {}
            version, token = metadata.get("resourceVersion", ""), metadata.get("continue", "")
            if not token:
                break
        for identity in [known for known in self._cache if known not in seen]:
            self._removed(self._cache.pop(identity))
        self._version = version or "0"
        self.synced.set()

    async def _watch(self) -> None:
        query = self._query | {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(WATCH_SECONDS * random.uniform(1, 2))),
        }
        try:
            async with asyncio.timeout(None) as self._open:
                async with self._client.watch(self._path, query, self._silence) as events:
                    async for event in events:
                        self._take(event)
        except TimeoutError:  # of `reopen`
            pass
        finally:
            self._open = None

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, document = event.get("type"), event.get("object")
        if not isinstance(document, dict):
            raise KubeUnavailable("a watch event holds no object")
        if kind == "ERROR":
            raise watch_error(document)
        if kind in ("ADDED", "MODIFIED"):
            self._put(document)
        elif kind == "DELETED":
            old = self._cache.pop(_identity(document), None)
            if old is not None:
                self._removed(old)
        self._version = (document.get("metadata") or {}).get("resourceVersion") or self._version

    def _put(self, document: Mapping[str, Any]) -> tuple[str, str]:
        identity = _identity(document)
        self._cache[identity] = new = self._parse(document)
        self._changed(new)
        return identity


def _identity(document: Mapping[str, Any]) -> tuple[str, str]:
    metadata = mapping(document.get("metadata"))
    return text(metadata.get("namespace")), text(metadata.get("name"))
