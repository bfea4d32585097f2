"""The record of the Secrets over time."""

from tests.faults.copies import Copies
from tests.faults.model import Name
from tests.testbed.api import Api

A, B, OTHER = Name("n", "a"), Name("n", "b"), Name("m", "a")


def recorded() -> Copies:
    copies = Copies(Api("http://127.0.0.1:1"))
    copies.record(A, {"k": "1"}, at=10)
    copies.record(A, {"k": "2"}, at=20)
    copies.record(A, {}, at=30)
    copies.record(B, {"k": "3", "l": "4"}, at=15)
    copies.record(OTHER, {"k": "5"}, at=1)
    return copies


def test_the_values_at_a_time_are_those_of_the_last_changes_before() -> None:
    copies = recorded()
    assert [copies.values("n", at) for at in (9, 10, 15, 25, 30)] == [
        set(),
        {"1"},
        {"1", "3", "4"},
        {"2", "3", "4"},
        {"3", "4"},
    ]


def test_what_is_forgotten_is_what_was_replaced_before() -> None:
    copies = recorded()
    copies.forget(25)
    assert copies.values("n", 25) == {"2", "3", "4"}
    assert copies.values("n", 15) == {"3", "4"}
