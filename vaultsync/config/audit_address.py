"""The address of the audit listener (VAULTSYNC_AUDIT_LISTEN), and the command that enables the audit device for it."""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Final

FORMS: Final = "udp:HOST:PORT, tcp:HOST:PORT or unix:/PATH"
WRITE_TIMEOUT: Final = "10ms"
"""Vault's maximum wait for a UDP socket whose buffer is full, as Linux keeps the packets to an unreachable machine of
its own subnet until ARP gives up. The default is 2 s."""
SERVICE_IP: Final = "$(kubectl -n vaultsync get service vaultsync-audit -o jsonpath='{.spec.clusterIP}')"
"""Not the name of the Service: while the port is closed, the device reconnects for each entry, and waits for DNS."""
OUTSIDE: Final = "a Vault outside the cluster needs the address of the load balancer in its place: docs/install.md"
"""A note on SERVICE_IP."""
PORT: Final = 8220
"""The port of deploy/base."""
_HOST_AND_PORT: Final = re.compile(r"(?:(?P<transport>udp|tcp):)?(?P<host>\S*):(?P<port>\d{1,5})")


def enable_to_service(port: int = PORT) -> str:
    """The command that enables the audit device for the Service `vaultsync-audit`, with a note on its address.

    Args:
        port: of vaultsync and of the Service.
    """
    return (
        f'vault audit enable -path=vaultsync socket address="{SERVICE_IP}:{port}" '
        f"socket_type=udp write_timeout={WRITE_TIMEOUT} # {OUTSIDE}"
    )


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
