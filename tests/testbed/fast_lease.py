"""`python -m tests.testbed.fast_lease run`: vaultsync with a Lease of 4 s instead of 15 s, for tests of many failovers.

The proportions are the real ones. WATCH_SILENCE in its environment replaces the 150 s of silence after which a watch is
reopened. There are no settings for these, because wrong values would break the election.
"""

import os
import sys
from argparse import Namespace
from functools import partial

os.environ.setdefault("HOME", "/nonexistent")  # as cli.main does: kubernetes' asyncio client can't be imported without

from vaultsync.commands import run
from vaultsync.kube.election import TIMING, Timing
from vaultsync.kube.informer import SILENCE_SECONDS
from vaultsync.runtime import app

DURATION = 4.0
SILENCE = "WATCH_SILENCE"


def main() -> int:
    """Run vaultsync with these timings."""
    scale = DURATION / TIMING.duration
    timing = Timing(TIMING.duration * scale, TIMING.deadline * scale, TIMING.retry * scale)
    silence = float(os.environ.get(SILENCE, SILENCE_SECONDS))
    return run.execute(Namespace(), partial(app.run, timing=timing, watch_silence=silence))


if __name__ == "__main__":
    sys.exit(main())
