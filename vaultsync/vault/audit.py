"""Listens for a socket audit device of Vault, for deletions: Vault gives their events to root tokens alone.

(Events without data_path "require a root token": https://developer.hashicorp.com/vault/docs/concepts/events.)
Lines are untrusted input from the network: each is at most a hint to look at a path, none is kept or logged, and the
sender is never made to wait.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from loguru import logger

from vaultsync.core.events import parse_deletion
from vaultsync.core.paths import VaultPath

CHUNK: Final = 64 * 1024
MAX_LINE: Final = 1024 * 1024
"""Of a longer line the rest is skipped: the requests that delete are short."""
MAX_SENDERS: Final = 32
"""Connections at once: the nodes of an HA cluster, and old ones that were not closed yet."""


class AuditListener:
    """The listening end of `vault audit enable socket`.

    Args:
        on_connect: called when a sender connects: lines before may be lost.
        on_deletion: called for each path that may have been deleted; must not block.
    """

    def __init__(self, on_connect: Callable[[], None], on_deletion: Callable[[VaultPath], None]) -> None:
        self._on_connect = on_connect
        self._on_deletion = on_deletion
        self._senders: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listen: str) -> None:
        """Listen on host:port.

        Raises:
            OSError: the address can't be had.
        """
        host, _, port = listen.rpartition(":")
        self._server = await asyncio.start_server(self._receive, host or None, int(port), limit=CHUNK)
        logger.info("listening for Vault's audit device", address=listen)

    async def stop(self) -> None:
        """Stop listening, and let go of the senders."""
        if self._server is not None:
            self._server.close()
        for sender in list(self._senders):
            sender.close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername"))
        if len(self._senders) >= MAX_SENDERS:
            logger.warning("audit sender refused: too many", peer=peer, most=MAX_SENDERS)
            writer.close()
            return
        self._senders.add(writer)
        logger.info("Vault's audit device is connected", peer=peer)
        self._on_connect()
        try:
            await self._read(reader)
        except OSError as error:
            logger.warning("Vault's audit device is lost", peer=peer, reason=f"{type(error).__name__}: {error}")
        finally:
            self._senders.discard(writer)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest, skipping = b"", False
        while chunk := await reader.read(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            if lines and skipping:
                lines, skipping = lines[1:], False
            for line in lines:
                for path in parse_deletion(line):
                    self._on_deletion(path)
            if skipping or len(rest) > MAX_LINE:
                rest, skipping = b"", True
