"""core/condition, core/retry and core/errors."""

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultsync.core import errors
from vaultsync.core.annotations import CreatedReason
from vaultsync.core.condition import MESSAGE_LENGTH, PRECEDENCE, WITHDRAWAL, compose
from vaultsync.core.external_secret import CreatedCondition
from vaultsync.core.retry import backoff, jittered

OK = CreatedCondition(True, "Success", "created a")
ERROR, AGAIN = CreatedReason.ERROR_CREATING, CreatedReason.RECREATING
FAILED = CreatedCondition(False, "ErrorCreating", "denied")


@pytest.mark.parametrize(
    ("case", "problem", "failures", "success", "before", "expected"),
    [
        ("nothing happened", "", [], "", None, None),
        ("nothing happened since", "", [], "", OK, None),
        ("a success is written", "", [], "created a", None, OK),
        ("a success is written once", "", [], "created a", OK, None),
        ("a failure is written", "", [("denied", ERROR)], "", None, FAILED),
        ("a failure is written once", "", [("denied", ERROR)], "", FAILED, None),
        ("a failure goes before a success", "", [("denied", ERROR)], "created a", OK, FAILED),
        ("a path that existed", "", [("denied", AGAIN)], "", None, CreatedCondition(False, "Recreating", "denied")),
        ("two paths", "", [("x", AGAIN), ("y", ERROR)], "", None, CreatedCondition(False, "ErrorCreating", "x; y")),
        (
            "the annotation first",
            "bad",
            [("x", AGAIN)],
            "created a",
            OK,
            CreatedCondition(False, "ErrorAnnotation", "bad"),
        ),
        ("the annotation once", "bad", [], "", CreatedCondition(False, "ErrorAnnotation", "bad"), None),
        (
            "another client created it",
            "",
            [],
            "",
            FAILED,
            CreatedCondition(True, "Exists", "everything that it reads exists in Vault"),
        ),
    ],
)
def test_which_condition_is_written(
    case: str,
    problem: str,
    failures: list[tuple[str, CreatedReason]],
    success: str,
    before: CreatedCondition | None,
    expected: CreatedCondition | None,
) -> None:
    assert compose(problem, failures, success, before, all_there=True, wanted=True) == expected, case


texts = st.text(max_size=5) | st.just("x" * 3000)
reports = st.none() | st.builds(CreatedCondition, st.booleans(), texts, texts)


@given(
    st.just("") | texts,
    st.lists(st.tuples(texts, st.sampled_from(PRECEDENCE)), max_size=2),
    st.just("") | texts,
    reports,
    st.booleans(),
    st.booleans(),
)
def test_no_condition_is_written_twice(
    problem: str,
    failures: list[tuple[str, CreatedReason]],
    success: str,
    before: CreatedCondition | None,
    all_there: bool,
    wanted: bool,
) -> None:
    written = compose(problem, failures, success, before, all_there, wanted)
    if written is not None:
        assert len(written.message) <= MESSAGE_LENGTH
        assert compose(problem, failures, success, written, all_there, wanted) is None


def test_only_what_was_read_is_reported_to_exist() -> None:
    assert compose("", [], "", FAILED, all_there=False, wanted=True) is None


@pytest.mark.parametrize(("before", "written"), [(FAILED, WITHDRAWAL), (OK, None), (WITHDRAWAL, None), (None, None)])
def test_a_failure_that_no_longer_matters_is_withdrawn(
    before: CreatedCondition | None, written: CreatedCondition | None
) -> None:
    assert compose("", [], "", before, all_there=False, wanted=False) == written


def test_waits_double_up_to_the_longest() -> None:
    waits = list(islice(backoff(0.1, 10.0, random.Random(1)), 40))
    for attempt, wait in enumerate(waits):
        full = min(0.1 * 2**attempt, 10.0)
        assert full / 2 <= wait <= full


def test_waits_of_two_processes_differ() -> None:
    assert list(islice(backoff(1, 8), 5)) != list(islice(backoff(1, 8), 5))


@given(st.floats(0.001, 1e6))
def test_jitter_spreads_by_a_tenth(period: float) -> None:
    assert 0.9 * period * 0.999999 <= jittered(period) <= 1.1 * period * 1.000001


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (errors.VaultUnavailable, True),
        (errors.VaultDenied, True),
        (errors.VaultRejected, True),
        (errors.VaultNamespaceUnavailable, True),
        (errors.VaultRequestFailed, True),
        (errors.VaultThrottled, True),
        (errors.RequestImpossible, False),
        (errors.WriteConflict, True),
        (errors.KubeUnavailable, True),
        (errors.KubeDenied, True),
        (errors.KubeNotFound, False),
        (errors.KubeConflict, True),
        (errors.KubeGone, True),
        (errors.KubeRejected, False),
    ],
)
def test_what_is_retried(error: type[errors.VaultsyncError], retryable: bool) -> None:
    assert error.retryable is retryable
