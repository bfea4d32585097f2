"""What each ExternalSecret was last force-synced for, and what is to be reported on it. Memory only; no I/O, no clock.

All of this can be lost, and is rebuilt from the objects and annotations.VERSIONS. path_state has the state of Vault.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vaultsync.controller.path_state import Reading
from vaultsync.core.annotations import EventReason, Refusal, Result
from vaultsync.core.condition import compose
from vaultsync.core.errors import VaultsyncError
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, ObjectName
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.reader import Problem
from vaultsync.core.vault_state import same_fingerprint

QUIET_SECONDS: Final = 0.2
"""Changes closer together than this are one burst."""
HELD_SECONDS: Final = 5.0
"""The longest time for which an endless burst delays a force-sync."""
UNSYNCED: Final = "not synced"
"""A fingerprint that no state has."""
NEVER: Final = float("inf")
"""The time of an event that has not happened."""


class Delivery(NamedTuple):
    """What one patch delivers, taken out of the fields of the same names of SyncState before the request."""

    events: list[tuple[EventReason, str]]
    is_seeded: bool
    received_at: float


@dataclass(slots=True)
class SyncState:
    """One ExternalSecret. All times are seconds of one monotonic clock. Other modules read the fields, and set none.

    Attributes:
        uid: of the object; another object of the same name gets a new state.
        fingerprints: by reading name, the state that the object was last force-synced for, or created with.
        failures: by path or listing, what is to be reported.
        refusal: the gravest refusal as of the last report, None if nothing is wrong.
        events: the Kubernetes Events to record after the next patch.
        is_seeded: vaultsync has written a path since the last force-sync, so no burst delays the next one.
        received_at: when vaultsync received the first event since the last force-sync.
        awaited_since: when vaultsync wrote the value that external-secrets has yet to read.
    """

    uid: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    failures: dict[VaultPath | FindPrefix, list[Problem]] = field(default_factory=dict)
    refusal: Refusal | None = None
    events: list[tuple[EventReason, str]] = field(default_factory=list)
    is_seeded: bool = False
    received_at: float = NEVER
    awaited_since: float = NEVER
    _synced_version: str = ""  # the object's when the wait for external-secrets began
    _written_at: float = NEVER  # the first write since the last force-sync
    _successes: dict[VaultPath, str] = field(default_factory=dict)
    _reported: CreatedCondition | None = None
    _pending: dict[str, str] = field(default_factory=dict)  # the changes that the last pass found
    _changed_at: float = float("-inf")
    _held_since: float = float("-inf")
    _due: float = 0.0

    # -- from passes over paths

    def record_seed(self, names: Iterable[str], at: float) -> None:
        """Record a write of these readings: the object has not read them, whatever the clocks show."""
        self.is_seeded = True
        self._written_at = min(self._written_at, at)
        self.mark_unsynced(names)

    def mark_unsynced(self, names: Iterable[str]) -> None:
        """The object reads these through a changed store: a refresh before the change does not count."""
        self.fingerprints.update(dict.fromkeys(names, UNSYNCED))

    def record_event(self, at: float) -> None:
        """Record the arrival of an event about a path that the object reads."""
        self.received_at = min(self.received_at, at)

    def record_success(self, path: VaultPath, reason: EventReason, message: str) -> None:
        """Report that vaultsync has written the path for this object."""
        self._successes[path] = message
        self.events.append((reason, message))

    def record_expiry(self, message: str) -> None:
        """Report that a value that the object reads will expire."""
        self.events.append((EventReason.EXPIRES, message))

    def record_failures(self, key: VaultPath | FindPrefix, failures: list[Problem]) -> None:
        """Report the failures of a path or listing in place of what was reported on it; none: nothing is wrong."""
        if not failures:
            self.failures.pop(key, None)
            return
        self.failures[key] = failures
        if isinstance(key, VaultPath):
            self._successes.pop(key, None)

    # -- from passes over the ExternalSecret

    def pending_changes(self, recorded: Mapping[str, str], readings: Iterable[Reading]) -> dict[str, str]:
        """The fingerprints, by name, of the readings that the object has yet to read.

        A reading without a fingerprint, here or `recorded` on the object by an earlier process, counts as read if the
        object was refreshed after the last write.
        """
        found: dict[str, str] = {}
        for reading in readings:
            base = self.fingerprints.get(reading.name) or (recorded.get(reading.name) if reading.durable else None)
            if reading.refreshed if base is None else same_fingerprint(base, reading.fingerprint):
                self.fingerprints[reading.name] = reading.fingerprint
            else:
                found[reading.name] = reading.fingerprint
        return found

    def debounce(self, changes: dict[str, str], now: float) -> float:
        """Seconds until the force-sync is due: the first of a burst at once, the next one at the end of the burst."""
        if changes != self._pending:
            is_quiet = now - self._changed_at >= QUIET_SECONDS
            if not self._pending:
                self._held_since = now
            self._due = now if is_quiet else min(now + QUIET_SECONDS, self._held_since + HELD_SECONDS)
            self._changed_at = now
            self._pending = changes
        return 0.0 if self.is_seeded else max(0.0, self._due - now)

    def settle(self, fingerprints: Mapping[str, str]) -> None:
        """The object was force-synced for these, or rejects force-syncs."""
        self.fingerprints.update(fingerprints)
        self._pending = {}

    def stop_timing(self) -> None:
        """No force-sync follows the events and writes so far."""
        self.received_at = self._written_at = NEVER

    def compose_report(
        self,
        external_secret: ExternalSecret,
        keys: Collection[VaultPath | FindPrefix],
        problem: str,
        *,
        all_exist: bool,
        wanted: bool,
    ) -> CreatedCondition | None:
        """The report to write on the object, None where it needs no change; see condition.compose.

        Reports on any other path or listing than `keys` are dropped, as the object does not read them.
        """
        self._successes = {path: text for path, text in self._successes.items() if path in keys}
        self.failures = {key: failures for key, failures in self.failures.items() if key in keys}
        failures = [failure for group in self.failures.values() for failure in group]
        refusals = [Refusal.ANNOTATION] if problem else [failure.refusal for failure in failures]
        self.refusal = min(refusals, key=tuple(Refusal).index, default=None)  # the gravest is declared first
        if not all_exist:
            self.awaited_since = NEVER  # external-secrets can't get ready for now
        return compose(
            problem,
            [(failure.message, failure.reason) for failure in failures],
            "; ".join(self._successes.values()),
            before=self._reported or external_secret.created_condition,
            all_there=all_exist,
            wanted=wanted,
        )

    # -- the patch of the ExternalSecret

    def take_delivery(self, *, force_sync: bool, await_ready: str | None) -> Delivery:
        """Take out what a patch delivers; what comes during the request belongs to the next patch.

        `await_ready` is the object's syncedResourceVersion, None if external-secrets can't get it ready.
        """
        delivery = Delivery(self.events, self.is_seeded, self.received_at if force_sync else NEVER)
        self.events, self.is_seeded = [], False
        if force_sync:
            if self._written_at != NEVER and await_ready is not None:
                self.awaited_since, self._synced_version = self._written_at, await_ready
            self.stop_timing()
        return delivery

    def restore(self, delivery: Delivery, error: VaultsyncError) -> list[tuple[EventReason, str]]:
        """The patch has failed; returns the Events that are to be recorded all the same."""
        self.is_seeded |= delivery.is_seeded
        if error.result is not Result.REFUSED:  # a refusal lasts until a person removes its cause: no measurement
            self.record_event(delivery.received_at)
        if not error.retryable:
            return delivery.events  # vaultsync has written to Vault nevertheless
        self.events = delivery.events + self.events
        return []

    def record_report(self, report: CreatedCondition | None) -> None:
        """The patch has succeeded, with this report."""
        self._reported = report or self._reported

    def record_refresh(self, external_secret: ExternalSecret) -> float | None:
        """The informer has a new version of the object; returns since when it waits for a value it has read now."""
        is_synced = external_secret.ready and external_secret.synced_version != self._synced_version
        if self.awaited_since == NEVER or not is_synced:
            return None
        since, self.awaited_since = self.awaited_since, NEVER
        return since


class SyncStates:
    """All ExternalSecrets."""

    def __init__(self) -> None:
        self._states: dict[ObjectName, SyncState] = {}

    def of(self, external_secret: ExternalSecret) -> SyncState:
        """The state of one ExternalSecret; a new one where the name belongs to a new object."""
        state = self._states.get(external_secret.name)
        if state is None or state.uid != external_secret.uid:
            state = self._states[external_secret.name] = SyncState(external_secret.uid)
        return state

    def get(self, name: ObjectName) -> SyncState | None:
        """The state of the ExternalSecret of that name, None before its first pass."""
        return self._states.get(name)

    def forget(self, name: ObjectName) -> None:
        """The ExternalSecret is gone."""
        self._states.pop(name, None)

    def awaited_since(self) -> float:
        """When vaultsync wrote the oldest value that external-secrets has yet to read, NEVER if there is none."""
        return min((state.awaited_since for state in self._states.values()), default=NEVER)

    def blocked(self) -> dict[str, int]:
        """How many ExternalSecrets have a refusal now, by the gravest one."""
        found = Counter(state.refusal for state in self._states.values())
        return {refusal.value: found[refusal] for refusal in Refusal}
