"""Tracks the attempts of one operation: the wait after a failure, and whether its reason is new. Pure."""

import random
from dataclasses import dataclass

from vaultsync.core.backoff import backoff


@dataclass(frozen=True, slots=True)
class Failed:
    """One failed attempt.

    Attributes:
        wait: seconds until the next one.
        is_new: the previous attempt did not fail for the same reason.
    """

    wait: float
    is_new: bool

    @property
    def level(self) -> str:
        """The log level: a repeated reason is logged as one warning."""
        return "WARNING" if self.is_new else "DEBUG"


class Retry:
    """Counts the consecutive failures of one operation.

    Args:
        first, longest: seconds, as for `backoff`.
        rng: for the jitter.
    """

    def __init__(self, first: float, longest: float, rng: random.Random | None = None) -> None:
        self._first, self._longest, self._rng = first, longest, rng
        self._reason: str | None = None
        self.start_over()

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._reason is not None

    def failed(self, reason: str) -> Failed:
        """Count a failure.

        Args:
            reason: as it is logged.
        """
        is_new = reason != self._reason
        self._reason = reason
        return Failed(next(self._waits), is_new)

    def succeeded(self) -> bool:
        """Count a success; returns whether the previous attempt failed."""
        was_failing, self._reason = self.is_failing, None
        self.start_over()
        return was_failing

    def start_over(self) -> None:
        """Start the waits again with the first; the reason stays known."""
        self._waits = backoff(self._first, self._longest, self._rng)
