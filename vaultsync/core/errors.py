"""The errors that cross package borders: one class for each way of handling, including whether it is retried.

Messages are shown on ExternalSecrets: they name the server, its response and the path, never a value.
"""

from datetime import datetime
from typing import ClassVar, Final

from vaultsync.core.annotations import Result


class VaultsyncError(Exception):
    """Base class of vaultsync's errors."""

    retryable: ClassVar[bool] = True
    """Whether the pass is retried with back-off. If not, the next event for the key starts a pass."""
    result: ClassVar[Result] = Result.FAILED
    """The result of a pass that it ends, in the metrics."""


class VaultFailure(VaultsyncError):
    """A request got no usable response, so the state of its path is unknown. Subclasses name the scope of the failure.

    Attributes:
        status: of HTTP, 0 without a response.
        sent: when the request was sent, by Vault's clock, if it is a write that may have been applied.
    """

    result = Result.REFUSED

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.sent: datetime | None = None


class VaultUnavailable(VaultFailure):
    """All of Vault is unavailable: no connection, sealed, not initialised, or no active node.

    Attributes:
        is_vaults: the response is JSON of Vault, not a proxy's page.
    """

    result = Result.UNAVAILABLE

    def __init__(self, message: str, status: int = 0, *, is_vaults: bool = False) -> None:
        super().__init__(message, status)
        self.is_vaults = is_vaults


class VaultUntrusted(VaultUnavailable):
    """Vault's certificate is not trusted: the operator must configure its CA or its server name."""


class VaultNamespaceUnavailable(VaultFailure):
    """One Vault namespace is sealed or locked."""

    def __init__(self, message: str, namespace: str) -> None:
        super().__init__(message, 503)
        self.namespace = namespace


class VaultRequestFailed(VaultFailure):
    """One request failed: a server error, a time-out or a proxy's page. Vault itself works."""


class VaultDenied(VaultsyncError):
    """Vault denied the request (401, 403): the operator must change the token or its policy."""

    result = Result.REFUSED


class NoCredential(VaultsyncError):
    """The file of the credential for Vault is missing, or contains no credential."""

    result = Result.UNAVAILABLE


class VaultRejected(VaultsyncError):
    """Vault rejected the request (other 4xx): no such mount, or one that is being upgraded.

    Attributes:
        status: of HTTP, 0 if vaultsync itself rejects it.
    """

    result = Result.REFUSED

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RedirectRefused(VaultRejected):
    """Vault's address redirects to an address that is not allowed: the operator must allow it.

    It is retried, as Vault announces a new leader's address with a delay. It concerns one path, not all of Vault. The
    message names both addresses, and no other part of the redirect.
    """


class RequestImpossible(VaultRejected):
    """The request can't be sent because of a name in it: its author must correct the ExternalSecret or its store."""

    retryable = False


class Postponed(VaultsyncError):
    """The pass must wait for some seconds; this is not a failure."""

    result = Result.PUT_OFF

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class ObjectsBehind(Postponed):
    """An informer is behind the API server."""


class BudgetSpent(Postponed):
    """The budget of a Kubernetes namespace for new paths is spent."""


class VaultThrottled(Postponed):
    """Vault limits the rate of requests (429)."""


OF_ONE_PATH: Final = (VaultDenied, VaultRejected, VaultRequestFailed, VaultNamespaceUnavailable)
"""Errors after which requests for other paths, or in other Vault namespaces, may succeed."""


class WriteConflict(VaultsyncError):
    """Another writer changed the path between vaultsync's read and its write (check-and-set); that version is kept."""

    result = Result.CONFLICT


class NotLeading(VaultsyncError):
    """Another replica may lead, so nothing was sent. The next leader rescans everything."""

    retryable = False
    result = Result.PUT_OFF


class KubeUnavailable(VaultsyncError):
    """The API server gave no usable response: no connection, a time-out, overload or a server error."""

    result = Result.UNAVAILABLE


class KubeDenied(VaultsyncError):
    """The API server denied the request (401, 403)."""

    result = Result.REFUSED


class KubeNotFound(VaultsyncError):
    """The object or the resource type does not exist (404)."""

    retryable = False
    result = Result.GONE


class KubeConflict(VaultsyncError):
    """The object has changed since it was read (409)."""

    result = Result.CONFLICT


class ConditionNotWritten(VaultsyncError):
    """The annotations, which include the force-sync, are written; the condition is not."""

    result = Result.CONFLICT


class KubeGone(VaultsyncError):
    """The resourceVersion is too old for a watch (410): a new list is required."""

    result = Result.GONE


class KubeRejected(VaultsyncError):
    """The API server rejected the content of the request (400, 422)."""

    retryable = False
    result = Result.REFUSED


def first_reason(group: BaseExceptionGroup[BaseException]) -> str:
    """The message of the first error in nested exception groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
