"""`python -m tests.bench`: measures vaultsync, and the talk's script, on one testbed, and prints a table."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console
from urllib3.exceptions import HTTPError

from tests.bench.document import DOCS, about, merge, write
from tests.bench.figures import VAULTSYNC, Run, load, machine, save, show
from tests.bench.fixture import FULL, QUICK, Fixture, NotArrivedError
from tests.bench.measures import BESIDE, NAMES, Bench, columns
from tests.bench.peers import PEERS
from tests.bench.scale import ACCOUNT
from tests.bench.watching import watch_ready, watch_secrets
from tests.testbed.api import ApiError
from tests.testbed.errors import TestbedError
from tests.testbed.testbed import Options, Testbed

OPTIONS = Options(
    eso_store_requeue="5m",  # its default: there are many stores, and checking them costs it time
    audited=ACCOUNT,
)


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
        description="Compares vaultsync with its peers and its sources with each other, and measures its costs "
        "at several sizes; writes docs/benchmarks.md. Fails only if a value does not arrive.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer repeats and ExternalSecrets, in a few minutes; writes no docs"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help=f"one of {', '.join(NAMES)}; may be repeated; writes no docs",
    )
    parser.add_argument("--no-peers", action="store_true", help="vaultsync alone; writes no docs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single figure to a file")
    parser.add_argument(
        "--from-json",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: write the docs from such files, of which later ones win",
    )
    parser.add_argument(
        "--docs", type=Path, metavar="FOLDER", help=f"write the docs there; by default a whole run does, to {DOCS}"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="merge the measured figures, or those of the files, into the docs; each row is marked with its run",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="write py-spy profiles of vaultsync in the measures of `scale` to this folder; writes no docs",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    run = _merged(options) if options.from_json else _measure(options)
    console = Console()
    for title, figures in run.figures.items():
        show(columns(title, figures), figures, console)
    print(*(f"{name}: {text}" for name, text in run.about.items()), sep="\n")
    if options.merge:
        merge(run, options.docs or DOCS)
        return _verdict(run)
    is_whole = options.from_json or not (options.quick or options.only or options.no_peers or options.profile)
    if options.docs or is_whole:
        write(run, options.docs or DOCS)
    return _verdict(run)


def _merged(options: argparse.Namespace) -> Run:
    run = load(options.from_json)
    if options.json:
        save(run, options.json)
    return run


def _measure(options: argparse.Namespace) -> Run:
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)
    extent = {"extent": "quick: fewer repeats and ExternalSecrets"} if options.quick else {}
    before = machine()
    with Testbed(OPTIONS) as testbed, watch_secrets(testbed) as secrets, watch_ready(testbed) as ready:
        fixture = Fixture(testbed, secrets, ready, QUICK if options.quick else FULL)
        peers = () if options.no_peers else PEERS
        bench = Bench(fixture, options.only or NAMES, peers, options.profile)
        try:
            bench.run()
        finally:  # keep an hour's figures even if the run fails
            circumstances = {**about(), "machine": f"{before} before, {machine()} afterwards", **extent}
            run = Run(circumstances, bench.figures)
            if options.json:
                save(run, options.json)
    print("\nWhere vaultsync's time goes, by its own log:", *bench.breakdown, "", sep="\n")
    return run


def _verdict(run: Run) -> int:
    """Only a value that did not arrive with vaultsync fails a run: the peers are not under test."""
    lost = [
        figure.measure
        for title, figures in run.figures.items()
        for figure in figures
        for key, sample in figure.samples.items()
        if sample.lost and (title != BESIDE or key == VAULTSYNC)
    ]
    for measure in lost:
        print(f"bench: did not arrive with vaultsync: {measure}", file=sys.stderr)
    return 1 if lost else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
