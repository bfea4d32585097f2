"""Without an event stream: the healing suite on every other source, and changes between sources."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_healing import (
    test_a_burst_on_one_path_is_two_force_syncs_and_the_last_value_arrives,
    test_a_deleted_path_is_created_again_with_a_new_value,
    test_a_property_that_a_new_version_lacks_is_added_again,
    test_changes_while_vaultsync_is_stopped_are_caught_up,
    test_no_path_of_a_burst_is_lost,
    test_write_patch_and_undelete_reach_every_reader,
)
from tests.testbed.fixtures import VaultsyncFactory, stopped_in_the_end
from tests.testbed.testbed import Testbed

# collected here too, and run with the fixtures of this file
__all__ = [
    "test_a_burst_on_one_path_is_two_force_syncs_and_the_last_value_arrives",
    "test_a_deleted_path_is_created_again_with_a_new_value",
    "test_a_property_that_a_new_version_lacks_is_added_again",
    "test_changes_while_vaultsync_is_stopped_are_caught_up",
    "test_no_path_of_a_burst_is_lost",
    "test_write_patch_and_undelete_reach_every_reader",
]


@dataclass(frozen=True, slots=True)
class Case:
    """One source on one server."""

    openbao: bool
    source: str
    env: tuple[tuple[str, str], ...] = ()
    audit: bool = True


POLLED = (("VAULTSYNC_POLL_INTERVAL", "1s"),)
CASES = {
    "vault-audit": Case(openbao=False, source="audit"),
    "openbao-audit": Case(openbao=True, source="audit"),
    "openbao-poll": Case(openbao=True, source="poll", env=POLLED, audit=False),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def testbed(case: Case, testbed: Testbed, request: pytest.FixtureRequest) -> Testbed:
    """The session's testbed, or one with OpenBao instead of Vault."""
    if not case.openbao:
        return testbed
    made: Testbed = request.getfixturevalue("openbao")
    return made


@pytest.fixture
def vaultsync(case: Case, testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[VaultsyncFactory]:
    env = {"VAULTSYNC_SOURCE": case.source, **dict(case.env)}
    yield from stopped_in_the_end(VaultsyncFactory(testbed, env, audit=case.audit), request)
