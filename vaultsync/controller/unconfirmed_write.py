"""Writes whose response was lost: the state of Vault that proves that one of them is vaultsync's own. Pure.

Vault may have applied a request without a response. The policy does not let vaultsync read values, so it compares what
it has in memory: check-and-set lets a write succeed only on the version that it was based on, so the write can only be
the next version, with the key names that it would leave, at a time at which the request was under way. A version that
differs in any of this, and any later version, is somebody else's, and vaultsync never overwrites it.

One case remains: a person writes the same path with the same key names on the same version, while Vault does not
respond, and before the request of vaultsync arrives, which Vault then rejects. Vaultsync takes that value for its own,
and replaces it when a rotation is due; KV v2 keeps the former version. Vault 1.15 and OpenBao name the writer of a
version only to an audit device, so vaultsync can't rule this out without reading values. It keeps the window short for
that reason: no unconfirmed write outlives the process or a term of leadership.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from vaultsync.core.decide import Seed
from vaultsync.core.reader import Reader
from vaultsync.core.rotate import Rotation
from vaultsync.core.vault_state import SecretState

CLOCK_SKEW: Final = timedelta(seconds=1.5)
"""Between Vault's clock and what vaultsync knows of it."""
LATE: Final = timedelta(seconds=15)
"""Vault applies a request within this time after vaultsync has given up, for example a Vault that was frozen."""


class Verdict(Enum):
    """What a read shows about an unconfirmed write."""

    OWN = "Vault has applied it, and it is the latest version"
    PENDING = "Vault has not applied it yet, and may do so"
    NOT_OWN = "Vault never applied it, or somebody else has written since"


@dataclass(frozen=True, slots=True)
class UnconfirmedWrite:
    """A write in KV v2 that Vault may have applied.

    Attributes:
        before: the state that it was based on; its version is the check-and-set parameter.
        work: the decision that it carries out.
        readers: the ExternalSecrets that asked for it.
        subkeys: the key names that the path has after it.
        sent: when vaultsync sent the request, by Vault's clock.
        until: when Vault applies it at the latest, by Vault's clock.
    """

    before: SecretState
    work: Seed | Rotation
    readers: tuple[Reader, ...]
    subkeys: Mapping[str, Any]
    sent: datetime
    until: datetime

    def verdict(self, state: SecretState, now: datetime) -> Verdict:
        """What a read shows.

        Args:
            state: as read from Vault.
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
        """The write as a repetition of an earlier one: check-and-set lets Vault apply only one of them."""
        if earlier is None or (earlier.before.version, earlier.subkeys) != (self.before.version, self.subkeys):
            return self
        return replace(self, sent=min(earlier.sent, self.sent))
