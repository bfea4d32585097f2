"""What vaultsync last saw at Vault paths and in listings. Memory only; no I/O, no clock, no state of ExternalSecrets.

Vault holds the truth: all of this can be lost, and is rebuilt by the next rescan.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

from vaultsync.controller.entry import Entry
from vaultsync.core.decide import History
from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.vault_state import SENT_WITHIN, SecretState

NOTICE: Final = timedelta(days=1)
"""A value's expiry is announced when it is first seen, and again this long before."""
HELD_SECONDS: Final = 60.0
HELD_RATE: Final = 10.0
"""Held paths are read again after this time; of very many, so many a second."""
CLOCK_SKEW: Final = timedelta(seconds=1)
"""Between Vault's clock and Kubernetes', and the whole seconds of Kubernetes' times."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One path or listing that an ExternalSecret reads, in its present state.

    Attributes:
        name: its key in the annotation annotations.VERSIONS.
        fingerprint: identifies the state; a different fingerprint means that external-secrets has to read it again.
        durable: the fingerprint stays valid after a restart.
        refreshed: external-secrets has refreshed the ExternalSecret after the last write.
    """

    name: str
    fingerprint: str
    durable: bool
    refreshed: bool


@dataclass(slots=True)
class PathState:
    """One path, as last seen.

    Attributes:
        secret: its latest version.
        history: what was seen there since the process started.
        announced: the expiry that was announced, and whether it was less than NOTICE away.
        epoch: counts the changes that the state does not show (KV v1 has no versions).
    """

    secret: SecretState
    history: History = field(default_factory=History)
    epoch: int = 0
    announced: tuple[datetime, bool] | None = None

    def observe(self, secret: SecretState) -> None:
        """Record the result of a read or a write.

        An unchanged state keeps its object: after a rescan of ten thousand paths, Python's garbage collection would
        otherwise go through all the new objects, which blocks the loop for a tenth of a second.
        """
        if self.secret != secret:
            self.secret = secret
        history = self.history
        if secret.exists:
            history = replace(history, existed=True, version=secret.version, is_deletion_reported=False)
        if not history.properties.issuperset(secret.subkeys or ()):
            history = replace(history, properties=history.properties | frozenset(secret.subkeys or ()))
        if history != self.history:
            self.history = history

    def record_deletion(self) -> None:
        """Record that Vault has reported a deletion, which the next read shows."""
        self.history = replace(self.history, is_deletion_reported=True)

    def record_change(self) -> None:
        """Record that the secret may have changed; only KV v2 shows that."""
        if self.secret.mount.kv == 1:
            self.epoch += 1

    def fingerprint(self, *, metadata: bool) -> str:
        """Identify the state, see SecretState.fingerprint."""
        fingerprint = self.secret.fingerprint(metadata=metadata)
        return f"{fingerprint}#{self.epoch}" if self.epoch else fingerprint

    def shows(self, event: VaultEvent) -> bool:
        """Whether the state can be later than the event.

        A write is confirmed by its version if that was written at about the time of the event, or by any later write.
        The version alone is not enough: the count starts from 1 again after `kv metadata delete`. A deletion is
        confirmed by a path without a live version, or by a later write. In KV v1 a live path may have been written
        since, for example by vaultsync.
        """
        secret = self.secret
        if secret.mount.kv == 1:
            return secret.exists is not event.is_deletion
        if _is_written_after(secret, event.time):
            return True
        if event.is_deletion:
            return not secret.exists
        at = event.time - SENT_WITHIN if event.time is not None else None
        is_recent = at is None or secret.written is None or _is_written_after(secret, at)
        return not event.is_write or (event.version <= secret.version and is_recent)


class PathStates:
    """The paths and listings that ExternalSecrets read."""

    def __init__(self) -> None:
        self._paths: dict[VaultPath, PathState] = {}
        self._listings: dict[FindPrefix, set[VaultPath]] = {}
        self._unreadable: set[VaultPath] = set()
        self._held: set[VaultPath] = set()
        self._deleted_unread: set[VaultPath] = set()
        """Vault has reported their deletion before their first read."""
        self._watched_since: datetime | None = None

    # -- paths

    def get(self, path: VaultPath) -> PathState | None:
        """The path as last seen, None before the first read."""
        return self._paths.get(path)

    def history(self, path: VaultPath) -> History:
        """What was seen and reported at the path since the process started."""
        state = self._paths.get(path)
        return state.history if state is not None else History(is_deletion_reported=path in self._deleted_unread)

    def is_live(self, path: VaultPath) -> bool:
        """Whether the path was last seen with a live version."""
        state = self._paths.get(path)
        return state is not None and state.secret.exists

    def existed(self, path: VaultPath) -> bool:
        """Whether the path was ever seen with a live version."""
        state = self._paths.get(path)
        return state is not None and state.history.existed

    def observe(self, path: VaultPath, secret: SecretState) -> None:
        """Record the result of a read or a write."""
        self._unreadable.discard(path)
        if (state := self._paths.get(path)) is None:
            state = self._paths[path] = PathState(secret, self.history(path))
            self._deleted_unread.discard(path)
        if path in self._held:
            state.secret = secret
        else:
            state.observe(secret)

    def record_unreadable(self, path: VaultPath) -> None:
        """Record that Vault refuses to read the path: listings are complete without it."""
        self._unreadable.add(path)

    def hold(self, path: VaultPath, secret: SecretState) -> None:
        """Record that a lost path is not created again: then there is nothing to refresh for.

        Until `release`, its history stays as it is, so that an older version than the lost one does not count as known.
        """
        self._held.add(path)
        self.observe(path, secret)

    def release(self, path: VaultPath) -> None:
        """Record that the path is not lost, or is created again."""
        self._held.discard(path)

    def seconds_until_reread(self, path: VaultPath) -> float:
        """When a held path needs another read, as a restored value causes no event; 0 if it is not held."""
        return max(HELD_SECONDS, len(self._held) / HELD_RATE) if path in self._held else 0.0

    def endangers(self, entry: Entry) -> bool:
        """Whether a refresh would have external-secrets remove the last good copy of a lost value.

        With the deletionPolicies Delete and Merge it does.
        """
        return not entry.object.retains and not self._held.isdisjoint(entry.references)

    def forget(self, path: VaultPath) -> None:
        """No ExternalSecret reads the path any more."""
        self._held.discard(path)
        self._paths.pop(path, None)
        self._unreadable.discard(path)
        self._deleted_unread.discard(path)

    def shows(self, event: VaultEvent) -> bool:
        """Whether the last state of the event's path can be later than the event; see PathState.shows."""
        state = self._paths.get(event.path)
        return state is not None and state.shows(event)

    def record_change(self, path: VaultPath) -> None:
        """Record a write that the state may not show (KV v1)."""
        if (state := self._paths.get(path)) is not None:
            state.record_change()

    def is_new_expiry(self, path: VaultPath, now: datetime) -> bool:
        """Whether the expiry of the last version is yet to be announced; then it counts as announced."""
        state = self._paths.get(path)
        if state is None or state.secret.ends is None:
            return False
        announced = state.secret.ends, state.secret.ends - now < NOTICE
        is_new, state.announced = announced != state.announced, announced
        return is_new

    def record_deletion(self, path: VaultPath) -> None:
        """Record that Vault has reported a deletion."""
        if (state := self._paths.get(path)) is not None:
            state.record_deletion()
        else:
            self._deleted_unread.add(path)

    def start_watching(self, now: datetime) -> None:
        """The event stream is connected: earlier changes may have been missed, later ones are not."""
        self._watched_since = now
        for state in self._paths.values():
            state.record_change()

    # -- listings

    def record_listing(self, prefix: FindPrefix, paths: set[VaultPath]) -> set[VaultPath]:
        """Record the result of a listing; returns the paths to read: these, and those that were seen live under it."""
        known = paths | self.live_under(prefix)
        self._listings[prefix] = set(known)
        return known

    def update_listing(self, prefix: FindPrefix, path: VaultPath) -> None:
        """Add a path that was just observed to a listing, or remove it."""
        listing = self._listings.get(prefix, set())
        (listing.add if self.is_live(path) else listing.discard)(path)

    def live_under(self, prefix: FindPrefix) -> set[VaultPath]:
        """The paths under the prefix that were last seen with a live version."""
        return {path for path, state in self._paths.items() if state.secret.exists and prefix.covers(path)}

    def is_empty(self, prefix: FindPrefix) -> bool:
        """Whether a listing has found nothing."""
        return self._listings.get(prefix) == set()

    def forget_listing(self, prefix: FindPrefix) -> None:
        """No ExternalSecret lists the prefix any more."""
        self._listings.pop(prefix, None)

    # -- what an ExternalSecret reads

    def all_exist(self, entry: Entry) -> bool:
        """Whether every path of the ExternalSecret was seen live, and every listing has found something."""
        resolved = sum(len(references) for references in entry.references.values())
        return (
            bool(entry.references or entry.prefixes)
            and resolved == len(entry.object.refs)
            and all(self.is_live(path) for path in entry.references)
            and all(self._listings.get(prefix) for prefix in entry.prefixes)
        )

    def readings(self, entry: Entry) -> list[Reading]:
        """The paths and listings that the ExternalSecret reads, without those that were not read yet."""
        paths = (self._path_reading(entry, path) for path in entry.references)
        listings = (self._listing_reading(entry, prefix) for prefix in entry.prefixes)
        return [reading for reading in (*paths, *listings) if reading is not None]

    def _path_reading(self, entry: Entry, path: VaultPath) -> Reading | None:
        if (state := self._paths.get(path)) is None or path in self._held:
            return None
        fingerprint = state.fingerprint(metadata=any(reference.metadata for reference in entry.references[path]))
        return Reading(str(path), fingerprint, state.secret.mount.kv == 2, self._is_refreshed(entry, state.secret))

    def _listing_reading(self, entry: Entry, prefix: FindPrefix) -> Reading | None:
        paths = self._listings.get(prefix)
        if paths is None:
            return None
        states = {path: self._paths[path] for path in paths if path in self._paths}
        if len(states) < len(paths - self._unreadable):
            return None
        live = sorted(f"{path}@{one.fingerprint(metadata=True)}" for path, one in states.items() if one.secret.exists)
        fingerprint = sha256("\n".join(live).encode()).hexdigest()[:16]
        refreshed = all(self._is_refreshed(entry, state.secret) for state in states.values())
        return Reading(str(prefix), fingerprint, prefix.kv == 2, refreshed)

    def _is_refreshed(self, entry: Entry, secret: SecretState) -> bool:
        """Whether external-secrets' last refresh came after the last write, so that it has read the value.

        The refresh must also follow the last change of the store, to the whole second: both often come from one
        `kubectl apply`.
        """
        if not secret.exists:
            return True  # there is no value to read
        written, refreshed = secret.written, entry.object.refreshed
        if entry.stores_changed is not None and refreshed is not None and refreshed < entry.stores_changed:
            return False
        if written is None:  # KV v1: only an object created while vaultsync watches has missed nothing
            written, refreshed = self._watched_since, entry.object.created
        return written is not None and refreshed is not None and written + CLOCK_SKEW <= refreshed


def _is_written_after(secret: SecretState, time: datetime | None) -> bool:
    return time is not None and secret.written is not None and secret.written > time
