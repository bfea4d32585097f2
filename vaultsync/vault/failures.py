"""Finds the scope of a failed request: all of Vault, one Vault namespace, or the request alone.

Only an answer to sys/health, or none, marks all of Vault as unavailable. No request here needs a token.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from vaultsync.core.callbacks import CountRequest
from vaultsync.core.errors import (
    RedirectRefused,
    VaultFailure,
    VaultNamespaceUnavailable,
    VaultRequestFailed,
    VaultsyncError,
    VaultUnavailable,
    VaultUntrusted,
)
from vaultsync.vault import transport
from vaultsync.vault.api import LOOK_UP, Health
from vaultsync.vault.redirects import Redirects
from vaultsync.vault.responses import counted
from vaultsync.vault.transport import Answer, VaultAccess

T = TypeVar("T")

TIMEOUT: Final = 5.0
"""Seconds, or the configured time-out if that is shorter: callers wait for this after a request that has failed."""
FRESH_SECONDS: Final = 1.0
"""So long one result stands for all requests to which Vault sent a server error."""
FRESH_UNANSWERED_SECONDS: Final = 0.1
"""The same for requests without an answer: these may be the first sign of an outage."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What sys/health shows.

    Attributes:
        error: why no request can succeed, None if Vault works or does not say.
        trouble: the same in a few words that name no address or path.
        is_known: whether Vault itself has answered; a proxy may refuse sys/health alone.
        at: when, by the loop's clock.
    """

    error: VaultUnavailable | None
    trouble: str
    is_known: bool
    at: float

    @property
    def works(self) -> bool:
        """Whether Vault says that it works."""
        return self.is_known and self.error is None


class Failures:
    """Asks sys/health after a failure, on a connection and in a thread of its own: the others may all be blocked.

    Args:
        access: where Vault is.
        count_request: counts the requests.
        follows: the redirects to follow.

    Attributes:
        trouble: why Vault as a whole is unavailable, "" while it is not; a text that names no path.
    """

    def __init__(self, access: VaultAccess, count_request: CountRequest, follows: Redirects | None = None) -> None:
        self._address = access.address
        self._count_request = count_request
        self._hvac = transport.client(replace(access, timeout=min(access.timeout, TIMEOUT)), 1, follows=follows)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vault-health")
        self._lock = asyncio.Lock()
        self._verdict: Verdict | None = None
        self._namespaces: dict[str, tuple[float, bool]] = {}
        """When each Vault namespace was asked, and whether it answered."""
        self.trouble = ""

    async def close(self) -> None:
        """Release the thread and the connection."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._hvac.adapter.close()

    async def admit(self) -> None:
        """Before a request: while Vault is unavailable, only sys/health is asked.

        Raises:
            VaultUnavailable: it still is.
        """
        if self.trouble:
            verdict = await self._current(FRESH_UNANSWERED_SECONDS)
            if verdict.error is not None:
                raise _again(verdict.error)

    async def scoped(self, error: VaultUnavailable, namespace: str) -> VaultFailure:
        """The error to raise in place of one whose scope is not known.

        Args:
            error: of a request.
            namespace: Vault's, of the same request.
        """
        if isinstance(error, VaultUntrusted):
            self.trouble = "its certificate is not trusted"
            return error
        verdict = await self._current(FRESH_SECONDS if error.status else FRESH_UNANSWERED_SECONDS)
        if verdict.error is not None:
            return _same(error, _again(verdict.error))
        if not verdict.works and not error.is_vaults:
            self.trouble = "no answer"
            return error
        if error.status == 503 and namespace and not await self._answers(namespace):
            text = f"the Vault namespace {namespace} is sealed or locked; unseal or unlock it. {error}"
            return _same(error, VaultNamespaceUnavailable(text, namespace))
        return _same(error, VaultRequestFailed(f"{error}; other requests to Vault succeed", error.status))

    async def redirected(self) -> None:
        """A redirect was not followed: `trouble` says so if sys/health is redirected as well."""
        await self._current(FRESH_SECONDS)

    async def health(self) -> Health:
        """See VaultClient.health."""
        return await self._in_thread(self._ask_health)

    async def _current(self, fresh: float) -> Verdict:
        """The last verdict, or a new one if it is older than so many seconds; concurrent callers share one."""
        async with self._lock:
            found, now = self._verdict, asyncio.get_running_loop().time()
            if found is None or now - found.at > fresh:
                error, trouble, is_known = await self._in_thread(self._judge)
                found = self._verdict = Verdict(error, trouble, is_known, asyncio.get_running_loop().time())
            self.trouble = found.trouble
            return found

    async def _answers(self, namespace: str) -> bool:
        """Whether a Vault namespace answers anything: if it is sealed or locked, every request gets a 503."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            self._namespaces = {one: found for one, found in self._namespaces.items() if now - found[0] < FRESH_SECONDS}
            if namespace not in self._namespaces:
                status = await self._in_thread(lambda: self._status(namespace))
                self._namespaces[namespace] = (asyncio.get_running_loop().time(), status != 503)
            return self._namespaces[namespace][1]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # -- in the thread

    def _judge(self) -> tuple[VaultUnavailable | None, str, bool]:
        address = self._address
        try:
            health = self._ask_health()
        except RedirectRefused:
            return None, "it redirects to an address that is not known", False
        except VaultUnavailable as error:
            if 0 < error.status < 500:
                return None, "", False
            return error, f"it returns {error.status}" if error.status else "no answer", True
        if not health.initialized:
            return VaultUnavailable(f"Vault at {address} is not initialised", 501), "it is not initialised", True
        if health.sealed:
            return VaultUnavailable(f"Vault at {address} is sealed", 503), "it is sealed", True
        if health.standby and not 0 < self._status() < 500:  # a standby node is well without an active one, too
            text = f"Vault at {address} is a standby node, and the active node does not answer"
            return VaultUnavailable(text, 500), "its active node does not answer", True
        return None, "", True

    def _ask_health(self) -> Health:
        answer = self._get("sys/health")
        told = answer.document if isinstance(answer.document, dict) else {}
        if not isinstance(told.get("initialized"), bool):
            raise VaultUnavailable(f"what answers at {self._address} is not Vault", answer.status)
        return Health(
            initialized=told["initialized"],
            sealed=told.get("sealed") is not False,
            standby=told.get("standby") is True,
            version=str(told.get("version", ""))[:40],
        )

    def _status(self, namespace: str = "") -> int:
        """The status of a request that a standby node forwards, 0 for none; without a token, Vault refuses it."""
        try:
            return self._get(LOOK_UP, namespace).status
        except VaultsyncError:
            return 0

    def _get(self, path: str, namespace: str = "") -> Answer:
        headers = {"X-Vault-Namespace": namespace} if namespace else {}
        send = partial(self._hvac.adapter.request, "get", f"/v1/{path}", headers=headers)
        try:
            return counted(send, self._address, "GET", self._count_request)
        finally:
            self._hvac.adapter.close()  # the next request is far away


def _same(error: VaultFailure, scoped: VaultFailure) -> VaultFailure:
    """The error with its scope is of the same request."""
    scoped.sent = error.sent
    return scoped


def _again(error: VaultUnavailable) -> VaultUnavailable:
    """A new error of the same kind: each is raised once."""
    return type(error)(str(error), error.status)
