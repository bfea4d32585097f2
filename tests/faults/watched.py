"""`python -m tests.faults.watched run`: vaultsync with a short Lease; SIGUSR2 writes its tasks to FAULTS_TASKS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tests.testbed import fast_lease


def main() -> int:
    """Runs vaultsync's `main` with the signal handler."""
    signal.signal(signal.SIGUSR2, _write_tasks)
    return fast_lease.main()


def _write_tasks(number: int, frame: FrameType | None) -> None:
    """Runs between two steps of the loop, in its thread."""
    with suppress(RuntimeError):  # the loop has not started or has ended
        _write(asyncio.get_running_loop())


def _write(loop: asyncio.AbstractEventLoop) -> None:
    tasks = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks(loop))
    file = Path(os.environ["FAULTS_TASKS"])
    new = file.with_suffix(".new")
    new.write_text(json.dumps(tasks))
    new.replace(file)


if __name__ == "__main__":
    sys.exit(main())
