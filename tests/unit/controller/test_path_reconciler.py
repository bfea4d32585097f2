"""Passes over paths and listings, with the ExternalSecrets that read them."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.build import (
    NOON,
    external_secret,
    namespace,
    path,
    run_ahead,
    store,
)
from tests.unit.controller.harness import (
    APP,
    DENIED,
    EVERYWHERE,
    KV1,
    OTHER,
    SEED,
    A,
    B,
    Engine,
    v1_external_secret,
)
from vaultsync.controller.evaluate import PathEvaluator
from vaultsync.controller.heal_limit import HealPostponed, MountName
from vaultsync.controller.path_state import HELD_SECONDS
from vaultsync.core.errors import (
    BudgetSpent,
    ObjectsBehind,
    VaultDenied,
    VaultRejected,
    VaultUnavailable,
    WriteConflict,
)
from vaultsync.core.external_secret import ExternalSecret, ObjectName, Store, StoreName
from vaultsync.core.healing import Absence
from vaultsync.core.paths import VaultPath
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import SecretState

# -- seeding


def test_a_path_that_is_not_the_namespaces_own_is_refused_and_the_message_says_what_would_be_allowed() -> None:
    async def test() -> None:
        engine = Engine(seed_paths=SeedPaths.parse(("*/{namespace}/**",)))
        await engine.passes(external_secret("dev-2/a", "dev-1/a", annotations=SEED))
        assert engine.vault.secrets.keys() == {path("secret/data/dev-1/a")}
        (report,) = engine.writer.reports()
        assert report.reason == "ErrorCreating"
        assert "spec.data[0].remoteRef: secret/dev-2/a" in report.message
        assert "*/dev-1/**" in report.message

    run_ahead(test())


def test_another_namespace_does_not_add_its_properties_to_a_path_that_is_not_its_own() -> None:
    async def test() -> None:
        engine = Engine(seed_paths=SeedPaths.parse(("*/{namespace}/**",)))
        engine.index.put_namespace(namespace("dev-2"))
        engine.index.put_store(store(namespace="dev-2"))
        foreign = external_secret(("dev-1/a", "evil"), namespace="dev-2", annotations=SEED)
        await engine.passes(external_secret("dev-1/a", annotations=SEED), foreign)
        values = engine.vault.values(path("secret/data/dev-1/a"))
        assert values is not None
        assert values.keys() == {"password"}

    run_ahead(test())


def test_what_exists_may_be_read_wherever_it_is() -> None:
    async def test() -> None:
        engine = Engine(seed_paths=SeedPaths.parse(("*/{namespace}/**",)))
        engine.vault.write(path("secret/data/shared/a"), password="a person's")
        await engine.passes(external_secret("shared/a", annotations=SEED))
        assert engine.writer.reports() == []

    run_ahead(test())


def test_a_spent_budget_puts_new_paths_off_and_says_so_until_their_turn_comes() -> None:
    async def test() -> None:
        engine = Engine(budget=1)
        await engine.passes(external_secret("a", annotations=SEED))
        with pytest.raises(BudgetSpent) as caught:
            await engine.passes(external_secret("b", name="other", annotations=SEED))
        assert 0 < caught.value.wait <= 3600
        await engine.es_reconciler.reconcile(OTHER)
        assert "VAULTSYNC_SEED_BUDGET" in engine.writer.reports()[-1].message
        engine.clock.forward(caught.value.wait)
        await engine.passes(external_secret("b", name="other", annotations=SEED))
        assert engine.vault.values(B) is not None
        assert engine.writer.reports()[-1].reason == "Success"

    run_ahead(test())


def test_a_deleted_path_is_healed_whatever_the_budget() -> None:
    async def test() -> None:
        engine = Engine(budget=1)
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        for _ in range(3):
            engine.vault.delete(A)
            await engine.passes(asked)
            engine.vault.wipe(A)
            await engine.passes(asked)
            assert engine.vault.values(A) is not None

    run_ahead(test())


def test_a_lost_path_is_no_new_one_by_the_status_but_not_by_an_annotation() -> None:
    """external-secrets writes the status; the author of the ExternalSecret writes the annotation."""

    async def test() -> None:
        engine = Engine(budget=1)
        await engine.passes(external_secret("a", annotations=SEED))
        synced = replace(external_secret("b", name="other", annotations=SEED), has_read_all=True)
        with pytest.raises(HealPostponed):
            await engine.passes(synced)
        await engine.path_reconciler.reconcile(A)
        await engine.passes(synced)
        assert engine.vault.values(B) is not None
        forged = SEED | {"vaultsync.io/versions": json.dumps({"secret/data/c": "1@2025-06-01T12:00:00+00:00"})}
        with pytest.raises(BudgetSpent):
            await engine.passes(external_secret("c", name="third", annotations=forged))
        assert engine.vault.values(path("secret/data/c")) is None

    run_ahead(test())


def test_a_restored_snapshot_with_an_older_deleted_version_is_a_loss_also_after_a_restart() -> None:
    async def test() -> None:
        engine = Engine()
        engine.heal_limit._limit = 1
        for where in (A, B):
            engine.vault.write(where, password="a person's")
            engine.vault.delete(where)
        versions = {str(where): "3@2025-06-01T12:00:00+00:00" for where in (A, B)}
        asked = external_secret("a", "b", annotations=SEED | {"vaultsync.io/versions": json.dumps(versions)})
        engine.index.put(asked)
        with pytest.raises(HealPostponed):
            await engine.path_reconciler.reconcile(A)
        for where in (B, A):
            await engine.path_reconciler.reconcile(where)
        assert engine.heal_limit.stopped() == {"secret/": 2}
        assert engine.vault.values(A) is engine.vault.values(B) is None

    run_ahead(test())


def test_another_tenants_forged_record_does_not_make_a_new_path_a_lost_one() -> None:
    async def test() -> None:
        engine = Engine(seed_paths=SeedPaths.parse(("*/{namespace}/**",)))
        engine.heal_limit._limit = 1
        engine.index.put_namespace(namespace("evil"))
        engine.index.put_store(store(namespace="evil"))
        keys = ("dev-1/a", "dev-1/b")
        versions = json.dumps({f"secret/data/{key}": "1@2025-06-01T12:00:00+00:00" for key in keys})
        annotations = {"vaultsync.io/versions": versions}
        engine.index.put(external_secret(*keys, name="forged", namespace="evil", annotations=annotations))
        await engine.passes(external_secret(*keys, annotations=SEED))
        assert engine.vault.secrets.keys() == {path(f"secret/data/{key}") for key in keys}

    run_ahead(test())


@pytest.mark.parametrize("restart", [False, True])
def test_a_restored_snapshot_with_an_older_version_has_lost_the_keys_that_it_lacks(restart: bool) -> None:
    async def test() -> None:
        engine = Engine()
        keys = [(key, name) for key in ("a", "b") for name in ("user", "password")]
        asked = external_secret(*keys, annotations=SEED)
        if not restart:
            for where in (A, B):
                engine.vault.write(where, user="one")
                engine.vault.write(where, user="one", password="a person's")
            await engine.passes(asked)
        for where in (A, B):
            engine.vault.wipe(where)
            engine.vault.write(where, user="one")
        versions = json.dumps({str(where): "2@2025-06-01T12:00:00+00:00" for where in (A, B)})
        engine.heal_limit._limit = 1
        engine.index.put(external_secret(*keys, annotations=SEED | {"vaultsync.io/versions": versions}))
        with pytest.raises(HealPostponed):
            await engine.path_reconciler.reconcile(A)
        for where in (B, A, B):
            await engine.path_reconciler.reconcile(where)
        assert engine.heal_limit.stopped() == {"secret/": 2}
        assert [engine.vault.values(where) for where in (A, B)] == [{"user": "one"}] * 2
        await engine.es_reconciler.reconcile(APP)
        assert "a key of secret/a is missing, and Vault reports no deletion" in engine.writer.reports()[-1].message
        for where in (A, B):
            engine.vault.write(where, user="one", password="restored")
            await engine.path_reconciler.reconcile(where)
        assert engine.heal_limit.stopped() == {}

    run_ahead(test())


def test_a_person_may_write_a_path_anew_after_a_deletion_without_a_trace() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret(("a", "user"), ("a", "password"), annotations=SEED)
        await engine.passes(asked)
        engine.vault.write(A, user="one", password="two")
        await engine.passes(asked)
        engine.vault.wipe(A)
        engine.vault.write(A, user="three", password="four")
        await engine.passes(asked)
        engine.vault.delete(A)
        await engine.passes(asked)
        assert engine.vault.secrets[A].version == 2, "version 1 is the latest known one"
        assert engine.heal_limit._mounts == {}

    run_ahead(test())


def test_what_nobody_has_requested_does_not_stop_the_healing() -> None:
    """Ten ExternalSecrets without the annotation whose paths have been missing for long are nobody's loss now."""

    async def test() -> None:
        engine = Engine()
        engine.heal_limit._limit = 1
        synced = replace(external_secret("a", annotations=SEED), has_read_all=True)
        others = [replace(external_secret(f"x{i}", name=f"x{i}"), has_read_all=True) for i in range(5)]
        for one in (synced, *others):
            engine.index.put(one)
        with pytest.raises(HealPostponed):
            await engine.path_reconciler.reconcile(A)
        for i in range(5):
            await engine.path_reconciler.reconcile(path(f"secret/data/x{i}"))
        await engine.path_reconciler.reconcile(A)
        assert engine.vault.secrets.keys() == {A}
        assert engine.heal_limit.stopped() == {}

    run_ahead(test())


def test_a_path_that_is_not_healed_is_read_again_as_a_restored_value_causes_no_event() -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.put(replace(external_secret("a", annotations=SEED), has_read_all=True))
        engine.heal_limit._limit = 1
        engine.heal_limit.observe(MountName("", "secret/"), B, "", is_live=False, is_lost=True)
        _, again = await engine.path_reconciler.reconcile(A)
        assert again == HELD_SECONDS
        engine.vault.write(A, password="restored")
        assert await engine.path_reconciler.reconcile(A) == ({APP}, 0.0)

    run_ahead(test())


def test_a_loss_ends_with_its_last_reader() -> None:
    async def test() -> None:
        engine = Engine()
        synced = replace(external_secret("a", annotations=SEED), has_read_all=True)
        engine.index.put(synced)
        engine.heal_limit._limit = 1
        engine.heal_limit.observe(MountName("", "secret/"), B, "", is_live=False, is_lost=True)
        await engine.path_reconciler.reconcile(A)
        assert engine.heal_limit.stopped() == {"secret/": 2}
        engine.index.remove(synced.name)
        for where in (A, B):
            await engine.path_reconciler.reconcile(where)
        assert engine.heal_limit.stopped() == {}

    run_ahead(test())


def test_values_are_generated_by_the_rules_of_their_properties() -> None:
    async def test() -> None:
        engine = Engine()
        rules = """{user: {value: app}, password: {format: password, length: 20},
                    url: {template: "postgres://{{ .user }}:{{ .password }}@db"}}"""
        annotations = SEED | {"vaultsync.io/generate": rules}
        await engine.passes(external_secret(("a", "url"), ("a", "other"), annotations=annotations))
        values = engine.vault.values(A)
        assert values is not None
        assert values.keys() == {"user", "password", "url", "other"}
        assert values["url"] == f"postgres://app:{values['password']}@db"
        assert len(values["password"]) == 20
        assert re.fullmatch("[0-9a-f]{64}", values["other"])

    run_ahead(test())


def test_a_password_policy_that_vault_does_not_have_is_reported_and_nothing_is_written() -> None:
    async def test() -> None:
        engine = Engine()
        annotations = SEED | {"vaultsync.io/generate": "password: {format: policy, name: ops}"}
        with pytest.raises(VaultRejected):
            await engine.passes(external_secret("a", annotations=annotations))
        await engine.es_reconciler.reconcile(APP)
        assert "sys/policies/password/ops/generate" in engine.writer.reports()[-1].message
        assert engine.vault.creates[A] == 0

    run_ahead(test())


def test_an_empty_find_is_reported_until_something_is_there() -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.put(
            external_secret(data=(), data_from=[{"find": {"path": "dev-1", "name": {"regexp": "."}}}], annotations=SEED)
        )
        (prefix,) = engine.index.prefixes()
        await engine.path_reconciler.reconcile_listing(prefix)
        await engine.es_reconciler.reconcile(APP)
        assert "dataFrom.find: there is nothing under" in engine.writer.reports()[-1].message
        engine.vault.write(path("secret/data/dev-1/a"), password="a person's")
        await engine.path_reconciler.reconcile(path("secret/data/dev-1/a"))
        await engine.es_reconciler.reconcile(APP)
        assert engine.writer.reports()[-1].reason != "ErrorCreating"

    run_ahead(test())


def test_a_missing_path_is_seeded_and_reported_to_its_readers() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret(("a", "user"), ("a", "password"), annotations=SEED)
        await engine.passes(asked, external_secret("a", name="other"))
        values = engine.vault.values(A)
        assert values is not None
        assert values.keys() == {"user", "password"}
        assert all(re.fullmatch("[0-9a-f]{64}", value) for value in values.values())
        assert engine.vault.creates[A] == 1
        assert len(engine.writer.force_syncs(APP)) == len(engine.writer.force_syncs(OTHER)) == 1
        assert [report.reason for report in engine.writer.reports()] == ["Success"]
        assert engine.recorder.reasons() == ["Seeded", "ForceSynced"]
        everything = f"{engine.writer} {engine.recorder} {engine.paths._paths} {engine.syncs._states}"
        assert not any(value in everything for value in values.values())

    run_ahead(test())


@pytest.mark.parametrize("what", ["deleted", "another key", "no longer seeded", "another store", "no store"])
def test_nothing_is_created_for_objects_that_the_api_server_does_not_have_together(what: str) -> None:
    """The watches of ExternalSecrets and of stores have no common order."""

    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        engine.index.put(asked)
        [ref] = asked.refs
        changes: dict[str, dict[ObjectName | StoreName, ExternalSecret | Store | None]] = {
            "deleted": {APP: None},
            "another key": {APP: external_secret("b", annotations=SEED)},
            "no longer seeded": {APP: external_secret("a")},
            "another store": {ref.store: store(path="team")},
            "no store": {ref.store: None},
        }
        engine.current.changed = changes[what]
        with pytest.raises(ObjectsBehind, match="is being changed"):
            await engine.path_reconciler.reconcile(A)
        assert not engine.vault.secrets
        engine.current.changed = {}
        await engine.path_reconciler.reconcile(A)
        assert engine.vault.creates[A] == 1
        reads = engine.current.reads
        engine.vault.delete(A)
        await engine.path_reconciler.reconcile(A)
        assert engine.vault.creates[A] == 2
        assert engine.current.reads == reads, "a deleted path is healed without delay"

    run_ahead(test())


@pytest.mark.parametrize("when", ["Vault", "the API server"])
def test_nothing_is_created_by_a_store_that_changes_during_a_request(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.put(external_secret("a", annotations=SEED))

        def change() -> None:
            engine.index.put_store(store(path="team"))

        async def look(path: VaultPath, kv: int) -> SecretState:
            change()
            return engine.vault._state(path)

        if when == "Vault":
            monkeypatch.setattr(engine.vault, "look", look)
        else:
            engine.current.during = change
        with pytest.raises(ObjectsBehind, match="being changed"):
            await engine.path_reconciler.reconcile(A)
        assert not engine.vault.secrets

    run_ahead(test())


def test_no_property_is_added_for_objects_that_the_api_server_does_not_have() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, user="a person's")
        engine.index.put(external_secret("a", annotations=SEED))
        engine.current.changed = {APP: None}
        with pytest.raises(ObjectsBehind):
            await engine.path_reconciler.reconcile(A)
        engine.current.changed = {}
        await engine.path_reconciler.reconcile(A)
        reads = engine.current.reads
        engine.vault.write(A, user="a person's")
        await engine.path_reconciler.reconcile(A)
        assert (engine.vault.values(A) or {}).keys() == {"user", "password"}
        assert engine.current.reads == reads, "a property that existed is healed without delay"

    run_ahead(test())


def test_a_second_pass_does_nothing() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        before = len(engine.writer.writes), engine.vault.creates[A]
        await engine.passes(asked)
        assert (len(engine.writer.writes), engine.vault.creates[A]) == before

    run_ahead(test())


def test_a_force_sync_records_what_it_was_for() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", "b", annotations=SEED))
        (annotations,) = engine.writer.force_syncs()
        assert json.loads(annotations["vaultsync.io/versions"]).keys() == {str(A), str(B)}

    run_ahead(test())


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_seed_is_force_synced_whatever_the_clocks_of_vault_and_kubernetes_say(hours: int) -> None:
    async def test() -> None:
        engine = Engine()
        created = (NOON + timedelta(hours=hours)).isoformat()
        await engine.passes(external_secret("a", annotations=SEED, created=created))
        assert len(engine.writer.force_syncs()) == 1

    run_ahead(test())


def test_a_v1_seed_of_a_new_object_is_force_synced() -> None:
    async def test() -> None:
        engine = Engine()
        engine.paths.start_watching(NOON)
        created = (NOON + timedelta(hours=1)).isoformat()
        await engine.passes(v1_external_secret(annotations=SEED, created=created))
        assert engine.vault.values(KV1) is not None
        assert len(engine.writer.force_syncs()) == 1

    run_ahead(test())


def test_of_two_writers_the_first_wins_and_the_second_looks_again() -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.put(external_secret("a", annotations=SEED))
        engine.vault.before_create = lambda: engine.vault.write(A, password="a person's")
        with pytest.raises(WriteConflict):
            await engine.path_reconciler.reconcile(A)
        await engine.path_reconciler.reconcile(A)
        assert engine.vault.values(A) == {"password": "a person's"}
        await engine.es_reconciler.reconcile(APP)
        assert engine.recorder.reasons() == ["ForceSynced"]
        assert engine.writer.reports() == []

    run_ahead(test())


def test_a_conflict_while_adding_a_property_keeps_both() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, user="u")
        engine.index.put(external_secret("a", annotations=SEED))
        engine.vault.before_create = lambda: engine.vault.write(A, user="u2")
        with pytest.raises(WriteConflict):
            await engine.path_reconciler.reconcile(A)
        await engine.path_reconciler.reconcile(A)
        values = engine.vault.values(A)
        assert values is not None
        assert (values["user"], len(values["password"])) == ("u2", 64)

    run_ahead(test())


def test_a_refusal_that_is_no_conflict_is_reported_in_vaults_words() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.denied_writes[A] = DENIED
        engine.index.put(external_secret("a", annotations=SEED))
        with pytest.raises(VaultDenied):
            await engine.path_reconciler.reconcile(A)
        await engine.es_reconciler.reconcile(APP)
        await engine.es_reconciler.reconcile(APP)
        (report,) = engine.writer.reports()
        assert (report.ok, report.reason, report.message) == (False, "ErrorCreating", str(DENIED))
        assert engine.recorder.reasons() == ["SeedFailed"]

    run_ahead(test())


def test_a_denied_seed_keeps_no_rotation_from_its_readers() -> None:
    """A person rotates `user` while `password` is missing and may not be added."""

    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, user="u")
        engine.vault.denied_writes[A] = DENIED
        asked = external_secret(("a", "user"), ("a", "password"), annotations=SEED)
        other = external_secret(("a", "user"), name="other")
        engine.index.put(asked)
        engine.index.put(other)
        for _ in range(2):
            with pytest.raises(VaultDenied):
                await engine.path_reconciler.reconcile(A)
            await engine.es_reconciler.reconcile(OTHER)
            engine.vault.write(A, user="another")
            engine.clock.forward(60)
        assert len(engine.writer.force_syncs(OTHER)) == 2

    run_ahead(test())


def test_a_failure_that_is_over_is_taken_back() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        engine.index.put(asked)
        engine.vault.errors[A] = [DENIED]
        with pytest.raises(VaultDenied):
            await engine.path_reconciler.reconcile(A)
        await engine.es_reconciler.reconcile(APP)
        engine.vault.write(A, password="a person's")
        await engine.passes(asked)
        assert [report.reason for report in engine.writer.reports()] == ["ErrorCreating", "Exists"]

    run_ahead(test())


@pytest.mark.parametrize("annotation", ["yes", ""])
def test_a_nonsense_annotation_is_reported_once_and_nothing_is_seeded(annotation: str) -> None:
    async def test() -> None:
        engine = Engine()
        wrong = external_secret("a", annotations={"vaultsync.io/seed": annotation})
        await engine.passes(wrong)
        await engine.passes(wrong)
        assert [report.reason for report in engine.writer.reports()] == ["ErrorAnnotation"]
        assert not engine.vault.creates

    run_ahead(test())


FAILED = {"vaultsync.io/created": "False ErrorCreating", "vaultsync.io/message": "Vault returned 403"}


def test_after_a_restart_nothing_is_said_to_exist_before_it_was_seen() -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.put(external_secret("a", annotations=SEED | FAILED))
        engine.vault.down = VaultUnavailable("away")
        with pytest.raises(VaultUnavailable):
            await engine.path_reconciler.reconcile(A)
        await engine.es_reconciler.reconcile(APP)
        assert engine.writer.reports() == []

    run_ahead(test())


def test_without_its_store_nothing_is_said_to_exist() -> None:
    async def test() -> None:
        engine = Engine()
        engine.index.remove_store(StoreName("SecretStore", "dev-1", "vault"))
        await engine.passes(external_secret("a", annotations=SEED | FAILED))
        assert engine.writer.reports() == []

    run_ahead(test())


def test_a_missing_path_that_nobody_asks_for_any_more_is_not_said_to_exist() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", annotations={"vaultsync.io/seed": "false"} | FAILED))
        assert "Exists" not in [report.reason for report in engine.writer.reports()]

    run_ahead(test())


# -- healing


def test_a_deleted_path_is_created_again_and_read_again() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        engine.vault.delete(A)
        engine.clock.forward(60)
        await engine.passes(asked)
        assert engine.vault.secrets[A].version == 2
        assert engine.recorder.reasons() == ["Seeded", "Recreated"]
        assert len(engine.writer.force_syncs()) == 2

    run_ahead(test())


def test_a_path_whose_metadata_was_deleted_is_created_again_and_read_again() -> None:
    """The new version has the old number, 1. An empty dev server after a restart is the same."""

    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        first = engine.vault.values(A)
        engine.vault.wipe(A)
        engine.clock.forward(60)
        await engine.passes(asked)
        assert engine.vault.values(A) != first
        assert engine.recorder.reasons() == ["Seeded", "Recreated"]
        assert len(engine.writer.force_syncs()) == 2

    run_ahead(test())


def test_after_a_restart_a_path_that_was_wiped_meanwhile_is_read_again() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(external_secret("a", annotations=SEED))
        (written,) = engine.writer.force_syncs()
        restarted = Engine()
        restarted.vault.now = NOON + timedelta(hours=1)
        record = SEED | {"vaultsync.io/versions": written["vaultsync.io/versions"]}
        await restarted.passes(external_secret("a", annotations=record))
        assert len(restarted.writer.force_syncs()) == 1

    run_ahead(test())


@pytest.mark.parametrize(
    ("recorded", "absence"), [("2", Absence.LOST), ("1", Absence.DELETED), ("missing", Absence.DELETED)]
)
def test_after_a_restart_an_older_version_than_the_recorded_one_shows_a_loss(recorded: str, absence: Absence) -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="restored")
        engine.vault.delete(A)
        record = {"vaultsync.io/versions": json.dumps({str(A): recorded})}
        engine.index.put(external_secret("a", annotations=SEED | record))
        evaluator = PathEvaluator(engine.index, engine.paths, engine.vault, EVERYWHERE)
        readers = engine.index.readers(A)
        found = evaluator.evaluate(A, await evaluator.read(A, readers), readers)
        assert found.absence is absence

    run_ahead(test())


def test_after_a_restart_nothing_is_written_if_nothing_changed() -> None:
    async def test() -> None:
        engine = Engine()
        asked = external_secret("a", "b", annotations=SEED)
        await engine.passes(asked)
        (written,) = engine.writer.force_syncs()
        restarted = Engine()
        restarted.vault = engine.vault
        restarted.path_reconciler = restarted.create_path_reconciler(engine.vault)
        record = SEED | {"vaultsync.io/versions": written["vaultsync.io/versions"]}
        await restarted.passes(external_secret("a", "b", annotations=record))
        assert restarted.writer.writes == []

    run_ahead(test())


def test_killed_between_the_write_and_the_force_sync_the_next_process_makes_up_for_it() -> None:
    async def test() -> None:
        engine = Engine()
        created = NOON.isoformat()
        engine.vault.write(A, password="seeded by the one that was killed")
        await engine.passes(external_secret("a", annotations=SEED, created=created))
        assert len(engine.writer.force_syncs()) == 1
        assert not engine.vault.creates

    run_ahead(test())


def test_a_removed_property_is_added_again() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, user="u", password="p")
        asked = external_secret("a", annotations=SEED)
        await engine.passes(asked)
        engine.vault.write(A, user="u")
        engine.clock.forward(60)
        await engine.passes(asked)
        values = engine.vault.values(A)
        assert values is not None
        assert values.keys() == {"user", "password"}
        assert engine.recorder.reasons()[-1] == "Recreated"

    run_ahead(test())


def test_a_seed_of_a_path_known_only_as_missing_is_no_re_creation() -> None:
    async def test() -> None:
        engine = Engine()
        record = {"vaultsync.io/versions": json.dumps({str(A): "missing"})}
        await engine.passes(external_secret("a", annotations=SEED | record))
        assert engine.recorder.reasons() == ["Seeded"]

    run_ahead(test())


@pytest.mark.parametrize(
    ("annotations", "spec"),
    [
        ({"vaultsync.io/force-sync": "false"}, {}),
        ({}, {"refreshPolicy": "CreatedOnce"}),
    ],
)
def test_who_does_not_want_or_hear_a_force_sync_gets_none(annotations: dict[str, str], spec: dict[str, str]) -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.write(A, password="p")
        status = {"syncedResourceVersion": "1-a", "refreshTime": "2024-02-01T00:00:00Z"}
        one = external_secret("a", annotations=annotations, spec=spec, status=status)
        await engine.passes(one)
        engine.vault.write(A, password="q")
        engine.clock.forward(60)
        await engine.passes(one)
        assert engine.writer.writes == []

    run_ahead(test())
