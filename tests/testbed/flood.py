"""`python flood.py udp|tcp HOST PORT FILE SECONDS`: sends the lines of a file repeatedly, as fast as possible.

It is its own process, so that it does not slow down the measuring threads; and it has the lowest priority.
It prints the number of sent lines.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

ROUND = 100
"""Lines between two checks of the time."""
KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


def main() -> None:
    kind, host, port, file, seconds = sys.argv[1:]
    lines = [line for line in Path(file).read_bytes().splitlines(keepends=True) if len(line) < 60_000][-ROUND:]
    os.nice(10)
    ends_at = time.monotonic() + float(seconds)
    sent = 0
    with socket.socket(socket.AF_INET, KINDS[kind]) as out:
        out.connect((host, int(port)))
        while time.monotonic() < ends_at:
            for line in lines:
                out.sendall(line)
            sent += len(lines)
    print(sent)


if __name__ == "__main__":
    main()
