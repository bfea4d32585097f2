"""Writes whose response was lost: which version counts as vaultsync's own, and what follows when one does."""

from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime

import pytest

from tests.unit.build import NOON, V2, reader, run_ahead
from tests.unit.controller.harness import APP, A, Engine
from tests.unit.controller.test_rotation import asked, value
from tests.unit.fakes import Secret
from vaultsync.controller.secret_writer import CLOCK_SKEW, LATE, UnconfirmedWrite, Verdict, Write
from vaultsync.core.annotations import EventReason
from vaultsync.core.decide import Seed
from vaultsync.core.errors import VaultUnavailable
from vaultsync.core.vault_state import SecretState
from vaultsync.vault.clock import ServerClock

SECOND = timedelta(seconds=1)
MISSING = SecretState(V2, exists=False)
DELETED = SecretState(V2, exists=False, version=3, subkeys={}, written=NOON - 60 * SECOND)
THERE = SecretState(V2, exists=True, version=3, subkeys={"user": None}, written=NOON - 60 * SECOND)
UNTIL = NOON + 2 * SECOND + LATE


def write(before: SecretState = MISSING) -> UnconfirmedWrite:
    seed = Seed({}, before.version, before.exists, EventReason.SEEDED)
    subkeys = {**(before.subkeys or {}), "password": None}
    return UnconfirmedWrite(Write(A, before, seed, (reader(),)), subkeys, NOON, UNTIL)


def applied(before: SecretState = MISSING) -> SecretState:
    """What a look shows after such a write."""
    return SecretState(V2, True, before.version + 1, write(before).subkeys, NOON + SECOND)


@pytest.mark.parametrize("before", [MISSING, DELETED, THERE], ids=["missing", "deleted", "there"])
def test_the_next_version_with_these_names_at_that_time_is_its_own(before: SecretState) -> None:
    unconfirmed, after = write(before), applied(before)
    assert unconfirmed.verdict(after, NOON) is Verdict.OWN
    for written in (NOON - CLOCK_SKEW, UNTIL + CLOCK_SKEW):
        assert unconfirmed.verdict(replace(after, written=written), NOON) is Verdict.OWN
    for other in (
        replace(after, written=NOON - CLOCK_SKEW - SECOND),
        replace(after, written=UNTIL + CLOCK_SKEW + SECOND),
        replace(after, written=None),
        replace(after, version=after.version + 1),
        replace(after, exists=False),
        replace(after, subkeys={**(after.subkeys or {}), "more": None}),
        replace(after, subkeys={"other": None}),
        replace(after, subkeys={**(after.subkeys or {}), "password": {"nested": None}}),
        replace(after, subkeys=None),
    ):
        assert unconfirmed.verdict(other, NOON) is Verdict.NOT_OWN


@pytest.mark.parametrize("before", [MISSING, DELETED, THERE], ids=["missing", "deleted", "there"])
def test_while_nothing_is_there_it_may_still_come_for_a_while(before: SecretState) -> None:
    assert write(before).verdict(before, UNTIL) is Verdict.PENDING
    assert write(before).verdict(before, UNTIL + CLOCK_SKEW + SECOND) is Verdict.NOT_OWN


def test_what_was_purged_and_written_again_is_not_its_own() -> None:
    again = replace(THERE, written=NOON + SECOND)  # the same number, another version
    assert write(THERE).verdict(again, NOON) is Verdict.NOT_OWN


def test_of_two_attempts_either_may_have_been_applied() -> None:
    first = write()
    second = replace(first, sent=NOON + 5 * SECOND, until=UNTIL + 5 * SECOND)
    assert second.after(None) == second
    assert second.after(first).sent == first.sent
    assert second.after(first).until == second.until
    assert second.after(replace(first, write=replace(first.write, before=DELETED))).sent == second.sent


def test_vaults_clock_is_this_machines_unless_a_response_says_otherwise() -> None:
    clock = ServerClock()
    mine = clock.now()
    for nonsense in ("", "yesterday", "Fri, 31 Dec 99999 00:00:00 GMT"):
        clock.observe(nonsense)
    clock.observe(format_datetime(mine, usegmt=True))
    assert abs(clock.now() - mine) < SECOND
    clock.observe(format_datetime(mine + 90 * SECOND, usegmt=True))
    assert abs(clock.now() - mine - 90 * SECOND) < 1.5 * SECOND
    clock.observe(format_datetime(mine, usegmt=True))
    assert abs(clock.now() - mine) < SECOND


# -- the engine, over a stand-in for Vault


async def lose_the_response(engine: Engine, words: str = "") -> None:
    """A pass whose write is applied, or refused, without a response."""
    engine.vault.lost.add(A)
    with pytest.raises(VaultUnavailable):
        await engine.passes(asked(words))
    engine.vault.lost.clear()


def test_a_creation_without_a_response_is_reported_marked_and_rotated_like_any_other() -> None:
    async def test() -> None:
        engine = Engine()
        await lose_the_response(engine)
        assert engine.recorder.reasons() == []
        await engine.passes(asked())
        first = value(engine)
        assert engine.recorder.reasons() == ["Seeded"]
        assert engine.count("seeds_total") == 1
        assert len(engine.writer.force_syncs(APP)) == 1
        await engine.ownership.flush()
        assert engine.vault.secrets[A].custom_metadata["managed-by"] == "vaultsync"
        await engine.passes(asked("1"))
        assert value(engine) != first
        assert engine.vault.creates[A] == 1

    run_ahead(test())


def test_a_rotation_without_a_response_is_done_once_and_the_next_one_is_too() -> None:
    async def test() -> None:
        engine = Engine()
        await engine.passes(asked())
        await lose_the_response(engine, "1")
        await engine.passes(asked("1"))
        assert (engine.vault.secrets[A].version, engine.vault.rotations[A]) == (2, 1)
        assert engine.recorder.reasons() == ["Seeded", "Rotated"]
        await engine.ownership.flush()
        await engine.passes(asked("2"))
        assert engine.vault.secrets[A].version == 3

    run_ahead(test())


@pytest.mark.parametrize("case", ["other names", "a later version", "too late"])
def test_what_a_person_writes_meanwhile_is_theirs(case: str) -> None:
    async def test() -> None:
        engine = Engine()
        vault = engine.vault
        if case == "other names":  # before vaultsync's, which is refused
            vault.before_create = lambda: vault.write(A, password="theirs", user="theirs")
        await lose_the_response(engine)
        if case == "a later version":
            vault.write(A, password="theirs")
        if case == "too late":
            vault.secrets[A] = Secret(1, {"password": "theirs"}, vault.now + LATE + CLOCK_SKEW + SECOND)
        for words in ("", "1", "2"):
            await engine.passes(asked(words))
        await engine.ownership.flush()
        assert value(engine) == "theirs"
        assert "Seeded" not in engine.recorder.reasons()
        assert vault.marks[A] == vault.rotations[A] == 0

    run_ahead(test())


def test_a_write_that_never_arrived_is_made_again_and_confirmed() -> None:
    async def test() -> None:
        engine = Engine()
        await lose_the_response(engine)
        engine.vault.wipe(A)  # as if it had not been applied
        await engine.passes(asked())
        assert engine.vault.creates[A] == 2
        assert engine.recorder.reasons() == ["Seeded"]
        assert A not in engine.path_reconciler._writer._unconfirmed

    run_ahead(test())


def test_a_write_that_was_not_sent_leaves_nothing_to_confirm() -> None:
    async def test() -> None:
        engine = Engine()
        engine.vault.denied_writes[A] = VaultUnavailable("not logged in to Vault yet")
        with pytest.raises(VaultUnavailable):
            await engine.passes(asked())
        assert A not in engine.path_reconciler._writer._unconfirmed

    run_ahead(test())
