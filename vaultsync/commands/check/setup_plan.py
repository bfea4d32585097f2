"""The plan of `vaultsync check --print-setup`: what to set up, from the settings and the check report. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vaultsync.commands.check.audit_devices import enable_device
from vaultsync.commands.check.rbac import (
    DEFAULT_ACCOUNT,
    DEFAULT_LEASE,
    RbacRule,
    ServiceAccount,
    leader_rules,
    required_rules,
)
from vaultsync.commands.check.report import Check, CheckReport, Status
from vaultsync.commands.policy import DEFAULT_MOUNTS, policy
from vaultsync.config.auth import AuthConfig
from vaultsync.config.settings import Settings
from vaultsync.core.paths import clean_namespace
from vaultsync.vault.api import POLICY_NAME, has_event_stream

AUDIENCE: Final = "vault"
"""Audience of the ServiceAccount token that deploy/base mounts for Vault."""


@dataclass(frozen=True, slots=True)
class SetupPlan:
    """What to set up.

    Attributes:
        account: gets the rules.
        crds: whether external-secrets is missing.
        rules: permissions in Kubernetes; none if they are granted.
        namespaces: the watched ones, by name; none if all are.
        policy: Vault's policy in HCL, "" if it is there.
        policy_name: its name in Vault.
        auth: how vaultsync logs in.
        login: whether the login fails: role or token are to be created.
        grants_by_role: whether the login succeeds, but the role gives other policies.
        audience: of the ServiceAccount token, "" if vaultsync logs in with the token for the API server.
        audit: the command that enables an audit device, "" if a change source works.
        device_fixes: commands for the audit devices that can block Vault.
        namespace_to_seed: a namespace to annotate, "" if seeding is enabled somewhere.
        address: VAULT_ADDR, "" if it is not set.
        vault_namespace: VAULT_NAMESPACE, "" if it is not set.
    """

    account: ServiceAccount = DEFAULT_ACCOUNT
    crds: bool = False
    rules: Sequence[RbacRule] = ()
    namespaces: Sequence[str] = ()
    policy: str = ""
    policy_name: str = POLICY_NAME
    auth: AuthConfig = field(default_factory=AuthConfig)
    login: bool = False
    grants_by_role: bool = False
    audience: str = AUDIENCE
    audit: str = ""
    device_fixes: Sequence[str] = ()
    namespace_to_seed: str = ""
    address: str = ""
    vault_namespace: str = ""


def setup_plan(settings: Settings, report: CheckReport) -> SetupPlan:
    """Plan to set up everything that a check found missing, or could not check.

    Permissions of a person say nothing about those of vaultsync: with a person's credentials, the plan has all rules.

    Args:
        settings: of `vaultsync run`.
        report: of all checks; an empty one plans the whole set-up.

    Raises:
        ValueError: a glob of VAULTSYNC_SEED_PATHS matches none of the mounts.
    """
    account, token, auth = ServiceAccount.parse(report.user), report.token, settings.auth
    needs_policy, has_run = not report.is_ok(Check.POLICY), bool(report.results)
    has_other_policy = needs_policy and token is not None and not token.policy
    streams = settings.source.streams and (not report.version or has_event_stream(report.version))
    mounts, seeds = report.mounts or DEFAULT_MOUNTS, settings.seeds
    return SetupPlan(
        account=account or DEFAULT_ACCOUNT,
        crds=has_run and not report.is_ok(Check.CRDS) and report.is_ok(Check.KUBERNETES),
        rules=() if account and report.is_ok(Check.PERMISSION) else _rules(settings, account),
        namespaces=settings.namespaces,
        policy=policy(settings.seedable_paths, mounts, seeds=seeds, streams=streams) if needs_policy else "",
        policy_name=(token.policy if token else "") or POLICY_NAME,
        auth=auth,
        login=not report.is_ok(Check.LOGIN) or (has_other_policy and not auth.issues),
        grants_by_role=has_other_policy,
        audience="" if account and not auth.jwt_file else AUDIENCE,
        audit="" if report.is_ok(Check.SOURCE) else enable_device(settings),
        device_fixes=[one.fix for one in report.results if (one.check, one.status) == (Check.AUDIT, Status.FAILED)],
        namespace_to_seed=report.unseeded_namespace or ("" if has_run else "NAMESPACE"),
        address=settings.vault_addr if has_run else "",
        vault_namespace=clean_namespace(settings.vault_namespace),
    )


def _rules(settings: Settings, account: ServiceAccount | None) -> tuple[RbacRule, ...]:
    """All rules; a person's shell lacks the settings of the pod, so that those of deploy/base replace them."""
    writes = not settings.dry_run
    rules = required_rules(writes=writes, takes_condition=True)  # another version of external-secrets may take it
    lease = settings.lease if account else settings.lease or DEFAULT_LEASE
    return (*rules, *leader_rules(lease if writes else "", labels=settings.labels_leader if account else True))
