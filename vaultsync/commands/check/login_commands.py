"""The Vault commands by which an admin gives vaultsync a token. Pure text."""

import shlex

from vaultsync.config.auth import Auth, AuthConfig


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
