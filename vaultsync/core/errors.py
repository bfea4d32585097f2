"""The errors that cross room borders: one class per way of handling, and the one place that says what is retried.

Messages are shown to people on their ExternalSecret: they name what answered, what it said and where, never a value.
"""

from datetime import datetime
from typing import ClassVar, Final

from vaultsync.core.annotations import Result


class VaultsyncError(Exception):
    """Base of every error that vaultsync raises on purpose."""

    retryable: ClassVar[bool] = True
    """Whether the same pass may succeed later by itself. If not, the next signal about the key brings it up again."""
    result: ClassVar[Result] = Result.FAILED
    """What a pass that it ends counts as."""


class VaultFailure(VaultsyncError):
    """A request got no usable answer, so nothing is known of its path; the subclass names the scope of the failure.

    Args:
        message: as for all.
        status: of HTTP, 0 where nothing was answered.

    Attributes:
        sent: when the request was sent, by Vault's clock, if it writes a value and may have been applied all the same.
    """

    result = Result.REFUSED

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.sent: datetime | None = None


class VaultUnavailable(VaultFailure):
    """Vault as a whole: no connection, sealed, not initialised, or no active node.

    Args:
        message: as for all.
        status: of HTTP, 0 where nothing was answered.
        is_vaults: the answer is JSON as Vault sends it, not the page of a proxy.
    """

    result = Result.UNAVAILABLE

    def __init__(self, message: str, status: int = 0, *, is_vaults: bool = False) -> None:
        super().__init__(message, status)
        self.is_vaults = is_vaults


class VaultUntrusted(VaultUnavailable):
    """Vault's certificate is not one to trust; a person has to name its CA, or its own name."""


class VaultNamespaceUnavailable(VaultFailure):
    """One Vault namespace, which is sealed or locked. Vault itself works.

    Args:
        message: as for all.
        namespace: its name.
    """

    def __init__(self, message: str, namespace: str) -> None:
        super().__init__(message, 503)
        self.namespace = namespace


class VaultRequestFailed(VaultFailure):
    """One request: a server error, a time-out or the page of a proxy. Vault itself works."""


class VaultDenied(VaultsyncError):
    """Vault refused the token or its policy (401, 403); a person has to change the policy."""

    result = Result.REFUSED


class NoCredential(VaultsyncError):
    """The file with what to log in to Vault with is not there, or holds nothing that could be it."""

    result = Result.UNAVAILABLE


class VaultRejected(VaultsyncError):
    """Vault understood the request and refuses it (other 4xx): no such mount, or one that is still being upgraded.

    Args:
        message: as for all.
        status: of HTTP, 0 where vaultsync itself refuses.
    """

    result = Result.REFUSED

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RedirectRefused(VaultRejected):
    """What answers at Vault's address redirects to where vaultsync does not follow; a person has to allow that address.

    It is tried again: after a change of leaders Vault may announce the address only a moment later. One path that is
    redirected says nothing about Vault as a whole.

    Args:
        message: as for all; it names both addresses, and nothing else of the redirect.
        status: of HTTP.
    """


class RequestImpossible(VaultRejected):
    """The request can't be built: a name can't be sent. A person has to correct the ExternalSecret or its store."""

    retryable = False


class Postponed(VaultsyncError):
    """The pass has to wait; that is no failure.

    Args:
        message: as for all.
        wait: seconds until its turn.
    """

    result = Result.PUT_OFF

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class BudgetSpent(Postponed):
    """A namespace may have no further path created for now."""


class VaultThrottled(Postponed):
    """Vault limits the rate of requests (429)."""


OF_ONE_PATH: Final = (VaultDenied, VaultRejected, VaultRequestFailed, VaultNamespaceUnavailable)
"""Errors after which requests for other paths, or in other Vault namespaces, may well succeed."""


class WriteConflict(VaultsyncError):
    """Somebody else wrote the path between our look and our write (check-and-set); theirs stands."""

    result = Result.CONFLICT


class NotLeading(VaultsyncError):
    """Another replica may lead by now, so nothing was sent. Whoever leads next looks at everything."""

    retryable = False
    result = Result.PUT_OFF


class KubeUnavailable(VaultsyncError):
    """The API server gave no usable answer: no connection, a time-out, overloaded or a server error."""

    result = Result.UNAVAILABLE


class KubeDenied(VaultsyncError):
    """The API server refused the credentials or their RBAC (401, 403)."""

    result = Result.REFUSED


class KubeNotFound(VaultsyncError):
    """The object, or the whole resource type, is not there (404)."""

    retryable = False
    result = Result.GONE


class KubeConflict(VaultsyncError):
    """The object has changed since it was read (409)."""

    result = Result.CONFLICT


class ConditionNotWritten(VaultsyncError):
    """The annotations, and with them the force-sync, are written; the condition is not."""

    result = Result.CONFLICT


class KubeGone(VaultsyncError):
    """The resourceVersion is too old to watch from (410): list again."""

    result = Result.GONE


class KubeRejected(VaultsyncError):
    """The API server refuses the request's content (400, 422)."""

    retryable = False
    result = Result.REFUSED


def first_reason(group: BaseExceptionGroup[BaseException]) -> str:
    """Task groups stand in each other: the message of the first error in the innermost."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
