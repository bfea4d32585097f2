"""Leaves in Vault the marks of what was made there, a while behind the values: nobody waits for a mark.

A mark that could not be left is lost with the process, and what it was about is then treated as somebody else's.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

from loguru import logger

from vaultsync.controller.path_state import Ledger, PendingOwnership
from vaultsync.controller.workqueue import WorkQueue
from vaultsync.core.backoff import backoff
from vaultsync.core.errors import (
    NotLeading,
    RedirectRefused,
    VaultDenied,
    VaultFailure,
    VaultRejected,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.paths import VaultPath

BEHIND_SECONDS: Final = 3.0
"""In a burst of new paths the values go first, all of them."""
DENIED_AGAIN_SECONDS: Final = 6.0
"""A revoked token is refused as one without the right is: by then it has been replaced."""
UPGRADING: Final = 400
"""Vault's answer while it upgrades a mount to KV v2, for a moment after it was unsealed, too."""
UPGRADED_SECONDS: Final = 30.0
"""So long after that answer a mark is tried once more."""
FLUSH_SECONDS: Final = 1.0
"""The longest that the end of a term waits for Vault; the next leader waits as well."""
FLUSHED_AT_ONCE: Final = 4
"""As many as vault.client has THREADS."""
FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 60.0


class Marks(Protocol):
    """What a mark asks of Vault; vault.client.VaultClient documents it."""

    async def mark(self, path: VaultPath, custom_metadata: Mapping[str, str | None]) -> None: ...


class OwnershipWriter:
    """One mark after the other."""

    def __init__(self, ledger: Ledger, vault: Marks) -> None:
        self._ledger = ledger
        self._vault = vault
        self._queue: WorkQueue[VaultPath] = WorkQueue(lambda: backoff(FIRST_RETRY, LONGEST_RETRY))
        self._denied: set[VaultPath] = set()
        """Where a mark was refused, and may not be a second time."""
        self._rejected: set[VaultPath] = set()
        """Where a mark was answered with 400, and is tried once more."""
        self._told = False

    def due(self, path: VaultPath, seconds: float = BEHIND_SECONDS) -> None:
        """A mark is to be left at the path, so many seconds from now."""
        self._queue.add_after(path, seconds)

    async def run(self) -> None:
        """Leave marks until cancelled."""
        while True:
            path, _ = await self._queue.get()
            wait = 0.0
            try:
                await self._mark(path)
            except VaultThrottled as error:
                self._queue.add_after(path, error.wait)
            except (VaultFailure, NotLeading, RedirectRefused) as error:
                wait = self._queue.retry(path)
                if not isinstance(error, VaultUnavailable | NotLeading | RedirectRefused):
                    wait = 0.0
            finally:
                self._queue.done(path)
            await asyncio.sleep(wait)  # the next mark would fail as well

    async def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Leave what is still to be left, as far as Vault answers in time: the process ends.

        Args:
            seconds: the longest wait.
        """
        paths, reasons, failures = iter(self._ledger.all_unmarked()), list[str](), list[str]()

        async def leave_marks() -> None:
            for path in paths:
                if reasons:  # the next mark would fail as well
                    return
                try:
                    await self._mark(path)
                except (VaultUnavailable, NotLeading, RedirectRefused) as error:
                    reasons.append(str(error))
                except (VaultFailure, VaultThrottled) as error:
                    failures.append(str(error))

        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                for _ in range(FLUSHED_AT_ONCE):
                    tasks.create_task(leave_marks())
        if left := len(self._ledger.all_unmarked()):
            reason = next(iter(reasons + failures), "no answer in time")
            logger.warning("not all that was made is marked as such", left=left, reason=reason)

    async def _mark(self, path: VaultPath) -> None:
        unmarked = self._ledger.unmarked(path)
        if unmarked is None:
            return
        try:
            await self._vault.mark(path, unmarked.custom_metadata)
        except RedirectRefused:
            raise
        except VaultDenied as error:
            self._refused(path, unmarked, error)
            return
        except VaultRejected as error:  # such as a path that is gone
            if error.status == UPGRADING and path not in self._rejected:
                self._rejected.add(path)
                self._queue.add_after(path, UPGRADED_SECONDS)
                return
            logger.debug("no mark left", path=str(path), reason=str(error))
        self._queue.forget(path)
        self._denied.discard(path)
        self._rejected.discard(path)
        self._ledger.marked(path, unmarked)

    def _refused(self, path: VaultPath, unmarked: PendingOwnership, error: VaultDenied) -> None:
        """The mark stays in memory, and is tried once more; after that with the path's next pass."""
        if path not in self._denied and not self._told:
            self._denied.add(path)
            self._queue.add_after(path, DENIED_AGAIN_SECONDS)
            return
        self._denied.clear()
        if self._ledger.observed(path) is None:  # it has no next pass
            self._ledger.marked(path, unmarked)
        if not self._told:
            logger.warning(
                "can't mark what was made: it will not be rotated; grant patch on metadata/", reason=str(error)
            )
        self._told = True
