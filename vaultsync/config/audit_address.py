"""The address of the audit listener (VAULTSYNC_AUDIT_LISTEN)."""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

FORMS: Final = "udp:HOST:PORT, tcp:HOST:PORT or unix:/PATH"
_HOST_AND_PORT: Final = re.compile(r"(?:(?P<transport>udp|tcp):)?(?P<host>\S*):(?P<port>\d{1,5})")


class Transport(Enum):
    """The option `socket_type` of a socket audit device of Vault."""

    UDP = "udp"
    TCP = "tcp"
    UNIX = "unix"


@dataclass(frozen=True, slots=True)
class AuditAddress:
    """The address of the audit listener.

    Attributes:
        transport: how entries arrive.
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
        """Whether a device that sends here has Vault wait while this can't be reached: by TCP, from another machine.

        Args:
            has_tls: whether it takes TLS alone. Vault's device speaks none, so it sends to a tunnel on its own machine.
        """
        return self.transport is Transport.TCP and not self.is_loopback and not has_tls

    def __str__(self) -> str:
        if self.transport is Transport.UNIX:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport.value}:{host}:{self.port}"


def parse_audit_address(text: str) -> AuditAddress:
    """Read an address.

    Args:
        text: udp:HOST:PORT, tcp:HOST:PORT, unix:/PATH, or HOST:PORT for TCP.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("unix:/") and len(text) > len("unix:/"):
        return AuditAddress(Transport.UNIX, path=text.removeprefix("unix:"))
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None or found["host"] in ("udp", "tcp", "unix") or int(found["port"]) > 65535:
        raise ValueError(f"must be {FORMS}, such as udp:0.0.0.0:8220")
    host = found["host"]
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return AuditAddress(Transport(found["transport"] or "tcp"), host, int(found["port"]))
