"""The login to Vault, the only place that has the token: obtains it, renews it, and replaces it when it is lost.

At rest the only requests are renewals. No message contains a token or a credential.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final, TypeAlias

from loguru import logger
from pydantic import SecretStr

from vaultsync.config.auth import AuthConfig
from vaultsync.core.callbacks import ignore
from vaultsync.core.errors import (
    NoCredential,
    VaultDenied,
    VaultRejected,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.retry import Retry, jittered
from vaultsync.vault import transport
from vaultsync.vault.api import LOOK_UP, Token
from vaultsync.vault.clock import loop_time
from vaultsync.vault.token_api import TokenApi, TokenLease
from vaultsync.vault.transport import VaultAccess

SHORTEST_WAIT: Final = 0.25
"""Minimum seconds between two renewals."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between attempts that fail."""
TRUST_SECONDS = 5.0
"""For so long after Vault has confirmed the token, a refusal is attributed to the policy, without another request."""
FILE_SECONDS = 5.0
"""Interval at which the token's file is read; that sends no request."""
REVOKE_SECONDS: Final = 1.0
"""Maximum wait for the revocation at a stop."""
PAST_MAX_TTL: Final = 500
"""The status with which Vault (1.15.1) refuses to renew a token at its maximum TTL."""

_Lease: TypeAlias = TokenLease | Token


class _TokenState(Enum):
    UNKNOWN = "not confirmed yet"
    VALID = "Vault has confirmed it"
    LOST = "Vault does not know it, or no longer"


class Login:
    """Has the current token.

    Attributes:
        redirects: which of Vault's redirects are followed, by all requests to it.
        api: sends the requests about the token.
        token: the current one; None before the first. A replacement is another object, even if it is the same text.
        issues: whether Vault issues the token to this process alone; otherwise a person or an agent provides it.
        ends_at: when the token ends unless it is renewed, in seconds since 1970; None if it does not end, or if that is
            not known yet.
        tried: set once `run` has tried to log in.
        on_change: called on the loop for each new token.
    """

    def __init__(self, access: VaultAccess, config: AuthConfig) -> None:
        self.access = access
        self._config = config
        self.issues = config.issues
        self._file, self.token = ("", None) if config.issues else (config.token_file, config.token)
        self.ends_at: float | None = None
        self.tried = asyncio.Event()
        self.on_change: Callable[[], None] = ignore
        self.redirects = transport.redirects(access)
        self.api = TokenApi(access, self.redirects)
        self._lock = asyncio.Lock()
        self._replaced, self._wake = asyncio.Event(), asyncio.Event()
        self._state = _TokenState.UNKNOWN
        self._lease: _Lease = TokenLease(0.0, renewable=False)
        self._longest_ttl = 0.0
        """The longest TTL that Vault has granted for this token."""
        self._last_read: SecretStr | None = None
        self._due = self._trusted_until = float("-inf")
        self._is_doubted = False
        self._can_look_up = True
        self._retry = Retry(FIRST_WAIT, LONGEST_WAIT)
        self._has_logged_end = False

    # -- for code that sends requests with the token

    async def first(self) -> SecretStr:
        """Wait for the token."""
        while self.token is None:
            await self._replaced.wait()
        return self.token

    async def until_replaced(self, token: SecretStr) -> None:
        """Wait until another token has replaced this one."""
        while self.token is token:
            await self._replaced.wait()

    async def replaces(self, token: SecretStr) -> bool:
        """Check a token that Vault refused (403), and replace it if it is lost; whether there is another one to try.

        Concurrent callers share one look-up. For TRUST_SECONDS after it, refusals are attributed to the policy; then
        `run` looks the token up once more.
        """
        async with self._lock:
            if self.token is token and self._can_look_up and self._state is not _TokenState.LOST:
                self._is_doubted = True
                if loop_time() >= self._trusted_until:
                    with suppress(VaultsyncError):  # `run` retries, and logs the failure
                        await self._check()
                self._wake.set()
            return self.token is not token

    async def look_up(self) -> Token:
        """Read the properties of the token; see TokenApi.look_up."""
        return await self.api.look_up(self.token)

    # -- for the owner

    async def log_in(self) -> None:
        """Obtain a token once, for callers that end before it needs a renewal.

        Raises:
            VaultsyncError: that failed.
        """
        async with self._lock:
            if self.issues:
                await self._obtain()
            else:
                self._take(await self._given())

    async def run(self) -> None:
        """Keep a token that Vault knows, until cancelled."""
        while True:
            self._wake.clear()
            try:
                async with self._lock:
                    await self._maintain()
            except VaultsyncError as error:
                self._failed(error)
            self.tried.set()
            await self._wait()

    async def close(self, seconds: float = REVOKE_SECONDS) -> None:
        """Revoke the token if it was issued for this process alone, and release thread and connection."""
        if self.issues and self.token is not None:
            with suppress(VaultsyncError, TimeoutError):  # it ends by itself
                async with asyncio.timeout(seconds):
                    await self.api.revoke(self.token)
        self.api.close()

    # -- steps of `run`, with the lock held

    async def _maintain(self) -> None:
        """Do what is due."""
        now = loop_time()
        if await self._is_file_changed():
            await self._obtain()
        elif self._is_doubted and now >= self._trusted_until:
            await self._check()
        elif now >= self._due:
            await (self._prolong() if self._state is _TokenState.VALID else self._obtain())

    async def _is_file_changed(self) -> bool:
        if not self._file:
            return False
        try:
            return await self.api.read_file(self._file) != self._last_read
        except NoCredential:  # while the file is replaced
            return False

    async def _obtain(self) -> None:
        """Obtain a token that Vault knows; if that fails, a valid token stays."""
        lease: _Lease
        if self.issues:
            token, lease = await self.api.log_in(self._config)
            logger.info("logged in to Vault", method=self._config.auth.value, ttl_s=lease.ttl)
        else:
            token, lease = await self._read_and_look_up()
        self._take(token)
        self._confirmed(lease)

    async def _given(self) -> SecretStr:
        """The token of the settings; its file is read each time."""
        token = self._config.token
        return token if token is not None else await self.api.read_file(self._file)

    async def _read_and_look_up(self) -> tuple[SecretStr, _Lease]:
        token = self._last_read = await self._given()
        try:
            return token, await self.api.look_up(token)
        except VaultDenied as error:
            if self._state is not _TokenState.VALID or token == self.token:
                self._state, self._is_doubted = _TokenState.LOST, False
            raise VaultDenied(
                f"{error}; the token is revoked or expired, or may not look itself up: {self._fix}"
            ) from None

    async def _prolong(self) -> None:
        """Renew the token, or replace it if it can't be renewed for long."""
        refused: VaultsyncError | None = None
        if self._lease.renewable:
            try:
                self._confirmed(await self.api.renew(self.token))
            except (VaultDenied, VaultRejected, VaultUnavailable) as error:
                if isinstance(error, VaultUnavailable) and error.status != PAST_MAX_TTL:
                    raise
                if isinstance(error, VaultDenied) and self.issues:
                    self._state = _TokenState.LOST
                refused = error
            else:
                if self._lease.ttl > self._longest_ttl / 2:
                    return
        if self.issues:
            if refused:  # each token has a maximum TTL
                level = "INFO" if isinstance(refused, VaultUnavailable) else "WARNING"
                logger.log(level, "the Vault token is not renewed, but replaced", reason=str(refused))
            await self._obtain()
            return
        if refused or not self._lease.renewable:
            await self._check()
        self._log_end(str(refused or "near its max TTL"))

    async def _check(self) -> None:
        """Look the token up, and replace it if it is lost."""
        try:
            lease = await self.look_up()
        except VaultDenied as error:
            await self._replace_lost(error)
        else:
            self._confirmed(lease)

    async def _replace_lost(self, error: VaultsyncError) -> None:
        self._state, self._is_doubted, self._due = _TokenState.LOST, False, loop_time()
        if not self.issues:
            await self._obtain()
            return
        logger.warning("Vault no longer accepts the token", reason=str(error))
        await self._obtain()
        try:
            await self.look_up()
        except VaultDenied as denied:  # so the first refusal proved nothing
            self._can_look_up = False
            logger.warning(
                f"the policy lacks read on {LOOK_UP}: a revoked token is noticed when it is to be renewed",
                reason=str(denied),
            )

    def _take(self, token: SecretStr) -> None:
        """Use this token from now on; a lost token that Vault knows again counts as a new one."""
        if token == self.token and self._state is not _TokenState.LOST:
            return
        if not self.issues and self.token is not None:
            logger.info(
                "Vault knows the token again" if token == self.token else "the token in VAULT_TOKEN_FILE is used"
            )
        self.token = SecretStr(token.get_secret_value())
        self._longest_ttl, self._has_logged_end = 0.0, False
        self._replaced.set()
        self._replaced = asyncio.Event()
        self.on_change()

    def _confirmed(self, lease: _Lease) -> None:
        """Vault has confirmed the token: plan the next step."""
        now = loop_time()
        self._state, self._lease, self._is_doubted = _TokenState.VALID, lease, False
        self._longest_ttl = max(self._longest_ttl, lease.ttl)
        is_endless = self._longest_ttl <= 0  # an expiring token has a TTL of 0, too, until Vault deletes it
        self.ends_at = None if is_endless else time.time() + lease.ttl
        self._trusted_until = now + TRUST_SECONDS
        self._retry.succeeded()
        if is_endless:
            self._due = float("inf")
        elif lease.renewable or self.issues:
            self._due = now + max(SHORTEST_WAIT, jittered(lease.ttl / 2))
        else:
            self._due = now + lease.ttl + 1.0
            self._log_end("not renewable")

    def _failed(self, error: VaultsyncError) -> None:
        """Log the failure of a step, and plan the next attempt."""
        failure = self._retry.failed(str(error))
        wait = max(failure.wait, error.wait if isinstance(error, VaultThrottled) else 0.0)
        self._due = self._trusted_until = loop_time() + wait
        # event stream and passes report an outage of Vault
        is_reported = self.token is not None and isinstance(error, VaultUnavailable | VaultThrottled)
        logger.log(
            "DEBUG" if is_reported else failure.level,
            "no new token from Vault" if self._state is _TokenState.VALID else "not logged in to Vault",
            reason=str(error),
            retry_s=round(wait, 2),
        )

    def _log_end(self, reason: str) -> None:
        """Log once that a token which vaultsync can't replace will end."""
        if not self._has_logged_end and self._state is _TokenState.VALID:
            self._has_logged_end = True
            logger.warning("the Vault token expires", ends_in_s=self._lease.ttl, reason=reason, to_do=self._fix)

    @property
    def _fix(self) -> str:
        """What a person has to do about a token that expires or has expired."""
        return "write a new one into its file" if self._file else "set a new VAULT_TOKEN and restart vaultsync"

    async def _wait(self) -> None:
        """Wait until a step may be due."""
        due = min(self._due, self._trusted_until) if self._is_doubted else self._due
        if self._file:
            due = min(due, loop_time() + FILE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due if due < float("inf") else None):
                await self._wake.wait()
