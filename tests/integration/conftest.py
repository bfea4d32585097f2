"""Fixtures of several modules."""

from collections.abc import Iterator

import pytest

from tests.testbed.engine import Engine
from tests.testbed.place import Place


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    """A KV mount of the test's own, not enabled yet."""
    made = Engine(place)
    yield made
    made.clean()
