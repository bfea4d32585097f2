"""The end of the process: the request to stop, the duration of each step, and the report of an unexpected error.

After SIGTERM or SIGINT the process waits for pending writes to Vault, writes their ownership metadata, releases the
Lease and closes its connections. Each step is bounded, so that all of it takes less than 5 s even if Vault or the API
server hangs. Kubernetes grants 30 s by default, a machine that shuts down less.
"""

import asyncio
import signal
import time
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, Final

from loguru import logger

from vaultsync.core.errors import VaultsyncError

WRITES_SECONDS, OWNERSHIP_SECONDS, RELEASE_SECONDS, CLOSE_SECONDS = 3.0, 4.0, 4.4, 4.7
"""Ends of the steps, in seconds after the request to stop: the responses to pending writes to Vault, the ownership
metadata, the release of the Lease, and the revocation of the Vault token."""
LEAST_SECONDS: Final = 0.3
"""Minimum duration of a step, even if the previous steps took longer."""
PACKAGE: Final = Path(__file__).parents[1]
BUG: Final = "vaultsync exits: unexpected error in one of its tasks; please report it, with `vaultsync version`"


class Stop:
    """The request to stop, and the time that is left."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._at = float("inf")

    def request(self) -> None:
        """Request the stop. A second request changes nothing."""
        if not self._requested.is_set():
            self._at = time.monotonic()
            self._requested.set()

    def on_signals(self) -> None:
        """Request the stop on SIGTERM and SIGINT, until the process ends.

        Not by loop.add_signal_handler: it restores the default action, which kills the process, when the loop is
        closed, and a second signal may arrive after that.
        """
        loop = asyncio.get_running_loop()

        def on_signal(number: int, frame: FrameType | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.request)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)

    async def wait(self) -> None:
        """Wait for the request."""
        await self._requested.wait()

    def left(self, until: float, otherwise: float) -> float:
        """Seconds left for a step that ends `until` seconds after the request; `otherwise` if there is no request."""
        if not self._requested.is_set():
            return otherwise
        return max(LEAST_SECONDS, self._at + until - time.monotonic())


def crash(error: BaseException) -> dict[str, str]:
    """Describe an exception, or that which ended a task group, without its message, which may contain a secret value.

    Of several, it describes the first that is not a VaultsyncError; the others occurred at the same time or as a
    result. `task` is the outermost function, such as Poller.run, `where` the innermost frame in vaultsync's own code.
    """
    leaves = _leaves(error)
    cause = next((leaf for leaf in leaves if not isinstance(leaf, VaultsyncError)), leaves[0])
    frames = [(frame.f_code, line) for frame, line in walk_tb(cause.__traceback__)]
    own = [(code, line) for code, line in frames if PACKAGE in Path(code.co_filename).parents]
    where = ""
    if own:
        code, line = own[-1]
        where = f"{Path(code.co_filename).relative_to(PACKAGE.parent)}:{line} in {code.co_qualname}"
    task = next((code.co_qualname for code, _ in own or frames), "")
    return {"task": task, "error": type(cause).__name__, "where": where}


def report_callback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log one line as the loop's exception handler; asyncio's own logs a traceback and the callback's arguments."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        logger.error("a callback failed unexpectedly", **crash(error))
    else:
        logger.warning("asyncio reports an error", reason=str(context.get("message", ""))[:100])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
