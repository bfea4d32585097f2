"""The scope of each failure, which its error defines: one key, one folder, one Vault namespace, or all of Vault.

There is a circuit breaker for Vault, one for each Vault namespace that is unavailable, and one for each folder with a
path that gets no answer, as each attempt there occupies a thread until its time-out. A scope has one log line when it
fails, and one when it works again. Requests and passes are not made here.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Generic

from loguru import logger

from vaultsync.controller.entry import Key
from vaultsync.controller.workqueue import K, Priority
from vaultsync.core.errors import (
    KubeDenied,
    KubeRejected,
    KubeUnavailable,
    RequestImpossible,
    VaultDenied,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultUnavailable,
)
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.retry import backoff

FIRST_ATTEMPT: Final = 0.1
LONGEST_ABSENCE: Final = 5.0
"""Seconds between two attempts at an unavailable scope, for all its keys together."""
LOGGED_KEYS: Final = 50
"""Failing keys with a line in the log; others are logged at DEBUG, as one ExternalSecret may have any number."""
LOGGED_CHARACTERS: Final = 200
"""Characters in the log of a text that vaultsync does not control."""
REPORTED_WAIT: Final = 0.8
"""vaultsync reports a failing request on ExternalSecrets once its back-off is so many seconds."""
REPORTED_SECONDS: Final = 1.0
"""vaultsync does not report a shorter outage of a Vault namespace on ExternalSecrets."""


class CircuitBreaker(Generic[K]):
    """Holds keys back while their server is unavailable: one key tries from time to time, the others wait for it.

    A sealed or overloaded server gets as few requests for ten thousand keys as for one.

    Args:
        delays: makes the seconds between the attempts of one outage.
        release: queues a key with its priority.
    """

    def __init__(self, delays: Callable[[], Iterator[float]], release: Callable[[K, Priority], None]) -> None:
        self._delays = delays
        self._release = release
        self._waits: Iterator[float] | None = None  # seconds until the next attempts; None while closed
        self._held: dict[K, Priority] = {}
        self._trying: K | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether the circuit holds keys back."""
        return self._waits is not None

    @property
    def held(self) -> Collection[K]:
        """The keys that wait."""
        return self._held.keys()

    def admit(self, key: K, priority: Priority) -> bool:
        """Whether a pass over the key may begin now; if not, the circuit holds the key and releases it later."""
        if self._waits is None or key == self._trying:
            return True
        self._held[key] = min(priority, self._held.get(key, priority))
        return False

    def record_failure(self, key: K) -> None:
        """A pass over the key has found the server unavailable; the caller schedules the next one."""
        if self._waits is None:
            self._waits = self._delays()
        elif key != self._trying:  # its request was sent before the circuit opened
            return
        self._trying = None
        self._timer = asyncio.get_running_loop().call_later(next(self._waits), self._try_next)

    def record_inconclusive(self, key: K) -> None:
        """A pass over the key has ended without a request to the server: another key tries in its place."""
        if key == self._trying:
            self._try_next()

    def close(self) -> None:
        """Close the circuit, as the server answers, and release the held keys."""
        if self._waits is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._waits = self._trying = self._timer = None
        held, self._held = self._held, {}
        for key, priority in held.items():
            self._release(key, priority)

    def _try_next(self) -> None:
        key = next(iter(self._held), None)
        if key is None:
            self.close()
            return
        self._trying = key
        self._release(key, self._held.pop(key))


@dataclass(slots=True)
class _Outage:
    """A Vault namespace that is unavailable."""

    breaker: CircuitBreaker[Key]
    since: float  # by the loop's clock
    reported: set[Key] = field(default_factory=set)  # the keys on whose readers the outage is reported


class FailureScopes:
    """Decides which passes may begin, and logs failures."""

    def __init__(self, release: Callable[[Key, Priority], None]) -> None:
        self._release = release
        self._vault = self._breaker()
        self._namespaces: dict[str, _Outage] = {}
        self._folders: dict[tuple[str, str], CircuitBreaker[Key]] = {}
        self._outages: set[tuple[type[VaultsyncError], int]] = set()
        self._failed_keys: set[Key] = set()
        self._refused_keys: set[Key] = set()

    def __len__(self) -> int:
        """The number of keys that the circuits hold back."""
        return sum(len(breaker.held) for breaker in self._breakers())

    @property
    def is_vault_unavailable(self) -> bool:
        """Whether Vault as a whole is unavailable."""
        return self._vault.is_open or any(kind is VaultUnavailable for kind, _ in self._outages)

    def admit(self, key: Key, priority: Priority) -> bool:
        """Whether a pass over the key may begin now; if not, a circuit holds the key and releases it later."""
        if all(breaker.admit(key, priority) for breaker in self._breakers_of(key)):
            return True
        self.end(key)
        return False

    def end(self, key: Key) -> None:
        """A pass over the key has ended, or may not begin; without a request to its scope, another key tries."""
        for breaker in list(self._breakers_of(key)):
            breaker.record_inconclusive(key)

    def close(self) -> None:
        """Close the circuits, as Vault answers, and release the held keys."""
        for breaker in list(self._breakers()):
            breaker.close()

    def succeeded(self, key: Key, *, reached_vault: bool) -> None:
        """A pass over the key has succeeded; `reached_vault` says whether it sent requests to Vault."""
        self._refused_keys.discard(key)
        has_failed = key in self._failed_keys
        self._failed_keys.discard(key)
        if reached_vault:
            self._answered(key)
            if has_failed:
                logger.info("pass succeeds again", key=_short(key))

    def failed(self, key: Key, error: VaultsyncError, wait: float | None) -> list[VaultPath | FindPrefix]:
        """A pass over the key has failed; the next one is in `wait` seconds, None if none follows by itself.

        Returns:
            The keys on whose readers the failure is to be reported, as it lasts.
        """
        was_unanswered = _folder(key) in self._folders
        level = "WARNING" if self._is_new(key, error) else "DEBUG"
        self._record(key, error)
        reason, retry = str(error), wait and round(wait, 2)
        if isinstance(error, VaultNamespaceUnavailable):
            logger.log(level, "a Vault namespace is unavailable", vault_namespace=error.namespace, reason=reason)
            return self._unreported(key, self._namespaces[error.namespace])
        if isinstance(error, VaultUnavailable):
            logger.log(level, "Vault is unavailable", reason=reason, retry_s=retry)
        else:
            logger.log(level, "pass failed", key=_short(key), reason=reason, retry_s=retry)
        lasts = (wait or 0.0) >= REPORTED_WAIT or was_unanswered
        if isinstance(error, RequestImpossible) or (isinstance(error, VaultRequestFailed) and lasts):
            return [] if isinstance(key, ObjectName) else [key]
        return []

    @staticmethod
    def _unreported(key: Key, outage: _Outage) -> list[VaultPath | FindPrefix]:
        """The keys that an outage affects and that are not reported yet."""
        if asyncio.get_running_loop().time() - outage.since < REPORTED_SECONDS:
            return []
        found = [one for one in (key, *outage.breaker.held) if one not in outage.reported]
        outage.reported.update(found)
        return [one for one in found if not isinstance(one, ObjectName)]

    def kube_is_back(self) -> None:
        """The API server answers again."""
        self._outages = {found for found in self._outages if found[0] is VaultUnavailable}

    def _record(self, key: Key, error: VaultsyncError) -> None:
        if isinstance(error, VaultUnavailable):
            self._vault.record_failure(key)
        elif isinstance(error, VaultNamespaceUnavailable):
            self._vault_answered()
            if error.namespace not in self._namespaces:
                now = asyncio.get_running_loop().time()
                self._namespaces[error.namespace] = _Outage(self._breaker(), now)
            self._namespaces[error.namespace].breaker.record_failure(key)
        elif isinstance(error, VaultDenied | VaultRequestFailed) or (isinstance(error, VaultRejected) and error.status):
            # without a status vaultsync has rejected it, and sent no request
            unanswered = isinstance(error, VaultRequestFailed) and not error.status
            self._answered(key, in_folder=not unanswered)
            if unanswered:
                self._folders = {one: breaker for one, breaker in self._folders.items() if breaker.is_open}
                self._folders.setdefault(_folder(key), self._breaker()).record_failure(key)

    def _is_new(self, key: Key, error: VaultsyncError) -> bool:
        if isinstance(error, VaultNamespaceUnavailable):
            return error.namespace not in self._namespaces
        if isinstance(error, VaultUnavailable | KubeUnavailable | KubeDenied):
            outage = (type(error), error.status if isinstance(error, VaultUnavailable) else 0)
            is_new = outage not in self._outages
            self._outages.add(outage)
            return is_new
        if isinstance(error, VaultRequestFailed | RequestImpossible):
            logged = self._failed_keys
        elif isinstance(error, VaultDenied | VaultRejected | KubeRejected):
            logged = self._refused_keys
        else:
            return False
        is_new = key not in logged and len(logged) < LOGGED_KEYS
        if is_new:
            logged.add(key)
        return is_new

    def _answered(self, key: Key, *, in_folder: bool = True) -> None:
        self._vault_answered()
        if isinstance(key, ObjectName):
            return
        if in_folder and (breaker := self._folders.pop(_folder(key), None)) is not None:
            breaker.close()
        outage = self._namespaces.pop(key.namespace, None)
        if outage is not None:
            outage.breaker.close()
            logger.info("the Vault namespace answers again", vault_namespace=key.namespace)

    def _vault_answered(self) -> None:
        self._vault.close()
        outages = {found for found in self._outages if found[0] is VaultUnavailable}
        if outages:
            self._outages -= outages
            logger.info("Vault answers again")

    def _breakers_of(self, key: Key) -> Iterator[CircuitBreaker[Key]]:
        if isinstance(key, ObjectName):
            return
        yield self._vault
        if (outage := self._namespaces.get(key.namespace)) is not None:
            yield outage.breaker
        if (breaker := self._folders.get(_folder(key))) is not None:
            yield breaker

    def _breakers(self) -> Iterator[CircuitBreaker[Key]]:
        yield self._vault
        yield from (outage.breaker for outage in self._namespaces.values())
        yield from self._folders.values()

    def _breaker(self) -> CircuitBreaker[Key]:
        return CircuitBreaker(lambda: backoff(FIRST_ATTEMPT, LONGEST_ABSENCE), self._release)


def _folder(key: Key) -> tuple[str, str]:
    """The Vault namespace and the folder of a path or a listing."""
    if isinstance(key, ObjectName):
        return "", ""
    return key.namespace, key.path.rpartition("/")[0] if isinstance(key, VaultPath) else key.prefix


def _short(key: Key) -> str:
    return str(key)[:LOGGED_CHARACTERS]
