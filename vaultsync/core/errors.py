"""The errors that cross room borders: one class per way of handling, and the one place that says what is retried.

Messages are shown to people on their ExternalSecret: they name what answered, what it said and where, never a value.
"""

from typing import ClassVar


class VaultsyncError(Exception):
    """Base of every error that vaultsync raises on purpose."""

    retryable: ClassVar[bool] = True
    """Whether the same pass may succeed later by itself. If not, the next signal about the key brings it up again."""


class VaultUnavailable(VaultsyncError):
    """Vault gave no usable answer: no connection, a time-out, sealed, overloaded or a server error.

    Args:
        message: as for all.
        status: of HTTP, 0 where nothing was answered.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class VaultDenied(VaultsyncError):
    """Vault refused the token or its policy (401, 403); a person has to change the policy."""


class NoCredential(VaultsyncError):
    """The file with what to log in to Vault with is not there, or holds nothing that could be it."""


class VaultRejected(VaultsyncError):
    """Vault understood the request and refuses it (other 4xx): no such mount, or one that is still being upgraded."""


class BudgetSpent(VaultsyncError):
    """A namespace may have no further path created for now.

    Args:
        message: as for all.
        wait: seconds until it may again.
    """

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class WriteConflict(VaultsyncError):
    """Somebody else wrote the path between our look and our write (check-and-set); theirs stands."""


class NotLeading(VaultsyncError):
    """Another replica may lead by now, so nothing was sent. Whoever leads next looks at everything."""

    retryable = False


class KubeUnavailable(VaultsyncError):
    """The API server gave no usable answer: no connection, a time-out, overloaded or a server error."""


class KubeDenied(VaultsyncError):
    """The API server refused the credentials or their RBAC (401, 403)."""


class KubeNotFound(VaultsyncError):
    """The object, or the whole resource type, is not there (404)."""

    retryable = False


class KubeConflict(VaultsyncError):
    """The object has changed since it was read (409)."""


class ReportNotWritten(VaultsyncError):
    """The annotations, and with them the force-sync, are written; the condition is not."""


class KubeGone(VaultsyncError):
    """The resourceVersion is too old to watch from (410): list again."""


class KubeRejected(VaultsyncError):
    """The API server refuses the request's content (400, 422)."""

    retryable = False
