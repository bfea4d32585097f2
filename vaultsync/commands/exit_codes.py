"""Exit codes of the commands, and how a command rejects its arguments. Imports nothing, so that `--help` is fast."""

from typing import Final

FAILED: Final = 1
USAGE: Final = 2
"""A wrong argument or setting."""
BUG: Final = 70
"""Of `run`: EX_SOFTWARE of sysexits.h."""
CHANGES: Final = 2
"""Of `plan`: there is something to do."""
PLAN_USAGE: Final = 64
"""Of `plan`, for which 2 is taken: a wrong argument or setting is EX_USAGE of sysexits.h."""


class UsageError(Exception):
    """The arguments contradict each other; cli.py prints the message with the usage of the command."""


class InputError(Exception):
    """An argument, a setting or the Kubernetes configuration is invalid; cli.py prints the message on one line."""
