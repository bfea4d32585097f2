"""Results of the checks of Vault and of the login."""

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.build import V2
from vaultsync.commands.check.login_checks import (
    check_health,
    check_token,
    credential_unreadable,
    login_refused,
    look_up_refused,
)
from vaultsync.commands.check.policy_checks import policy_fix
from vaultsync.commands.check.report import SETUP, Status
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.core.errors import NoCredential, VaultDenied
from vaultsync.vault.api import Health, Token

HERE = "http://vault.test:8200"


GOOD = Token(("default", "vaultsync"), 3600.0, True, 86400.0, 0.0, True, 0)


@pytest.mark.parametrize(
    ("health", "mark", "words"),
    [
        (Health(True, False, False, "1.15.1"), Status.OK, f"1.15.1 at {HERE}, unsealed, active"),
        (Health(True, False, True, "1.15.1"), Status.OK, "standby"),
        (Health(True, True, True, "1.15.1"), Status.FAILED, "is sealed"),
        (Health(False, True, True, "1.15.1"), Status.FAILED, "is not initialised"),
    ],
)
def test_vault(health: Health, mark: Status, words: str) -> None:
    line = check_health(HERE, health)
    assert (line.status, words in line.found) == (mark, True)


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({}, Status.OK, "policies default, vaultsync; it ends in 1h, and vaultsync renews it"),
        ({"ttl": 0.0, "renewable": False, "period": 0.0}, Status.OK, "it does not end"),
        ({"policies": ("root",), "ttl": 0.0}, Status.FAILED, "a root token"),
        ({"renewable": False}, Status.WARNING, "ends in 1h and can't be renewed"),
        ({"period": 0.0}, Status.WARNING, "can't be renewed without end"),
        ({"max_ttl": 7200.0}, Status.WARNING, "explicit_max_ttl"),
        ({"orphan": False}, Status.WARNING, "ends with its parent token"),
        ({"uses": 5, "orphan": False}, Status.WARNING, "ends after 5 more requests, and ends with"),
    ],
)
def test_login(changes: dict[str, Any], mark: Status, words: str) -> None:
    line = check_token(replace(GOOD, **changes), AuthConfig())
    assert (line.status, bool(line.fix)) == (mark, mark is not Status.OK)
    assert words in line.found


WAYS = (
    AuthConfig(Auth.KUBERNETES, role="seeder"),
    AuthConfig(Auth.APPROLE, "team/approle"),
    AuthConfig(Auth.JWT, role="seeder", jwt_file="/var/jwt"),
)
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.auth.value)


@each_way
def test_a_token_that_is_issued_again_and_again_may_end(way: AuthConfig) -> None:
    for changes in ({"renewable": False}, {"period": 0.0}, {"max_ttl": 7200.0}, {"orphan": False}):
        line = check_token(replace(GOOD, **changes), way)
        assert (line.status, line.fix) == (Status.OK, "")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (AuthConfig(), "VAULT_TOKEN a token of vault token create -orphan -policy=vaultsync -period=24h"),
        (AuthConfig(token_file="/var/a b"), "in '/var/a b' a token of vault token create"),
        (WAYS[0], "vault write auth/kubernetes/role/seeder token_policies=vaultsync"),
        (WAYS[1], "vault write auth/team/approle/role/vaultsync token_policies=vaultsync"),
        (WAYS[2], "vault write auth/jwt/role/seeder token_policies=vaultsync"),
    ],
)
def test_the_fix_for_another_token_fits_the_auth_method(way: AuthConfig, words: str) -> None:
    root = check_token(replace(GOOD, policies=("root",)), way)
    assert (root.status, words in root.fix) == (Status.FAILED, True)
    assert words in policy_fix([V2], replace(GOOD, policies=("admin",)), way, streams=True)
    if not way.issues:
        assert words in check_token(replace(GOOD, renewable=False), way).fix
        assert words in login_refused(VaultDenied("Vault returned 403"), way).fix
    assert way.token_file == "" or "VAULT_TOKEN" not in root.fix


@each_way
def test_a_refused_login_has_a_fix_for_the_auth_method(way: AuthConfig) -> None:
    for line in (
        credential_unreadable(NoCredential("no such file"), way),
        login_refused(VaultDenied("Vault returned 403"), way),
        look_up_refused(VaultDenied("Vault returned 403"), way),
    ):
        assert line.status is Status.FAILED
        assert SETUP in line.fix
        assert "VAULT_TOKEN" not in line.fix
        assert ("VAULTSYNC_VAULT_JWT_FILE" in line.fix) <= (way.auth is not Auth.APPROLE)
    assert way.at in login_refused(VaultDenied("Vault returned 403"), way).fix
    assert way.role_at in look_up_refused(VaultDenied("Vault returned 403"), way).fix


def test_a_token_file_that_can_not_be_read_is_to_be_written() -> None:
    line = credential_unreadable(
        NoCredential("/var/token can't be read: No such file"), AuthConfig(token_file="/var/token")
    )
    assert line.fix.startswith("write a token there, such as of vault token create")
