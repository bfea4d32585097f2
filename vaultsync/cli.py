"""The command line: `vaultsync run`, `vaultsync version`, and their help."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from loguru import logger
from pydantic import ValidationError

from vaultsync import __version__
from vaultsync.ops import logging
from vaultsync.settings import Settings, explain, variable

EXIT_FAILED, EXIT_USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = _parser().parse_args(arguments).command
    if command == "version":
        print(f"vaultsync {__version__}")
        return 0
    return _run()


def _parser() -> argparse.ArgumentParser:
    settings = "settings, all from the environment:\n" + explain()
    parser = argparse.ArgumentParser(
        prog="vaultsync",
        description="Seeds the Vault values that ExternalSecrets miss, and heals deleted and rotated ones.",
        epilog=settings,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "run",
        help="run the controller until SIGTERM",
        description="Runs the controller until SIGTERM.",
        epilog=settings,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands.add_parser("version", help="print the version")
    return parser


def _run() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"vaultsync: {_one_line(error)}", file=sys.stderr)
        return EXIT_USAGE
    logging.configure(settings.log_format, settings.log_level)
    os.environ.setdefault("HOME", "/nonexistent")  # kubernetes' client can't be imported without one
    # kubernetes' asyncio client takes a second to import: not for `version`, `--help` or a wrong setting
    from vaultsync import app
    from vaultsync.kube.client import NoKubeConfig

    code = 0
    try:
        asyncio.run(app.run(settings))
    except NoKubeConfig as error:
        print(f"vaultsync: KUBECONFIG: no usable Kubernetes configuration: {error}", file=sys.stderr)
        code = EXIT_USAGE
    except OSError as error:
        logger.error("vaultsync can't start", reason=str(error))
        code = EXIT_FAILED
    logger.complete()
    sys.stderr.flush()
    # A thread may still wait for Vault's answer; its result is not wanted, and the interpreter would wait for it.
    os._exit(code)


def _one_line(error: ValidationError) -> str:
    """Every wrong setting on one line: its variable and what would be right; never the value, which may be a token."""
    problems = []
    for detail in error.errors(include_input=False, include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        name = variable(name) if name in Settings.model_fields else name
        what = "is not set" if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")
        problems.append(f"{name} {what}")
    return "; ".join(problems)
