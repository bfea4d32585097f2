"""Passes over ExternalSecrets: what the API server may do."""

import pytest

from tests.unit.build import (
    external_secret,
    run_ahead,
)
from tests.unit.controller.harness import APP, SEED, A, Engine
from vaultsync.core.errors import (
    ConditionNotWritten,
    KubeConflict,
    KubeDenied,
    KubeUnavailable,
)


def test_a_failed_force_sync_is_tried_again() -> None:
    async def test() -> None:
        engine = Engine()
        engine.writer.errors = [KubeUnavailable("away")]
        asked = external_secret("a", annotations=SEED)
        with pytest.raises(KubeUnavailable):
            await engine.passes(asked)
        assert engine.recorder.events == []
        await engine.es_reconciler.reconcile(APP)
        assert len(engine.writer.force_syncs()) == 1
        assert engine.recorder.reasons() == ["Seeded"]

    run_ahead(test())


@pytest.mark.parametrize("error", [KubeConflict("409"), KubeDenied("403 on status")])
def test_a_report_that_fails_does_not_repeat_the_force_sync(error: KubeConflict | KubeDenied) -> None:
    """external-secrets writes the status at the same moment; or RBAC lacks externalsecrets/status."""

    async def test() -> None:
        engine = Engine()
        engine.writer.fail_report = error
        with pytest.raises(ConditionNotWritten):
            await engine.passes(external_secret("a", annotations=SEED))
        with pytest.raises(type(error)):
            await engine.es_reconciler.reconcile(APP)
        assert len(engine.writer.force_syncs()) == 1
        engine.writer.fail_report = None
        await engine.es_reconciler.reconcile(APP)
        assert len(engine.writer.force_syncs()) == 1
        assert [report.reason for report in engine.writer.reports()] == ["Success"]
        assert engine.recorder.reasons() == ["Seeded"]

    run_ahead(test())


def test_a_seed_is_recorded_although_its_report_fails() -> None:
    async def test() -> None:
        engine = Engine()
        engine.writer.fail_report = KubeDenied("403 on status")
        with pytest.raises(ConditionNotWritten):
            await engine.passes(external_secret("a", annotations=SEED))
        assert engine.recorder.reasons() == ["Seeded"]

    run_ahead(test())


def test_what_is_written_in_vault_during_the_force_sync_is_another_one() -> None:
    async def test() -> None:
        engine = Engine()
        one = external_secret("a")
        engine.vault.write(A, password="p")

        def meanwhile() -> None:
            engine.vault.write(A, password="q")
            engine.paths.observe(A, engine.vault._state(A))

        engine.writer.during = meanwhile
        await engine.passes(one)
        engine.clock.forward(60)
        await engine.es_reconciler.reconcile(APP)
        first, second = engine.writer.force_syncs()
        assert first["vaultsync.io/versions"] != second["vaultsync.io/versions"]

    run_ahead(test())


def test_a_removed_object_is_forgotten() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", annotations=SEED))
        engine.index.remove(APP)
        assert await engine.es_reconciler.reconcile(APP) == 0
        assert await engine.path_reconciler.reconcile(A) == (set(), 0)
        assert not engine.syncs._states
        assert not engine.paths._paths

    run_ahead(test())


def test_too_many_paths_to_record_are_not_recorded() -> None:
    async def test() -> None:
        engine = Engine()
        keys = [f"{'x' * 200}/{number}" for number in range(400)]
        await engine.passes(external_secret(*keys, annotations=SEED))
        assert engine.writer.force_syncs()[0]["vaultsync.io/versions"] == "{}"

    run_ahead(test())
