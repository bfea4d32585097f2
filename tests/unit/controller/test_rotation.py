"""Ownership metadata and rotations, over the stand-ins of the harness."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from loguru import logger

from tests.unit.build import NOON, entry, eventually, external_secret, path, run_ahead
from tests.unit.controller.harness import APP, DENIED, OTHER, SEED, A, B, Engine, v1_external_secret
from vaultsync.controller.ownership_writer import BEHIND_SECONDS, DENIED_AGAIN_SECONDS, UPGRADED_SECONDS
from vaultsync.core.errors import (
    VaultNamespaceUnavailable,
    VaultRejected,
    VaultRequestFailed,
    VaultsyncError,
    VaultThrottled,
    VaultUnavailable,
    WriteConflict,
)
from vaultsync.core.external_secret import ExternalSecret
from vaultsync.core.ownership import parse_ownership
from vaultsync.core.paths import VaultPath

ROTATE, AFTER = "vaultsync.io/rotate", "vaultsync.io/rotate-after"
HOUR = 3600


def asked(words: str = "", *keys: str, after: str = "", name: str = "app") -> ExternalSecret:
    """An ExternalSecret that requests a rotation in these words."""
    requests = {ROTATE: words, AFTER: after}
    annotations = SEED | {annotation: text for annotation, text in requests.items() if text}
    return external_secret(*(keys or ("a",)), name=name, annotations=annotations)


def value(engine: Engine, where: VaultPath = A) -> str:
    return (engine.vault.values(where) or {})["password"]


@asynccontextmanager
async def marking(engine: Engine, *, at_once: bool = True) -> AsyncIterator[None]:
    """The marker at work, without its waiting unless that is wanted."""

    async def requeue_now() -> None:
        while True:
            engine.ownership._queue.requeue_now()
            await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(part) for part in (engine.ownership.run(), *([requeue_now()] if at_once else []))]
    try:
        yield
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks), "the marker has stopped"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning meanwhile."""
    found: list[str] = []
    number = logger.add(lambda message: found.append(message.record["message"]), level="WARNING")
    try:
        yield found
    finally:
        logger.remove(number)


def restarted(engine: Engine) -> Engine:
    """The next process, on the same Vault."""
    following = Engine()
    following.vault = engine.vault
    following.path_reconciler = following.create_path_reconciler(engine.vault)
    return following


# -- marks


def test_a_seed_is_marked_behind_the_values_once() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        assert engine.vault.marks[A] == 0, "the values go first"
        async with marking(engine):
            await eventually(lambda: not len(engine.ownership))
            await engine.passes(asked())
        there = engine.vault.secrets[A].custom_metadata
        assert (there["managed-by"], there["vaultsync-external-secret"]) == ("vaultsync", "dev-1/app")
        assert parse_ownership(there) is not None
        assert engine.vault.marks[A] == 1

    run_ahead(test())


def test_a_rotation_is_marked_once() -> None:
    async def test() -> None:
        engine = Engine()
        async with marking(engine):
            await engine.passes(asked())
            await eventually(lambda: not len(engine.ownership))
            await engine.passes(asked("1"))
            await eventually(lambda: not len(engine.ownership))
            await engine.passes(asked("1"))
        assert engine.vault.marks[A] == 2

    run_ahead(test())


def test_what_a_person_writes_before_it_was_marked_is_not_marked() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        engine.vault.write(A, password="a person's")
        await engine.passes(asked())
        async with marking(engine):
            pass
        assert engine.vault.marks[A] == 0

    run_ahead(test())


def test_refused_ownership_is_logged_once_and_retried_with_the_paths_next_pass() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.marks_refused = DENIED
        async with marking(engine, at_once=False):
            with warnings() as logged:
                await engine.passes(asked("", "a", "b"))
                await asyncio.sleep(BEHIND_SECONDS + DENIED_AGAIN_SECONDS + 1)
                assert (engine.vault.marks[A], len(logged)) == (2, 1)
                await engine.passes(asked("", "a", "b"))
                await asyncio.sleep(BEHIND_SECONDS + 1)
                assert (engine.vault.marks[A], len(logged)) == (3, 1)
                assert "patch on metadata/" in logged[0]
            engine.vault.marks_refused = None
            await engine.passes(asked())
            await asyncio.sleep(BEHIND_SECONDS + 1)
            assert engine.vault.secrets[A].custom_metadata

    run_ahead(test())


def test_a_mark_refused_for_a_revoked_token_is_left_with_the_next_one() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.marks_refused = DENIED
        async with marking(engine, at_once=False):
            with warnings() as logged:
                await engine.passes(asked())
                await asyncio.sleep(BEHIND_SECONDS + DENIED_AGAIN_SECONDS / 2)
                assert engine.vault.marks[A] == 1
                engine.vault.marks_refused = None
                await asyncio.sleep(DENIED_AGAIN_SECONDS)
                assert engine.vault.secrets[A].custom_metadata
            assert not logged

    run_ahead(test())


def test_a_mark_waits_for_vault() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        engine.vault.down = VaultUnavailable("away")
        async with marking(engine):
            await eventually(lambda: engine.vault.marks[A] > 1)
            engine.vault.down = None
            await eventually(lambda: engine.vault.secrets[A].custom_metadata)

    run_ahead(test())


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (VaultThrottled("429", 7.0), 7.1),
        (VaultRejected("400: upgrading", 400), UPGRADED_SECONDS + 0.1),
        (VaultRequestFailed("500", 500), 1.1),
        (VaultNamespaceUnavailable("503", "team"), 1.1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mark_that_fails_alone_is_left_later_and_the_others_at_once(error: VaultsyncError, seconds: float) -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked("", "a", "b"))
        engine.vault.errors[A] = [error]
        async with marking(engine, at_once=False):
            await asyncio.sleep(BEHIND_SECONDS + 0.1)
            assert (engine.vault.marks[A], engine.vault.marks[B]) == (1, 1)
            assert engine.vault.secrets[B].custom_metadata
            await asyncio.sleep(seconds)
            assert engine.vault.secrets[A].custom_metadata
        assert not len(engine.ownership)

    run_ahead(test())


def test_a_mark_that_is_rejected_twice_is_given_up() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        engine.vault.errors[A] = [VaultRejected("400", 400)] * 2
        async with marking(engine, at_once=False):
            await asyncio.sleep(BEHIND_SECONDS + UPGRADED_SECONDS + 1)
            assert not len(engine.ownership)
            await asyncio.sleep(10 * UPGRADED_SECONDS)
            assert engine.vault.marks[A] == 2

    run_ahead(test())


def test_a_flush_goes_on_after_what_fails_alone() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked("", "a", "b"))
        engine.vault.errors[A] = [VaultRequestFailed("500", 500)]
        engine.vault.errors[B] = [VaultRequestFailed("500", 500)]
        with warnings() as logged:
            await engine.ownership.flush()
        assert engine.vault.marks[A] + engine.vault.marks[B] == 2
        assert logged == ["ownership metadata is lost for some paths"]

    run_ahead(test())


def test_a_flush_leaves_what_is_to_be_left() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked("", "a", "b"))
        await engine.ownership.flush()
        assert all(engine.vault.secrets[where].custom_metadata for where in (A, B))
        await engine.ownership.flush()
        assert (engine.vault.marks[A], engine.vault.marks[B]) == (1, 1)

    run_ahead(test())


def test_a_flush_stops_where_vault_does_not_answer() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked("", "a", "b"))
        engine.vault.down = VaultUnavailable("away")
        with warnings() as logged:
            await engine.ownership.flush()
        assert engine.vault.marks[A] + engine.vault.marks[B] == 1
        assert logged == ["ownership metadata is lost for some paths"]

    run_ahead(test())


def test_a_flush_goes_on_after_a_refusal() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked("", "a", "b"))
        engine.vault.errors[A] = [DENIED]
        engine.vault.errors[B] = [DENIED]
        await engine.ownership.flush()
        assert engine.vault.marks[A] + engine.vault.marks[B] == 2

    run_ahead(test())


def test_what_a_removed_object_had_made_is_marked_all_the_same() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        engine.index.remove(APP)
        await engine.path_reconciler.reconcile(A)
        async with marking(engine):
            await eventually(lambda: engine.vault.secrets[A].custom_metadata)

    run_ahead(test())


def test_no_refused_mark_of_removed_objects_stays_in_memory() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.marks_refused = DENIED
        await engine.passes(asked())
        async with marking(engine):
            await eventually(lambda: engine.vault.marks[A])
            engine.index.remove(APP)
            await engine.path_reconciler.reconcile(A)
            await eventually(lambda: not len(engine.ownership))

    run_ahead(test())


@pytest.mark.parametrize("kind", ["kv-v2/metadata-patch", "kv-v2/metadata-write"])
@pytest.mark.parametrize(
    ("reader", "looks"),
    [
        (external_secret("dev/a"), False),
        (external_secret(data=[entry("dev/a", "owner", metadataPolicy="Fetch")]), True),
        (external_secret(data=[], data_from=[{"find": {"path": "dev"}}]), True),
    ],
    ids=["of values", "of metadata", "of a listing"],
)
def test_only_who_reads_metadata_has_a_change_of_it_looked_at(kind: str, reader: ExternalSecret, looks: bool) -> None:
    async def test() -> None:
        engine = Engine()
        where = path("secret/data/dev/a")
        engine.vault.write(where, password="a person's")
        async with engine.working():
            engine.controller.external_secret_changed(reader)
            await engine.settled()
            before = engine.vault.looks[where]
            engine.event("secret/data/dev/a", kind)
            await engine.settled()
            assert (engine.vault.looks[where] > before) == looks

    run_ahead(test())


# -- rotations


def test_what_is_asked_for_is_rotated_once_and_reaches_its_readers_at_once() -> None:
    async def test() -> None:
        engine = Engine()
        reads = external_secret("a", name="other")
        await engine.passes(asked(), reads)
        first = value(engine)
        await engine.passes(asked("1"), reads)
        second = value(engine)
        assert second != first
        assert (engine.vault.rotations[A], engine.vault.secrets[A].version) == (1, 2)
        assert len(engine.writer.force_syncs(APP)) == len(engine.writer.force_syncs(OTHER)) == 2, "in the same burst"
        assert engine.recorder.reasons() == ["Seeded", "ForceSynced", "Rotated", "ForceSynced"]
        said = "rotated secret/a version 2 with password (requested by dev-1/app)"
        assert engine.recorder.events[2][2] == said
        assert (engine.writer.reports()[-1].reason, engine.writer.reports()[-1].message) == ("Success", said)
        before = len(engine.writer.writes)
        await engine.passes(asked("1"), reads)
        assert (value(engine), len(engine.writer.writes)) == (second, before)
        everything = f"{engine.writer} {engine.recorder} {engine.paths._paths} {engine.ownership._pending}"
        assert not any(one in everything for one in (first, second))

    run_ahead(test())


def test_the_controller_rotates_for_a_new_annotation_and_no_second_time() -> None:
    async def test() -> None:
        engine = Engine()
        async with engine.working():
            engine.controller.external_secret_changed(asked())
            await engine.settled()
            for words, count in (("1", 1), ("1", 1), ("2", 2)):
                engine.controller.external_secret_changed(asked(words))
                await engine.settled()
                engine.event(kind="kv-v2/data-patch")
                engine.controller.enqueue_all()
                await engine.settled()
                assert engine.vault.rotations[A] == count

    run_ahead(test())


def test_only_what_vaultsync_added_to_a_persons_secret_is_rotated() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, user="a person's")
        await engine.passes(asked())
        first = value(engine)
        await engine.passes(asked("1"))
        values = engine.vault.values(A) or {}
        assert values["user"] == "a person's"
        assert values["password"] != first
        async with marking(engine):
            await eventually(lambda: not len(engine.ownership))
        assert "managed-by" not in engine.vault.secrets[A].custom_metadata

    run_ahead(test())


def test_a_person_who_writes_between_look_and_rotation_wins() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        await engine.ownership.flush()
        engine.vault.before_create = lambda: engine.vault.write(A, password="a person's")
        with pytest.raises(WriteConflict):
            await engine.passes(asked("1"))
        await engine.passes(asked("1"))
        assert engine.vault.values(A) == {"password": "a person's"}
        assert "another client" in engine.writer.reports()[-1].message
        assert "Rotated" not in engine.recorder.reasons()

    run_ahead(test())


def test_a_person_who_writes_after_a_rotation_is_no_news_to_who_had_asked_for_it() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        await engine.passes(asked("1"))
        await engine.ownership.flush()
        engine.vault.write(A, password="a person's")
        await engine.passes(asked("1"))
        assert all(report.ok for report in engine.writer.reports())

    run_ahead(test())


def test_a_request_that_comes_with_the_object_is_answered_by_its_seed() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked("1"))
        await engine.passes(asked("1"))
        assert (engine.vault.creates[A], engine.vault.rotations[A]) == (1, 0)

    run_ahead(test())


def test_a_request_in_kv_v1_is_reported() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(v1_external_secret(annotations=SEED | {ROTATE: "1"}))
        (report,) = engine.writer.reports()
        assert not report.ok
        assert "KV v1" in report.message

    run_ahead(test())


def test_of_two_ages_the_younger_object_gets_a_report_with_the_seed_itself() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked(after="1h"), asked(after="2h", name="other"))
        (report,) = (report for name, _, report in engine.writer.writes if name == OTHER and report)
        assert report.reason == "ErrorAnnotation"
        assert AFTER in report.message

    run_ahead(test())


def test_a_wrong_age_is_reported_until_it_is_right() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked(after="soon"))
        assert (engine.writer.reports()[-1].reason, engine.vault.values(A)) == ("ErrorAnnotation", None)
        await engine.passes(asked(after="30d"))
        assert (engine.writer.reports()[-1].reason, engine.vault.values(A) is None) == ("Success", False)

    run_ahead(test())


def test_a_pass_says_when_the_next_is_due_although_vaults_clock_is_behind() -> None:
    async def test() -> None:
        engine = Engine()
        assert engine.vault.now == NOON
        engine.index.put(asked(after="1h"))
        for _ in range(2):
            _, again = await engine.path_reconciler.reconcile(A)
            assert HOUR - 10 < again <= 1.1 * HOUR
        assert engine.vault.rotations[A] == 0

    run_ahead(test())


def test_only_what_is_due_before_everything_is_looked_at_anyhow_is_kept_in_mind() -> None:
    async def test() -> None:
        engine = Engine()
        async with engine.working():
            engine.controller.external_secret_changed(asked(after="1h"))
            engine.controller.external_secret_changed(asked("", "b", after="30d", name="other"))
            await engine.settled()
            assert engine.vault.values(B)
            assert engine.controller._queue._due_of.keys() == {A}

    run_ahead(test())


def test_a_restart_goes_on_by_the_mark() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        await engine.passes(asked("1"))
        await engine.ownership.flush()
        second = restarted(engine)
        await second.passes(asked("1"))
        assert second.vault.rotations[A] == 1, "it was the one before"
        assert "Rotated" not in second.recorder.reasons()
        await second.passes(asked("2"))
        assert second.vault.rotations[A] == 2

    run_ahead(test())


def test_values_without_ownership_before_a_restart_are_another_clients_and_that_is_reported() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        second = restarted(engine)
        await second.passes(asked("1"))
        assert second.vault.rotations[A] == 0
        assert "not marked as made by vaultsync" in second.writer.reports()[-1].message

    run_ahead(test())


def test_two_vaultsyncs_do_not_rotate_in_turns() -> None:
    """Such as those of two clusters that share a path."""

    async def test() -> None:
        one = Engine()
        await one.passes(asked())
        await one.ownership.flush()
        other = restarted(one)
        for _ in range(3):
            await one.passes(asked("1"))
            await one.ownership.flush()
            await other.passes(asked("2", name="other"))
            await other.ownership.flush()
        assert one.vault.rotations[A] == 2

    run_ahead(test())
