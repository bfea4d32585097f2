"""Spaces out requests while Vault limits their rate (429, a rate limit quota). Without a limit it does nothing.

Vault does not name the rate, and by default no Retry-After either: the rate that it took before it refused is the first
estimate, which then grows until Vault refuses again. A quota may be for all of Vault, for a Vault namespace or for a
mount: each mount has a rate of its own here. Sends nothing. It belongs to one event loop.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from loguru import logger

FIRST_PAUSE: Final = 1.0
"""Seconds without a request after a refusal: the interval of a quota, unless it is set otherwise."""
LONGEST_PAUSE: Final = 60.0
CUT: Final = 0.8
"""The new rate, as a part of the one that was refused."""
GROWTH: Final = 0.05
"""By this part the rate grows each second without a refusal."""
LOWEST_RATE: Final = 0.1
"""Requests a second."""
LONGEST_WAIT: Final = 15.0
"""Seconds after which a key whose slot is later asks again, as the limit may have ended by then."""
QUIET_SECONDS: Final = 60.0
"""After this long without a refusal there is no limit any more."""
CLOSE: Final = 0.001
"""Seconds that a timer may be early."""

Scope = tuple[str, str]
"""A Vault namespace and the first part of a mount's path."""


@dataclass(slots=True)
class _Pace:
    """One scope that Vault limits.

    Attributes:
        rate: requests a second.
        grown_at: when the rate last grew.
        refused_at: when Vault last refused.
        pause: seconds of the last pause.
        resume_at: no request before.
        next_at: the first slot that nobody has.
        sent: requests since the last pause.
        slots: who has which slot; a slot is used once.
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
        """Take the next slot."""
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
    """Tells each request when its turn is.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._paces: dict[Scope, _Pace] = {}
        self._second = float("-inf")
        self._sent: Counter[Scope] = Counter()
        self._sent_before: Counter[Scope] = Counter()

    def wait(self, scope: Scope, key: Hashable) -> float:
        """Seconds until a request may be sent, 0.0 for now. A slot is then kept for the key.

        Args:
            scope: of the request.
            key: who asks; it asks again when its time has come.
        """
        pace = self._pace(scope)
        if pace is None:
            return 0.0
        now = self._clock()
        slot = pace.slots.pop(key, None)
        if slot is None or slot < pace.resume_at:
            slot = pace.reserve(now)
        if slot <= now + CLOSE:
            return 0.0
        pace.slots[key] = slot
        return min(slot - now, LONGEST_WAIT)

    def pause(self, scope: Scope) -> float:
        """Seconds in which no request may be sent, as Vault has just refused one; 0.0 if it has not."""
        pace = self._pace(scope)
        return max(0.0, pace.resume_at - self._clock()) if pace else 0.0

    def charge(self, scope: Scope) -> None:
        """A request that does not wait takes the place of a later one."""
        pace = self._pace(scope)
        if pace is not None:
            pace.reserve(self._clock())

    def sent(self, scope: Scope) -> None:
        """Vault has taken a request."""
        now = self._clock()
        if now - self._second >= 1.0:
            self._sent_before = self._sent if now - self._second < 2.0 else Counter()
            self._sent, self._second = Counter(), now
        self._sent[scope] += 1
        if (pace := self._paces.get(scope)) is not None:
            pace.sent += 1

    def refused(self, scope: Scope, key: Hashable, retry_after: float) -> float:
        """Vault has refused a request with 429.

        Args:
            scope: of the request.
            key: who has asked.
            retry_after: seconds, as Vault names them; 0.0 where it names none.

        Returns:
            Seconds until the key may ask for its next turn.
        """
        now, pace = self._clock(), self._pace(scope)
        if pace is None:
            rate = max(self._sent[scope], self._sent_before[scope], 1)
            pace = self._paces[scope] = _Pace(rate, now, now)
            logger.info("Vault limits the rate of requests: they are spaced out", **_named(scope))
        if now >= pace.resume_at:  # else it was sent before that was known
            pace.pause = min(2 * pace.pause, LONGEST_PAUSE) if pace.pause and not pace.sent else FIRST_PAUSE
            pace.rate = max(CUT * pace.rate, LOWEST_RATE)
            pace.resume_at = pace.next_at = now + max(pace.pause, min(retry_after, LONGEST_PAUSE))
            pace.sent, pace.refused_at = 0, now
        slot = pace.slots[key] = pace.reserve(now)
        return min(slot - now, LONGEST_WAIT)

    def _pace(self, scope: Scope) -> _Pace | None:
        pace = self._paces.get(scope)
        if pace is not None and self._clock() - max(pace.refused_at, pace.resume_at) > QUIET_SECONDS:
            del self._paces[scope]
            logger.info("Vault no longer limits the rate of requests", **_named(scope))
            return None
        return pace


def _named(scope: Scope) -> dict[str, str]:
    return {"vault_namespace": scope[0], "mount": scope[1]}
