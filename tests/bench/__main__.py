"""`python -m tests.bench`: measures vaultsync, and the talk's script, on one testbed, and prints a table."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console
from urllib3.exceptions import HTTPError

from tests.bench.figures import machine, save, show
from tests.bench.measures import NAMES, Bench
from tests.bench.stage import FULL, QUICK, NotArrivedError, Stage
from tests.bench.watching import watch_ready, watch_secrets
from tests.testbed.api import ApiError
from tests.testbed.errors import TestbedError
from tests.testbed.testbed import Options, Testbed

OPTIONS = Options(eso_store_requeue="5m")  # its own default: stores are many here, and looking at them costs it time


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    except (TestbedError, ApiError, HTTPError, NotArrivedError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measures vaultsync beside the talk's script, and its sources of changes beside each other. "
        "Fails only if something does not arrive at all.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and ExternalSecrets: under 4 minutes")
    parser.add_argument(
        "--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure to a file")
    parser.add_argument("--no-talk", action="store_true", help="leave the talk's script out")
    return parser


def _run(options: argparse.Namespace) -> int:
    console = Console()
    with Testbed(OPTIONS) as testbed, watch_secrets(testbed) as secrets, watch_ready(testbed) as ready:
        stage = Stage(testbed, secrets, ready, QUICK if options.quick else FULL)
        bench = Bench(stage, options.only or NAMES, talk=not options.no_talk)
        before = machine()
        bench.run()
    show(bench.figures, console)
    print("\nWhere vaultsync's time goes, by its own log:", *bench.breakdown, sep="\n")
    print(f"\n{before} before, {machine()} afterwards")
    if options.json:
        save(bench.figures, options.json)
    return _verdict(bench)


def _verdict(bench: Bench) -> int:
    """Only what did not arrive fails a run, and only vaultsync's: the talk's script is not under test."""
    lost = [figure.measure for figure in bench.figures if figure.vaultsync.lost]
    for measure in lost:
        print(f"bench: did not arrive with vaultsync: {measure}", file=sys.stderr)
    return 1 if lost else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
