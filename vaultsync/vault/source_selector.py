"""Which source tells of changes in Vault: the event stream, an audit device or the poll. Chooses, and says so.

Nothing behind it knows which it was: all three bring the same keys to the same queue.
"""

import asyncio
from contextlib import suppress
from typing import Final

from loguru import logger

from vaultsync.config.change_source import ChangeSource
from vaultsync.vault.audit import Audit
from vaultsync.vault.poll import Poller
from vaultsync.vault.stream import EventStream

GRACE_SECONDS: Final = 10.0
"""How long a source may be away, such as in a restart of Vault, before a worse one is named and the poll takes over."""


class Sources:
    """Runs those that may be needed, and the poll only where nothing better is there.

    Args:
        wanted: AUTO takes the best that is there; any other is taken whether it is there or not.
        stream: Vault's.
        audit: connected or not, or not configured.
        poller: is told when it is needed.
    """

    def __init__(self, wanted: ChangeSource, stream: EventStream, audit: Audit, poller: Poller) -> None:
        self._wanted = wanted
        self._stream = stream
        self._audit = audit
        self._poller = poller
        self._changed = asyncio.Event()
        self._current: ChangeSource | None = None
        stream.on_change = audit.on_change = self._changed.set

    @property
    def current(self) -> ChangeSource | None:
        """The one that is relied upon now, None at the very start."""
        return self._current

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._wanted.streams:
                tasks.create_task(self._stream.run())
            tasks.create_task(self._audit.run())
            tasks.create_task(self._poller.run())
            tasks.create_task(self._choose())

    async def _choose(self) -> None:
        while True:
            self._changed.clear()
            await self._wait_for_better()
            best = self._best()
            if best is not self._current:
                self._current = best
                self._tell(best)
            if best is ChangeSource.POLL:
                self._poller.needed.set()
            else:
                self._poller.needed.clear()
            await self._changed.wait()

    def _may_get_better(self, best: ChangeSource) -> bool:
        """Whether something better is about to come, or to come back."""
        if self._wanted is not ChangeSource.AUTO or best is ChangeSource.EVENTS or self._stream.is_unproven:
            return False
        if self._current is None and not self._stream.tried.is_set():
            return True
        if self._current is ChangeSource.EVENTS and best is ChangeSource.AUDIT:  # which tells of all changes meanwhile
            return not self._stream.is_refused
        if best is not ChangeSource.POLL or self._current is ChangeSource.POLL:
            return False
        return not self._stream.is_refused or self._audit.is_configured

    async def _wait_for_better(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                while self._may_get_better(self._best()):
                    self._changed.clear()
                    await self._changed.wait()

    def _best(self) -> ChangeSource:
        if self._wanted is not ChangeSource.AUTO:
            return self._wanted
        if self._stream.is_connected:
            return ChangeSource.EVENTS
        return ChangeSource.AUDIT if self._audit.is_connected else ChangeSource.POLL

    def _tell(self, best: ChangeSource) -> None:
        if self._wanted is not ChangeSource.AUTO:
            reason = f"VAULTSYNC_SOURCE is {best.value}"
        elif best is ChangeSource.EVENTS:
            reason = "Vault offers its event stream"
        else:
            reason = self._stream.reason or "no event stream"
        if self._wanted is ChangeSource.AUTO or self._audit.is_configured:
            reason += f"; {self._audit.delivery.value}"
        logger.info("changes in Vault are told by", source=best.value, reason=reason)
