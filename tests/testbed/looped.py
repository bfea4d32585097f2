"""Base class of the testbed's proxies, which run on their own asyncio loop in their own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.testbed.processes import free_port

T = TypeVar("T")

STOP_SECONDS = 10.0


class Looped:
    """Listens on a port during its `with` block.

    Attributes:
        port: where it listens.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        name = f"{type(self).__name__}-{self.port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a callback on the loop, from any other thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_SECONDS)

    async def _start(self) -> None:
        raise NotImplementedError

    async def _stop(self) -> None:
        raise NotImplementedError
