"""A bounded, reproducible run of every fuzz target.

For other seeds and longer runs see tests/fuzz/__init__.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS
from tests.testbed.identity import PROJECT

RUNS = {"annotation": 60_000, "event": 600_000, "audit": 1_000_000, "objects": 200_000}


@pytest.mark.parametrize("name", RUNS)
def test_target_raises_only_allowed_exceptions(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris has wheels for Linux on x86-64 alone")
    for number, seed in enumerate(SEEDS[name]):
        (tmp_path / str(number)).write_text(seed)
    limits = (f"-runs={RUNS[name]}", "-seed=1", "-max_total_time=60", "-max_len=4096", "-timeout=10")
    command = [sys.executable, "-m", "tests.fuzz", name, *limits, f"-artifact_prefix={tmp_path}/", str(tmp_path)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "Done" in run.stderr, "it did not run"
