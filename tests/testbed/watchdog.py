"""Ends the testbed's processes when the process that started them has ended in any way.

It runs as its own process and reads lines from its standard input: "+PID" for a process to look after, "-PID" for
one that has ended, "=FOLDER" for a folder that only the parent uses. When the input ends, the parent is dead
(even by SIGKILL): the remaining processes are killed, each by its own pid, and the folders are removed.

PR_SET_PDEATHSIG would do the same from inside the kernel, but its signal comes when the *thread* that started the
process ends, and the testbed starts its servers side by side in threads that do end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # it ends with its parent, not before
    pids: set[int] = set()
    folders: list[str] = []
    for line in sys.stdin:
        sign, rest = line[0], line[1:].rstrip("\n")
        if sign == "=":
            folders.append(rest)
        elif sign == "+":
            pids.add(int(rest))
        else:
            pids.discard(int(rest))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # each leads a group of its own, named by its pid
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
