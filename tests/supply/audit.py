"""Whether the packages of requirements.lock have known vulnerabilities, according to pip-audit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Final

from tests.supply.locked import LOCK

NONE_KNOWN, FOUND, UNKNOWN = 0, 1, 3
"""Exit codes."""
ARGUMENTS: Final = ("--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json")


def audit(program: str, more: Sequence[str]) -> int:
    """Run pip-audit, print its result, and return the exit code.

    Args:
        program: pip-audit.
        more: arguments for it.
    """
    command = [program, "--requirement", str(LOCK), *ARGUMENTS, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    code, lines = verdict(done.stdout, done.stderr)
    print(*lines, sep="\n")
    return code


def verdict(answer: str, errors: str) -> tuple[int, list[str]]:
    """The exit code, and the lines to print.

    pip-audit itself (2.10.1) says "No known vulnerabilities found" and exits with 0 where its source knows no package
    at all, such as a mirror without PyPI's JSON API.
    """
    try:
        dependencies = json.loads(answer)["dependencies"]
    except ValueError:
        last = (errors.strip() or "no answer").splitlines()[-1]
        return UNKNOWN, [f"audit: it is unknown here whether there are vulnerabilities: {last[:300]}"]
    found = [
        f"{one['name']} {one['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in dependencies
        for flaw in one.get("vulns", ())
    ]
    if found:
        return FOUND, found
    skipped = [one["skip_reason"] for one in dependencies if "skip_reason" in one]
    if skipped or not dependencies:
        counted = f"{len(skipped)} of {len(dependencies)} packages could not be looked up"
        return UNKNOWN, [f"audit: it is unknown here whether there are vulnerabilities: {counted}", *skipped[:1]]
    return NONE_KNOWN, [f"audit: no known vulnerability in {len(dependencies)} packages"]
