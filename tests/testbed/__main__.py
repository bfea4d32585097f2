"""Starts the testbed by hand: `python -m tests.testbed up` prints how to point kubectl and vault at it."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from tests.testbed import build, pins
from tests.testbed.errors import TestbedError
from tests.testbed.servers import ROOT_TOKEN
from tests.testbed.testbed import VAULTS, Options, Testbed


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        print("testbed: interrupted", file=sys.stderr)
        return 130
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the servers and stay until Ctrl-C")
    up.add_argument("--vault", choices=list(VAULTS), default="1.15", help="Vault's release, or openbao instead of it")
    up.add_argument("--openbao", action="store_true", help="start OpenBao too")
    up.add_argument("--no-eso", action="store_true", help="leave external-secrets out")
    up.add_argument(
        "--vault-storage", choices=["memory", "file", "raft"], default="memory", help="memory is Vault's dev mode"
    )
    up.add_argument("--keep", action="store_true", help="keep the work folder with its logs afterwards")
    up.set_defaults(run=_up)
    make = commands.add_parser("build", help="only build and install what is missing")
    make.add_argument("--all", "--openbao", action="store_true", dest="openbao", help="what only tests need too")
    make.set_defaults(run=_build)
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _build(options: argparse.Namespace) -> int:
    programs = pins.ALL if options.openbao else pins.DEMO
    build.ensure(programs)
    for program in programs:
        for name, path in build.binaries_of(program, build.cache_directory()).items():
            print(f"{name}\t{path}")
    return 0


def _up(options: argparse.Namespace) -> int:
    wanted = Options(
        eso=not options.no_eso,
        openbao=options.openbao,
        vault=options.vault,
        vault_storage=options.vault_storage,
        keep=options.keep,
    )
    testbed = Testbed(wanted)
    started = time.monotonic()
    with testbed:
        print(f"testbed: up after {time.monotonic() - started:.1f} s", file=sys.stderr)
        print(how_to_use(testbed), flush=True)
        threading.Event().wait()
    return 0


def how_to_use(testbed: Testbed) -> str:
    """Lines to paste into a shell, also written to a file to source."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in testbed.env.items()]
    folders = dict.fromkeys(str(testbed.binaries[name].parent) for name in ("kubectl", testbed.cli.name))
    exports.append(f'export PATH={shlex.quote(":".join(folders))}:"$PATH"')
    if testbed.openbao:
        exports += [f"export BAO_ADDR={testbed.openbao.address}", f"export BAO_TOKEN={ROOT_TOKEN}"]
    script: Path = testbed.work / "env.sh"
    script.write_text("\n".join(exports) + "\n")
    return "\n".join([*exports, f"# the same: . {script}", f"# logs: {testbed.work / 'logs'}", "# Ctrl-C stops it"])


if __name__ == "__main__":
    sys.exit(main())
