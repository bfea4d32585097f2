"""The command `check`: its arguments and its exit codes where the settings are invalid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaultsync.cli import main

DEPLOY = Path(__file__).parents[4] / "deploy"


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VAULT", "KUBE")):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("nothing_set")
def test_wrong_settings_are_lines_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = printed.out.splitlines()
    assert [row.split()[:3] for row in rows[:2]] == [
        ["failed", "settings", name] for name in ("VAULT_ADDR", "VAULT_TOKEN")
    ]
    assert main(["check", "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["summary"]["failed"] == 2


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(("name", "value"), [("VAULT_ADDR", "vault"), ("VAULTSYNC_AUDIT_TLS_KEY", "k")])
def test_wrong_settings_print_no_setup(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["check", "--print-setup"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert name in printed.err


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ("", "vault token create"),
        ("token", "vault token create"),
        ("kubernetes", "auth/kubernetes/role/vaultsync"),
        ("approle", "auth/approle/role/vaultsync"),
        ("jwt", "auth/jwt/role/vaultsync"),
    ],
)
def test_without_settings_the_way_that_is_set_is_set_up(auth: str, words: str) -> None:
    """In a process of its own, which ends without a word to pytest."""
    env = {"PATH": os.environ["PATH"], "VAULTSYNC_VAULT_AUTH": auth}
    command = [sys.executable, "-m", "vaultsync", "check", "--print-setup"]
    done = subprocess.run(command, env=env, cwd=DEPLOY.parent, text=True, capture_output=True, check=True)
    assert words in done.stdout
    assert "not-asked" not in done.stdout
    assert "get service vaultsync-audit" in done.stdout
    assert ("vault token create" in done.stdout) == (auth in ("", "token"))


@pytest.mark.parametrize("arguments", [["--print-setup", "-o", "json"], ["everything"], ["-o", "xml"]])
def test_wrong_arguments_are_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", *arguments])
    assert caught.value.code == 2
    assert "usage: vaultsync check" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_set")
def test_a_glob_for_none_of_the_mounts_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAULTSYNC_SEED_PATHS", "other/apps/**")
    assert main(["check", "--print-setup"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "name its mount" in printed.err
