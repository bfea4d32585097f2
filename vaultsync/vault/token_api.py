"""Requests about Vault tokens, and the credentials for them, in a thread of their own: none waits for requests to KV.

https://developer.hashicorp.com/vault/api-docs/auth/token. No message contains a token or a credential.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import hvac
from pydantic import SecretStr

from vaultsync.config.auth import SERVICE_ACCOUNT_TOKEN, Auth, AuthConfig
from vaultsync.core.errors import NoCredential, VaultUnavailable
from vaultsync.core.untrusted import mapping, text
from vaultsync.vault import transport
from vaultsync.vault.api import LOOK_UP, Token
from vaultsync.vault.redirects import Redirects
from vaultsync.vault.responses import content, execute
from vaultsync.vault.transport import Response, VaultAccess

T = TypeVar("T")

LONGEST_TTL: Final = 1e11
"""Seconds."""
MAX_CREDENTIAL: Final = 64 * 1024
"""Bytes."""


@dataclass(frozen=True, slots=True)
class TokenLease:
    """The remaining life of a new or renewed token: `ttl` in seconds, 0 for an endless one."""

    ttl: float
    renewable: bool


class TokenApi:
    """Logs in, and looks up, renews and revokes tokens.

    Every method raises a VaultsyncError if Vault refuses the request or does not respond.
    """

    def __init__(self, access: VaultAccess, redirects: Redirects) -> None:
        self._address = access.address
        self._hvac = transport.client(access, 1, namespace=access.namespace, follows=redirects)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="login")

    def close(self) -> None:
        """Release thread and connection."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._hvac.adapter.close()

    async def read_file(self, file: str) -> SecretStr:
        """Read a token that is in a file; see read_credential."""
        return await self._in_thread(lambda: read_credential(None, file))

    async def log_in(self, config: AuthConfig) -> tuple[SecretStr, TokenLease]:
        """Obtain a token from an auth method, with the current credentials."""
        path = f"{config.at}/login"
        auth = mapping((await self._request(lambda vault: _request_token(vault, config), path, None)).get("auth"))
        token = text(auth.get("client_token"))
        if not token:
            raise VaultUnavailable(f"a response without a token on {path}")
        return SecretStr(token), parse_lease(auth)

    async def look_up(self, token: SecretStr | None) -> Token:
        """Read the properties of a token.

        Raises:
            VaultDenied: Vault does not know the token, or its policy forbids this; the response is the same.
        """
        response = await self._request(lambda vault: vault.auth.token.lookup_self(), LOOK_UP, token)
        return parse_token(response.get("data"))

    async def renew(self, token: SecretStr | None) -> TokenLease:
        """Renew a token."""
        response = await self._request(lambda vault: vault.auth.token.renew_self(), "auth/token/renew-self", token)
        return parse_lease(response.get("auth"))

    async def revoke(self, token: SecretStr | None) -> None:
        """Revoke a token."""
        await self._request(lambda vault: vault.auth.token.revoke_self(), "auth/token/revoke-self", token)

    async def _request(
        self, send: Callable[[hvac.Client], Response], path: str, token: SecretStr | None
    ) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            self._hvac.token = token.get_secret_value() if token is not None else ""
            try:
                return content(execute(partial(send, self._hvac), self._address), path)
            finally:
                self._hvac.adapter.close()  # the next request is far away

        return await self._in_thread(call)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


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
    decoded = found.decode("ascii", "replace")
    if not found or not found.isascii() or not decoded.isprintable() or len(found) > MAX_CREDENTIAL:
        raise NoCredential(f"{file} does not hold printable ASCII on a single line")
    return SecretStr(decoded)


def _request_token(vault: hvac.Client, config: AuthConfig) -> Response:
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


def parse_lease(value: object) -> TokenLease:
    """Read the field `auth` of a response; raises VaultUnavailable if it is not Vault's."""
    auth = mapping(value)
    return TokenLease(_seconds(auth, "lease_duration"), bool(auth.get("renewable")))


def parse_token(value: object) -> Token:
    """Read the field `data` of a response, without the token's id and accessor; raises as `parse_lease` does."""
    data = mapping(value)
    lists = [data.get(name) for name in ("policies", "identity_policies")]
    policies = [policy for listed in lists if isinstance(listed, list) for policy in listed]
    return Token(
        policies=tuple(dict.fromkeys(map(str, policies))),
        ttl=_seconds(data, "ttl"),
        renewable=bool(data.get("renewable")),
        period=_seconds(data, "period"),
        max_ttl=_seconds(data, "explicit_max_ttl"),
        orphan=data.get("orphan") is True,
        uses=int(_seconds(data, "num_uses")),
    )


def _seconds(data: Mapping[str, Any], name: str) -> float:
    value = data.get(name) or 0
    if not isinstance(value, int | float) or not 0 <= value < LONGEST_TTL:
        raise VaultUnavailable(f"a response that is not Vault's: {name} of the token is no number of seconds", 200)
    return float(value)
