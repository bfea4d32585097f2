"""Clocks: Vault's, for comparing a time in Vault with one of this process, and the event loop's."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

SAME: Final = 1.5
"""Seconds: a smaller difference is ignored, as the header `Date` has whole seconds."""


class ServerClock:
    """The clock of this machine, corrected by the last response. For any thread."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def observe(self, date: str) -> None:
        """Note the header `Date` of a response that has just arrived; anything else is ignored."""
        try:
            ahead = parsedate_to_datetime(date).timestamp() + 0.5 - time.time()
        except (ValueError, TypeError, OverflowError):
            return
        self._ahead = ahead if abs(ahead) > SAME else 0.0

    def now(self) -> datetime:
        """The time on Vault's clock, to about a second."""
        return datetime.now(UTC) + timedelta(seconds=self._ahead)


def loop_time() -> float:
    """Seconds on the clock of the running event loop."""
    return asyncio.get_running_loop().time()
