"""When and how the process ends: the request to stop, the time each step may take then, and what a bug is reported as.

SIGTERM and SIGINT ask for the same: writes in Vault that were sent are waited for and marked, then the Lease is
released, then connections are closed. Each step has a bound, so that the whole takes less than 5 s also where Vault or
the API server does not answer. Kubernetes grants 30 s by default, a machine that is switched off less.
"""

import asyncio
import signal
import time
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, Final, NamedTuple

from loguru import logger

from vaultsync.core.errors import VaultsyncError

WRITES_SECONDS: Final = 3.0
"""After the request to stop: writes in Vault that are not answered by then are given up."""
MARKS_SECONDS: Final = 4.0
"""The same for ownership marks."""
RELEASE_SECONDS: Final = 4.4
"""The same for the release of the Lease."""
CLOSE_SECONDS: Final = 4.7
"""The same for giving back the Vault token."""
LEAST_SECONDS: Final = 0.3
"""The shortest time that a step is given, whatever the steps before it have taken."""
PACKAGE: Final = Path(__file__).parents[1]
BUG: Final = "vaultsync ends: a bug in one of its tasks; please report it, with `vaultsync version`"


class Stop:
    """The request to stop, and how much time is left."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._at = float("inf")

    def request(self) -> None:
        """Ask to stop. A second request changes nothing."""
        if not self._requested.is_set():
            self._at = time.monotonic()
            self._requested.set()

    def on_signals(self) -> None:
        """Have SIGTERM and SIGINT ask for it, until the process ends.

        Not by loop.add_signal_handler: that would restore the default action, which kills the process, as soon as the
        loop is closed, and a second signal may arrive then.
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
        """Seconds that a step may take.

        Args:
            until: seconds after the request.
            otherwise: where nobody has asked to stop.
        """
        if not self._requested.is_set():
            return otherwise
        return max(LEAST_SECONDS, self._at + until - time.monotonic())


class Crash(NamedTuple):
    """What is said of an unexpected exception. Not its message, which may hold a value.

    Attributes:
        task: the outermost function, such as Poller.run.
        error: the exception's type.
        where: the innermost place in vaultsync's own code.
    """

    task: str
    error: str
    where: str


def crash(error: BaseException) -> Crash:
    """What ended a task group, or a plain exception.

    Of several it is the first that nobody raises on purpose; what else failed did so at the same time or because of it.
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
    return Crash(task, type(cause).__name__, where)


def report_callback(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler: one line, where asyncio's own prints a traceback and the callback's arguments."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        logger.error("a callback failed unexpectedly", **crash(error)._asdict())
    else:
        logger.warning("asyncio complains", reason=str(context.get("message", ""))[:100])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
