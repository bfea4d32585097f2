"""The writes of this process: those under way, and what is reported of each accepted one. Sends nothing."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vaultsync.core.errors import NotLeading, VaultUnavailable, VaultUntrusted
from vaultsync.core.fence import Fence
from vaultsync.core.paths import VaultPath


@dataclass(frozen=True, slots=True)
class OwnWrite:
    """A KV write of this process that Vault has accepted. Each change source must report it.

    Attributes:
        version: the version it created, 0 in KV v1.
        request_id: Vault's ID of the request, as audit entries have it; "" if the response names none (KV v1).
        sent: when the request was sent, by the loop's clock.
    """

    path: VaultPath
    version: int
    request_id: str
    sent: float


class PendingWrites:
    """Counts the writes under way, and refuses those that must not be sent.

    A cancelled pass no longer waits for its write, but the request continues in its thread.
    """

    def __init__(self, fence: Fence | None) -> None:
        self._fence = fence
        self._takes_values = True
        self._awaited = 0
        self._none_awaited = asyncio.Event()
        self._none_awaited.set()
        self._lock = threading.Lock()
        self._sent = 0

    @property
    def is_sending(self) -> bool:
        """Whether a write was sent that has no response yet, also one that no pass waits for."""
        with self._lock:
            return self._sent > 0

    @contextmanager
    def sending(self, *, values: bool) -> Iterator[None]:
        """Enclose each request that writes values, or only custom metadata, in its thread.

        Raises:
            NotLeading: it must not be sent.
        """
        with self._lock:  # before the fence: `is_sending` after its closing misses no write
            self._sent += 1
        try:
            if values and not self._takes_values:
                raise NotLeading("no value is written: this process stops")
            if self._fence is not None:
                self._fence.check()
            yield
        finally:
            with self._lock:
                self._sent -= 1

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Enclose the wait for a write of values, on the loop."""
        self._awaited += 1
        self._none_awaited.clear()
        try:
            yield
        finally:
            self._awaited -= 1
            if not self._awaited:
                self._none_awaited.set()

    async def finish(self, seconds: float) -> int:
        """Refuse further values, and wait for the responses to those sent; returns the number still without one.

        Metadata can still be written.
        """
        self._takes_values = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none_awaited.wait()
        return self._awaited


def may_be_applied(error: VaultUnavailable) -> bool:
    """Whether Vault may have executed a request that failed like this."""
    return not isinstance(error, VaultUntrusted) and (error.status == 0 or error.status >= 500)
