"""Without an event stream, as on today's Vault: the healing suite on every other source."""

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
from tests.integration.test_rotation import test_each_new_request_rotates_only_owned_paths_once
from tests.testbed.fixtures import VaultsyncFactory, stopped_in_the_end
from tests.testbed.testbed import Testbed

# collected here too, and run with the fixtures of this file
__all__ = [
    "test_a_burst_on_one_path_is_two_force_syncs_and_the_last_value_arrives",
    "test_a_deleted_path_is_created_again_with_a_new_value",
    "test_a_property_that_a_new_version_lacks_is_added_again",
    "test_changes_while_vaultsync_is_stopped_are_caught_up",
    "test_each_new_request_rotates_only_owned_paths_once",
    "test_no_path_of_a_burst_is_lost",
    "test_write_patch_and_undelete_reach_every_reader",
]


@dataclass(frozen=True, slots=True)
class Case:
    """One source on one server.

    Attributes:
        vault: the fixture that has it.
    """

    vault: str
    source: str
    env: tuple[tuple[str, str], ...] = ()
    audit: bool = True


POLLED = (("VAULTSYNC_POLL_INTERVAL", "1s"),)
CASES = {
    "vault-audit": Case("todays_vault", "audit"),
    "vault-poll": Case("todays_vault", "poll", env=POLLED, audit=False),
    "openbao-audit": Case("openbao", "audit"),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def testbed(case: Case, request: pytest.FixtureRequest) -> Testbed:
    made: Testbed = request.getfixturevalue(case.vault)
    return made


@pytest.fixture
def vaultsync(case: Case, testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[VaultsyncFactory]:
    env = {"VAULTSYNC_SOURCE": case.source, **dict(case.env)}
    yield from stopped_in_the_end(VaultsyncFactory(testbed, env, audit=case.audit), request)
