"""The timeline: rows from several threads, shown in the order in which things happened."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.text import Text

HOLD_SECONDS = 0.2
"""Delay of each row: an earlier row may still arrive from another source."""

COLOURS = {
    "operator": "bold yellow",
    "Vault": "yellow",
    "vaultsync": "bold cyan",
    "external-secrets": "magenta",
    "Kubernetes": "blue",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that happened.

    Attributes:
        at: when, in wall time.
        who: one of COLOURS.
        since: returns the start of its milliseconds, or None. It is called when the row is shown:
            the cause may be recorded after the effect.
    """

    at: float
    who: str
    text: str
    since: Callable[[], float | None] = lambda: None
    style: str = ""


class Timeline:
    """Shows rows as they come; `with` starts it, and shows what is left at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, int, Row]] = []
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Timeline:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show_until(float("inf"))

    def add(self, row: Row) -> None:
        with self._lock:
            heapq.heappush(self._waiting, (row.at, next(self._numbers), row))

    def catch_up(self) -> None:
        """Waits until all rows so far are shown."""
        time.sleep(HOLD_SECONDS)
        self._show_until(time.time())

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self._show_until(time.time() - HOLD_SECONDS)

    def _show_until(self, moment: float) -> None:
        with self._lock:
            while self._waiting and self._waiting[0][0] <= moment:
                _, _, row = heapq.heappop(self._waiting)
                self._console.print(line(row), soft_wrap=True)


def line(row: Row) -> Text:
    """A row such as `21:05:03.214   +33 ms  vaultsync         force-synced dev-1/postgres`."""
    clock = datetime.fromtimestamp(row.at).strftime("%H:%M:%S.%f")[:-3]
    since = row.since()
    passed = "" if since is None else f"+{max(0.0, row.at - since) * 1000:,.0f} ms"
    return Text.assemble(
        (clock, "dim"),
        (f"{passed:>11}", "bold green"),
        "  ",
        (f"{row.who:<16}", COLOURS[row.who]),
        "  ",
        (row.text, row.style),
    )
