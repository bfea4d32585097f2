"""What is set up, by the settings and the results of the checks."""

from typing import Any

import pytest

from tests.unit.build import settings
from vaultsync.commands.check.rbac import DEFAULT_ACCOUNT, DEFAULT_LEASE, RBAC_RULES, RbacRule, leader_rules
from vaultsync.commands.check.report import Check, CheckReport, CheckResult, Status
from vaultsync.commands.check.setup import setup_plan
from vaultsync.config.auth import Auth
from vaultsync.core.paths import Mount
from vaultsync.vault.api import Token


def fine(*more: CheckResult) -> list[CheckResult]:
    told = {line.check for line in more}
    return [*(CheckResult(name, Status.OK, "") for name in Check if name not in told), *more]


def test_without_checks_everything_is_set_up() -> None:
    found = setup_plan(settings(), CheckReport())
    assert (found.login, found.namespace_to_seed) == (True, "NAMESPACE")
    assert "get service vaultsync-audit" in found.audit
    assert found.rules == (*RBAC_RULES, *leader_rules(DEFAULT_LEASE, labels=True))
    assert 'path "secret/data/*"' in found.policy
    assert (found.crds, found.address) == (False, "")


def test_the_plan_omits_what_the_checks_found_ok() -> None:
    token = Token(("vaultsync-2",), 0.0, False, 0.0, 0.0, True, 0)
    found = setup_plan(settings(), CheckReport(fine(), DEFAULT_ACCOUNT.user, (Mount("kv/", 2),), token, "1.15.1"))
    assert (found.rules, found.policy, found.login, found.audit, found.crds) == ((), "", False, "", False)
    by_person = setup_plan(settings(), CheckReport(fine(), "admin", token=token, version="1.15.1"))
    assert (by_person.rules, by_person.policy) == ((*RBAC_RULES, *leader_rules(DEFAULT_LEASE, labels=True)), "")


@pytest.mark.parametrize(
    ("user", "changes", "own"),
    [
        ("admin", {"lease": "a/b"}, leader_rules("a/b", labels=True)),
        ("admin", {"dry_run": True}, ()),
        (DEFAULT_ACCOUNT.user, {}, ()),
        (DEFAULT_ACCOUNT.user, {"lease": "a/b"}, leader_rules("a/b", labels=False)),
        (
            DEFAULT_ACCOUNT.user,
            {"lease": "a/b", "pod_name": "p", "audit_listen": "udp:0.0.0.0:8220"},
            leader_rules("a/b", labels=True),
        ),
    ],
)
def test_the_rights_in_the_own_namespace_go_by_the_settings(
    user: str, changes: dict[str, Any], own: tuple[RbacRule, ...]
) -> None:
    """A pod has settings that are its own; a person's shell lacks them."""
    lacks = CheckResult(Check.PERMISSION, Status.FAILED, "may not", "grant it", "events")
    found = setup_plan(settings(**changes), CheckReport(fine(lacks), user))
    assert tuple(right for right in found.rules if right.namespace) == own


def test_a_policy_that_is_not_vaultsyncs_is_not_written_but_a_new_one_with_a_token() -> None:
    token = Token(("admin",), 0.0, False, 0.0, 0.0, True, 0)
    lacks = CheckResult(Check.POLICY, Status.FAILED, "may not", "write it", "kv/")
    found = setup_plan(settings(), CheckReport(fine(lacks), DEFAULT_ACCOUNT.user, (Mount("kv/", 2),), token, "1.15.1"))
    assert (found.policy_name, found.login) == ("vaultsync", True)
    assert 'path "kv/data/*"' in found.policy
    by_role = settings(vault_auth=Auth.KUBERNETES, vault_role="r")
    found = setup_plan(by_role, CheckReport(fine(lacks), DEFAULT_ACCOUNT.user, (Mount("kv/", 2),), token, "1.15.1"))
    assert (found.policy_name, found.login, found.grants_by_role) == ("vaultsync", False, True), (
        "the role may be others' too"
    )


@pytest.mark.parametrize(
    ("user", "jwt_file", "audience"),
    [
        ("admin", "", "vault"),
        ("admin", "/a", "vault"),
        (DEFAULT_ACCOUNT.user, "/a", "vault"),
        (DEFAULT_ACCOUNT.user, "", ""),
    ],
)
def test_the_audience_is_that_of_the_token_which_is_logged_in_with(user: str, jwt_file: str, audience: str) -> None:
    """A pod that names no file has the token for the API server; a person's shell stands for deploy/base."""
    by_role = settings(vault_auth=Auth.KUBERNETES, vault_role="r", vault_jwt_file=jwt_file)
    assert setup_plan(by_role, CheckReport([], user)).audience == audience
