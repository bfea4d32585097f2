"""Sends requests to Vault from the event loop: each in a thread, in turn, with the current token.

Every failure leaves this module as a typed error with its scope. It knows no path of Vault's API.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import quote

from pydantic import SecretStr

from vaultsync.core.callbacks import CountRequest
from vaultsync.core.errors import (
    RedirectRefused,
    RequestImpossible,
    VaultDenied,
    VaultRejected,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.paths import unsendable_reason
from vaultsync.vault import transport
from vaultsync.vault.clock import ServerClock, loop_time
from vaultsync.vault.failures import FailureClassifier
from vaultsync.vault.login import Login
from vaultsync.vault.rate_limiter import RateLimiter, Scope
from vaultsync.vault.responses import content, execute
from vaultsync.vault.transport import Response

T = TypeVar("T")

THREADS: Final = 4
"""Concurrent requests. On 2 cores more threads only wait for each other."""
IDLE_SECONDS: Final = 30.0
"""The pooled connections are closed after this time without a request: at rest the event stream is the only one."""
WAIT_SECONDS: Final = 0.25
"""A request waits up to this long for its turn; after that VaultThrottled is raised."""


class Requester:
    """One Vault, for the requests of one VaultClient.

    Args:
        login: has the token, and replaces it when Vault refuses it.
        count_request: is called for each request.
        waits: a request waits for its turn without a limit, instead of raising VaultThrottled.

    Attributes:
        failures: finds the scope of failed requests.
        clock: Vault's, as its responses show it.
    """

    def __init__(self, login: Login, count_request: CountRequest, *, waits: bool) -> None:
        self._login = login
        self._waits = waits
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._hvac = transport.client(login.access, THREADS, follows=login.redirects)
        self._idle: asyncio.TimerHandle | None = None
        self._limiter = RateLimiter(loop_time)
        self._free = asyncio.Semaphore(THREADS)
        self._count_request = count_request
        self.clock = ServerClock()
        self.failures = FailureClassifier(login.access, count_request, login.redirects)

    async def close(self) -> None:
        """Release threads and connections; requests under way end by their own timeout."""
        await self.failures.close()
        if self._idle is not None:
            self._idle.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._hvac.adapter.close()

    async def run(self, call: Callable[[], T], scope: Scope, key: Hashable = None, *, is_next: bool = False) -> T:
        """Run a function that sends requests in a thread, when it is its turn.

        Args:
            call: uses `request`.
            scope: the likely scope of a rate limit.
            key: keeps its place in the queue of a rate limit between two attempts.
            is_next: does not wait for its turn, unless Vault has just refused a request.

        Raises:
            VaultFailure: with its scope.
            VaultThrottled: its turn comes later.
        """
        self._token()
        while True:
            try:
                await self.failures.admit()
                await self._wait_for_turn(scope, key, is_next=is_next)
                return await self._attempt(call, scope, key)
            except VaultThrottled as error:
                if not self._waits:
                    raise
                wait = error.wait
            await asyncio.sleep(wait)

    async def run_in_thread(self, call: Callable[[], T], scope: Scope, key: Hashable = None) -> T:
        """Run a function that sends requests in a thread now; the caller handles failures."""
        loop = asyncio.get_running_loop()
        async with self._free:  # a request that waits here instead of in the executor sees an earlier one's refusal
            if self._limiter.pause(scope):
                raise VaultThrottled(f"Vault limits the rate of requests to {scope[1]}", self._limiter.wait(scope, key))
            try:
                result = await loop.run_in_executor(self._threads, call)
            except VaultThrottled as error:
                raise VaultThrottled(str(error), self._limiter.refused(scope, key, error.wait)) from None
            except (VaultDenied, VaultRejected):
                self._limiter.sent(scope)
                raise
            finally:
                if self._idle is not None:
                    self._idle.cancel()
                self._idle = loop.call_later(IDLE_SECONDS, self._hvac.adapter.close)
        self._limiter.sent(scope)
        return result

    # -- in a thread

    def request(
        self,
        method: str,
        path: str,
        namespace: str,
        body: Mapping[str, Any] | None = None,
        *,
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        """Send one request with the token; `method` may be `list`, and `path` has no /v1/.

        Raises:
            VaultUnavailable, VaultDenied, VaultRejected, VaultThrottled: see responses.content.
            RequestImpossible: the path or namespace cannot be sent.
        """
        if reason := unsendable_reason(namespace, path):
            raise RequestImpossible(reason)
        headers = {"X-Vault-Token": self._token().get_secret_value()}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        if method == "patch":
            headers["Content-Type"] = "application/merge-patch+json"
        return content(self.send(method, path, headers, body), path, missing_ok=missing_ok)

    def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Response:
        """Send one request without the token, and return the response whatever its status."""

        def send() -> Response:  # quotes here: execute() translates the error of a path that can't be encoded
            url = "/v1/" + quote(path, safe="/")
            response: Response = self._hvac.adapter.request(method, url, headers=headers, json=body)
            return response

        response = execute(send, self._login.access.address, method.upper(), self._count_request)
        self.clock.observe(response.date)
        return response

    def _token(self) -> SecretStr:
        if self._login.token is None:
            raise VaultUnavailable(f"not logged in to Vault at {self._login.access.address} yet")
        return self._login.token

    # -- on the loop

    async def _wait_for_turn(self, scope: Scope, key: Hashable, *, is_next: bool) -> None:
        if is_next and not self._limiter.pause(scope):
            self._limiter.charge(scope)
            return
        wait = self._limiter.wait(scope, key)
        if 0 < wait <= WAIT_SECONDS:
            await asyncio.sleep(wait)
            wait = self._limiter.wait(scope, key)
        if wait > 0:
            raise VaultThrottled(f"Vault limits the rate of requests to {scope[1]}", wait)

    async def _attempt(self, call: Callable[[], T], scope: Scope, key: Hashable) -> T:
        try:
            return await self._with_current_token(call, scope, key)
        except RedirectRefused:
            await self.failures.redirected()
            raise
        except VaultUnavailable as error:
            failure = error
        raise await self.failures.classify(failure, scope[0])

    async def _with_current_token(self, call: Callable[[], T], scope: Scope, key: Hashable) -> T:
        token = self._token()
        try:
            return await self.run_in_thread(call, scope, key)
        except VaultDenied:
            if not await self._login.replaces(token):
                raise
        return await self.run_in_thread(call, scope, key)
