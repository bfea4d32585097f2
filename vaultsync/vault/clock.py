"""Vault's clock as its responses tell it, for comparing a time in Vault with one of this process."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

SAME: Final = 1.5
"""Seconds: clocks that differ by less are taken for equal, as the header `Date` tells whole seconds."""


class ServerClock:
    """The clock of this machine, corrected by the last response. Several threads may use it at once."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def observe(self, date: str) -> None:
        """Take in the header `Date` of a response that has just come; anything else is left out of account."""
        try:
            ahead = parsedate_to_datetime(date).timestamp() + 0.5 - time.time()
        except (ValueError, TypeError, OverflowError):
            return
        self._ahead = ahead if abs(ahead) > SAME else 0.0

    def now(self) -> datetime:
        """What Vault's clock shows, to about a second."""
        return datetime.now(UTC) + timedelta(seconds=self._ahead)
