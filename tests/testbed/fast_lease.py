"""`python -m tests.testbed.fast_lease run`: vaultsync whose Lease lasts 4 s in place of 15, for tests of many failovers.

The proportions are those of the real one. With HASTY_SILENCE in its environment, so many seconds of silence in a watch
are too many, in place of 150. No setting does this: who could set it could set it wrong.
"""

import os
import sys
from functools import partialmethod

from vaultsync import cli
from vaultsync.kube import election, informer

DURATION = 4.0
SILENCE = "HASTY_SILENCE"


def main() -> int:
    """As vaultsync's own, but in a hurry."""
    if SILENCE in os.environ:
        patient = informer.Informer.__init__
        setattr(informer.Informer, "__init__", partialmethod(patient, silence=float(os.environ[SILENCE])))  # noqa: B010
    real = election.TIMING
    haste = DURATION / real.duration
    hasty = election.Timing(real.duration * haste, real.deadline * haste, real.retry * haste)
    setattr(election, "TIMING", hasty)  # noqa: B010 — it is Final; app takes it once it is imported
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
