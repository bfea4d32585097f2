"""config/selection: the settings that select namespaces and ExternalSecrets."""

import os

import pytest

from vaultsync.cli import main as command_line
from vaultsync.config.selection import Selection
from vaultsync.config.settings import Settings


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """With all that must be set."""
    for name in [name for name in os.environ if name.startswith(("VAULT", "KUBE"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:8200")
    monkeypatch.setenv("VAULT_TOKEN", "t0ken")
    return monkeypatch


def test_everything_is_selected_by_default(environment: pytest.MonkeyPatch) -> None:
    for name in ("NAMESPACES", "NAMESPACE_SELECTOR", "SELECTOR"):
        environment.setenv(f"VAULTSYNC_{name}", "")
    found = Settings()
    assert (found.namespaces, found.namespace_selector, found.selector) == ((), "", "")
    assert Selection().takes_every_namespace


def test_what_is_selected_is_taken_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("VAULTSYNC_NAMESPACES", "shop, shop-test,,shop")
    environment.setenv("VAULTSYNC_NAMESPACE_SELECTOR", "vaultsync=on,env!=prod")
    environment.setenv("VAULTSYNC_SELECTOR", "tier in (web, api)")
    found = Settings()
    assert found.namespaces == ("shop", "shop-test")
    assert (found.namespace_selector, found.selector) == ("vaultsync=on,env!=prod", "tier in (web, api)")


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [("NAMESPACES", value, "names of namespaces, such as shop,shop-test") for value in ("hunter2_", "a,hunter2.b", ",")]
    + [("NAMESPACE_SELECTOR", "=hunter2", ""), ("NAMESPACE_SELECTOR", " ", ""), ("SELECTOR", "hunter2 on", "")],
)
def test_a_wrong_selection_is_one_line_and_exit_2(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, right: str
) -> None:
    environment.setenv(f"VAULTSYNC_{name}", value)
    assert command_line(["run"]) == 2
    right = right or "a label selector such as vaultsync=on,env!=prod"
    assert capsys.readouterr().err == f"vaultsync: VAULTSYNC_{name} must be {right}\n"
