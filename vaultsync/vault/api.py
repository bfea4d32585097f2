"""Paths, response types and version-dependent features of Vault's HTTP API, for checks and policy too. No client."""

import re
from dataclasses import dataclass
from typing import Final

LOOK_UP: Final = "auth/token/lookup-self"
CAPABILITIES: Final = "sys/capabilities-self"
SYS_AUDIT: Final = "sys/audit"
LEADER: Final = "sys/leader"
"""https://developer.hashicorp.com/vault/api-docs/system/leader: every node responds itself, without a token."""
POLICY_NAME: Final = "vaultsync"
"""The name of vaultsync's Vault policy; a policy whose name contains it counts as vaultsync's, too."""


@dataclass(frozen=True, slots=True)
class Health:
    """State of a Vault node, from sys/health (https://developer.hashicorp.com/vault/api-docs/system/health)."""

    initialized: bool
    sealed: bool
    standby: bool
    version: str


@dataclass(frozen=True, slots=True)
class Token:
    """A Vault token, from auth/token/lookup-self (https://developer.hashicorp.com/vault/api-docs/auth/token).

    Attributes:
        policies: from the token and from its identity.
        ttl: remaining seconds, 0 if it does not expire.
        period: seconds that each renewal adds, without a limit; 0 if the token is not periodic.
        max_ttl: explicit_max_ttl in seconds: renewals end at this age; 0 if it has none.
        orphan: whether it outlives the token that created it.
        uses: number of requests after which it ends, 0 if unlimited.
    """

    policies: tuple[str, ...]
    ttl: float
    renewable: bool
    period: float
    max_ttl: float
    orphan: bool
    uses: int

    @property
    def is_root(self) -> bool:
        """Whether it has the policy `root`, which grants everything."""
        return "root" in self.policies

    @property
    def policy(self) -> str:
        """The only policy whose name contains `vaultsync`, "" if there is none or more: no other may be overwritten."""
        own = [policy for policy in self.policies if POLICY_NAME in policy]
        return own[0] if len(own) == 1 else ""


def has_event_stream(version: str) -> bool:
    """Whether a Vault version has an event stream: community 1.13 to 1.15, Enterprise from 1.13; OpenBao has none."""
    number = _number(version)
    return number >= (1, 13) and ("+ent" in version or number < (1, 16))


def has_subscribe_capability(version: str) -> bool:
    """Whether a Vault version sends events to tokens with the capability `subscribe`: from 1.15."""
    return has_event_stream(version) and _number(version) >= (1, 15)


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)\.", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
