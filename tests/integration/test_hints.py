"""An event only says which path to read: all values arrive after `kv metadata delete`, which repeats versions."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_healing import SEED, another
from tests.integration.test_source_choice import sources
from tests.testbed.fixtures import VaultsyncFactory, stopped_in_the_end
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

ROUNDS = 5
WITHIN = 1.0
"""Maximum seconds from Vault to the Secret."""


@dataclass(frozen=True, slots=True)
class Case:
    """One source on one server."""

    openbao: bool
    source: str
    audit: bool


CASES = {
    "vault-events": Case(openbao=False, source="events", audit=True),
    "vault-events-alone": Case(openbao=False, source="events", audit=False),
    "vault-audit": Case(openbao=False, source="audit", audit=True),
    "openbao-audit": Case(openbao=True, source="audit", audit=True),
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
    env = {"VAULTSYNC_SOURCE": case.source}
    yield from stopped_in_the_end(VaultsyncFactory(testbed, env, audit=case.audit), request)


def started(place: Place, vaultsync: VaultsyncFactory, source: str, **annotations: str) -> VaultsyncProcess:
    """Vaultsync with one ExternalSecret, at rest."""
    place.put("app", password="0")
    place.external_secret("app", {"p": ("app", "password")}, annotations=annotations)
    place.wait_for_secret("app", p="0")
    process = vaultsync()
    place.wait_for(lambda: sources(process) == [source], 20, source)
    time.sleep(1)
    return process


# -- five of five rounds of `kv metadata delete` and `kv put`


@pytest.mark.parametrize("annotations", [{}, SEED], ids=["read", "seeded"])
def test_a_put_right_after_a_metadata_delete_arrives(
    case: Case, place: Place, vaultsync: VaultsyncFactory, annotations: dict[str, str]
) -> None:
    started(place, vaultsync, case.source, **annotations)
    for number in range(1, ROUNDS + 1):
        place.vault.delete_metadata(place.path("app"))
        place.put("app", password=f"round {number}")
        place.wait_for_secret("app", WITHIN, p=f"round {number}")


def test_a_put_after_the_healing_of_a_metadata_delete_arrives(
    case: Case, place: Place, vaultsync: VaultsyncFactory
) -> None:
    started(place, vaultsync, case.source, **SEED)
    for number in range(1, ROUNDS + 1):
        before = place.wait_for_secret("app")
        place.vault.delete_metadata(place.path("app"))
        if case.audit:  # the event stream reports deletions only to root tokens
            place.wait_for(lambda before=before: another(place, "app", before), WITHIN)  # type: ignore[misc]
        place.put("app", password=f"round {number}")
        place.wait_for_secret("app", WITHIN, p=f"round {number}")
        # the version number is the same as of the healed value
        place.vault.delete_metadata(place.path("app"))
        place.put("app", password=f"round {number} again")
        place.wait_for_secret("app", WITHIN, p=f"round {number} again")


def test_a_put_a_while_after_a_metadata_delete_arrives(case: Case, place: Place, vaultsync: VaultsyncFactory) -> None:
    """With `vault-events-alone` the deletion is never detected."""
    started(place, vaultsync, case.source)
    for number in range(1, ROUNDS + 1):
        place.vault.delete_metadata(place.path("app"))
        time.sleep(0.5)
        place.put("app", password=f"round {number}")
        place.wait_for_secret("app", WITHIN, p=f"round {number}")
