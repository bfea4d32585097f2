"""Proves that Vault's audit device still delivers: sends a request, the canary, and waits for its audit entry.

The entry also verifies its sender, as only Vault knows the nonce. Vault writes the entry before it responds: one that
is missing soon after the response was not delivered.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Final

from vaultsync.core.errors import VaultDenied, VaultsyncError
from vaultsync.core.events import CANARY_PATH
from vaultsync.core.retry import Retry
from vaultsync.vault.clock import loop_time
from vaultsync.vault.metrics import SourceMetrics

WAIT_SECONDS: Final = (1.0, 2.0, 3.0)
"""For the entry of each attempt, as a network may lose a datagram."""
NONCES: Final = 8
"""The last canaries that verify a sender: those of one round, which may be late, and of the round before."""
FIRST_PACE, LONGEST_PACE = 1.0, 30.0
"""Seconds between two requested canaries: the shorter time, until such a canary verifies no new sender."""
LONGEST_RETRY: Final = 30.0
"""Seconds between attempts while Vault does not respond."""


class CanaryResult(Enum):
    """How a canary ended."""

    DELIVERED = "delivered"
    MISSING = "missing"
    UNANSWERED = "unanswered"


class Canary:
    """Sends canaries: at the start, at each interval, and on request.

    Args:
        read: sends a read of the given path to Vault; raises VaultsyncError.
        interval: seconds.
        on_result: called with each result, and the number of attempts that Vault has executed but not delivered;
            returns whether a new sender was verified. UNANSWERED proves nothing.

    Attributes:
        nonces: of the last canaries, as at the end of an entry's path.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[None]],
        interval: float,
        on_result: Callable[[CanaryResult, int], bool],
        metrics: SourceMetrics,
    ) -> None:
        self._read = read
        self._interval = interval
        self._on_result = on_result
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._is_requested = self._has_arrived = False
        self._outstanding: set[str] = set()
        self.nonces: tuple[bytes, ...] = ()

    def request(self) -> None:
        """Send one soon, as a sender is new or an entry is missing."""
        self._is_requested = True
        self._wake.set()

    def arrived(self, nonce: str) -> bool:
        """Note an entry with a nonce; returns whether it is of a canary."""
        if nonce.encode(errors="replace") not in self.nonces:  # untrusted text, which UTF-8 may not encode
            return False
        self._outstanding.discard(nonce)
        self._has_arrived = True
        self._wake.set()
        return True

    async def run(self) -> None:
        """Run until cancelled."""
        retry, pace = Retry(FIRST_PACE, LONGEST_RETRY), FIRST_PACE
        was_requested = False
        while True:
            self._is_requested = False
            result, missed = await self._send()
            self._metrics.canaries.labels(result.value).inc()
            is_new = self._on_result(result, missed)
            if result is CanaryResult.UNANSWERED:
                was_requested = await self._wait(FIRST_PACE, min(retry.failed(result.value).wait, self._interval))
                continue
            retry.succeeded()
            pace = min(2 * pace, LONGEST_PACE) if was_requested and not is_new else FIRST_PACE
            was_requested = await self._wait(pace, self._interval)

    async def _wait(self, pace: float, longest: float) -> bool:
        """Wait until the next canary is due, or requested and not too soon; returns whether it was requested."""
        started = loop_time()
        with suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._until(lambda: self._is_requested)
                await asyncio.sleep(started + pace - loop_time())
        return self._is_requested

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._wake.clear()
            await self._wake.wait()

    async def _send(self) -> tuple[CanaryResult, int]:
        self._has_arrived = False
        self._outstanding.clear()
        waits, may_hurry = list(WAIT_SECONDS), True
        while waits:
            nonce = secrets.token_hex(16)
            self._outstanding.add(nonce)
            self.nonces = (*self.nonces, nonce.encode())[-NONCES:]
            try:
                await self._read(CANARY_PATH + nonce)
            except VaultDenied:
                pass  # Vault audits a refused request, too
            except VaultsyncError:
                return CanaryResult.UNANSWERED, 0
            if await self._arrives(waits[0], may_hurry):
                return CanaryResult.DELIVERED, len(self._outstanding - {nonce})
            if may_hurry and self._is_requested:  # by a sender newer than this canary: once
                may_hurry = self._is_requested = False
            else:
                del waits[0]
        return CanaryResult.MISSING, 0

    async def _arrives(self, wait: float, may_hurry: bool) -> bool:
        """Wait for an entry, the end of the time, or a request for the next canary."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._until(lambda: self._has_arrived or (may_hurry and self._is_requested))
        return self._has_arrived
