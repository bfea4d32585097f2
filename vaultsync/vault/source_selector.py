"""Selects the source of changes in Vault: the event stream, an audit device or the poll. Passes their changes on.

The controller does not know which source is selected: all three lead to the same keys in the same queue.
"""

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from loguru import logger

from vaultsync.config.change_source import ChangeSource
from vaultsync.core.events import MountChange, VaultEvent
from vaultsync.vault.audit import Audit
from vaultsync.vault.poll import Poller
from vaultsync.vault.stream import EventStream
from vaultsync.vault.writes import OwnWrite

GRACE_SECONDS: Final = 10.0
"""How long a source may be away, such as in a restart of Vault, before a worse one is selected."""


class ChangeHandler(Protocol):
    """Reacts to changes in Vault; controller.controller.Controller documents it."""

    def vault_connected(self) -> None: ...
    def vault_changed(self, event: VaultEvent) -> None: ...
    def audit_gap(self, alone: bool, *, settles: bool = False) -> None: ...
    def mounts_changed(self, change: MountChange) -> None: ...


class SourceSelector:
    """Runs the sources that may be needed, and the poll only while no other delivers.

    Args:
        wanted: AUTO selects the best source; any other is selected whether it works or not.
        stream: Vault's event stream.
        audit: receives Vault's audit entries, if that is configured.
        poller: polls while `needed` is set.
        handler: of the changes.

    Attributes:
        current: the selected source, None before the first selection.
    """

    def __init__(
        self, wanted: ChangeSource, stream: EventStream, audit: Audit, poller: Poller, handler: ChangeHandler
    ) -> None:
        self._wanted = wanted
        self._stream = stream
        self._audit = audit
        self._poller = poller
        self._handler = handler
        self._changed = asyncio.Event()
        self.current: ChangeSource | None = None
        stream.on_change = audit.on_change = self._changed.set
        stream.on_connect = handler.vault_connected
        stream.on_event = handler.vault_changed
        audit.on_event = self._audited
        audit.on_gap = self._audit_gap
        audit.on_mounts = handler.mounts_changed

    def wrote(self, own: OwnWrite) -> None:
        """Expect each source to report an own write that Vault has accepted."""
        self._stream.silence.wrote(own)
        self._audit.wrote(own.request_id)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._wanted.streams:
                tasks.create_task(self._stream.run())
            tasks.create_task(self._audit.run())
            tasks.create_task(self._poller.run())
            tasks.create_task(self._select())

    # -- changes

    def _audited(self, event: VaultEvent) -> None:
        """Pass on what only the audit device reports: the event stream reports deletions to root tokens only."""
        if event.is_deletion or not self._stream.is_connected:
            self._handler.vault_changed(event)

    def _audit_gap(self, more_may_be_missed: bool) -> None:
        self._handler.audit_gap(alone=not self._stream.is_connected, settles=more_may_be_missed)

    # -- selection

    async def _select(self) -> None:
        while True:
            self._changed.clear()
            await self._wait_for_better()
            best = self._best()
            if best is not self.current:
                self.current = best
                self._log_selection(best)
            if best is ChangeSource.POLL:
                self._poller.needed.set()
            else:
                self._poller.needed.clear()
            await self._changed.wait()

    def _may_get_better(self, best: ChangeSource) -> bool:
        """Whether a better source is likely to connect, or to connect again, soon."""
        if self._wanted is not ChangeSource.AUTO or best is ChangeSource.EVENTS or self._stream.silence.is_unproven:
            return False
        if self.current is None and not self._stream.tried.is_set():
            return True
        if self.current is ChangeSource.EVENTS and best is ChangeSource.AUDIT:  # which reports all changes meanwhile
            return not self._stream.is_refused
        if best is not ChangeSource.POLL or self.current is ChangeSource.POLL:
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

    def _log_selection(self, best: ChangeSource) -> None:
        if self._wanted is not ChangeSource.AUTO:
            reason = f"VAULTSYNC_SOURCE is {best.value}"
        elif best is ChangeSource.EVENTS:
            reason = "Vault offers its event stream"
        else:
            reason = self._stream.reason or "no event stream"
        if self._wanted is ChangeSource.AUTO or self._audit.is_configured:
            reason += f"; {self._audit.delivery.value}"
        logger.info("changes in Vault are reported by", source=best.value, reason=reason)
