"""`python -m tests.demo`: sets everything up, shows what vaultsync does, and stays up to play with."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from rich.console import Console
from urllib3.exceptions import HTTPError

from tests.demo.show import Show
from tests.testbed.api import ApiError
from tests.testbed.errors import TestbedError

PLAIN_WIDTH = 200


def main(arguments: list[str] | None = None) -> int:
    """0 if everything arrived, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the show, with 1 if anything did not heal")
    parser.add_argument("--openbao", action="store_true", help="OpenBao in Vault's place, with its web page")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(stay=not options.once, openbao=options.openbao)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
    except (TestbedError, ApiError, HTTPError, AssertionError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
    return 1


def _run(*, stay: bool, openbao: bool) -> int:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH  # a CI log has no width
    with Show(console, openbao=openbao) as show:
        outcomes = show.acts()
        show.summary(outcomes)
        if stay:
            show.stay()
    lost = [outcome.act for outcome in outcomes if outcome.seconds is None]
    for act in lost:
        print(f"demo: the value did not arrive: {act}", file=sys.stderr)
    return 1 if lost else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
