"""Results of the checks of stores and ExternalSecrets."""

import pytest

from vaultsync.commands.check.object_checks import check_external_secrets, check_stores, resembles
from vaultsync.commands.check.report import Status

HERE = "http://vault.test:8200"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("http://vault:8200", "http://vault.vault:8200", True),
        ("https://vault.vault.svc.cluster.local", "http://vault.vault:8200", True),
        ("http://127.0.0.1:8200", "http://localhost:8201", True),
        ("https://VAULT.example.com./x", "https://vault.example.com", True),
        ("https://vault.example.com", "https://vault.example.org", False),
        ("http://10.0.0.1:8200", "http://10.0.0.2:8200", False),
        ("http://[", "http://vault", False),
        ("vault", "http://vault", False),
        ("", "", False),
    ],
)
def test_addresses_that_look_like_each_other(one: str, other: str, alike: bool) -> None:
    assert resembles(one, other) is alike
    assert resembles(other, one) is alike


@pytest.mark.parametrize(
    ("in_all", "others", "mark", "words"),
    [
        (2, {}, Status.OK, "2 in this Vault"),
        (0, {}, Status.WARNING, "none of the selected stores"),
        (1, {"SecretStore a/b": "http://else"}, Status.OK, "1 in this Vault, 1 in another: SecretStore a/b"),
        (0, {"SecretStore a/b": "http://else"}, Status.FAILED, "0 in this Vault, 1 in another"),
        (1, {"SecretStore a/b": "http://vault"}, Status.WARNING, "1 in what may be this Vault by another address"),
        (0, {"SecretStore a/b": "http://vault"}, Status.FAILED, "1 in what may be this Vault by another address"),
    ],
)
def test_stores(in_all: int, others: dict[str, str], mark: Status, words: str) -> None:
    line = check_stores([HERE, "http://known"], in_all, others)
    assert line.status is mark
    assert words in line.found
    if others and mark is not Status.OK:
        assert line.fix.endswith(f"VAULTSYNC_STORE_SERVERS=http://known,{others['SecretStore a/b']}")


def test_stores_of_thousands_are_a_few_words() -> None:
    others = {f"SecretStore a/{number}": f"http://vault:{number}/{'x' * 5000}" for number in range(1000)}
    line = check_stores([HERE], 1, others)
    assert len(line.found + line.fix) < 3000
    assert "and 997 more" in line.found


def test_the_first_blocked_external_secret() -> None:
    line = check_external_secrets(9, 5, [("a/b", "x" * 1000), ("a/c", "y")], "")
    assert (line.status, line.fix) == (Status.FAILED, "vaultsync explain a/b, and for all: vaultsync plan")
    assert line.found.startswith("a/b is blocked (and 1 more): xxx")
    assert len(line.found) < 700
    assert check_external_secrets(9, 5, [("a/b", "x")], "").fix == "vaultsync explain a/b"
    assert check_external_secrets(1, 0, [], "shop").fix == "kubectl annotate namespace shop vaultsync.io/seed=true"
    assert check_external_secrets(1, 0, [], "").status is Status.OK
