"""core/measure: what is counted is counted once, and under one of few labels."""

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultsync.core.measure import CODES, Histogram, Requests, code


@given(st.lists(st.floats(0, 1e6)))
def test_each_value_is_in_every_bucket_that_is_large_enough(values: list[float]) -> None:
    histogram = Histogram((0.5, 1.0, 60.0))
    for value in values:
        histogram.observe(value)
    expected = [(bound, sum(value <= bound for value in values)) for bound in (0.5, 1.0, 60.0, float("inf"))]
    assert histogram.buckets() == expected
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))


def test_a_value_on_a_bound_is_within_it() -> None:
    histogram = Histogram((1.0,))
    histogram.observe(1.0)
    assert histogram.buckets() == [(1.0, 1), (float("inf"), 1)]


@given(st.integers(0, 10_000))
def test_codes_are_few(status: int) -> None:
    assert code(status) in {"none", "other", *map(str, CODES)}
    assert (code(status) == "none") == (status == 0)


def test_requests_of_several_threads_are_all_counted() -> None:
    requests = Requests()

    def count() -> None:
        for _ in range(5_000):
            requests.count("GET", 200)

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests.count("POST", 299)
    assert requests.counts() == {("GET", "200"): 20_000, ("POST", "other"): 1}
