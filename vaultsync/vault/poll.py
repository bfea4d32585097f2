"""Looks at the paths in use from time to time, where nothing tells of changes. Sees versions and names, never values.

A LIST tells of all the missing secrets of a folder at once; what is there is looked at by the controller's own passes.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Protocol

from loguru import logger

from vaultsync.core.backoff import backoff
from vaultsync.core.errors import VaultDenied, VaultRejected, VaultUnavailable
from vaultsync.core.paths import FindPrefix, VaultPath

BACKLOG: Final = 100
"""Looks that may wait; more are not asked for until Vault has answered some."""
STEP_SECONDS: Final = 0.02
"""The shortest sleep: quicker steps than that are taken several at once."""
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


class Folders(Protocol):
    """What the poll asks of Vault itself; vault.client.VaultClient documents it."""

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        """The names of the secrets beside a path."""


class Polled(Protocol):
    """Whose paths are looked at; engine.controller.Controller documents it."""

    def polled_paths(self) -> Iterable[tuple[VaultPath, int]]:
        """The paths in use, each with the KV version that its readers' store claims."""

    def polled_prefixes(self) -> Iterable[FindPrefix]:
        """The listings in use."""

    def is_live(self, path: VaultPath) -> bool:
        """Whether the path was last seen with a live version."""

    def backlog(self) -> int:
        """How many looks wait."""

    def poll(self, key: VaultPath | FindPrefix) -> None:
        """Look at the path, or at all that the listing finds."""


class Poller:
    """One round after the other, each spread evenly over the interval.

    Args:
        vault: is asked for folders.
        polled: is asked to look.
        interval: seconds that a round takes at least.
        per_second: requests to Vault at most.
    """

    def __init__(self, vault: Folders, polled: Polled, interval: float, per_second: float) -> None:
        self._vault = vault
        self._polled = polled
        self._interval = interval
        self._per_second = per_second
        self.needed = asyncio.Event()
        """Rounds go on only while it is set."""

    async def run(self) -> None:
        """Poll until cancelled."""
        waits = backoff(FIRST_WAIT, LONGEST_WAIT)
        said = ""
        while True:
            await self.needed.wait()
            try:
                await self._round()
            except VaultUnavailable as error:
                wait = next(waits)
                if str(error) != said:  # the same reason again and again is one line
                    logger.warning("the poll waits for Vault", reason=str(error), retry_s=round(wait, 1))
                said = str(error)
                await asyncio.sleep(wait)
            else:
                waits, said = backoff(FIRST_WAIT, LONGEST_WAIT), ""

    async def _round(self) -> None:
        folders: dict[tuple[str, str, int], list[VaultPath]] = defaultdict(list)
        for path, kv in self._polled.polled_paths():
            folders[path.namespace, path.path.rpartition("/")[0], kv].append(path)
        prefixes = list(self._polled.polled_prefixes())
        steps = len(prefixes) + sum(len(paths) + 1 for paths in folders.values())
        pace = _Pace(max(self._interval / (steps + 1), 1 / self._per_second))
        groups = list(folders.items())
        random.shuffle(groups)
        for (_, _, kv), paths in groups:
            await pace.step()
            if not self.needed.is_set():
                return
            there = await self._names(paths[0], kv)
            for path in paths:
                if self._is_news(path, kv, there):
                    await self._look(path, pace)
        for prefix in prefixes:
            await self._look(prefix, pace)
        if self.needed.is_set():
            await pace.rest(self._interval)

    async def _names(self, path: VaultPath, kv: int) -> frozenset[str] | None:
        try:
            return await self._vault.siblings(path, kv)
        except (VaultDenied, VaultRejected):
            return None  # each path's own look brings what is worth telling

    def _is_news(self, path: VaultPath, kv: int, there: frozenset[str] | None) -> bool:
        """Whether only a look can tell how the path is."""
        if there is None:
            return True
        listed = path.path.rpartition("/")[2] in there
        if kv == 1 or not listed:
            return listed != self._polled.is_live(path)
        return True

    async def _look(self, key: VaultPath | FindPrefix, pace: "_Pace") -> None:
        await pace.step()
        while self._polled.backlog() > BACKLOG:
            await pace.pause()
        if self.needed.is_set():
            self._polled.poll(key)


class _Pace:
    """Even steps, by the loop's clock.

    Args:
        seconds: between two of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._clock = asyncio.get_running_loop().time
        self._started = self._next = self._clock()

    async def step(self) -> None:
        """Wait until the next one is due."""
        self._next = max(self._next + self._seconds, self._clock() - 1.0)  # what was slow is not caught up in a rush
        if (wait := self._next - self._clock()) >= STEP_SECONDS:
            await asyncio.sleep(wait)

    async def pause(self) -> None:
        """Wait a little, beside the steps."""
        await asyncio.sleep(STEP_SECONDS)

    async def rest(self, interval: float) -> None:
        """Wait until so much time has passed since the start."""
        await asyncio.sleep(max(STEP_SECONDS, self._started + interval - self._clock()))
