"""`python -m tests.testbed.hasty run`: vaultsync whose Lease lasts 2 s in place of 15, for tests of many failovers.

The proportions are those of the real one. No setting does this: who could set it could set it wrong.
"""

import sys

from vaultsync import cli
from vaultsync.kube import election

DURATION = 2.0


def main() -> int:
    """As vaultsync's own, but in a hurry."""
    real = election.TIMING
    haste = DURATION / real.duration
    hasty = election.Timing(real.duration * haste, real.deadline * haste, real.retry * haste)
    setattr(election, "TIMING", hasty)  # noqa: B010 — it is Final; app takes it once it is imported
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
