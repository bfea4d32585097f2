"""The command `check`: its arguments and its exit codes where the settings are invalid."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vaultsync.cli import main
from vaultsync.commands import console

PROJECT = Path(__file__).parents[4]


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
@pytest.mark.usefixtures("nothing_set")
def test_without_settings_the_way_that_is_set_is_set_up(
    auth: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(code: int, text: str) -> int:
        print(text)
        return code

    monkeypatch.setattr(console, "leave", leave)  # which would end the process
    monkeypatch.setenv("VAULTSYNC_VAULT_AUTH", auth)
    assert main(["check", "--print-setup"]) == 0
    printed = capsys.readouterr().out
    assert words in printed
    assert "not-asked" not in printed
    assert "get service vaultsync-audit" in printed
    assert ("vault token create" in printed) == (auth in ("", "token"))


def test_the_process_ends_with_the_script_on_stdout() -> None:
    command = [sys.executable, "-m", "vaultsync", "check", "--print-setup"]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=env, cwd=PROJECT, text=True, capture_output=True, check=True)
    assert done.stdout.startswith("# Sets up what vaultsync needs")
    assert done.stderr == ""


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
