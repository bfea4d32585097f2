"""Writes the ownership metadata of what vaultsync wrote to Vault, some seconds after the values, which come first.

Ownership that can't be written is lost with the process; vaultsync then treats the values as another client's.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from loguru import logger

from vaultsync.controller.interfaces import Vault
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.workqueue import WorkQueue
from vaultsync.core.errors import (
    NotLeading,
    RedirectRefused,
    VaultDenied,
    VaultFailure,
    VaultRejected,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.ownership import Ownership
from vaultsync.core.paths import VaultPath
from vaultsync.core.retry import backoff
from vaultsync.core.vault_state import SecretState

BEHIND_SECONDS: Final = 3.0
"""Delay behind the value: in a burst of new paths all values come first."""
AT_ONCE_SECONDS: Final = 0.01
"""Delay where nothing else follows."""
DENIED_AGAIN_SECONDS: Final = 6.0
"""Delay after a denial: Vault denies a revoked token like a missing permission, and by then vaultsync has a new one."""
UPGRADING: Final = 400
"""Vault's status while it upgrades a mount to KV v2, for a moment after it was unsealed, too."""
UPGRADED_SECONDS: Final = 30.0
"""Delay after that status, before the only further attempt."""
FLUSH_SECONDS: Final = 1.0
"""The longest that the end of a term waits for Vault; the next leader waits as well."""
FLUSHED_AT_ONCE: Final = 4
"""Concurrent requests of a flush, as many as vault.client has THREADS."""
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
_ABOUT_VAULT: Final = (VaultUnavailable, NotLeading, RedirectRefused)
"""Errors that requests for other paths meet as well."""


@dataclass(frozen=True, slots=True)
class PendingOwnership:
    """Ownership that is not in Vault yet.

    Attributes:
        custom_metadata: to be merged into the path's custom metadata.
    """

    ownership: Ownership
    custom_metadata: Mapping[str, str | None]

    def is_of(self, state: SecretState) -> bool:
        """Whether the state has the version that the ownership is about."""
        return self.ownership.version == state.fingerprint(metadata=False)


class OwnershipWriter:
    """Keeps pending ownership, and writes it path by path."""

    def __init__(self, paths: PathStates, vault: Vault) -> None:
        self._paths = paths
        self._vault = vault
        self._queue: WorkQueue[VaultPath] = WorkQueue(lambda: backoff(FIRST_RETRY, LONGEST_RETRY))
        self._pending: dict[VaultPath, PendingOwnership] = {}
        self._denied: set[VaultPath] = set()  # paths with one denial: another one is final
        self._rejected: set[VaultPath] = set()  # paths with one answer UPGRADING: another one is final
        self._is_denial_logged = False

    def __len__(self) -> int:
        """Paths whose ownership is pending."""
        return len(self._pending)

    def add(self, path: VaultPath, pending: PendingOwnership, *, at_once: bool) -> None:
        """Vaultsync has written the path. With `at_once`, as after a rotation, the ownership is written now.

        Otherwise, a restart would treat the new version as another client's.
        """
        self._pending[path] = pending
        if at_once:
            self._queue.add_after(path, AT_ONCE_SECONDS)

    def apply(self, path: VaultPath, state: SecretState) -> SecretState:
        """The state as it will be with its pending ownership."""
        pending = self._pending.get(path)
        return replace(state, ownership=pending.ownership) if pending and pending.is_of(state) else state

    def schedule(self, path: VaultPath, state: SecretState) -> None:
        """A pass over the path ended in this state: write its pending ownership, or drop that of an older version."""
        pending = self._pending.get(path)
        if pending is not None and pending.is_of(state):
            self._queue.add_after(path, BEHIND_SECONDS)
        else:
            self._pending.pop(path, None)

    def schedule_last(self, path: VaultPath) -> None:
        """The path has no further pass: write its pending ownership now."""
        if path in self._pending:
            self._queue.add_after(path, AT_ONCE_SECONDS)

    async def run(self) -> None:
        """Write pending ownership until cancelled."""
        while True:
            path, _ = await self._queue.get()
            wait = 0.0
            try:
                await self._write(path)
            except VaultThrottled as error:
                self._queue.add_after(path, error.wait)
            except (VaultFailure, NotLeading, RedirectRefused) as error:
                retry = self._queue.retry(path)
                wait = retry if isinstance(error, _ABOUT_VAULT) else 0.0
            finally:
                self._queue.done(path)
            await asyncio.sleep(wait)

    async def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Write all pending ownership for which Vault answers within these seconds: the term ends."""
        paths, reasons, failures = iter(list(self._pending)), list[str](), list[str]()

        async def write_next() -> None:
            for path in paths:
                if reasons:  # the next request would fail as well
                    return
                try:
                    await self._write(path)
                except _ABOUT_VAULT as error:
                    reasons.append(str(error))
                except (VaultFailure, VaultThrottled) as error:
                    failures.append(str(error))

        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                for _ in range(FLUSHED_AT_ONCE):
                    tasks.create_task(write_next())
        if self._pending:
            reason = next(iter(reasons + failures), "no answer in time")
            logger.warning("ownership metadata is lost for some paths", left=len(self._pending), reason=reason)

    async def _write(self, path: VaultPath) -> None:
        pending = self._pending.get(path)
        if pending is None:
            return
        try:
            await self._vault.mark(path, pending.custom_metadata)
        except RedirectRefused:
            raise
        except VaultDenied as error:
            self._record_denial(path, pending, error)
            return
        except VaultRejected as error:  # for example, the path is gone
            if error.status == UPGRADING and path not in self._rejected:
                self._rejected.add(path)
                self._queue.add_after(path, UPGRADED_SECONDS)
                return
            logger.debug("ownership metadata is not written", path=str(path), reason=str(error))
        self._queue.forget(path)
        self._denied.discard(path)
        self._rejected.discard(path)
        self._drop(path, pending)

    def _record_denial(self, path: VaultPath, pending: PendingOwnership, error: VaultDenied) -> None:
        """The ownership stays pending: for one more attempt, and after that until the path's next pass."""
        if path not in self._denied and not self._is_denial_logged:
            self._denied.add(path)
            self._queue.add_after(path, DENIED_AGAIN_SECONDS)
            return
        self._denied.clear()
        if self._paths.get(path) is None:  # no ExternalSecret reads the path: it has no further pass
            self._drop(path, pending)
        if not self._is_denial_logged:
            logger.warning(
                "can't write ownership metadata: what vaultsync wrote will not be rotated; grant patch on metadata/",
                reason=str(error),
            )
        self._is_denial_logged = True

    def _drop(self, path: VaultPath, pending: PendingOwnership) -> None:
        if self._pending.get(path) == pending:
            del self._pending[path]
