"""One pass over one ExternalSecret: force-sync it if Vault has changed, and report writes and failures on it.

Requests to Vault are path_reconciler's.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from loguru import logger

from vaultsync.controller.entry import Entry
from vaultsync.controller.index import Index
from vaultsync.controller.interfaces import ControllerMetrics, EventSink, ExternalSecretPatcher
from vaultsync.controller.path_state import PathStates, Reading
from vaultsync.controller.sync_state import NEVER, Delivery, SyncState, SyncStates
from vaultsync.core import annotations
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.annotations import CreatedReason, EventReason, Refusal
from vaultsync.core.callbacks import Clock
from vaultsync.core.errors import ConditionNotWritten, VaultsyncError
from vaultsync.core.external_secret import MAX_VERSIONS_BYTES, CreatedCondition, ExternalSecret, ObjectName

_EVENTS: Mapping[str, EventReason] = {
    CreatedReason.NOT_HEALED: EventReason.NOT_HEALED,
    CreatedReason.OTHER_OWNER: EventReason.OTHER_OWNER,
}
"""The Event for a condition; SEED_FAILED for the others."""


class ExternalSecretReconciler:
    """Has external-secrets read what has changed in Vault.

    Args:
        dry_run: patcher and recorder send nothing; the log says so.
    """

    def __init__(
        self,
        index: Index,
        paths: PathStates,
        syncs: SyncStates,
        patcher: ExternalSecretPatcher,
        recorder: EventSink,
        clock: Clock,
        metrics: ControllerMetrics,
        dry_run: bool = False,
    ) -> None:
        self._index = index
        self._paths = paths
        self._syncs = syncs
        self._patcher = patcher
        self._recorder = recorder
        self._clock = clock
        self._dry_run = dry_run
        self._metrics = metrics

    def refreshed(self, external_secret: ExternalSecret) -> None:
        """The informer has a new version of the object: external-secrets may have read what vaultsync wrote."""
        state = self._syncs.get(external_secret.name)
        if state is not None and (since := state.record_refresh(external_secret)) is not None:
            self._metrics.seed_to_ready.observe(self._clock() - since)

    async def reconcile(self, name: ObjectName) -> float:
        """One pass over an ExternalSecret; returns the seconds until it needs another pass, 0 for none.

        Raises:
            VaultsyncError: as its `retryable` says.
        """
        entry = self._index.entry(name)
        if entry is None:
            self._syncs.forget(name)
            return 0.0
        state = self._syncs.of(entry.object)
        readings = self._paths.readings(entry)
        changes = state.pending_changes(entry.object.versions, readings)
        wait = state.debounce(changes, self._clock()) if changes else 0.0
        is_due = bool(changes) and wait == 0
        is_put_off = self._paths.endangers(entry)
        is_forced = is_due and accepts_force_sync(entry.object) and not is_put_off
        choice, problem = self._index.choice(entry)
        report = state.compose_report(
            entry.object,
            {*entry.references, *entry.prefixes},
            problem,
            all_exist=self._paths.all_exist(entry),
            wanted=choice is SeedChoice.WANTED,
        )
        if not changes or (is_due and not is_forced):
            state.stop_timing()
        unreported: ConditionNotWritten | None = None
        if is_forced or report is not None or state.events:
            unreported = await self._write(entry, state, readings, changes if is_forced else {}, report)
        if is_due and not is_put_off:
            state.settle({reading.name: reading.fingerprint for reading in readings})
        if unreported is not None:
            raise unreported
        return wait

    async def _write(
        self,
        entry: Entry,
        state: SyncState,
        readings: list[Reading],
        changes: dict[str, str],
        report: CreatedCondition | None,
    ) -> ConditionNotWritten | None:
        """Patch the object, then record and log what was accepted; returns the error if only the report was not."""
        started = self._clock()
        annotations = _force_sync(entry, readings) if changes else {}
        await_ready = entry.object.synced_version if self._paths.all_exist(entry) else None
        delivery = state.take_delivery(force_sync=bool(changes), await_ready=await_ready)
        unreported: ConditionNotWritten | None = None
        try:
            await self._patcher.write(entry.object, annotations, report)
        except ConditionNotWritten as error:
            unreported = error
        except VaultsyncError as error:
            self._record(entry, state.restore(delivery, error))
            raise
        else:
            state.record_report(report)
        self._record(entry, delivery.events)
        if report is not None and not report.ok and unreported is None:
            self._recorder.record(entry.object, _EVENTS.get(report.reason, EventReason.SEED_FAILED), report.message)
            self._metrics.refusals.labels(state.refusal or Refusal.IMPOSSIBLE).inc()
            logger.warning("can't seed", external_secret=str(entry.object.name), reason=report.message)
        if changes:
            self._finish_force_sync(entry, changes, delivery, started)
        return unreported

    def _record(self, entry: Entry, events: list[tuple[EventReason, str]]) -> None:
        for reason, message in events:
            self._recorder.record(entry.object, reason, message)

    def _finish_force_sync(self, entry: Entry, changes: dict[str, str], delivery: Delivery, started: float) -> None:
        now = self._clock()
        if not self._dry_run:
            self._metrics.force_syncs.inc()
            if delivery.received_at != NEVER:
                self._metrics.event_to_force_sync.observe(now - delivery.received_at)
        writes = [reason for reason, _ in delivery.events if reason is not EventReason.EXPIRES]
        if not writes:  # "Seeded" and "Recreated" imply it
            self._record(entry, [(EventReason.FORCE_SYNCED, f"changed in Vault: {', '.join(sorted(changes))}")])
        logger.info(
            "would force-sync" if self._dry_run else "force-synced",
            external_secret=str(entry.object.name),
            versions=changes,
            reason=str(writes[0] if writes else EventReason.FORCE_SYNCED),
            duration_ms=round((now - started) * 1000, 1),
        )


def accepts_force_sync(external_secret: ExternalSecret) -> bool:
    """Whether the owner has not opted out, and external-secrets reacts to a force-sync."""
    return (
        external_secret.annotations.get(annotations.FORCE_SYNC_OPT_OUT) != "false"
        and not external_secret.ignores_force_sync
    )


def _force_sync(entry: Entry, readings: list[Reading]) -> dict[str, str]:
    """The annotations of a force-sync: the trigger, and the versions, which the next process starts from."""
    reads = {str(key) for key in (*entry.references, *entry.prefixes)}
    versions = {name: fingerprint for name, fingerprint in entry.object.versions.items() if name in reads}
    versions |= {reading.name: reading.fingerprint for reading in readings if reading.durable}
    text = json.dumps(versions, sort_keys=True, separators=(",", ":"))
    return {
        annotations.FORCE_SYNC: datetime.now(UTC).isoformat(),
        # with too many paths to record, the next process compares times
        annotations.VERSIONS: text if len(text) <= MAX_VERSIONS_BYTES else "{}",
    }
