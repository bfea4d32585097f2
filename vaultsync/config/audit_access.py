"""Where audit entries arrive, and which addresses may send them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address

from vaultsync.config.audit_address import AuditAddress, parse_audit_address

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class AuditAccess:
    """Where audit entries come from.

    Attributes:
        listen: VAULTSYNC_AUDIT_LISTEN; "" for none.
        file: the file of a file audit device; "" for none.
        allowed: networks that may send; empty: all.
        certificate, key: PEM files of a TCP listener; "" for no TLS.
    """

    listen: str = ""
    file: str = ""
    allowed: tuple[Network, ...] = ()
    certificate: str = ""
    key: str = ""

    @property
    def is_configured(self) -> bool:
        """Whether audit entries can arrive at all."""
        return bool(self.listen or self.file)

    @cached_property
    def address(self) -> AuditAddress | None:
        """The address to listen on, None for none."""
        return parse_audit_address(self.listen) if self.listen else None

    def allows(self, host: str) -> bool:
        """Whether an IP address may send entries."""
        return not self.allowed or is_within(host, self.allowed)


def is_within(address: str, networks: Sequence[Network]) -> bool:
    """Whether an IP address is in one of the networks; an IPv4 address that is written as IPv6 counts as IPv4."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)
