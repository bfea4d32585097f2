"""The auth methods of Vault, and the credentials of each, read anew at each login. The token itself is login.py's."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeAlias

import hvac
from pydantic import SecretStr

from vaultsync.config.auth import SERVICE_ACCOUNT_TOKEN, Auth, AuthConfig
from vaultsync.core.errors import NoCredential
from vaultsync.vault.transport import Response

MAX_CREDENTIAL: Final = 64 * 1024
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret text, or a file that holds it and is read at each use, as others may replace it.

    Attributes:
        text: None if it is in the file.
        file: "" if the text is set.
    """

    text: SecretStr | None = None
    file: str = ""

    def read(self) -> SecretStr:
        """The current text.

        Raises:
            NoCredential: the file holds none.
        """
        if self.text is not None:
            return self.text
        try:
            with Path(self.file).open("rb") as file:
                found = file.read(MAX_CREDENTIAL + 1).strip(b" \t\r\n")
        except OSError as error:
            raise NoCredential(f"{self.file} can't be read: {error.strerror}") from error
        text = found.decode("ascii", "replace")
        if not found or not found.isascii() or not text.isprintable() or len(found) > MAX_CREDENTIAL:
            raise NoCredential(f"{self.file} does not hold printable ASCII on a single line")
        return SecretStr(text)


@dataclass(frozen=True, slots=True)
class TokenMethod:
    """A token that a person or an agent provides, and replaces if it is in a file."""

    token: Credential


@dataclass(frozen=True, slots=True)
class KubernetesMethod:
    """A ServiceAccount's token, which Vault sends to the TokenReview API of Kubernetes.

    https://developer.hashicorp.com/vault/docs/auth/kubernetes
    """

    auth: ClassVar = Auth.KUBERNETES
    role: str
    jwt: Credential
    mount: str = Auth.KUBERNETES.value

    def log_in(self, vault: hvac.Client) -> Response:
        """Request a token.

        Raises:
            NoCredential: see Credential.read.
        """
        jwt = self.jwt.read().get_secret_value()
        response: Response = vault.auth.kubernetes.login(self.role, jwt, use_token=False, mount_point=self.mount)
        return response


@dataclass(frozen=True, slots=True)
class JwtMethod:
    """A JWT whose signature Vault verifies itself: https://developer.hashicorp.com/vault/docs/auth/jwt."""

    auth: ClassVar = Auth.JWT
    role: str
    jwt: Credential
    mount: str = Auth.JWT.value

    def log_in(self, vault: hvac.Client) -> Response:
        """See KubernetesMethod.log_in."""
        jwt = self.jwt.read().get_secret_value()
        response: Response = vault.auth.jwt.jwt_login(self.role, jwt, use_token=False, path=self.mount)
        return response


@dataclass(frozen=True, slots=True)
class AppRoleMethod:
    """The role ID, and the secret ID if the role binds it: https://developer.hashicorp.com/vault/docs/auth/approle."""

    auth: ClassVar = Auth.APPROLE
    role_id: Credential
    secret_id: Credential | None
    mount: str = Auth.APPROLE.value

    def log_in(self, vault: hvac.Client) -> Response:
        """See KubernetesMethod.log_in."""
        role_id = self.role_id.read().get_secret_value()
        secret_id = self.secret_id and self.secret_id.read().get_secret_value()
        response: Response = vault.auth.approle.login(role_id, secret_id, use_token=False, mount_point=self.mount)
        return response


Issuer: TypeAlias = KubernetesMethod | JwtMethod | AppRoleMethod
Method: TypeAlias = TokenMethod | Issuer


def auth_method(config: AuthConfig) -> Method:
    """The auth method that the settings choose."""
    mount = config.mount or config.auth.value
    if config.auth is Auth.TOKEN:
        return TokenMethod(Credential(config.token, config.token_file))
    if config.auth is Auth.KUBERNETES:
        return KubernetesMethod(config.role, Credential(file=config.jwt_file or SERVICE_ACCOUNT_TOKEN), mount)
    if config.auth is Auth.JWT:
        return JwtMethod(config.role, Credential(file=config.jwt_file), mount)
    secret_id = Credential(config.secret_id, config.secret_id_file)
    return AppRoleMethod(
        Credential(config.role_id, config.role_id_file), secret_id if secret_id != Credential() else None, mount
    )
