"""Follows a log file whose lines are JSON, in its own thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.01


class Tail:
    """Passes each JSON line that is written to a file to a callback; `with` starts and ends it.

    Args:
        on_line: called in the tail's thread.
    """

    def __init__(self, file: Path, on_line: Callable[[dict[str, Any]], None]) -> None:
        self._file = file
        self._on_line = on_line
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tail {file.name}", daemon=True)

    def __enter__(self) -> Tail:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rest = b""
        with self._file.open("rb") as file:
            while not self._stop.wait(LOOK_SECONDS):
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    if line.startswith(b"{"):
                        self._on_line(json.loads(line))
