"""Limits how many lost paths of one mount are created again. Memory only; no I/O.

A loss is a path that existed and is missing without a report of its deletion: its mount was disabled, or Vault's
storage was restored or replaced. Before the first lost path of a mount is created again, the mount's other paths are
read, so that a loss of all of them is recognised before anything is written.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from loguru import logger

from vaultsync.core import annotations
from vaultsync.core.callbacks import Clock, ignore
from vaultsync.core.errors import Postponed
from vaultsync.core.paths import VaultPath

WINDOW_SECONDS: Final = 600.0
LEAST, SHARE = 10, 0.05
"""The default limit: this number, or this share of the mount's paths that are live or lost, if that is more. Paths that
never existed do not count: an ExternalSecret can name any number of them."""
SURVEY_SECONDS: Final = 30.0
"""Maximum time for the reads of the mount's other paths."""
SURVEY_INTERVAL: Final = 60.0
"""Seconds after a survey for which it still counts."""
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.5, 20.0
"""A lost path waits this long at a time for these reads; longer if there are many, to the latter."""
RETRIES_PER_SECOND: Final = 200
"""Reads of waiting lost paths of a mount, which would otherwise delay the survey; more with the longest wait."""
RESUME: Final = (
    "to write the last good values from Kubernetes to Vault: docs/disaster-recovery.md; to have new ones created: "
    f'kubectl annotate --overwrite namespace NAMESPACE {annotations.HEAL_LOST}="$(date -u +%FT%TZ)"'
)


class MountName(NamedTuple):
    """A mount: the Vault namespace and the mount's path."""

    namespace: str
    path: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.path}" if self.namespace else self.path

    def is_replaced(self, uuid: str, known: Mapping[str, str]) -> bool:
        """Whether another mount is in the place of the known one; `uuid` is that of the mount now, "" if unknown."""
        return bool(uuid) and known.get(str(self), uuid) != uuid


class HealPostponed(Postponed):
    """The other paths of the mount are being read."""


@dataclass(slots=True)
class _Losses:
    """The losses of one mount.

    Attributes:
        lost: paths that are missing now.
        healing: those of them that may be created again; they count as healed once they are live.
        healed: when the last lost paths were created again.
        unread: paths that the survey has yet to read.
        live: the number of paths that the survey has found live.
        surveyed_until: when the present survey ends at the latest.
        stopped: how many paths were lost when healing was stopped, 0 while it is not.
        successor: the UUID of the mount that was last seen in place of the known one; earlier surveys do not count.
    """

    lost: set[VaultPath] = field(default_factory=set)
    healing: set[VaultPath] = field(default_factory=set)
    healed: deque[float] = field(default_factory=deque)
    unread: set[VaultPath] = field(default_factory=set)
    live: int = 0
    surveyed_until: float = float("-inf")
    stopped: int = 0
    successor: str = ""


class HealLimit:
    """Decides whether a lost path may be created again.

    Args:
        limit: paths of a mount in WINDOW_SECONDS; None for the default, 0 for no limit.
        known: the paths of a mount that ExternalSecrets read.

    Attributes:
        read_soon: has paths read.
        uuids: of the mounts with live values, by name.
    """

    def __init__(
        self,
        limit: int | None,
        known: Callable[[MountName], Collection[VaultPath]],
        clock: Clock = time.monotonic,
    ) -> None:
        self._limit = limit
        self._known = known
        self.read_soon: Callable[[Collection[VaultPath]], None] = ignore
        self.uuids: MutableMapping[str, str] = {}
        self._clock = clock
        self._mounts: dict[MountName, _Losses] = {}

    def held(self) -> dict[str, int]:
        """The number of lost paths that are not created again, by mount, also of mounts without any."""
        return dict.fromkeys(self.uuids, 0) | self.stopped()

    def stopped(self) -> dict[str, int]:
        """The mounts that are not healed, each with the number of its lost paths."""
        return {str(mount): len(one.lost) for mount, one in self._mounts.items() if one.stopped}

    def is_replaced(self, mount: MountName, uuid: str) -> bool:
        """Whether another mount is in the place of the one that had live values."""
        return mount.is_replaced(uuid, self.uuids)

    def observe(self, mount: MountName, path: VaultPath, uuid: str, *, is_live: bool, is_lost: bool) -> None:
        """Record the result of a read. A mount without losses is healed again.

        `uuid` is that of the mount, "" if it is not known. A mount that replaces another one is known from when a path
        is live, all others were read, and nothing is lost any more.
        """
        losses, replaced = self._mounts.get(mount), self.is_replaced(mount, uuid)
        if losses is None and self._limit != 0 and (is_lost or replaced):
            losses = self._mounts[mount] = _Losses()
        if losses is not None:
            (losses.lost.add if is_lost else losses.lost.discard)(path)
            if path in losses.healing and not is_lost:
                losses.healing.remove(path)
                losses.healed.append(self._clock())
            if replaced and losses.successor != uuid:
                losses.successor, losses.surveyed_until = uuid, float("-inf")
            if replaced and not losses.lost:  # perhaps a client has written only this path again
                self._is_surveying(mount, losses, self._clock())
            if path in losses.unread:
                losses.unread.remove(path)
                losses.live += is_live
            self._resume(mount, losses)
            if losses.lost or (replaced and losses.unread):
                return
            is_live = is_live or losses.live > 0
        if is_live and uuid:
            self.uuids[str(mount)] = uuid

    def skip(self, path: VaultPath) -> None:
        """Vault refuses to read the path: no survey waits for it."""
        for losses in self._mounts.values():
            losses.unread.discard(path)

    def forget(self, path: VaultPath) -> None:
        """No ExternalSecret reads the path any more: nobody has lost it."""
        self.skip(path)
        for mount, losses in self._mounts.items():
            losses.lost.discard(path)
            losses.healing.discard(path)
            self._resume(mount, losses)

    def _resume(self, mount: MountName, losses: _Losses) -> None:
        if not losses.lost and losses.stopped:
            losses.stopped = 0
            logger.info("healing resumes: no path is lost any more", mount=str(mount))

    def refusal(self, mount: MountName, path: VaultPath, *, replaced: bool, approved: bool) -> str:
        """Why the lost path may not be created again, "" if it may: then it counts.

        Args:
            mount: that should have the path.
            path: that is lost.
            replaced: another mount is in the place of the one that held the path.
            approved: a person has approved it.

        Raises:
            HealPostponed: the other paths of the mount are being read.
        """
        if self._limit == 0 or approved:
            return ""
        losses, now = self._mounts.setdefault(mount, _Losses()), self._clock()
        if not losses.stopped and self._is_surveying(mount, losses, now):
            wait = min(LONGEST_RETRY_SECONDS, max(RETRY_SECONDS, len(losses.lost) / RETRIES_PER_SECOND))
            raise HealPostponed(f"{path} is lost; the other paths of {mount} are read first", wait)
        losses.lost.add(path)
        while losses.healed and losses.healed[0] <= now - WINDOW_SECONDS:
            losses.healed.popleft()
        allowed = limit_of(self._limit, losses.live + len(losses.lost) + len(losses.healed))
        if losses.stopped or replaced or len(losses.lost) + len(losses.healed) > allowed:
            self._stop(mount, losses, allowed, replaced=replaced)
            return refusal_text(mount, losses.stopped)
        losses.healing.add(path)
        return ""

    def _is_surveying(self, mount: MountName, losses: _Losses, now: float) -> bool:
        """Whether the survey runs; starts one if the last one is not recent."""
        if losses.surveyed_until + SURVEY_INTERVAL < now:
            losses.unread, losses.live = set(self._known(mount)) - losses.lost, 0
            losses.surveyed_until = now + SURVEY_SECONDS
            self.read_soon(losses.unread)
        return bool(losses.unread) and now < losses.surveyed_until

    def _stop(self, mount: MountName, losses: _Losses, limit: int, *, replaced: bool) -> None:
        if losses.stopped:
            return
        losses.stopped = len(losses.lost)
        logger.error(
            "healing stopped: paths are missing and Vault reports no deletion",
            mount=str(mount),
            lost=len(losses.lost),
            limit=limit,
            reason="another mount is in its place" if replaced else "more than VAULTSYNC_HEAL_LIMIT",
            fix=RESUME,
        )


def limit_of(setting: int | None, known: int) -> int:
    """The limit of a mount with so many known paths, by VAULTSYNC_HEAL_LIMIT."""
    return max(LEAST, int(known * SHARE)) if setting is None else setting


def refusal_text(mount: MountName, lost: int) -> str:
    """Why the lost paths of a mount are not created again, after the name of one of them."""
    why = f"is missing, and Vault reports no deletion; so are {lost} paths of the mount {mount}"
    held = "vaultsync creates no new values, as these would replace the last good ones in Kubernetes"
    return f"{why}: {held}; {RESUME}"
