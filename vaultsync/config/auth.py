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
"""The role in Vault, where no setting names one."""
MOUNTED: Final = ("/var/run/secrets/", "/run/secrets/")
"""Where a pod has files of Kubernetes: what belongs there goes into a Secret."""


class Auth(Enum):
    """VAULTSYNC_VAULT_AUTH."""

    TOKEN = "token"  # noqa: S105 — the word
    KUBERNETES = "kubernetes"
    APPROLE = "approle"
    JWT = "jwt"


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """How the settings log in.

    Attributes:
        auth: the method.
        mount: where it is mounted, without auth/; "" at its name.
        role: VAULTSYNC_VAULT_ROLE; "" where no setting names it.
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
        """Whether Vault issues the token, by an auth method, and a next one whenever it ends."""
        return self.auth is not Auth.TOKEN

    @property
    def at(self) -> str:
        """The auth method's path in Vault's API, such as `auth/kubernetes`."""
        return f"auth/{self.mount or self.auth.value}"

    @property
    def role_at(self) -> str:
        """The role's."""
        return f"{self.at}/role/{self.role or ROLE}"

    def holding(self, policy: str) -> str:
        """What gives vaultsync a token with a policy, as an end of `have …`.

        Args:
            policy: its name.
        """
        if self.issues:
            which = "the role of its role ID" if self.auth is Auth.APPROLE else "its role"
            return f"{which} give the policy {policy} alone: {self.grant(policy)}"
        place = f"in {shlex.quote(self.token_file)}" if self.token_file else "in VAULT_TOKEN"
        return f"{place} a token of {make_token(policy)}"

    def grant(self, policy: str) -> str:
        """The command that has the role give a policy, and no other.

        Args:
            policy: its name.
        """
        return f"vault write {shlex.quote(self.role_at)} token_policies={shlex.quote(policy)}"


def make_token(policy: str) -> str:
    """The command that makes a token which can be renewed for ever.

    Args:
        policy: the only one that it has besides `default`.
    """
    return f"vault token create -orphan -policy={shlex.quote(policy)} -period=24h"
