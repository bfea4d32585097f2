"""One pass over one ExternalSecret: force-sync it if Vault has news for it, and say what was done or is wrong."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from loguru import logger

from vaultsync.controller.index import Entry, Index
from vaultsync.controller.metrics import ControllerMetrics
from vaultsync.controller.path_state import NEVER, Awaited, Ledger, Reading, Synced, hold, news
from vaultsync.core import annotations
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.annotations import EventReason, Refusal, Result
from vaultsync.core.condition import compose
from vaultsync.core.errors import ConditionNotWritten, VaultsyncError
from vaultsync.core.external_secret import MAX_VERSIONS_BYTES, CreatedCondition, ExternalSecret, ObjectName

GRAVEST = tuple(Refusal)
"""The order in which one refusal stands for several."""


class Writer(Protocol):
    """What a pass writes on ExternalSecrets; kube.external_secrets.ExternalSecretWriter documents it."""

    async def write(
        self, external_secret: ExternalSecret, annotations: Mapping[str, str], report: CreatedCondition | None
    ) -> None: ...


class Recorder(Protocol):
    """Takes Kubernetes Events; kube.events.EventRecorder documents it."""

    def record(self, external_secret: ExternalSecret, reason: EventReason, message: str) -> None: ...


class ExternalSecretReconciler:
    """Brings ExternalSecrets what Vault has.

    Args:
        clock: seconds, monotonic.
        dry_run: writer and recorder write nothing; the log says so.
    """

    def __init__(
        self,
        index: Index,
        ledger: Ledger,
        writer: Writer,
        recorder: Recorder,
        clock: Callable[[], float],
        metrics: ControllerMetrics,
        dry_run: bool = False,
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._writer = writer
        self._recorder = recorder
        self._clock = clock
        self._dry_run = dry_run
        self._metrics = metrics

    def refreshed(self, external_secret: ExternalSecret) -> None:
        """The informer has it as it is now: it may have got what was made for it."""
        synced = self._ledger.awaiting(external_secret.name)
        if synced is None or synced.awaited is None or not external_secret.ready:
            return
        if external_secret.synced_version != synced.awaited.synced_version:
            self._metrics.seed_to_ready.observe(time.monotonic() - synced.awaited.since)
            synced.awaited = None

    async def external_secret(self, name: ObjectName) -> float:
        """One pass over an ExternalSecret, when none of its paths is being worked on.

        Returns:
            Seconds after which it wants another pass, 0 for none.

        Raises:
            VaultsyncError: as its `retryable` says.
        """
        entry = self._index.entry(name)
        if entry is None:
            self._ledger.forget(name)
            return 0.0
        external_secret, synced = entry.object, self._ledger.synced(entry.object)
        readings = self._ledger.readings(entry)
        found = news(synced, external_secret.versions, readings)
        wait = hold(synced, found, self._clock()) if found else 0.0
        due = bool(found) and wait == 0
        force = due and accepts_force_sync(external_secret)
        report = self._report(entry, synced)
        if not found or (due and not force):
            synced.heard_at = synced.seeded_at = NEVER  # there is nothing to bring
        refused: ConditionNotWritten | None = None
        if force or report is not None or synced.events:
            refused = await self._write(entry, synced, readings, found if force else {}, report)
        if due:
            self._settle(synced, readings)
        if refused is not None:
            raise refused
        return wait

    @staticmethod
    def _settle(synced: Synced, readings: list[Reading]) -> None:
        """It has been given all there is, or wants none of it."""
        synced.tokens.update((reading.name, reading.token) for reading in readings)
        synced.pending = {}

    def _report(self, entry: Entry, synced: Synced) -> CreatedCondition | None:
        for path in synced.successes.keys() - entry.references.keys():
            del synced.successes[path]
        for key in synced.failures.keys() - entry.references.keys() - entry.prefixes:
            del synced.failures[key]
        choice, problem = self._index.choice(entry)
        failures = [failure for failures in synced.failures.values() for failure in failures]
        refusals = [Refusal.ANNOTATION] if problem else [failure.refusal for failure in failures]
        synced.blocked = min(refusals, key=GRAVEST.index, default=None)
        all_there = self._ledger.all_there(entry)
        if not all_there:
            synced.awaited = None  # external-secrets can't get ready for now
        return compose(
            problem,
            [(failure.message, failure.reason) for failure in failures],
            "; ".join(synced.successes.values()),
            before=synced.said or entry.object.created_condition,
            all_there=all_there,
            wanted=choice is SeedChoice.WANTED,
        )

    async def _write(
        self,
        entry: Entry,
        synced: Synced,
        readings: list[Reading],
        found: dict[str, str],
        report: CreatedCondition | None,
    ) -> ConditionNotWritten | None:
        """Write, then record and log what was written; returns the error if only the report was not."""
        started = time.monotonic()
        annotations = _force_sync(entry, readings) if found else {}
        # before the await: what is seeded meanwhile is another round
        seeded, synced.seeded = synced.seeded, False
        events, synced.events = synced.events, []
        heard_at = self._await(entry, synced) if found else NEVER
        refused: ConditionNotWritten | None = None
        try:
            await self._writer.write(entry.object, annotations, report)
        except ConditionNotWritten as error:
            refused = error
        except VaultsyncError as error:
            synced.seeded = seeded
            if error.result is not Result.REFUSED:  # or the time until a person mends it would be counted
                synced.heard_at = min(synced.heard_at, heard_at)
            if error.retryable:
                synced.events = events + synced.events
            else:  # what was done in Vault is true all the same
                self._record(entry, events)
            raise
        else:
            synced.said = report or synced.said
        self._record(entry, events)
        if report is not None and not report.ok and refused is None:
            self._recorder.record(entry.object, EventReason.SEED_FAILED, report.message)
            self._metrics.refusals.labels(synced.blocked or Refusal.IMPOSSIBLE).inc()
            logger.warning("can't seed", external_secret=str(entry.object.name), reason=report.message)
        if found:
            self._count_force_sync(heard_at)
            self._tell_force_sync(entry, found, events, time.monotonic() - started)
        return refused

    def _await(self, entry: Entry, synced: Synced) -> float:
        """Before a force-sync: note what its object waits for from now on; returns when its reason was heard of."""
        if synced.seeded_at != NEVER and self._ledger.all_there(entry):
            synced.awaited = Awaited(synced.seeded_at, entry.object.synced_version)
        synced.seeded_at = NEVER
        heard_at, synced.heard_at = synced.heard_at, NEVER
        return heard_at

    def _count_force_sync(self, heard_at: float) -> None:
        if self._dry_run:
            return
        self._metrics.force_syncs.inc()
        if heard_at != NEVER:
            self._metrics.event_to_force_sync.observe(time.monotonic() - heard_at)

    def _record(self, entry: Entry, events: list[tuple[EventReason, str]]) -> None:
        for reason, message in events:
            self._recorder.record(entry.object, reason, message)

    def _tell_force_sync(
        self, entry: Entry, found: dict[str, str], events: list[tuple[EventReason, str]], seconds: float
    ) -> None:
        if not events:  # "Seeded" and "Recreated" say it already
            self._recorder.record(
                entry.object, EventReason.FORCE_SYNCED, f"changed in Vault: {', '.join(sorted(found))}"
            )
        logger.info(
            "would force-sync" if self._dry_run else "force-synced",
            external_secret=str(entry.object.name),
            versions=found,
            reason=str(events[0][0] if events else EventReason.FORCE_SYNCED),
            duration_ms=round(seconds * 1000, 1),
        )


def accepts_force_sync(external_secret: ExternalSecret) -> bool:
    """Whether the ExternalSecret has not opted out, and external-secrets heeds a force-sync on it."""
    opted_out = external_secret.annotations.get(annotations.FORCE_SYNC_OPT_OUT) == "false"
    return not opted_out and not external_secret.ignores_force_sync


def _force_sync(entry: Entry, readings: list[Reading]) -> dict[str, str]:
    """The annotations of a force-sync: the signal itself, and what it was for, which a restart goes by."""
    reads = {str(key) for key in (*entry.references, *entry.prefixes)}
    versions = {name: token for name, token in entry.object.versions.items() if name in reads}
    versions |= {reading.name: reading.token for reading in readings if reading.told}
    text = json.dumps(versions, sort_keys=True, separators=(",", ":"))
    return {
        annotations.FORCE_SYNC: datetime.now(UTC).isoformat(),
        # too many paths to record: after a restart they are judged by their times
        annotations.VERSIONS: text if len(text) <= MAX_VERSIONS_BYTES else "{}",
    }
