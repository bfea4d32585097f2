"""`python -m tests.supply`: the bill of materials, the list of licences, and known vulnerabilities."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.supply.audit import audit
from tests.supply.bill import bill
from tests.supply.licences import LICENCES, problems, table
from tests.supply.locked import locked


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m tests.supply", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("sbom", help="write the bill of materials (CycloneDX, JSON)")
    made.add_argument("file", type=Path)
    commands.add_parser("licences", help=f"write docs/{LICENCES.name}; fails with a licence that is not permitted")
    asked = commands.add_parser("audit", help="0: none known, 1: some are, 3: unknown in this environment")
    asked.add_argument("program", help="pip-audit")
    options, more = parser.parse_known_args(arguments)
    if options.command == "audit":
        return audit(options.program, more)
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    packages, elsewhere = locked()
    if options.command == "sbom":
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_text(bill(packages))
        print(f"{options.file}: {len(packages)} packages")
        return 0
    LICENCES.write_text(table(packages, elsewhere))
    print(*(wrong := problems(packages)), sep="\n", file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
