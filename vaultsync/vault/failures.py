"""Finds the scope of a failed request: all of Vault, one Vault namespace, or the request alone.

Only the response to sys/health, or none, marks all of Vault as unavailable. No request here needs a token.
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
from vaultsync.core.untrusted import mapping
from vaultsync.vault import transport
from vaultsync.vault.api import LOOK_UP, Health
from vaultsync.vault.clock import loop_time
from vaultsync.vault.redirects import Redirects
from vaultsync.vault.responses import execute
from vaultsync.vault.transport import Response, VaultAccess

T = TypeVar("T")

TIMEOUT: Final = 5.0
"""Seconds, or the configured timeout if that is shorter: callers wait for it after a failed request."""
FRESH_SECONDS: Final = 1.0
"""For so long one probe is valid for all requests to which Vault returned a server error."""
FRESH_UNANSWERED_SECONDS: Final = 0.1
"""The same for requests without a response: these may be the first sign of an outage."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a request to sys/health.

    Attributes:
        error: why no request can succeed, None if Vault works or that is not known.
        outage: the same in a few words without addresses and paths.
        is_known: whether Vault itself has responded; a proxy may refuse only sys/health.
    """

    error: VaultUnavailable | None = None
    outage: str = ""
    is_known: bool = True


class FailureClassifier:
    """Probes sys/health after a failure, on its own connection and thread, as the others may be blocked.

    Attributes:
        outage: why Vault as a whole is unavailable, "" if it is available; names no path.
    """

    def __init__(self, access: VaultAccess, count_request: CountRequest, redirects: Redirects) -> None:
        self._address = access.address
        self._count_request = count_request
        self._hvac = transport.client(replace(access, timeout=min(access.timeout, TIMEOUT)), 1, follows=redirects)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vault-health")
        self._lock = asyncio.Lock()
        self._probe, self._probed_at = Probe(), float("-inf")
        self._namespaces: dict[str, tuple[float, bool]] = {}
        """By Vault namespace: when it was probed, and whether it responded."""
        self.outage = ""

    async def close(self) -> None:
        """Release the thread and the connection."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._hvac.adapter.close()

    async def admit(self) -> None:
        """Refuse a request while Vault is unavailable; only sys/health is requested then.

        Raises:
            VaultUnavailable: it still is.
        """
        if self.outage:
            probe = await self._current(FRESH_UNANSWERED_SECONDS)
            if probe.error is not None:
                raise _again(probe.error)

    async def classify(self, error: VaultUnavailable, namespace: str) -> VaultFailure:
        """The error of a request in a Vault namespace, with its scope."""
        if isinstance(error, VaultUntrusted):
            self.outage = "its certificate is not trusted"
            return error
        probe = await self._current(FRESH_SECONDS if error.status else FRESH_UNANSWERED_SECONDS)
        if probe.error is not None:
            return _same(error, _again(probe.error))
        if not probe.is_known and not error.is_vaults:
            self.outage = "no answer"
            return error
        if error.status == 503 and namespace and not await self._responds(namespace):
            text = f"the Vault namespace {namespace} is sealed or locked; unseal or unlock it. {error}"
            return _same(error, VaultNamespaceUnavailable(text, namespace))
        return _same(error, VaultRequestFailed(f"{error}; other requests to Vault succeed", error.status))

    async def redirected(self) -> None:
        """Probe after a redirect that was not followed: sys/health may be redirected as well."""
        await self._current(FRESH_SECONDS)

    async def health(self) -> Health:
        """See VaultClient.health."""
        return await self._in_thread(self._read_health)

    async def _current(self, fresh: float) -> Probe:
        """The last probe if it is at most so many seconds old, else a new one, which concurrent callers share."""
        async with self._lock:
            if loop_time() - self._probed_at > fresh:
                self._probe = await self._in_thread(self._probe_health)
                self._probed_at = loop_time()
            self.outage = self._probe.outage
            return self._probe

    async def _responds(self, namespace: str) -> bool:
        """Whether a Vault namespace is available: if it is sealed or locked, every request gets a 503."""
        async with self._lock:
            now = loop_time()
            self._namespaces = {one: found for one, found in self._namespaces.items() if now - found[0] < FRESH_SECONDS}
            if namespace not in self._namespaces:
                status = await self._in_thread(lambda: self._status(namespace))
                self._namespaces[namespace] = (loop_time(), status != 503)
            return self._namespaces[namespace][1]

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # -- in the thread

    def _probe_health(self) -> Probe:
        address = self._address
        try:
            health = self._read_health()
        except RedirectRefused:
            return Probe(outage="it redirects to an address that is not known", is_known=False)
        except VaultUnavailable as error:
            if 0 < error.status < 500:
                return Probe(is_known=False)
            return Probe(error, f"it returns {error.status}" if error.status else "no answer")
        if not health.initialized:
            return Probe(VaultUnavailable(f"Vault at {address} is not initialised", 501), "it is not initialised")
        if health.sealed:
            return Probe(VaultUnavailable(f"Vault at {address} is sealed", 503), "it is sealed")
        if health.standby and not 0 < self._status() < 500:  # a standby node is healthy without an active one, too
            text = f"Vault at {address} is a standby node, and the active node does not respond"
            return Probe(VaultUnavailable(text, 500), "its active node does not respond")
        return Probe()

    def _read_health(self) -> Health:
        response = self._get("sys/health")
        health = mapping(response.document)
        if not isinstance(health.get("initialized"), bool):
            raise VaultUnavailable(f"the server at {self._address} is not Vault", response.status)
        return Health(
            initialized=health["initialized"],
            sealed=health.get("sealed") is not False,
            standby=health.get("standby") is True,
            version=str(health.get("version", ""))[:40],
        )

    def _status(self, namespace: str = "") -> int:
        """The status of a request without a token that a standby node forwards, 0 without a response."""
        try:
            return self._get(LOOK_UP, namespace).status
        except VaultsyncError:
            return 0

    def _get(self, path: str, namespace: str = "") -> Response:
        headers = {"X-Vault-Namespace": namespace} if namespace else {}
        send = partial(self._hvac.adapter.request, "get", f"/v1/{path}", headers=headers)
        try:
            return execute(send, self._address, "GET", self._count_request)
        finally:
            self._hvac.adapter.close()  # the next request is far away


def _same(error: VaultFailure, scoped: VaultFailure) -> VaultFailure:
    """Keep what is known of the request."""
    scoped.sent = error.sent
    return scoped


def _again(error: VaultUnavailable) -> VaultUnavailable:
    """A new error of the same class, as each is raised once."""
    return type(error)(str(error), error.status)
