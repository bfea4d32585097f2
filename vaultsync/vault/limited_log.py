"""Log lines that peers can cause: one for each reason and minute, so that no peer can fill the log."""

import time
from collections.abc import Callable
from typing import Final

from loguru import logger

LOG_SECONDS: Final = 60.0


class LimitedLog:
    """Logs one line for each reason in LOG_SECONDS, with the number of lines that it omits."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged: dict[str, tuple[float, int]] = {}

    def __call__(self, level: str, message: str, **fields: object) -> None:
        """Log the line, or count it. The message is the reason, and a constant text, as each is remembered."""
        now = self._clock()
        at, omitted = self._logged.get(message, (float("-inf"), 0))
        if now - at < LOG_SECONDS:
            self._logged[message] = (at, omitted + 1)
            return
        self._logged[message] = (now, 0)
        if omitted:
            fields["not_logged_before"] = omitted
        logger.log(level, message, **fields)
