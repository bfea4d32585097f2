"""core/retry: the waits between attempts, and which failures are new."""

from vaultsync.core.retry import Retry


def test_the_same_reason_is_new_once() -> None:
    retry = Retry(1.0, 4.0)
    failed = [retry.failed(reason) for reason in ("refused", "refused", "no answer", "refused")]
    assert [one.is_new for one in failed] == [True, False, True, True]
    assert [one.level for one in failed] == ["WARNING", "DEBUG", "WARNING", "WARNING"]


def test_the_waits_grow_until_it_succeeds() -> None:
    retry = Retry(1.0, 4.0)
    waits = [retry.failed("refused").wait for _ in range(4)]
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4, 4), strict=True))
    assert retry.succeeded()
    assert not retry.succeeded()
    again = retry.failed("refused")
    assert again.is_new
    assert again.wait <= 1


def test_it_can_wait_as_at_first_and_still_know_the_reason() -> None:
    retry = Retry(1.0, 8.0)
    for _ in range(4):
        retry.failed("refused")
    retry.start_over()
    failed = retry.failed("refused")
    assert failed.wait <= 1
    assert not failed.is_new
