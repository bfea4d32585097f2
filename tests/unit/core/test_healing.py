"""core/healing: may a value that existed be created again? Each case is a sentence."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.build import NOON, external_secret, gone, live, namespace, path, reader
from vaultsync.core.annotation_parser import AnnotationError, HealSpec, parse_heal
from vaultsync.core.annotations import CreatedReason, Refusal
from vaultsync.core.decide import NEW, History, decide
from vaultsync.core.external_secret import Namespace
from vaultsync.core.healing import Absence, is_approved, refusals
from vaultsync.core.reader import Reader
from vaultsync.core.vault_state import SecretState

HERE = path("secret/data/a")
RETIRED = replace(reader(), heal=HealSpec(heals=False))
READ = replace(reader(), has_read=True)
LIVE_3 = History(existed=True, version=3)


def deleted(version: int = 3, after: timedelta = timedelta(seconds=90, microseconds=17)) -> SecretState:
    return replace(gone(version), written=NOON, ends=NOON + after)


@pytest.mark.parametrize(
    ("history", "state", "readers", "expected"),
    [
        (NEW, gone(), [reader()], Absence.NEW),
        (NEW, gone(), [READ], Absence.LOST),
        (LIVE_3, gone(), [reader()], Absence.LOST),
        (NEW, deleted(), [reader()], Absence.DELETED),
        (LIVE_3, deleted(3), [READ], Absence.DELETED),
        (LIVE_3, deleted(4), [READ], Absence.DELETED),
        (LIVE_3, deleted(2), [READ], Absence.LOST),
        (LIVE_3, deleted(3, timedelta(days=90)), [READ], Absence.EXPIRED),
    ],
)
def test_why_a_path_is_absent(history: History, state: SecretState, readers: list[Reader], expected: Absence) -> None:
    assert history.absence(state, readers, is_replaced=False) is expected
    is_new = expected is Absence.NEW
    assert history.absence(state, readers, is_replaced=True) is (Absence.NEW if is_new else Absence.LOST)
    reported = replace(history, is_deletion_reported=True)
    for is_replaced in (False, True):  # a report says that the path was there, whatever mount it was in before
        if expected is not Absence.EXPIRED:
            told = Absence.NEW if is_new else Absence.DELETED
            assert reported.absence(state, readers, is_replaced=is_replaced) is told


def test_a_reported_deletion_is_not_of_a_later_version_that_has_expired() -> None:
    """The API server was away, so that the later version was not seen while it was live."""
    reported = replace(LIVE_3, is_deletion_reported=True)
    assert reported.absence(deleted(4, timedelta(seconds=5)), [READ], is_replaced=False) is Absence.EXPIRED
    assert reported.absence(deleted(4), [READ], is_replaced=False) is Absence.DELETED


def test_what_expires_in_a_mount_that_replaces_another_one_is_no_loss() -> None:
    """Nobody approves it, as it is not created again: the mount would count as another one for ever."""
    assert LIVE_3.absence(deleted(3, timedelta(seconds=20)), [READ], is_replaced=True) is Absence.EXPIRED
    assert LIVE_3.absence(deleted(3, timedelta(days=1)), [READ], is_replaced=True) is Absence.LOST


@pytest.mark.parametrize(
    ("state", "one", "absence", "lost", "pushed_by", "refusal", "words"),
    [
        (gone(), reader(), Absence.NEW, "", "", None, ""),
        (gone(), RETIRED, Absence.NEW, "", "", None, ""),
        (deleted(), reader(), Absence.DELETED, "is lost", "", None, ""),
        (deleted(), RETIRED, Absence.DELETED, "", "", Refusal.RETIRED, 'vaultsync.io/heal is "false"'),
        (gone(), reader(), Absence.LOST, "", "", None, ""),
        (gone(), reader(), Absence.LOST, "is lost", "", Refusal.HEAL_LIMIT, "secret/a is lost"),
        (gone(), reader(), Absence.NEW, "", "PushSecret a/b", Refusal.OTHER_OWNER, "PushSecret a/b writes it"),
        (
            replace(deleted(), managed_by="external-secrets"),
            reader(),
            Absence.DELETED,
            "",
            "",
            Refusal.OTHER_OWNER,
            "vault kv metadata patch -custom-metadata=managed-by=vaultsync secret/a",
        ),
        (replace(deleted(), managed_by="vaultsync"), reader(), Absence.DELETED, "", "", None, ""),
        (
            deleted(after=timedelta(seconds=20)),
            reader(),
            Absence.EXPIRED,
            "",
            "",
            Refusal.EXPIRED,
            "delete_version_after=20s",
        ),
        (deleted(after=timedelta(days=90)), reader(), Absence.EXPIRED, "", "", None, ""),
    ],
)
def test_who_gets_no_new_value(
    state: SecretState,
    one: Reader,
    absence: Absence,
    lost: str,
    pushed_by: str,
    refusal: Refusal | None,
    words: str,
) -> None:
    refused = dict(refusals(HERE, state, (one,), absence, lost, lambda _: pushed_by))
    decision = decide(HERE, state, [one], NOON, refused=refused)
    assert (decision.seed is None) == (refusal is not None)
    for problem in decision.problems:
        assert words in problem.message
        owner = refusal is Refusal.OTHER_OWNER
        reason = CreatedReason.OTHER_OWNER if owner else CreatedReason.NOT_HEALED
        assert (problem.reason, problem.refusal) == (reason, refusal)
    assert len(decision.problems) == (refusal is not None)


def test_a_retired_readers_property_is_added_once() -> None:
    retired = replace(RETIRED, has_read=True)
    assert decide(HERE, live("user"), [RETIRED], NOON).seed is not None
    decision = decide(HERE, live("user"), [retired], NOON)
    assert decision.seed is None
    [problem] = decision.problems
    assert "has no key 'password'" in problem.message
    assert problem.refusal is Refusal.RETIRED
    both = decide(HERE, live("user"), [retired, reader(name="other")], NOON)
    assert both.seed is not None, "another owner wants it"


@pytest.mark.parametrize(
    ("own", "inherited", "expected"),
    [
        ({}, {}, HealSpec()),
        ({"vaultsync.io/heal": "false"}, {}, HealSpec(heals=False)),
        ({}, {"vaultsync.io/heal": "false"}, HealSpec(heals=False)),
        ({"vaultsync.io/heal": "true"}, {"vaultsync.io/heal": "false"}, HealSpec()),
        ({"vaultsync.io/heal-lost": "2025-06-01T12:00:00Z"}, {}, HealSpec(approved=NOON)),
        ({}, {"vaultsync.io/heal-lost": "2025-06-01T14:00:00+02:00"}, HealSpec(approved=NOON)),
    ],
)
def test_the_annotations(own: dict[str, str], inherited: dict[str, str], expected: HealSpec) -> None:
    assert parse_heal(external_secret(annotations=own), Namespace("dev-1", annotations=inherited)) == expected


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        ("vaultsync.io/heal", "no", 'is \'no\'; it must be "true" or "false"'),
        ("vaultsync.io/heal-lost", "now", "it must be the present time, such as"),
        ("vaultsync.io/heal-lost", "2025-06-01T12:00:00", "it must be the present time, such as"),
    ],
)
def test_an_annotation_that_is_not_valid(annotation: str, value: str, words: str) -> None:
    with pytest.raises(AnnotationError, match=words):
        parse_heal(external_secret(annotations={annotation: value}), namespace())


@pytest.mark.parametrize(("minutes", "expected"), [(0, True), (9, True), (-9, True), (11, False), (-11, False)])
def test_an_approval_counts_for_ten_minutes(minutes: int, expected: bool) -> None:
    approving = replace(reader(), heal=HealSpec(approved=NOON))
    assert is_approved([reader(), approving], NOON + timedelta(minutes=minutes)) is expected
    assert not is_approved([reader()], datetime.now(UTC))


def test_an_older_version_than_the_known_one_has_lost_keys_unless_a_deletion_explains_it() -> None:
    assert LIVE_3.absence(live("user", version=2), [READ], is_replaced=False) is Absence.LOST
    assert LIVE_3.absence(live("user", version=3), [READ], is_replaced=False) is None
    reported = replace(LIVE_3, is_deletion_reported=True)
    assert reported.absence(live("user", version=1), [READ], is_replaced=False) is None
