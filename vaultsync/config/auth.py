"""The settings of the login to Vault, which vault/token_api.py uses."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from pydantic import SecretStr

SERVICE_ACCOUNT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 — a path
ROLE: Final = "vaultsync"
"""The role in Vault if no setting names one."""


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
