"""Runs one target under atheris until libFuzzer's options end it; an exception that is not allowed ends it with 77.

Not part of the tests: atheris takes over the process, and traces the modules that it imports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["vaultsync.core"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:] or [""]
    target: Callable[[bytes], None] | None = TARGETS.get(name)
    if target is None:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(TARGETS)}}} [-max_total_time=SECONDS] [CORPUS]")
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
