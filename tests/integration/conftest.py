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


@pytest.fixture(params=["events", "audit", "poll"])
def source(request: pytest.FixtureRequest) -> str:
    """Each source of changes, for VAULTSYNC_SOURCE."""
    return str(request.param)
