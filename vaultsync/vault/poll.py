"""Looks at the paths in use from time to time, where nothing tells of changes. Sees versions and names, never values.

A LIST tells of all the missing secrets of a folder at once; what is there is looked at by the controller's own passes.
Lists and looks alike are counted against the rate, those of a `dataFrom.find` too.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from loguru import logger

from vaultsync.core.backoff import backoff
from vaultsync.core.errors import (
    VaultDenied,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.paths import FindPrefix, VaultPath

LEFT_TO_LOOKS: Final = (VaultDenied, VaultRejected, VaultRequestFailed)
"""Failures of one listing. The controller looks at each path instead, and reports what fails there."""
LEFT_OUT: Final = (VaultNamespaceUnavailable, VaultThrottled)
"""Failures that looks would share: the next round tries again."""
BACKLOG: Final = 4
"""Looks that may wait; more are not asked for until Vault has answered some, which it then may get all at once."""
STEP_SECONDS: Final = 0.02
"""The shortest sleep: quicker steps than that are taken several at once."""
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0


class Folders(Protocol):
    """What the poll asks of Vault itself; vault.client.VaultClient documents it."""

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        """The names of the secrets beside a path."""

    async def find(
        self, prefix: FindPrefix, limit: int = ..., may_list: Callable[[], Awaitable[bool]] | None = None
    ) -> set[VaultPath]:
        """Every secret under the prefix."""


class Polled(Protocol):
    """Whose paths are looked at; controller.controller.Controller documents it."""

    def polled_paths(self) -> Iterable[tuple[VaultPath, int]]:
        """The paths in use, each with the KV version that its readers' store claims."""

    def polled_prefixes(self) -> Iterable[FindPrefix]:
        """The listings in use."""

    def live_under(self, prefix: FindPrefix) -> set[VaultPath]:
        """The paths under the prefix that were last seen with a live version."""

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
        used = {path for paths in folders.values() for path in paths}
        pace = _Pace(self._per_second)
        found = [key for prefix in self._polled.polled_prefixes() for key in await self._find(prefix, used, pace)]
        pace.spread(len(found) + len(used) + len(folders), self._interval)
        for key in found:
            await self._look(key, pace)
        groups = list(folders.items())
        random.shuffle(groups)
        for (_, _, kv), paths in groups:
            await pace.step()
            if not self.needed.is_set():
                return
            try:
                there = await self._names(paths[0], kv)
            except LEFT_OUT as error:
                logger.debug("the poll skips a folder", path=str(paths[0]), reason=str(error))
                continue
            for path in paths:
                if there is None or self._is_news(path, kv, is_listed=path.path.rpartition("/")[2] in there):
                    await self._look(path, pace)
        if self.needed.is_set():
            await pace.rest(self._interval)

    async def _find(self, prefix: FindPrefix, used: set[VaultPath], pace: "_Pace") -> list[VaultPath | FindPrefix]:
        """What a listing leads to that is worth a look, without what is in use besides."""

        async def may_list() -> bool:
            await pace.step()
            return self.needed.is_set()

        try:
            found = await self._vault.find(prefix, may_list=may_list)
        except LEFT_TO_LOOKS:
            return [prefix]  # the controller's own listing brings what is worth telling
        except LEFT_OUT as error:
            logger.debug("the poll skips a listing", prefix=str(prefix), reason=str(error))
            return []
        paths = (found | self._polled.live_under(prefix)) - used
        return [path for path in paths if self._is_news(path, prefix.kv, is_listed=path in found)]

    async def _names(self, path: VaultPath, kv: int) -> frozenset[str] | None:
        try:
            return await self._vault.siblings(path, kv)
        except LEFT_TO_LOOKS:
            return None  # each path's own look brings what is worth telling

    def _is_news(self, path: VaultPath, kv: int, *, is_listed: bool) -> bool:
        """Whether only a look can tell how the path is."""
        return (kv == 2 and is_listed) or is_listed != self._polled.is_live(path)

    async def _look(self, key: VaultPath | FindPrefix, pace: "_Pace") -> None:
        await pace.step()
        while self._polled.backlog() > BACKLOG:
            await pace.pause()
        if self.needed.is_set():
            self._polled.poll(key)


class _Pace:
    """Even steps, by the loop's clock. What is late is caught up, but never above the rate.

    Args:
        per_second: the most of them in any second.
    """

    def __init__(self, per_second: float) -> None:
        self._least = 1 / per_second
        if self._least < STEP_SECONDS:
            self._least *= 1 + 4 * STEP_SECONDS  # room for those taken several at once, and sent late
        self._seconds = self._least
        self._clock = asyncio.get_running_loop().time
        self._started = self._next = self._allowed = self._clock()

    def spread(self, steps: int, interval: float) -> None:
        """So many steps from now on fill what is left of the interval since the start."""
        left = self._started + interval - self._clock()
        self._seconds = max(self._least, left / (steps + 1))

    async def step(self) -> None:
        """Wait until the next one is due."""
        now = self._clock()
        self._next = max(self._next + self._seconds, now - 1.0)
        self._allowed = max(self._allowed + self._least, now - STEP_SECONDS)
        if (wait := max(self._next, self._allowed) - now) >= STEP_SECONDS:
            await asyncio.sleep(wait)

    async def pause(self) -> None:
        """Wait a little, beside the steps."""
        await asyncio.sleep(STEP_SECONDS)

    async def rest(self, interval: float) -> None:
        """Wait until so much time has passed since the start."""
        await asyncio.sleep(max(STEP_SECONDS, self._started + interval - self._clock()))
