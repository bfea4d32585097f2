"""Checks of Vault and of the login, and the commands by which an admin gives vaultsync a token that lasts."""

import shlex
from typing import Final

from vaultsync.commands.check.report import SETUP, Check, CheckReport, CheckResult, Status
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.config.settings import Settings
from vaultsync.core.durations import age
from vaultsync.core.errors import NoCredential, RedirectRefused, VaultsyncError, VaultUnavailable, VaultUntrusted
from vaultsync.vault.api import LOOK_UP, POLICY_NAME, Health, Token
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login

_SET_UP: Final = f"{SETUP} prints the commands that create {{}}, the role and its policy"


async def check_vault_and_login(settings: Settings, vault: VaultClient, login: Login, report: CheckReport) -> None:
    """Check both, and fill the report's `version` and `token`."""
    try:
        health = await vault.health()
    except (VaultUnavailable, RedirectRefused) as error:
        result = vault_unavailable(settings.vault_addr, error)
    else:
        report.version = health.version
        result = check_health(settings.vault_addr, health)
    report.add(result)
    if result.status is Status.OK:
        report.add(await _check_login(settings.auth, login, report))
    else:
        report.add(Check.LOGIN.not_asked(Check.VAULT))


async def _check_login(auth: AuthConfig, login: Login, report: CheckReport) -> CheckResult:
    try:
        await login.log_in()
    except NoCredential as error:
        return credential_unreadable(error, auth)
    except VaultsyncError as error:
        return login_refused(error, auth)
    try:
        report.token = await login.look_up()
    except VaultsyncError as error:
        return look_up_refused(error, auth)
    return check_token(report.token, auth)


def vault_unavailable(address: str, error: VaultsyncError) -> CheckResult:
    """Vault returns no usable response to sys/health."""
    fix = f"set VAULT_ADDR to Vault's address, with http or https as Vault listens, and make {address} reachable"
    if isinstance(error, VaultUntrusted):
        fix = (
            "set VAULT_CACERT to a PEM file with the CA that signed Vault's certificate, and VAULT_ADDR to a name in "
            "that certificate"
        )
    return Check.VAULT.failed(error, fix)


def check_health(address: str, health: Health) -> CheckResult:
    """Whether Vault is initialised and unsealed."""
    if not health.initialized:
        return Check.VAULT.failed(f"{address} is not initialised", "vault operator init, then unseal")
    if health.sealed:
        return Check.VAULT.failed(f"{address} is sealed", f"VAULT_ADDR={address} vault operator unseal")
    return Check.VAULT.ok(f"{health.version} at {address}, unsealed, {'standby' if health.standby else 'active'}")


def credential_unreadable(error: NoCredential, auth: AuthConfig) -> CheckResult:
    """The credential's file can't be read."""
    if auth.auth is Auth.APPROLE:
        fix = f"write role ID and secret ID into the files that the settings name: {SETUP} prints how"
    elif auth.issues:
        fix = "set VAULTSYNC_VAULT_JWT_FILE to a file with the ServiceAccount's token, as deploy/base does; "
        fix += _SET_UP.format(auth.at)
    else:
        fix = f"write a token there, such as of {create_token(POLICY_NAME)}: {SETUP} prints how, and its policy"
    return Check.LOGIN.failed(error, fix)


def login_refused(error: VaultsyncError, auth: AuthConfig) -> CheckResult:
    """Vault refuses the credential."""
    if auth.auth is Auth.APPROLE:
        fix = (
            f"use a role ID and a secret ID of {auth.at}: {SETUP} prints the commands for both, the role and its policy"
        )
    elif auth.issues:
        token = f"the token in {auth.jwt_file}" if auth.jwt_file else "its ServiceAccount's token"
        reads = " and ".join(f"`vault read {shlex.quote(path)}`" for path in (auth.role_at, f"{auth.at}/config"))
        fix = f"make {auth.role_at} accept {token}: {_SET_UP.format(auth.at)}; {reads} show the present configuration"
    else:
        held = obtain_token(auth, POLICY_NAME)
        fix = f"have {held}, with a policy that grants `read` on {LOOK_UP}: {SETUP} prints both"
    return Check.LOGIN.failed(error, fix)


def look_up_refused(error: VaultsyncError, auth: AuthConfig) -> CheckResult:
    """The login succeeded, but the token may not look itself up. A token from the settings logs in by that look-up."""
    if not auth.issues:
        return login_refused(error, auth)
    fix = f"grant `read` on {LOOK_UP} in the policy of {auth.role_at}: {SETUP} prints it"
    return Check.LOGIN.failed(error, fix)


def check_token(token: Token, auth: AuthConfig) -> CheckResult:
    """Whether the token is safe, and lasts or is replaced."""
    fix = f"have {obtain_token(auth, token.policy or POLICY_NAME)}"
    if token.is_root:
        return Check.LOGIN.failed("a root token, which may read every value", fix)
    renewal = "renews or replaces" if auth.issues else "renews"
    life = f"it ends in {age(token.ttl)}, and vaultsync {renewal} it" if token.ttl else "it does not end"
    policies = f"policies {', '.join(token.policies)}"
    weak = [] if auth.issues else _weaknesses(token)
    if weak:
        return Check.LOGIN.warning(f"{policies}; the token {', and '.join(weak)}", fix)
    return Check.LOGIN.ok(f"{policies}; {life}")


def _weaknesses(token: Token) -> list[str]:
    """Why a token that only a person can replace will end."""
    weak = []
    if token.uses:
        weak.append(f"ends after {token.uses} more requests")
    if token.ttl and not token.renewable:
        weak.append(f"ends in {age(token.ttl)} and can't be renewed")
    elif token.max_ttl or (token.ttl and not token.period):
        weak.append("can't be renewed without end, as it has no period or an explicit_max_ttl")
    if not token.orphan:
        weak.append("ends with its parent token, as it is no orphan")
    return weak


def obtain_token(auth: AuthConfig, policy: str) -> str:
    """How vaultsync gets a token with a policy, as the end of `have …`."""
    if auth.issues:
        which = "the role of its role ID" if auth.auth is Auth.APPROLE else "its role"
        return f"{which} give the policy {policy} alone: {grant_policy(auth, policy)}"
    place = f"in {shlex.quote(auth.token_file)}" if auth.token_file else "in VAULT_TOKEN"
    return f"{place} a token of {create_token(policy)}"


def grant_policy(auth: AuthConfig, policy: str) -> str:
    """The command by which the role grants a policy, and no other."""
    return f"vault write {shlex.quote(auth.role_at)} token_policies={shlex.quote(policy)}"


def create_token(policy: str) -> str:
    """The command that creates a token with a policy and without a maximum TTL."""
    return f"vault token create -orphan -policy={shlex.quote(policy)} -period=24h"
