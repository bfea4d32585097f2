"""The commands that the manual (README.md, docs/) shows, and how an operator runs them: by bash, on the testbed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.testbed import build, pins
from tests.testbed.identity import PROJECT
from tests.testbed.testbed import Testbed

README = (PROJECT / "README.md").read_text()
DOCS = PROJECT / "docs"


def section(title: str, text: str = README) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def commands(text: str) -> list[str]:
    """Its blocks of shell, in their order."""
    return [textwrap.dedent(block).strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def objects(text: str) -> list[str]:
    """Its blocks of YAML that stand by themselves."""
    return re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def adapted(text: str, here: Mapping[str, str]) -> str:
    """The text with what is another here than in the manual."""
    return re.sub("|".join(map(re.escape, here)), lambda match: here[match.group()], text)


def run(
    testbed: Testbed, command: str, folder: Path = PROJECT, env: Mapping[str, str] | None = None, *, helm: bool = False
) -> str:
    """Runs commands as an admin of Kubernetes and root of Vault; they must succeed.

    Args:
        testbed: the servers.
        command: of bash; `vaultsync` is one too.
        folder: where it runs.
        env: further variables.
        helm: whether helm is wanted too.

    Returns:
        What they print.
    """
    binaries = [Path(sys.executable), testbed.cli, testbed.binaries["kubectl"]]
    binaries += build.ensure([pins.HELM]).values() if helm else []
    path = os.pathsep.join([*(str(binary.parent) for binary in binaries), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, **testbed.env, "HOME": str(testbed.work), **(env or {}), "PATH": path},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
