"""Writes whose response was lost: what Vault must show for one of them to be known as this process's own. Pure.

A request that got no response may have been applied. The policy does not let vaultsync read values, so it cannot
compare them. It goes by what it knows in memory: check-and-set lets a write succeed only on the version that it was
based on, so the write can only have become the version after that one, with the names that it would have left there, at
a time at which the request could be under way. A version that differs in any of this is somebody else's, and a version
after it too: they are treated as every value that vaultsync did not write, and never overwritten.

What is left is a person who writes the same path with the same names on the same version, in the seconds in which Vault
does not respond, and before the request of vaultsync arrives, which is then refused. That value would be taken for
vaultsync's, and be replaced when a rotation is due, with the former version kept by KV v2. Vault 1.15 and OpenBao tell
nothing of who wrote a version, other than by an audit device, so this can't be ruled out there without reading values.
The window is kept short for that reason, and nothing of it survives the process or a term of leadership.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from vaultsync.core.reader import Reader
from vaultsync.core.rotate import Rotation
from vaultsync.core.seed import Seed
from vaultsync.core.vault_state import SecretState

CLOCK_SKEW: Final = timedelta(seconds=1.5)
"""Between Vault's clock and what is known of it."""
LATE: Final = timedelta(seconds=15)
"""A request that nobody waits for any more is applied within this time, such as by a Vault that was frozen."""


class Verdict(Enum):
    """What a look tells of an unconfirmed write."""

    OWN = "it was applied, and is the latest version"
    PENDING = "it was not applied so far, and may be"
    NOT_OWN = "it was never applied, or somebody has written since"


@dataclass(frozen=True, slots=True)
class UnconfirmedWrite:
    """A write in KV v2 that may have been applied.

    Attributes:
        before: the state that it was based on; its version is the check-and-set parameter.
        work: what it was for.
        readers: for whom.
        subkeys: what the path holds after it.
        sent: when the request was sent, by Vault's clock.
        until: when it has been applied at the latest, by Vault's clock.
    """

    before: SecretState
    work: Seed | Rotation
    readers: tuple[Reader, ...]
    subkeys: Mapping[str, Any]
    sent: datetime
    until: datetime

    def verdict(self, state: SecretState, now: datetime) -> Verdict:
        """What a look tells.

        Args:
            state: what it has shown.
            now: by Vault's clock.
        """
        if (state.version, state.written, state.exists) == (
            self.before.version,
            self.before.written,
            self.before.exists,
        ):
            return Verdict.PENDING if now <= self.until + CLOCK_SKEW else Verdict.NOT_OWN
        is_it = (
            state.exists
            and state.version == self.before.version + 1
            and state.subkeys == self.subkeys
            and state.written is not None
            and self.sent - CLOCK_SKEW <= state.written <= self.until + CLOCK_SKEW
        )
        return Verdict.OWN if is_it else Verdict.NOT_OWN

    def after(self, earlier: "UnconfirmedWrite | None") -> "UnconfirmedWrite":
        """The same, as the next attempt at an earlier one: check-and-set lets only one of them be applied."""
        if earlier is None or (earlier.before.version, earlier.subkeys) != (self.before.version, self.subkeys):
            return self
        return replace(self, sent=min(earlier.sent, self.sent))
