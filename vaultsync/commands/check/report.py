"""Results of `vaultsync check`: the types, and the texts that several checks share. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from vaultsync.core.paths import Mount
from vaultsync.vault.api import Token

MAX_NAMES: Final = 3
"""Names of one kind in one text, which then gives the number of the others."""
MAX_CHARACTERS: Final = 300
"""Length of a quoted text: Vault, the API server and owners of objects write it."""
SETUP: Final = "`vaultsync check --print-setup`"
RETRY: Final = "run the check again; `vaultsync run` retries by itself"


class Status(StrEnum):
    """Outcome of a check."""

    OK = "ok"
    FAILED = "failed"
    WARNING = "warning"
    """vaultsync works, but not as well or as safely as it could."""
    NOT_ASKED = "not asked"
    """The check depends on one that failed, or on a permission that vaultsync does not need otherwise."""


class Check(StrEnum):
    """The checks, in the order in which they run."""

    SETTINGS = "settings"
    KUBERNETES = "kubernetes"
    CRDS = "crds"
    PERMISSION = "permission"
    VAULT = "vault"
    LOGIN = "login"
    SOURCE = "source"
    AUDIT = "audit"
    STORES = "stores"
    POLICY = "policy"
    EXTERNAL_SECRETS = "externalsecrets"

    def ok(self, found: str, subject: str = "") -> "CheckResult":
        """It succeeded."""
        return CheckResult(self, Status.OK, found, "", subject)

    def failed(self, found: str | Exception, fix: str, subject: str = "") -> "CheckResult":
        """It failed; an error's text is cut."""
        return CheckResult(self, Status.FAILED, _text(found), fix, subject)

    def warning(self, found: str | Exception, fix: str, subject: str = "") -> "CheckResult":
        """It succeeded, and something can be improved; an error's text is cut."""
        return CheckResult(self, Status.WARNING, _text(found), fix, subject)

    def not_asked(self, needs: str, subject: str = "") -> "CheckResult":
        """It did not run, because of what it needs: another check, or a permission."""
        return CheckResult(self, Status.NOT_ASKED, f"needs {needs}", "", subject)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check.

    Attributes:
        fix: how to fix it, "" if there is nothing to do.
        subject: the resource, mount or setting that was checked, "" if the check has only one.
    """

    check: Check
    status: Status
    found: str
    fix: str = ""
    subject: str = ""


@dataclass(slots=True)
class CheckReport:
    """All results, and what the checks learned for the set-up script. Fields keep their defaults until they are known.

    Attributes:
        user: the Kubernetes user of the credentials.
        mounts: KV mounts in use.
        version: Vault's.
        unseeded_namespace: a namespace with an ExternalSecret, where seeding needs an annotation that none has.
        listing_needs: the failed check because of which stores and ExternalSecrets are unknown, "" if they are known.
        listing_error: why the listing failed although it is permitted, "" if it did not fail.
    """

    results: list[CheckResult] = field(default_factory=list)
    user: str = ""
    mounts: tuple[Mount, ...] = ()
    token: Token | None = None
    version: str = ""
    unseeded_namespace: str = ""
    listing_needs: str = ""
    listing_error: str = ""

    def add(self, *results: CheckResult) -> None:
        """Append results."""
        self.results += results

    def is_ok(self, check: Check) -> bool:
        """Whether the check has results, all of them without a failure or warning."""
        return {result.status for result in self.results if result.check is check} == {Status.OK}


def valid_settings(removed: Mapping[str, str]) -> list[CheckResult]:
    """Results where all settings are valid; removed ones that are still set have a fix."""
    unused = [Check.SETTINGS.warning("has no effect any more", fix, name) for name, fix in removed.items()]
    return [Check.SETTINGS.ok("all are valid"), *unused]


def invalid_settings(problems: Sequence[tuple[str, str]]) -> list[CheckResult]:
    """Results where a setting is invalid: no other check runs. The variable is "" if several contradict each other."""
    help = "see `vaultsync run --help`"
    failed = [
        Check.SETTINGS.failed(problem, f"set {name}: {help}" if name else f"change one of them: {help}", name)
        for name, problem in problems
    ]
    return failed + [check.not_asked(Check.SETTINGS) for check in Check if check is not Check.SETTINGS]


def some(names: Sequence[str]) -> str:
    """The first few names and the number of the others."""
    first = ", ".join(cut(name) for name in names[:MAX_NAMES])
    return first + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def cut(text: str, limit: int = MAX_CHARACTERS) -> str:
    """A text that others wrote, at a readable length."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _text(found: str | Exception) -> str:
    return cut(str(found)) if isinstance(found, Exception) else found
