"""core/rate_limit: token buckets."""

import pytest

from vaultsync.core.rate_limit import TokenBucket, TokenBuckets


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3.0, clock)
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.wait == 0.5
    clock.now += 0.5
    assert [bucket.take(), bucket.take()] == [0.0, 0.5]
    clock.now += 60
    assert bucket.is_full
    assert [bucket.take() for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_token_is_there_after_the_reported_wait() -> None:
    clock = Clock()
    bucket = TokenBucket(1 / 3, 1.0, clock)
    assert bucket.take() == 0
    for _ in range(1000):
        clock.now += bucket.take()
        assert bucket.take() == 0


def test_each_key_has_a_bucket() -> None:
    clock = Clock()
    buckets = TokenBuckets[str](1.0, 1.0, clock)
    assert [buckets.take(key) for key in ("a", "b", "a")] == [0.0, 0.0, 1.0]


def test_full_buckets_are_forgotten() -> None:
    clock = Clock()
    buckets = TokenBuckets[int](1.0, 2.0, clock)
    for key in range(100):
        buckets.take(key)
    assert len(buckets) == 100
    clock.now += 1
    buckets.take(100)
    assert len(buckets) == 1


@pytest.mark.parametrize("capacity", [1, 10])
def test_of_too_many_keys_the_oldest_are_forgotten(capacity: int) -> None:
    buckets = TokenBuckets[int](0.001, 1.0, Clock(), capacity)
    for key in range(100):
        assert buckets.take(key) == 0
    assert len(buckets) == capacity
    assert buckets.take(99) > 0
