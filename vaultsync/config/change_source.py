"""The sources that report changes in Vault: VAULTSYNC_SOURCE, and where the entries of audit devices arrive."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network
_HOST_AND_PORT: Final = re.compile(r"(?:(?P<transport>udp|tcp):)?(?P<host>\S*):(?P<port>\d{1,5})")


class ChangeSource(Enum):
    """VAULTSYNC_SOURCE."""

    AUTO = "auto"
    EVENTS = "events"
    AUDIT = "audit"
    POLL = "poll"

    @property
    def streams(self) -> bool:
        """Whether the event stream is used where Vault offers it."""
        return self in (ChangeSource.AUTO, ChangeSource.EVENTS)


class Transport(Enum):
    """The option `socket_type` of a socket audit device of Vault."""

    UDP = "udp"
    TCP = "tcp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class AuditAddress:
    """The address of the audit listener.

    Attributes:
        host: without brackets; "" for all addresses of this machine, and for a unix socket.
        port: 0 for a unix socket.
        path: of a unix socket, else "".
    """

    transport: Transport
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        if self.transport is Transport.UNIX or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def can_block(self, *, has_tls: bool = False) -> bool:
        """Whether Vault waits while its audit device can't reach this address: by TCP, from another machine.

        Args:
            has_tls: only TLS is accepted. Vault's device has none, so it sends to a tunnel on its own machine.
        """
        return self.transport is Transport.TCP and not self.is_loopback and not has_tls

    def __str__(self) -> str:
        if self.transport is Transport.UNIX:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport.value}:{host}:{self.port}"


def parse_audit_address(text: str) -> AuditAddress:
    """Parse udp:HOST:PORT, tcp:HOST:PORT, unix:/PATH, or HOST:PORT for TCP.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("unix:/") and len(text) > len("unix:/"):
        return AuditAddress(Transport.UNIX, path=text.removeprefix("unix:"))
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or found["host"] in ("udp", "tcp", "unix") or int(found["port"]) > 65535:
        raise ValueError("must be udp:HOST:PORT, tcp:HOST:PORT or unix:/PATH, such as udp:0.0.0.0:8220")
    host = found["host"]
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return AuditAddress(Transport(found["transport"] or "tcp"), host, int(found["port"]))


@dataclass(frozen=True)
class AuditAccess:
    """Where audit entries arrive, and which addresses may send them.

    Attributes:
        listen, file: VAULTSYNC_AUDIT_LISTEN and VAULTSYNC_AUDIT_FILE; "" for none.
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
