"""Polls the paths in use while no other source reports changes. It reads versions and names, never values.

One LIST shows all missing secrets of a folder; the controller's own passes read the others. Both are limited by the
same rate, those of a `dataFrom.find` too.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from loguru import logger

from vaultsync.core.errors import (
    VaultDenied,
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultThrottled,
    VaultUnavailable,
)
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.rate_limit import TokenBucket
from vaultsync.core.retry import Retry
from vaultsync.vault.clock import loop_time

LEFT_TO_PASSES: Final = (VaultDenied, VaultRejected, VaultRequestFailed)
"""Failures of one LIST. The controller reads each path instead, and reports what fails there."""
SKIPPED: Final = (VaultNamespaceUnavailable, VaultThrottled)
"""Failures that passes would share: the next round tries again."""
BACKLOG: Final = 4
"""Maximum queued passes: after an outage Vault may get all of them at once."""
STEP_SECONDS: Final = 0.02
"""The shortest sleep; at a higher rate several requests follow on one sleep."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between attempts while Vault does not respond."""


class Folders(Protocol):
    """The requests of the poll; vault.client.VaultClient documents them."""

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]: ...
    async def find(self, prefix: FindPrefix, *, may_list: Callable[[], Awaitable[bool]]) -> set[VaultPath]: ...


class Polled(Protocol):
    """What is polled; controller.controller.Controller documents it."""

    def polled_paths(self) -> Iterable[tuple[VaultPath, int]]: ...
    def polled_prefixes(self) -> Iterable[FindPrefix]: ...
    def live_under(self, prefix: FindPrefix) -> set[VaultPath]: ...
    def is_live(self, path: VaultPath) -> bool: ...
    def backlog(self) -> int: ...
    def poll(self, key: VaultPath | FindPrefix) -> None: ...


class Poller:
    """One round after the other, each spread evenly over the interval.

    Args:
        vault: lists folders.
        polled: names the paths, and queues passes over them.
        interval: minimum seconds of a round.
        per_second: maximum rate of requests to Vault.

    Attributes:
        needed: rounds run only while it is set.
    """

    def __init__(self, vault: Folders, polled: Polled, interval: float, per_second: float) -> None:
        self._vault, self._polled = vault, polled
        self._interval, self._per_second = interval, per_second
        self.needed = asyncio.Event()

    async def run(self) -> None:
        """Poll until cancelled."""
        retry, bucket = Retry(FIRST_WAIT, LONGEST_WAIT), _bucket(self._per_second)
        while True:
            await self.needed.wait()
            try:
                await self._round(_Schedule(bucket, self._interval))
            except VaultUnavailable as error:
                failure = retry.failed(str(error))
                if failure.is_new:
                    logger.warning("the poll waits for Vault", reason=str(error), retry_s=round(failure.wait, 1))
                await asyncio.sleep(failure.wait)
            else:
                retry.succeeded()

    async def _round(self, schedule: "_Schedule") -> None:
        folders: dict[tuple[str, str, int], list[VaultPath]] = defaultdict(list)
        for path, kv in self._polled.polled_paths():
            folders[path.namespace, path.path.rpartition("/")[0], kv].append(path)
        used = {path for paths in folders.values() for path in paths}
        found = [key for prefix in self._polled.polled_prefixes() for key in await self._find(prefix, used, schedule)]
        schedule.spread(len(found) + len(used) + len(folders))
        for key in found:
            await self._poll(key, schedule)
        groups = list(folders.items())
        random.shuffle(groups)
        for (_, _, kv), paths in groups:
            await schedule.step()
            if not self.needed.is_set():
                return
            try:
                names = await self._vault.siblings(paths[0], kv)
            except LEFT_TO_PASSES:  # each path's own pass reports the failure
                names = None
            except SKIPPED as error:
                logger.debug("the poll skips a folder", path=str(paths[0]), reason=str(error))
                continue
            for path in paths:
                if names is None or self._may_have_changed(path, kv, path.path.rpartition("/")[2] in names):
                    await self._poll(path, schedule)
        if self.needed.is_set():
            await schedule.rest()

    async def _find(
        self, prefix: FindPrefix, used: set[VaultPath], schedule: "_Schedule"
    ) -> list[VaultPath | FindPrefix]:
        """The paths below a prefix that need a pass, without those in use besides."""

        async def may_list() -> bool:
            await schedule.step()
            return self.needed.is_set()

        try:
            found = await self._vault.find(prefix, may_list=may_list)
        except LEFT_TO_PASSES:
            return [prefix]  # the controller's own LIST reports the failure
        except SKIPPED as error:
            logger.debug("the poll skips a listing", prefix=str(prefix), reason=str(error))
            return []
        paths = (found | self._polled.live_under(prefix)) - used
        return [path for path in paths if self._may_have_changed(path, prefix.kv, path in found)]

    def _may_have_changed(self, path: VaultPath, kv: int, is_listed: bool) -> bool:
        """Whether the path needs a pass: in KV v2 the listing does not show the version."""
        return (kv == 2 and is_listed) or is_listed != self._polled.is_live(path)

    async def _poll(self, key: VaultPath | FindPrefix, schedule: "_Schedule") -> None:
        await schedule.step()
        while self._polled.backlog() > BACKLOG:
            await schedule.pause()
        if self.needed.is_set():
            self._polled.poll(key)


def _bucket(per_second: float) -> TokenBucket:
    """The rate, with bursts of what is due in one sleep."""
    burst = per_second * STEP_SECONDS
    if burst > 1:
        per_second /= 1 + 4 * STEP_SECONDS  # room for the bursts, and for requests that are sent late
    return TokenBucket(per_second, max(1.0, burst), loop_time)


class _Schedule:
    """Spreads the requests of a round evenly over the interval, below the rate of the bucket.

    Delays are caught up to 1 s.
    """

    def __init__(self, bucket: TokenBucket, interval: float) -> None:
        self._bucket = bucket
        self._next = loop_time()
        self._end = self._next + interval
        self._spacing = 0.0

    def spread(self, steps: int) -> None:
        """Spread so many steps over what is left of the interval."""
        self._spacing = max(0.0, (self._end - loop_time()) / (steps + 1))

    async def step(self) -> None:
        """Wait until the next step is due."""
        now = loop_time()
        self._next = max(self._next + self._spacing, now - 1.0)
        if (wait := self._next - now) >= STEP_SECONDS:
            await asyncio.sleep(wait)
        while True:
            wait = self._bucket.take()
            if not wait:
                return
            await asyncio.sleep(max(wait, STEP_SECONDS))

    async def pause(self) -> None:
        """Wait a little, apart from the steps."""
        await asyncio.sleep(STEP_SECONDS)

    async def rest(self) -> None:
        """Wait for the end of the interval."""
        await asyncio.sleep(max(STEP_SECONDS, self._end - loop_time()))
