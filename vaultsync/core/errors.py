"""The errors that cross room borders: one class per way of handling, and the one place that says what is retried.

Messages are shown to people on their ExternalSecret: they name what answered, what it said and where, never a value.
"""

from datetime import datetime
from typing import ClassVar

from vaultsync.core.names import Result


class VaultsyncError(Exception):
    """Base of every error that vaultsync raises on purpose."""

    retryable: ClassVar[bool] = True
    """Whether the same pass may succeed later by itself. If not, the next signal about the key brings it up again."""
    result: ClassVar[Result] = Result.FAILED
    """What a pass that it ends counts as."""


class VaultUnavailable(VaultsyncError):
    """Vault gave no usable answer: no connection, a time-out, sealed, overloaded or a server error.

    Args:
        message: as for all.
        status: of HTTP, 0 where nothing was answered.

    Attributes:
        sent: when the request was sent, by Vault's clock, if it writes a value and may have been applied all the same.
    """

    result = Result.UNAVAILABLE

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.sent: datetime | None = None


class VaultUntrusted(VaultUnavailable):
    """Vault's certificate is not one to trust; a person has to name its CA, or its own name."""


class VaultDenied(VaultsyncError):
    """Vault refused the token or its policy (401, 403); a person has to change the policy."""

    result = Result.REFUSED


class NoCredential(VaultsyncError):
    """The file with what to log in to Vault with is not there, or holds nothing that could be it."""

    result = Result.UNAVAILABLE


class VaultRejected(VaultsyncError):
    """Vault understood the request and refuses it (other 4xx): no such mount, or one that is still being upgraded."""

    result = Result.REFUSED


class RedirectRefused(VaultRejected):
    """What answers at Vault's address redirects to where vaultsync does not follow; a person has to allow that address.

    It is tried again: after a change of leaders Vault may announce the address only a moment later. One path that is
    redirected says nothing about Vault as a whole.

    Args:
        message: as for all; it names both addresses, and nothing else of the redirect.
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BudgetSpent(VaultsyncError):
    """A namespace may have no further path created for now.

    Args:
        message: as for all.
        wait: seconds until it may again.
    """

    result = Result.PUT_OFF

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


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


class ReportNotWritten(VaultsyncError):
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
