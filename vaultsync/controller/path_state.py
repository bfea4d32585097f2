"""What this process has seen in Vault and what each ExternalSecret has got of it. Memory only; no I/O, no clock.

Vault and Kubernetes hold the truth: everything here can be lost and is rebuilt from them (restart, resync).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from vaultsync.controller.index import Entry
from vaultsync.controller.unconfirmed_write import UnconfirmedWrite
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.events import VaultEvent
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, ObjectName
from vaultsync.core.ownership import Ownership
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.vault_state import SENT_WITHIN, SecretState, same_fingerprint

CLOCK_SKEW: Final = timedelta(seconds=1)
"""Between Vault's clock and Kubernetes', and the whole seconds of Kubernetes' times."""
QUIET_SECONDS: Final = 0.2
"""Changes closer together than this are one burst."""
NOT_GOT: Final = "not got"
"""A token that no state has."""
HELD_SECONDS: Final = 5.0
"""The longest that an endless burst holds back a force-sync."""
NEVER: Final = float("inf")
"""The time of what has not happened."""


@dataclass(slots=True)
class Observed:
    """One path as last seen.

    Attributes:
        existed: it was seen with a live version.
        properties: names of top-level keys seen there.
        epoch: counts changes that leave no trace in the state (KV v1 has no versions).
    """

    state: SecretState
    existed: bool = False
    properties: frozenset[str] = frozenset()
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PendingOwnership:
    """A mark that is not yet in Vault.

    Attributes:
        custom_metadata: what is to be merged into the path's.
    """

    ownership: Ownership
    custom_metadata: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that an ExternalSecret reads, as it is now in Vault.

    Attributes:
        name: how the annotation names.VERSIONS calls it.
        token: names the state; another token means that there is something to read again.
        told: the token survives a restart.
        older: external-secrets has read it after it was last written.
    """

    name: str
    token: str
    told: bool
    older: bool


class Failure(NamedTuple):
    """What the owner of an ExternalSecret must be told about a path or listing."""

    message: str
    reason: CreatedReason
    refusal: Refusal


class Awaited(NamedTuple):
    """What was made for an ExternalSecret, and external-secrets has not read yet.

    Attributes:
        since: when it was made, by time.monotonic.
        synced_version: the object's then.
    """

    since: float
    synced_version: str


@dataclass(slots=True)
class Synced:
    """What one ExternalSecret has got, and what is due to it.

    Attributes:
        tokens: by the reading's name, the token that it was last force-synced for or was born with.
        seeded: a path of it was just created: no burst to wait for.
        failures: by path or listing, what its owner must be told.
        blocked: the gravest of what is wrong, as of its last pass, None if nothing is.
        successes: by path, what was last done for it.
        said: what was last reported on it by this process.
        events: what is to be recorded on it with the next write.
        pending: the tokens that the last look found new.
        changed_at, held_since, due: seconds on the caller's clock.
        heard_at: when Vault told of the first change that it has not got, by time.monotonic.
        seeded_at: when something was made of which it was not told yet, by time.monotonic.
        awaited: what it waits for after that.
    """

    uid: str
    tokens: dict[str, str] = field(default_factory=dict)
    seeded: bool = False
    failures: dict[VaultPath | FindPrefix, list[Failure]] = field(default_factory=dict)
    blocked: Refusal | None = None
    successes: dict[VaultPath, str] = field(default_factory=dict)
    said: CreatedCondition | None = None
    pending: dict[str, str] = field(default_factory=dict)
    changed_at: float = float("-inf")
    held_since: float = float("-inf")
    due: float = 0.0
    heard_at: float = NEVER
    seeded_at: float = NEVER
    awaited: Awaited | None = None
    events: list[tuple[EventReason, str]] = field(default_factory=list)


class Ledger:
    """The memory of reconciler and syncer."""

    def __init__(self) -> None:
        self._observed: dict[VaultPath, Observed] = {}
        self._listed: dict[FindPrefix, set[VaultPath]] = {}
        self._synced: dict[ObjectName, Synced] = {}
        self._unreadable: set[VaultPath] = set()
        self._unmarked: dict[VaultPath, PendingOwnership] = {}
        self._unconfirmed: dict[VaultPath, UnconfirmedWrite] = {}
        self.watching_since: datetime | None = None
        """When the event stream was connected: later changes do not go unseen."""

    def observed(self, path: VaultPath) -> Observed | None:
        """The path as last seen, None if it was not looked at yet."""
        return self._observed.get(path)

    def is_live(self, path: VaultPath) -> bool:
        """Whether the path was last seen with a live version."""
        seen = self._observed.get(path)
        return seen is not None and seen.state.exists

    def existed(self, path: VaultPath) -> bool:
        """Whether the path was ever seen with a live version."""
        seen = self._observed.get(path)
        return seen is not None and seen.existed

    def observe(self, path: VaultPath, state: SecretState) -> None:
        """Note what a look at the path, or a write there, has shown.

        What is seen unchanged is kept as it is: of a look at ten thousand paths, Python's garbage collection would
        otherwise have all the new objects to go through, which holds up the loop for a tenth of a second.
        """
        self._unreadable.discard(path)
        seen = self._observed.get(path)
        if seen is None:
            seen = self._observed[path] = Observed(state)
        if seen.state != state:
            seen.state = state
        seen.existed |= state.exists
        if not seen.properties.issuperset(state.subkeys or ()):
            seen.properties |= frozenset(state.subkeys or ())

    def unreadable(self, path: VaultPath) -> None:
        """Vault refuses a look at the path: a listing goes on without it."""
        self._unreadable.add(path)

    def made(self, path: VaultPath, unmarked: PendingOwnership) -> None:
        """Something was made at the path, and Vault does not know yet that it was vaultsync."""
        self._unmarked[path] = unmarked

    def unmarked(self, path: VaultPath) -> PendingOwnership | None:
        """The mark that is still to be left at the path."""
        return self._unmarked.get(path)

    def all_unmarked(self) -> list[VaultPath]:
        """The paths at which a mark is still to be left."""
        return list(self._unmarked)

    def unconfirmed(self, path: VaultPath) -> UnconfirmedWrite | None:
        """The write at the path whose response was lost."""
        return self._unconfirmed.get(path)

    def sent(self, path: VaultPath, write: UnconfirmedWrite) -> None:
        """A write was sent to the path, and no response came."""
        self._unconfirmed[path] = write.after(self._unconfirmed.get(path))

    def confirmed(self, path: VaultPath) -> None:
        """It is known what became of the writes at the path."""
        self._unconfirmed.pop(path, None)

    def marked(self, path: VaultPath, unmarked: PendingOwnership) -> None:
        """The mark is left, or has lost its sense."""
        if self._unmarked.get(path) == unmarked:
            del self._unmarked[path]

    def shows(self, event: VaultEvent) -> bool:
        """Whether the state that was last seen at the path can be later than the event.

        A write is shown by its version if that was written at about the time of the event, or by any later write. The
        version alone says nothing: the count starts from 1 again after `kv metadata delete`. A deletion is shown by a
        path without a live version, or by a later write. In KV v1 a path that is there may have been made since, such
        as by vaultsync.
        """
        seen = self._observed.get(event.path)
        if seen is None:
            return False
        state = seen.state
        if state.mount.kv == 1:
            return state.exists is not event.is_deletion
        if _is_written_after(state, event.time):
            return True
        if event.is_deletion:
            return not state.exists
        at = event.time - SENT_WITHIN if event.time is not None else None
        is_recent = at is None or state.written is None or _is_written_after(state, at)
        return not event.is_write or (event.version <= state.version and is_recent)

    def touch_unversioned(self, path: VaultPath) -> None:
        """The path has changed; in KV v1 its state does not show it."""
        seen = self._observed.get(path)
        if seen is not None and seen.state.mount.kv == 1:
            seen.epoch += 1

    def touch_all_unversioned(self) -> None:
        """Events may have been missed: every KV v1 path may have changed."""
        for path in self._observed:
            self.touch_unversioned(path)

    def forget_path(self, path: VaultPath) -> None:
        """Nobody reads the path any more."""
        self._observed.pop(path, None)
        self._unconfirmed.pop(path, None)
        self._unreadable.discard(path)

    def listed(self, prefix: FindPrefix, paths: set[VaultPath]) -> set[VaultPath]:
        """Note what a listing has found; returns what needs a look: that, and what was seen there before or since."""
        known = paths | self.live_under(prefix)
        self._listed[prefix] = set(known)
        return known

    def live_under(self, prefix: FindPrefix) -> set[VaultPath]:
        """The paths under the prefix that were last seen with a live version."""
        return {path for path, seen in self._observed.items() if seen.state.exists and prefix.covers(path)}

    def is_empty(self, prefix: FindPrefix) -> bool:
        """Whether a listing has found nothing."""
        return self._listed.get(prefix) == set()

    def note(self, prefix: FindPrefix, path: VaultPath) -> None:
        """A path under a prefix was observed."""
        if prefix in self._listed and self.is_live(path):
            self._listed[prefix].add(path)
        elif prefix in self._listed:
            self._listed[prefix].discard(path)

    def forget_prefix(self, prefix: FindPrefix) -> None:
        """Nobody lists the prefix any more."""
        self._listed.pop(prefix, None)

    def synced(self, external_secret: ExternalSecret) -> Synced:
        """The memory of one ExternalSecret; a new one where the name was given to a new object."""
        synced = self._synced.get(external_secret.name)
        if synced is None or synced.uid != external_secret.uid:
            synced = self._synced[external_secret.name] = Synced(external_secret.uid)
        return synced

    def forget(self, name: ObjectName) -> None:
        """The ExternalSecret is gone."""
        self._synced.pop(name, None)

    def awaiting(self, name: ObjectName) -> Synced | None:
        """The memory of an ExternalSecret that has not got what was made for it."""
        synced = self._synced.get(name)
        return synced if synced and synced.awaited else None

    def awaited_since(self) -> float:
        """Since when the longest waiting ExternalSecret has not got what was made for it; NEVER if none waits."""
        return min((synced.awaited.since for synced in self._synced.values() if synced.awaited), default=NEVER)

    def blocked(self) -> dict[str, int]:
        """How many ExternalSecrets something is wrong with now, by the gravest of it."""
        found = Counter(synced.blocked for synced in self._synced.values() if synced.blocked)
        return {refusal.value: found[refusal] for refusal in Refusal}

    def all_there(self, entry: Entry) -> bool:
        """Whether everything that the ExternalSecret names was seen to exist, and its listings to find something."""
        resolved = sum(len(references) for references in entry.references.values())
        return (
            bool(entry.references or entry.prefixes)
            and resolved == len(entry.object.refs)
            and all(self.is_live(path) for path in entry.references)
            and all(self._listed.get(prefix) for prefix in entry.prefixes)
        )

    def seeded(self, entry: Entry, path: VaultPath, at: float) -> None:
        """The path was just created: the ExternalSecret has not got it, whatever the clocks say, and waits no burst."""
        synced = self.synced(entry.object)
        synced.seeded = True
        synced.seeded_at = min(synced.seeded_at, at)
        for name in [str(path), *(str(prefix) for prefix in entry.prefixes if prefix.covers(path))]:
            synced.tokens[name] = NOT_GOT

    def moved(self, entry: Entry, paths: Iterable[VaultPath]) -> None:
        """The ExternalSecret reads these since its store has changed; that it was refreshed before says nothing."""
        self.synced(entry.object).tokens.update(dict.fromkeys(map(str, paths), NOT_GOT))

    def heard(self, entry: Entry, at: float) -> None:
        """Vault has told, at that time, of a change of what the ExternalSecret reads."""
        synced = self.synced(entry.object)
        synced.heard_at = min(synced.heard_at, at)

    def readings(self, entry: Entry) -> list[Reading]:
        """What the ExternalSecret reads, as last seen in Vault; what was not looked at yet is left out."""
        found = [self._reading(entry, path) for path in entry.references]
        found += [self._listing(entry, prefix) for prefix in entry.prefixes]
        return [reading for reading in found if reading is not None]

    def _reading(self, entry: Entry, path: VaultPath) -> Reading | None:
        seen = self._observed.get(path)
        if seen is None:
            return None
        metadata = any(reference.metadata for reference in entry.references[path])
        state = seen.state
        token = _token(state, seen.epoch, metadata=metadata)
        return Reading(str(path), token, state.mount.kv == 2, self._is_older(state, entry))

    def _listing(self, entry: Entry, prefix: FindPrefix) -> Reading | None:
        paths = self._listed.get(prefix)
        if paths is None:
            return None
        seen = {path: self._observed[path] for path in paths if path in self._observed}
        if len(seen) < len(paths - self._unreadable):
            return None
        live = sorted(
            f"{path}@{_token(one.state, one.epoch, metadata=True)}" for path, one in seen.items() if one.state.exists
        )
        return Reading(
            name=str(prefix),
            token=sha256("\n".join(live).encode()).hexdigest()[:16],
            told=prefix.kv == 2,
            older=all(self._is_older(one.state, entry) for one in seen.values()),
        )

    def _is_older(self, state: SecretState, entry: Entry) -> bool:
        """Whether external-secrets' last refresh came after the last write, so that it has the value.

        And after its store's last change, as far as whole seconds tell: both often come from one `kubectl apply`.
        """
        if not state.exists:
            return True  # never there while we looked: no value to bring
        written, refreshed = state.written, entry.object.refreshed
        if entry.stores_changed is not None and refreshed is not None and refreshed < entry.stores_changed:
            return False
        if written is None:  # KV v1: only an object born under our eyes can't have missed anything
            written, refreshed = self.watching_since, entry.object.created
        return written is not None and refreshed is not None and written + CLOCK_SKEW <= refreshed


def _is_written_after(state: SecretState, time: datetime | None) -> bool:
    return time is not None and state.written is not None and state.written > time


def news(synced: Synced, recorded: Mapping[str, str], readings: Iterable[Reading]) -> dict[str, str]:
    """The readings that the ExternalSecret has not got yet, by name: their tokens.

    A reading without any record counts as got if external-secrets has refreshed the object after the last write.

    Args:
        synced: updated: readings that it has got already are entered.
        recorded: what an earlier process has recorded on the object.
        readings: as they are now.
    """
    found: dict[str, str] = {}
    for reading in readings:
        base = synced.tokens.get(reading.name) or (recorded.get(reading.name) if reading.told else None)
        if reading.older if base is None else same_fingerprint(base, reading.token):
            synced.tokens[reading.name] = reading.token
        else:
            found[reading.name] = reading.token
    return found


def hold(synced: Synced, found: dict[str, str], now: float) -> float:
    """How many seconds a force-sync has to wait: of a burst the first goes at once, the rest once it is over.

    Args:
        synced: updated.
        found: what `news` has found, not empty.
        now: seconds, monotonic.
    """
    if found != synced.pending:
        quiet = now - synced.changed_at >= QUIET_SECONDS
        if not synced.pending:
            synced.held_since = now
        synced.due = now if quiet else min(now + QUIET_SECONDS, synced.held_since + HELD_SECONDS)
        synced.changed_at = now
        synced.pending = found
    return 0.0 if synced.seeded else max(0.0, synced.due - now)


def _token(state: SecretState, epoch: int, *, metadata: bool) -> str:
    token = state.fingerprint(metadata=metadata)
    return f"{token}#{epoch}" if epoch else token
