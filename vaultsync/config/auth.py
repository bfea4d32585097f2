"""How the settings log in to Vault, and the commands by which an admin sets that up.

Sends nothing and reads no file: vault/auth_methods.py does.
"""

import shlex
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pydantic import SecretStr

SERVICE_ACCOUNT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 — a path
ROLE: Final = "vaultsync"
"""The role in Vault if no setting names one."""
MOUNTED: Final = ("/var/run/secrets/", "/run/secrets/")
"""Where Kubernetes mounts files into a pod: their content belongs into a Secret."""


class Auth(Enum):
    """VAULTSYNC_VAULT_AUTH."""

    TOKEN = "token"  # noqa: S105 — the word
    KUBERNETES = "kubernetes"
    APPROLE = "approle"
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """The settings of the login.

    Attributes:
        auth: the method.
        mount: its mount path without auth/; "": the method's name.
        role: VAULTSYNC_VAULT_ROLE; "" if not set.
        token_file, jwt_file, role_id_file, secret_id_file: read at each login; "" for none.
        token, role_id, secret_id: given in place of a file; None for none.
    """

    auth: Auth = Auth.TOKEN
    mount: str = ""
    role: str = ""
    token_file: str = ""
    jwt_file: str = ""
    role_id_file: str = ""
    secret_id_file: str = ""
    token: SecretStr | None = None
    role_id: SecretStr | None = None
    secret_id: SecretStr | None = None

    @property
    def issues(self) -> bool:
        """Whether Vault issues the token by an auth method, and a new one when it ends."""
        return self.auth is not Auth.TOKEN

    @property
    def at(self) -> str:
        """The auth method's path in Vault's API, such as `auth/kubernetes`."""
        return f"auth/{self.mount or self.auth.value}"

    @property
    def role_at(self) -> str:
        """The role's path in Vault's API."""
        return f"{self.at}/role/{self.role or ROLE}"

    def holding(self, policy: str) -> str:
        """How vaultsync gets a token with a policy, as the end of `have …`.

        Args:
            policy: its name.
        """
        if self.issues:
            which = "the role of its role ID" if self.auth is Auth.APPROLE else "its role"
            return f"{which} give the policy {policy} alone: {self.grant(policy)}"
        place = f"in {shlex.quote(self.token_file)}" if self.token_file else "in VAULT_TOKEN"
        return f"{place} a token of {make_token(policy)}"

    def grant(self, policy: str) -> str:
        """The command by which the role grants a policy, and no other.

        Args:
            policy: its name.
        """
        return f"vault write {shlex.quote(self.role_at)} token_policies={shlex.quote(policy)}"


def make_token(policy: str) -> str:
    """The command that creates a token without a maximum TTL.

    Args:
        policy: its only policy besides `default`.
    """
    return f"vault token create -orphan -policy={shlex.quote(policy)} -period=24h"
