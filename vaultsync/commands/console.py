"""What commands have in common: load the settings, print messages and output, end with an exit code."""

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from loguru import logger
from pydantic import ValidationError

from vaultsync.commands.exit_codes import InputError
from vaultsync.config.settings import Settings, variable


def load_settings(given: Mapping[str, Any] | None = None) -> Settings:
    """The settings from the environment; the given values replace those of the environment.

    Raises:
        InputError: a setting is invalid.
    """
    try:
        return Settings(**(given or {}))
    except ValidationError as error:
        raise InputError(one_line(error)) from None


def one_line(error: ValidationError) -> str:
    """Every wrong setting on one line."""
    return "; ".join(f"{name} {what}".strip() for name, what in problems(error))


def problems(error: ValidationError) -> list[tuple[str, str]]:
    """The variable of each wrong setting and the valid form; never the value, which may be a token."""
    found = []
    for detail in error.errors(include_input=False, include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        name = variable(name) if name in Settings.model_fields else name
        what = "is not set" if detail["type"] == "missing" else detail["msg"].removeprefix("Value error, ")
        found.append((name, what))
    return found


def say(*lines: str) -> None:
    """Print messages to stderr."""
    for line in lines:
        print(f"vaultsync: {line}", file=sys.stderr)


def write(text: str) -> bool:
    """Write to stdout; returns whether the reader is still there."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    return True


def leave(code: int, text: str = "") -> NoReturn:
    """Write a text to stdout and end the process at once.

    A thread may still wait for Vault, and the interpreter would wait for that thread.
    """
    write(text)
    logger.complete()
    sys.stderr.flush()
    os._exit(code)
