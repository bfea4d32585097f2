"""List, then watch: one resource's objects as the API server has them, cut down and handed on. Acts on nothing.

After https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes: bookmarks keep the
resourceVersion fresh; 410 means list again; a watch that is silent past its bookmarks may be half-open, and is opened
anew where it was.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from loguru import logger

from vaultsync.core.annotations import Result
from vaultsync.core.backoff import backoff
from vaultsync.core.errors import KubeGone, KubeNotFound, KubeUnavailable, VaultsyncError
from vaultsync.kube.client import KubeClient, watch_error

T = TypeVar("T")

PAGE: Final = 500
WATCH_SECONDS: Final = 300
"""The server ends a watch after this long or up to twice that (its own spread)."""
SILENCE_SECONDS: Final = 150.0
"""The API server sends a bookmark about every minute, once it has seen any change of the resource since its start."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between attempts."""


class Informer(Generic[T]):
    """One resource, listed and watched.

    Args:
        path: the resource's list path, such as /api/v1/namespaces.
        kind: the items' kind, which lists leave out.
        parse: cuts an object down; must not raise.
        identity: the name of a parsed object, unique in the resource.
        changed: is told of an object that is new, has changed or was listed again; must not block.
        removed: is told of an object that is gone.
        silence: seconds without a byte on the watch after which it is opened anew.
        query: narrows list and watch: labelSelector, fieldSelector.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        kind: str,
        parse: Callable[[Mapping[str, Any]], T],
        identity: Callable[[T], object],
        changed: Callable[[T], None],
        removed: Callable[[T], None],
        silence: float = SILENCE_SECONDS,
        query: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._path = path
        self._kind = kind
        self._parse = parse
        self._identity = identity
        self._changed = changed
        self._removed = removed
        self._silence = silence
        self._query = dict(query or {})
        self._cache: dict[object, T] = {}
        self._version = ""
        self._open: asyncio.Timeout | None = None
        """Ends the watch that is open now."""
        self.synced = asyncio.Event()
        """Set once the first list is in."""
        self.trouble: Result | None = None
        """How the last attempt to list or watch has failed, None while all is well."""

    async def run(self, back: Callable[[], None] = lambda: None) -> None:
        """List and watch until cancelled.

        Args:
            back: called when the API server answers again after it did not.

        Raises:
            KubeNotFound: the resource is not served (any more).
        """
        waits = backoff(FIRST_WAIT, LONGEST_WAIT)
        said = ""
        while True:
            started = time.monotonic()
            try:
                if not self._version:
                    await self.list_once()
                    if said:
                        logger.info("the API server answers again", resource=self._kind)
                        back()
                    said, self.trouble = "", None
                await self._watch()
            except KubeGone:
                self._version = ""
            except KubeNotFound:
                raise
            except VaultsyncError as error:
                self._version = ""  # a list tells for sure that the server is back, and what was missed
                if not said:
                    logger.warning("waiting for the API server", resource=self._kind, reason=str(error))
                said, self.trouble = str(error), error.result
            if time.monotonic() - started > LONGEST_WAIT:
                waits = backoff(FIRST_WAIT, LONGEST_WAIT)
            await asyncio.sleep(next(waits))

    def reopen(self) -> None:
        """Open the watch anew where it was, without a list: its connection may be dead."""
        if self._open is not None:
            self._open.reschedule(asyncio.get_running_loop().time())
            self._open = None

    def forget(self) -> None:
        """Tell of every object as removed. For when its task is cancelled: nobody needs to wait for its list either."""
        for identity in list(self._cache):
            self._removed(self._cache.pop(identity))
        self.synced.set()

    async def list_once(self) -> None:
        """List once, and tell of every object.

        Raises:
            VaultsyncError: the list is not whole.
        """
        seen: set[object] = set()
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
        except TimeoutError:  # by `reopen`
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
            old = self._cache.pop(self._identity(self._parse(document)), None)
            if old is not None:
                self._removed(old)
        self._version = (document.get("metadata") or {}).get("resourceVersion") or self._version

    def _put(self, document: Mapping[str, Any]) -> object:
        new = self._parse(document)
        identity = self._identity(new)
        self._cache[identity] = new
        self._changed(new)
        return identity
