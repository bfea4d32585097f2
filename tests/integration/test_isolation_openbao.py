"""A locked or sealed Vault namespace delays no others. On OpenBao, because Vault without Enterprise has none."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_isolation import (
    MANY,
    PATIENCE,
    SCANNED,
    SEED,
    STATES,
    assert_not_delayed,
    assert_vault_counts_as_well,
    many,
    started,
)
from tests.integration.test_vault_namespaces import inside, within
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import ESO_POLICY, ESO_RULES, Testbed

SEAL = 'seal "shamir" { shares = 1 threshold = 1 }'


@pytest.fixture(scope="module")
def testbed(openbao: Testbed) -> Testbed:
    return openbao


@dataclass(frozen=True, slots=True)
class Team:
    """A Vault namespace with a KV v2 mount `secret`.

    Attributes:
        key: unseal key; "" for a namespace that is locked and unlocked instead.
    """

    testbed: Testbed
    name: str
    key: str = ""

    def shut(self) -> None:
        where = f"{self.name}/seal" if self.key else f"api-lock/lock/{self.name}"
        self.testbed.vault_root.api.request("POST", f"/v1/sys/namespaces/{where}")

    def open(self) -> None:
        where = f"{self.name}/unseal" if self.key else f"api-lock/unlock/{self.name}"
        self.testbed.vault_root.api.request("POST", f"/v1/sys/namespaces/{where}", {"key": self.key})


def made(testbed: Testbed, body: dict[str, str]) -> Team:
    api, name = testbed.vault_root.api, f"team-{secrets.token_hex(3)}"
    data = api.request("POST", f"/v1/sys/namespaces/{name}", body)["data"]
    team = Team(testbed, name, *data.get("key_shares", []))
    if team.key:
        team.open()
    inside(testbed, name).mount("secret", options={"version": "2"})
    return team


@pytest.fixture(scope="module", params=["locked", "sealed"])
def team(testbed: Testbed, request: pytest.FixtureRequest) -> Team:
    """The namespace that will be sealed or locked."""
    return made(testbed, {"seal": SEAL} if request.param == "sealed" else {})


@pytest.fixture(scope="module")
def other_team(testbed: Testbed) -> Team:
    return made(testbed, {})


@pytest.fixture
def env(testbed: Testbed, team: Team, other_team: Team) -> Iterator[dict[str, str]]:
    """Settings with a token of the root namespace that has access to both."""
    root, names = testbed.vault_root, (team.name, other_team.name)
    root.policy(ESO_POLICY, "".join([ESO_RULES, *(within(name, ESO_RULES) for name in names)]))
    root.policy(team.name, "".join([testbed.vault_policy, *(within(name, testbed.vault_policy) for name in names)]))
    paths = ",".join(["*/{namespace}/**", *(f"{name}:*/{{namespace}}/**" for name in names)])
    yield {"VAULT_TOKEN": root.token([team.name]), "VAULTSYNC_SEED_PATHS": paths}
    root.policy(ESO_POLICY, ESO_RULES)


@STATES
def test_a_sealed_vault_namespace_affects_only_its_readers(
    place: Place,
    elsewhere: Place,
    vaultsync: VaultsyncFactory,
    testbed: Testbed,
    team: Team,
    other_team: Team,
    env: dict[str, str],
    state: str,
) -> None:
    place.store("shut", namespace=team.name)
    elsewhere.store("other", namespace=other_team.name)
    team.shut()
    try:
        process = started(
            vaultsync, lambda: place.external_secret("shut", many("shut"), annotations=SEED, store="shut"), state, env
        )
        log = testbed.work / "logs" / "audit.log"
        assert_not_delayed(elsewhere)
        assert_not_delayed(elsewhere, "other")
        place.wait_until_reported("shut", f"the Vault namespace {team.name} is sealed or locked", "unseal or unlock it")
        assert_vault_counts_as_well(process)
        assert process.output().count("a Vault namespace is unavailable") == 1
        assert "pass failed" not in process.output()
        time.sleep(5)
        asked = log.read_bytes().count(f"/{place.name}/shut/".encode())
        time.sleep(10)
        assert log.read_bytes().count(f"/{place.name}/shut/".encode()) - asked <= 2 * 2 * 5, "about one attempt in 5 s"
    finally:
        team.open()
    place.wait_until_healthy("shut", PATIENCE)
    theirs = inside(testbed, team.name)
    assert all(theirs.get(place.path(f"shut/app{number}")) for number in range(MANY))
    assert process.output().count("the Vault namespace answers again") == 1
    assert SCANNED in process.output()
