"""Spaces out requests while Vault limits their rate (429, a rate limit quota). Without a limit it does nothing.

Vault does not report the rate, and by default sends no Retry-After: the first estimate is the rate before the refusal;
it grows until Vault refuses again. A quota may be for all of Vault, for a Vault namespace or for a mount: here each
mount has its own rate. Sends nothing. It belongs to one event loop.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from loguru import logger

FIRST_PAUSE: Final = 1.0
"""Seconds without a request after a refusal: the default interval of a quota."""
LONGEST_PAUSE: Final = 60.0
CUT: Final = 0.8
"""The new rate, relative to the refused one."""
GROWTH: Final = 0.05
"""Relative growth of the rate for each second without a refusal."""
LOWEST_RATE: Final = 0.1
"""Requests a second."""
LONGEST_WAIT: Final = 15.0
"""Seconds after which a key with a later slot tries again, as the limit may have ended by then."""
QUIET_SECONDS: Final = 60.0
"""After this time without a refusal the limit is taken to have ended."""
CLOSE: Final = 0.001
"""Seconds that a timer may be early."""

Scope = tuple[str, str]
"""A Vault namespace and the first part of a mount's path."""


@dataclass(slots=True)
class _Limit:
    """The limit of one scope.

    Attributes:
        rate: requests a second.
        grown_at: when the rate last grew.
        refused_at: when Vault last refused.
        pause: seconds of the last pause.
        resume_at: no request is sent before.
        next_at: the first free slot.
        sent: requests since the last pause.
        slots: by key; a slot is used once.
    """

    rate: float
    grown_at: float
    refused_at: float
    pause: float = 0.0
    resume_at: float = 0.0
    next_at: float = 0.0
    sent: int = 0
    slots: dict[Hashable, float] = field(default_factory=dict)

    def reserve(self, now: float) -> float:
        """Reserve the next slot."""
        self._grow(now)
        slot = max(now, self.resume_at, self.next_at)
        self.next_at = slot + 1 / self.rate
        return slot

    def _grow(self, now: float) -> None:
        since = max(self.grown_at, self.resume_at)
        if now > since:
            self.rate *= (1 + GROWTH) ** (now - since)
            self.grown_at = now


class RateLimiter:
    """Schedules requests by scope. The clock is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limits: dict[Scope, _Limit] = {}
        self._second = float("-inf")
        self._sent: Counter[Scope] = Counter()
        self._sent_before: Counter[Scope] = Counter()

    def wait(self, scope: Scope, key: Hashable) -> float:
        """Seconds until a request may be sent; if it is not 0.0, a slot is reserved for the key."""
        if (limit := self._limit(scope)) is None:
            return 0.0
        now = self._clock()
        slot = limit.slots.pop(key, None)
        if slot is None or slot < limit.resume_at:
            slot = limit.reserve(now)
        if slot <= now + CLOSE:
            return 0.0
        limit.slots[key] = slot
        return min(slot - now, LONGEST_WAIT)

    def pause(self, scope: Scope) -> float:
        """Seconds without any request, as Vault has just refused one; 0.0 if it has not."""
        limit = self._limit(scope)
        return max(0.0, limit.resume_at - self._clock()) if limit else 0.0

    def charge(self, scope: Scope) -> None:
        """Count a request that does not wait: it takes the slot of a later one."""
        if (limit := self._limit(scope)) is not None:
            limit.reserve(self._clock())

    def sent(self, scope: Scope) -> None:
        """Count a request that Vault has accepted."""
        now = self._clock()
        if now - self._second >= 1.0:
            self._sent_before = self._sent if now - self._second < 2.0 else Counter()
            self._sent, self._second = Counter(), now
        self._sent[scope] += 1
        if (limit := self._limits.get(scope)) is not None:
            limit.sent += 1

    def refused(self, scope: Scope, key: Hashable, retry_after: float) -> float:
        """Note a request that Vault has refused with 429; returns the seconds until its key may try again.

        `retry_after` is in seconds, from the response; 0.0 if it has none.
        """
        now, limit = self._clock(), self._limit(scope)
        if limit is None:
            rate = max(self._sent[scope], self._sent_before[scope], 1)
            limit = self._limits[scope] = _Limit(rate, now, now)
            logger.info("Vault limits the rate of requests: they are spaced out", **_named(scope))
        if now >= limit.resume_at:  # otherwise it was sent before the earlier refusal
            limit.pause = min(2 * limit.pause, LONGEST_PAUSE) if limit.pause and not limit.sent else FIRST_PAUSE
            limit.rate = max(CUT * limit.rate, LOWEST_RATE)
            limit.resume_at = limit.next_at = now + max(limit.pause, min(retry_after, LONGEST_PAUSE))
            limit.sent, limit.refused_at = 0, now
        slot = limit.slots[key] = limit.reserve(now)
        return min(slot - now, LONGEST_WAIT)

    def _limit(self, scope: Scope) -> _Limit | None:
        limit = self._limits.get(scope)
        if limit is not None and self._clock() - max(limit.refused_at, limit.resume_at) > QUIET_SECONDS:
            del self._limits[scope]
            logger.info("Vault no longer limits the rate of requests", **_named(scope))
            return None
        return limit


def _named(scope: Scope) -> dict[str, str]:
    return {"vault_namespace": scope[0], "mount": scope[1]}
