"""`python -m tests.faults --seconds 600 --seed 7`: episodes until the time is up, each with the next seed."""

from __future__ import annotations

import argparse
import random
import re
import sys
import time

from tests.faults.environment import start_environment
from tests.faults.episode import Broken, Episode

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def seconds(text: str) -> float:
    """A duration: 600, 600s, 10min, 2h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h)?", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 600, 10min or 2h")
    return float(found[1]) * UNITS[found[2] or ""]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 where an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=seconds, default=600.0, help="how long; 600, 10min, 2h")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the first episode")
    parser.add_argument("--episodes", type=int, default=10**9, help="at most so many")
    options = parser.parse_args(arguments)
    ends = time.monotonic() + options.seconds
    with start_environment() as environment:
        for number in range(options.episodes):
            if time.monotonic() > ends:
                break
            try:
                print(f"== seed {options.seed + number}", flush=True)
                Episode(environment, options.seed + number, lambda words: print(f"   {words}", flush=True)).run()
            except Broken as error:
                print(f"seed {options.seed + number}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
