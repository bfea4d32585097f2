"""The Vault command that enables the audit device for vaultsync. Pure text; other documents repeat it."""

from typing import Final

WRITE_TIMEOUT: Final = "10ms"
"""Vault's maximum wait for a UDP socket whose buffer is full, as Linux keeps the packets to an unreachable machine of
its own subnet until ARP gives up. The default is 2 s."""
SERVICE_IP: Final = "$(kubectl -n vaultsync get service vaultsync-audit -o jsonpath='{.spec.clusterIP}')"
"""Not the name of the Service: while the port is closed, the device reconnects for each entry, and waits for DNS."""
OUTSIDE: Final = "a Vault outside the cluster needs the address of the load balancer in its place: docs/install.md"
"""A note on SERVICE_IP."""
PORT: Final = 8220
"""The port of deploy/base."""


def enable_to_service(port: int = PORT) -> str:
    """The command that enables the audit device for the Service `vaultsync-audit`, with a note on its address.

    Args:
        port: of vaultsync and of the Service.
    """
    return (
        f'vault audit enable -path=vaultsync socket address="{SERVICE_IP}:{port}" '
        f"socket_type=udp write_timeout={WRITE_TIMEOUT} # {OUTSIDE}"
    )
