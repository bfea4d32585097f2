"""The commands that the manual (README.md, docs/) shows, and how an operator runs them: by bash, on the testbed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.testbed import build, pins
from tests.testbed.identity import PROJECT
from tests.testbed.testbed import Testbed
from vaultsync.commands.check.audit_devices import WRITE_TIMEOUT

README = (PROJECT / "README.md").read_text()
DOCS = PROJECT / "docs"
SET_UP = ("README.md", "docs/**/*.md", "deploy/**/*", "vaultsync/**/*.py")
"""The files that have commands for an audit device, including `check --print-setup`."""
LOGS = "kubectl -n vaultsync logs -l app.kubernetes.io/name=vaultsync --tail=-1"
"""How the manual reads the logs of all replicas."""
DEVICE_COMMAND = re.compile(r"audit enable [^\n]*\bsocket\b((?:[^\n]*\\\n)*[^\n]*)")
DEVICE_OPTION = re.compile(r"\b(socket_type|write_timeout|prefix|skip_test)=(\w+)")
ON_ONE_MACHINE = re.compile(r"address=(127\.|localhost|\[::1\]|/)")


def section(title: str, text: str = README) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def commands(text: str) -> list[str]:
    """The shell blocks of the text, in order."""
    return [textwrap.dedent(block).strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def objects(text: str) -> list[str]:
    """The YAML blocks of the text that are not indented."""
    return re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def audit_devices() -> dict[str, dict[str, str]]:
    """The options of the socket audit device between machines, by the file with its set-up."""
    files = {file for pattern in SET_UP for file in PROJECT.glob(pattern) if file.is_file()}
    return {
        str(file.relative_to(PROJECT)): dict(DEVICE_OPTION.findall(options))
        for file in sorted(files)
        for options in DEVICE_COMMAND.findall(_joined(file.read_text()))
        if not ON_ONE_MACHINE.search(options)
    }


def _joined(text: str) -> str:
    """Joins Python strings that continue on the next line."""
    return re.sub(r"""["']\n +f?["']""", "", text).replace("{WRITE_TIMEOUT}", WRITE_TIMEOUT)


def adapted(text: str, here: Mapping[str, str]) -> str:
    """The text with the replacements for this environment."""
    return re.sub("|".join(map(re.escape, here)), lambda match: here[match.group()], text)


def run(
    testbed: Testbed,
    command: str,
    folder: Path = PROJECT,
    env: Mapping[str, str] | None = None,
    programs: Sequence[pins.GoProgram] = (),
) -> str:
    """Runs commands as an admin of Kubernetes and root of Vault; they must succeed.

    Args:
        testbed: the servers.
        command: of bash; `vaultsync` is one too.
        folder: where it runs.
        env: further variables.
        programs: that are needed too.

    Returns:
        What they print.
    """
    binaries = [Path(sys.executable), testbed.cli, testbed.binaries["kubectl"]]
    binaries += build.ensure(programs).values()
    path = os.pathsep.join([*(str(binary.parent) for binary in binaries), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, **testbed.env, "HOME": str(testbed.work), **(env or {}), "PATH": path},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
