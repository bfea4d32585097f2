"""Where Vault's audit device finds the replica that leads: an EndpointSlice of a Service that has no selector.

A Service with a selector leads to every replica, and a label on the leader's Pod would need the right to patch Pods,
which is the right to change their images. The slice itself is shipped (deploy/base), as the right to create slices
can't be limited by name; who may patch one can lead the traffic of any Service of its namespace elsewhere, so that
namespace should be vaultsync's own.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from loguru import logger

from vaultsync.core.backoff import backoff
from vaultsync.core.errors import VaultsyncError
from vaultsync.kube.client import KubeClient

PORT_NAME: Final = "audit"
FIRST_WAIT, LONGEST_WAIT = 0.2, 60.0
"""Seconds between attempts."""
WITHDRAW_SECONDS: Final = 0.5
"""The longest that a stop waits for the API server."""


class Endpoint:
    """The slice, of which there is one for each family of addresses: `<service>-ipv4` and `<service>-ipv6`.

    Args:
        client: writes as the leader, and no longer.
        service: the slice's name without the family.
        address, port: where this process listens.
    """

    def __init__(
        self, client: KubeClient, namespace: str, service: str, address: IPv4Address | IPv6Address, port: int
    ) -> None:
        self._client = client
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{service}-ipv{address.version}"
        self._endpoints = [{"addresses": [str(address)], "conditions": {"ready": True}}]
        self._ports = [{"name": PORT_NAME, "port": port, "protocol": "TCP"}]

    async def announce(self) -> None:
        """Lead the Service here; ends once that is written."""
        said = ""
        for wait in backoff(FIRST_WAIT, LONGEST_WAIT):
            try:
                await self._write(self._endpoints)
                return
            except VaultsyncError as error:
                if str(error) != said:
                    logger.warning("Vault's audit device can't be led here", reason=str(error))
                said = str(error)
            await asyncio.sleep(wait)

    async def withdraw(self) -> None:
        """Lead the Service nowhere, so that Vault is refused at once where no replica is left to take over."""
        with suppress(VaultsyncError, TimeoutError):
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await self._write([])

    async def _write(self, endpoints: Sequence[dict[str, Any]]) -> None:
        await self._client.merge_patch(self._path, {"endpoints": endpoints, "ports": self._ports})
