"""The login to Vault, and the one place that has the token: gets it, keeps it alive, replaces it when it is lost.

A good token costs requests at rest only for its renewal. Tokens and what they are got with never leave in a message.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import hvac
from loguru import logger
from pydantic import SecretStr

from vaultsync.core.backoff import backoff, jittered
from vaultsync.core.errors import (
    NoCredential,
    VaultDenied,
    VaultRejected,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.vault import transport
from vaultsync.vault.api import LOOK_UP, Token
from vaultsync.vault.auth_methods import Credential, Issuer, Method, TokenMethod
from vaultsync.vault.responses import ask
from vaultsync.vault.transport import Answer, VaultAccess

T = TypeVar("T")

SHORTEST_WAIT: Final = 0.25
"""Seconds between two renewals, whatever Vault grants."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds between attempts that fail."""
TRUST_SECONDS = 5.0
"""So long after Vault has said that it knows the token, a refusal is taken to be the policy's: no question for each."""
FILE_SECONDS = 5.0
"""How often a token's file is read; that is no request."""
REVOKE_SECONDS = 1.0
"""The longest that a stop waits for that."""
PAST_MAX_TTL: Final = 500
"""How Vault (1.15.1) refuses to renew a token that has had its longest life."""


LONGEST_LIFE: Final = 1e11
"""Seconds."""


@dataclass(frozen=True, slots=True)
class TokenLease:
    """A token's life, as Vault tells with a new one or a renewal: seconds to live and whether it can be renewed."""

    ttl: float
    renewable: bool


_Life: TypeAlias = TokenLease | Token


class _Standing(Enum):
    """What is known of the token at hand."""

    UNKNOWN = "nobody has asked yet"
    GOOD = "Vault knows it"
    LOST = "Vault does not know it any more, or not yet"


class Login:
    """Has the token for all who speak to Vault, each time the latest.

    Args:
        access: where to log in.
        method: how.

    Attributes:
        access: as given.
        redirects: which of Vault's redirects are followed, by all who speak to it.
        token: the one to use now; None before the first. A replacement is another object, even if it is the same text.
        issues: whether Vault issues the token to this process alone; else a person or an agent does.
        ends_at: when the token ends unless it is renewed, in seconds since 1970; None for an endless one, and before
            Vault has told of any.
        tried: set once `run` has tried to log in.
        on_change: called on the loop when the token is replaced, and with the first.
    """

    def __init__(self, access: VaultAccess, method: Method) -> None:
        self.access = access
        self._method = method
        given = method.token if isinstance(method, TokenMethod) else None
        self.issues = given is None
        self._file = given.file if given else ""
        self.token = given.text if given else None
        self.ends_at: float | None = None
        self.tried = asyncio.Event()
        self.on_change: Callable[[], None] = _nothing
        self.redirects = transport.redirects(access)
        self._vault = transport.client(access, 1, namespace=access.namespace, follows=self.redirects)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="login")
        self._lock = asyncio.Lock()
        self._changed, self._wake = asyncio.Event(), asyncio.Event()
        self._standing = _Standing.UNKNOWN
        self._lease: _Life = TokenLease(0.0, renewable=False)
        self._granted = 0.0
        """The longest life that the token was given at once."""
        self._last_read: SecretStr | None = None
        self._due = self._trusted_until = float("-inf")
        self._doubted = False
        self._can_ask = True
        self._waits, self._said = backoff(FIRST_WAIT, LONGEST_WAIT), ""
        self._end_told = False

    # -- for those who use the token

    async def first(self) -> SecretStr:
        """The token, as soon as there is one."""
        while self.token is None:
            await self._changed.wait()
        return self.token

    async def until_replaced(self, token: SecretStr) -> None:
        """Wait until another one has taken the token's place."""
        while self.token is token:
            await self._changed.wait()

    async def replaces(self, token: SecretStr) -> bool:
        """Whether another token is to be tried in place of one that was refused (403).

        Whoever asks first has Vault asked whether it still knows the token, and a new one got if not; the others wait
        for that. For TRUST_SECONDS after it refusals are taken to be the policy's, and then `run` asks once more.

        Args:
            token: the refused one.
        """
        async with self._lock:
            if self.token is token and self._can_ask and self._standing is not _Standing.LOST:
                self._doubted = True
                if self._now() >= self._trusted_until:
                    with suppress(VaultsyncError):  # `run` goes on with it, and tells
                        await self._check()
                self._wake.set()
            return self.token is not token

    # -- for the owner

    async def log_in(self) -> None:
        """Have a token, for a while in which `run` is not needed.

        Raises:
            VaultsyncError: there is none to be had.
        """
        async with self._lock:
            if isinstance(self._method, TokenMethod):
                self._take(await self._in_thread(self._method.token.read))
            else:
                await self._obtain()

    async def run(self) -> None:
        """Keep a token that Vault knows, until cancelled."""
        while True:
            self._wake.clear()
            try:
                async with self._lock:
                    await self._tend()
            except VaultsyncError as error:
                wait = max(next(self._waits), error.wait if isinstance(error, VaultThrottled) else 0.0)
                self._due = self._trusted_until = self._now() + wait
                self._tell(error, wait)
            self.tried.set()
            await self._rest()

    async def close(self, seconds: float | None = None) -> None:
        """Give the token back if it was issued for this process alone, and let go of thread and connection.

        Args:
            seconds: the longest wait for Vault; None is REVOKE_SECONDS.
        """
        if self.issues and self.token is not None:
            with suppress(VaultsyncError, TimeoutError):  # it ends by itself
                async with asyncio.timeout(REVOKE_SECONDS if seconds is None else seconds):
                    await self.revoke()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._vault.adapter.close()

    # -- the token's own requests, all of which its policy must allow

    async def look_up(self, token: SecretStr | None = None) -> Token:
        """What a token is: the one at hand, or another.

        Raises:
            VaultDenied: Vault does not know it, or it may not ask; Vault's answer is the same.
        """
        answer = await self._ask(lambda vault: vault.auth.token.lookup_self(), LOOK_UP, token or self.token)
        return _told(answer.get("data"))

    async def renew(self) -> TokenLease:
        """Have the token live on."""
        answer = await self._ask(lambda vault: vault.auth.token.renew_self(), "auth/token/renew-self", self.token)
        return _lease(answer.get("auth"))

    async def revoke(self) -> None:
        """Have Vault forget the token."""
        await self._ask(lambda vault: vault.auth.token.revoke_self(), "auth/token/revoke-self", self.token)

    # -- what `run` does, with the lock held

    async def _tend(self) -> None:
        """Do what is due."""
        now = self._now()
        if await self._is_rewritten():
            await self._obtain()
        elif self._doubted and now >= self._trusted_until:
            await self._check()
        elif now >= self._due:
            await (self._prolong() if self._standing is _Standing.GOOD else self._obtain())

    async def _is_rewritten(self) -> bool:
        """Whether the token's file holds another one than when it was read last."""
        if not self._file:
            return False
        try:
            return await self._in_thread(Credential(file=self._file).read) != self._last_read
        except NoCredential:  # between two files
            return False

    async def _obtain(self) -> None:
        """Get a token that Vault knows.

        Raises:
            VaultsyncError: there is none now; one that is good stays.
        """
        if isinstance(self._method, TokenMethod):
            token, lease = await self._looked_up(self._method.token)
        else:
            token, lease = await self._issued(self._method)
            logger.info("logged in to Vault", method=self._method.auth.value, ttl_s=lease.ttl)
        self._take(token)
        self._settle(lease)

    async def _issued(self, issuer: Issuer) -> tuple[SecretStr, TokenLease]:
        path = f"auth/{issuer.mount}/login"
        auth = (await self._ask(issuer.log_in, path, None)).get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not token:
            raise VaultUnavailable(f"an answer without a token on {path}")
        return SecretStr(token), _lease(auth)

    async def _looked_up(self, given: Credential) -> tuple[SecretStr, _Life]:
        token = self._last_read = await self._in_thread(given.read)
        try:
            return token, await self.look_up(token)
        except VaultDenied as error:
            if self._standing is not _Standing.GOOD or token == self.token:
                self._standing, self._doubted = _Standing.LOST, False
            raise VaultDenied(
                f"{error}; the token is revoked or over, or may not look itself up: {self._advice}"
            ) from None

    async def _prolong(self) -> None:
        """Renew the token; get another one where it can't live on for long."""
        refused, is_over = "", False
        if self._lease.renewable:
            try:
                self._settle(await self.renew())
            except (VaultDenied, VaultRejected, VaultUnavailable) as error:
                if isinstance(error, VaultUnavailable) and error.status != PAST_MAX_TTL:
                    raise
                if isinstance(error, VaultDenied) and self.issues:
                    self._standing = _Standing.LOST
                refused, is_over = str(error), isinstance(error, VaultUnavailable)
            else:
                if self._lease.ttl > self._granted / 2:
                    return
        if self.issues:
            if refused:  # that each token has a longest life is as it should be
                level = "INFO" if is_over else "WARNING"
                logger.log(level, "the Vault token is not renewed, but replaced", reason=refused)
            await self._obtain()
            return
        if refused or not self._lease.renewable:
            await self._check()
        self._tell_end(refused or "near its max TTL")

    async def _check(self) -> None:
        """Ask Vault whether it still knows the token, and get another one if not."""
        try:
            lease = await self.look_up()
        except VaultDenied as error:
            await self._lose(error)
        else:
            self._settle(lease)

    async def _lose(self, error: VaultsyncError) -> None:
        """Replace a token that Vault does not know any more."""
        self._standing, self._doubted, self._due = _Standing.LOST, False, self._now()
        if not self.issues:
            await self._obtain()
            return
        logger.warning("Vault does not take the token any more", reason=str(error))
        await self._obtain()
        try:
            await self.look_up()
        except VaultDenied as blind:  # so that it was no sign
            self._can_ask = False
            logger.warning(
                f"the policy lacks read on {LOOK_UP}: a revoked token is noticed when it is to be renewed",
                reason=str(blind),
            )

    def _take(self, token: SecretStr) -> None:
        """From now on this is the token; one that was lost and is known again is a new one."""
        if token == self.token and self._standing is not _Standing.LOST:
            return
        if not self.issues and self.token is not None:
            logger.info(
                "Vault knows the token again" if token == self.token else "the token in VAULT_TOKEN_FILE is used"
            )
        self.token = SecretStr(token.get_secret_value())
        self._granted, self._end_told = 0.0, False
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_change()

    def _settle(self, lease: _Life) -> None:
        """Vault knows the token: when to do something about it again."""
        now = self._now()
        self._standing, self._lease, self._doubted = _Standing.GOOD, lease, False
        self._granted = max(self._granted, lease.ttl)
        self.ends_at = time.time() + lease.ttl if self._granted > 0 else None
        self._trusted_until = now + TRUST_SECONDS
        self._waits, self._said = backoff(FIRST_WAIT, LONGEST_WAIT), ""
        if self._granted <= 0:  # endless; one that had a life has 0 for a moment at its end, before Vault forgets it
            self._due = float("inf")
        elif lease.renewable or self.issues:
            self._due = now + max(SHORTEST_WAIT, jittered(lease.ttl / 2))
        else:
            self._due = now + lease.ttl + 1.0
            self._tell_end("not renewable")

    # -- what is told, once each

    def _tell(self, error: VaultsyncError, wait: float) -> None:
        reason = str(error)
        # that Vault is away is told by the event stream and by the passes
        is_known = reason == self._said or (
            self.token is not None and isinstance(error, VaultUnavailable | VaultThrottled)
        )
        self._said = reason
        logger.log(
            "DEBUG" if is_known else "WARNING",
            "no new token from Vault" if self._standing is _Standing.GOOD else "not logged in to Vault",
            reason=reason,
            retry_s=round(wait, 2),
        )

    def _tell_end(self, reason: str) -> None:
        """That a token which nobody here can replace will end."""
        if not self._end_told and self._standing is _Standing.GOOD:
            self._end_told = True
            logger.warning(
                "the Vault token ends by itself",
                ends_in_s=self._lease.ttl,
                reason=reason,
                to_do=self._advice,
            )

    # -- requests

    @property
    def _advice(self) -> str:
        """What a person has to do about a token that ends or has ended."""
        return "write a new one into its file" if self._file else "set VAULT_TOKEN anew and restart vaultsync"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _rest(self) -> None:
        """Until something may be due."""
        due = min(self._due, self._trusted_until) if self._doubted else self._due
        if self._file:
            due = min(due, self._now() + FILE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due if due < float("inf") else None):
                await self._wake.wait()

    async def _ask(self, send: Callable[[hvac.Client], Answer], path: str, token: SecretStr | None) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            self._vault.token = token.get_secret_value() if token is not None else ""
            try:
                return ask(partial(send, self._vault), self.access.address, path)
            finally:
                self._vault.adapter.close()  # the next one is far away

        return await self._in_thread(call)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _nothing() -> None:
    """Nobody wants to know."""


def _lease(told: object) -> TokenLease:
    found = _mapping(told)
    return TokenLease(_seconds(found, "lease_duration"), bool(found.get("renewable")))


def _seconds(data: Mapping[str, Any], name: str) -> float:
    """A number of Vault's, 0.0 where there is none.

    Raises:
        VaultUnavailable: it is none.
    """
    value = data.get(name) or 0
    if not isinstance(value, int | float) or not 0 <= value < LONGEST_LIFE:
        raise VaultUnavailable(f"an answer that is not Vault's: {name} of the token is no number of seconds", 200)
    return float(value)


def _told(told: object) -> Token:
    """Without its id and accessor."""
    data = _mapping(told)
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


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
