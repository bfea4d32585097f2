"""cli: which modules a command imports, and where wrong arguments go."""

import subprocess
import sys

import pytest

CLIENTS = ("hvac", "kubernetes", "aiohttp", "websockets", "requests")
IMPORTS = "import sys; from vaultsync.cli import main\ntry: main({})\nfinally: print(*sys.modules, file=sys.stderr)"


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["run", "--help"], ["check", "--help"], ["policy"]])
def test_commands_that_ask_nobody_import_no_client(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(arguments)], capture_output=True, text=True, check=True, env={}
    )
    assert ran.stdout
    loaded = ran.stderr.split()
    assert "vaultsync.cli" in loaded
    assert [module for module in loaded if module.split(".")[0] in CLIENTS] == []
