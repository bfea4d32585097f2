"""The auth methods of Vault, and their credentials, which are read again at each login. login.py has the token."""

from pathlib import Path
from typing import Final

import hvac
from pydantic import SecretStr

from vaultsync.config.auth import SERVICE_ACCOUNT_TOKEN, Auth, AuthConfig
from vaultsync.core.errors import NoCredential
from vaultsync.vault.transport import Response

MAX_CREDENTIAL: Final = 64 * 1024
"""Bytes."""


def read_credential(given: SecretStr | None, file: str) -> SecretStr:
    """The given credential, else the one in the file.

    Raises:
        NoCredential: the file holds none.
    """
    if given is not None:
        return given
    try:
        with Path(file).open("rb") as opened:
            found = opened.read(MAX_CREDENTIAL + 1).strip(b" \t\r\n")
    except OSError as error:
        raise NoCredential(f"{file} can't be read: {error.strerror}") from error
    text = found.decode("ascii", "replace")
    if not found or not found.isascii() or not text.isprintable() or len(found) > MAX_CREDENTIAL:
        raise NoCredential(f"{file} does not hold printable ASCII on a single line")
    return SecretStr(text)


def request_token(vault: hvac.Client, config: AuthConfig) -> Response:
    """Request a token from the auth method, which is not Auth.TOKEN.

    https://developer.hashicorp.com/vault/docs/auth/kubernetes, …/jwt and …/approle

    Raises:
        NoCredential: see read_credential.
    """
    mount = config.mount or config.auth.value
    response: Response
    if config.auth is Auth.APPROLE:
        role_id = read_credential(config.role_id, config.role_id_file).get_secret_value()
        secret_id = None
        if config.secret_id is not None or config.secret_id_file:  # the role may not bind one
            secret_id = read_credential(config.secret_id, config.secret_id_file).get_secret_value()
        response = vault.auth.approle.login(role_id, secret_id, use_token=False, mount_point=mount)
    elif config.auth is Auth.KUBERNETES:
        jwt = read_credential(None, config.jwt_file or SERVICE_ACCOUNT_TOKEN).get_secret_value()
        response = vault.auth.kubernetes.login(config.role, jwt, use_token=False, mount_point=mount)
    else:
        jwt = read_credential(None, config.jwt_file).get_secret_value()
        response = vault.auth.jwt.jwt_login(config.role, jwt, use_token=False, path=mount)
    return response
