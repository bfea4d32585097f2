"""Keeps the token alive: renews its lease, where there is one, well before it ends. The only request at rest."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from loguru import logger

from vaultsync.core.backoff import backoff, jittered
from vaultsync.core.errors import VaultDenied, VaultRejected, VaultsyncError
from vaultsync.vault.client import TokenLease

SHORTEST_WAIT = 1.0
REFUSED_WAIT = 300.0
"""Seconds. Rarely: nothing but a person changes it."""


class Leased(Protocol):
    """A client with a token; vault.client.VaultClient is one."""

    async def lease(self) -> TokenLease: ...

    async def renew(self) -> TokenLease: ...


async def keep(client: Leased) -> None:
    """Renew the token at half of its remaining life; ends when there is nothing to renew."""
    lease = await _persist("look up the token's lease", client.lease)
    while lease.ttl > 0:
        if not lease.renewable:
            logger.warning("the Vault token can't be renewed; it ends by itself", ends_in_s=lease.ttl)
            return
        await asyncio.sleep(max(SHORTEST_WAIT, jittered(lease.ttl / 2)))
        lease = await _persist("renew the token", client.renew)


async def _persist(what: str, request: Callable[[], Awaitable[TokenLease]]) -> TokenLease:
    """Until it works: a policy may be mended, and a token restored."""
    waits, said = backoff(0.5, 30.0), ""
    while True:
        try:
            return await request()
        except (VaultDenied, VaultRejected) as error:
            if str(error) != said:
                logger.warning("Vault refuses the token's own lease", tried=what, reason=str(error))
            said = str(error)
            await asyncio.sleep(jittered(REFUSED_WAIT))
        except VaultsyncError:
            await asyncio.sleep(next(waits))  # the event stream says that Vault is away
