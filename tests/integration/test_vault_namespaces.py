"""Vault namespaces, on OpenBao, which has them like Vault Enterprise; Enterprise itself can't run here."""

import re
import secrets
from collections.abc import Iterator

import pytest

from tests.integration.test_healing import SEED, another
from tests.testbed.api import Api
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.servers import ROOT_TOKEN
from tests.testbed.testbed import ESO_POLICY, ESO_RULES, Testbed
from tests.testbed.vault import VaultRoot
from tests.testbed.vaultsync import VaultsyncProcess


@pytest.fixture(scope="module")
def testbed(openbao: Testbed) -> Testbed:
    return openbao


@pytest.fixture(scope="module")
def team(testbed: Testbed) -> Iterator[str]:
    """A Vault namespace with a KV v2 mount `secret`, different from the root's."""
    name = f"team-{secrets.token_hex(3)}"
    testbed.vault_root.api.request("POST", f"/v1/sys/namespaces/{name}")
    inside(testbed, name).mount("secret", options={"version": "2"})
    testbed.vault_root.policy(ESO_POLICY, ESO_RULES + within(name, ESO_RULES))
    yield name
    testbed.vault_root.policy(ESO_POLICY, ESO_RULES)
    inside(testbed, name).api.request("DELETE", "/v1/sys/mounts/secret")
    testbed.vault_root.api.request("DELETE", f"/v1/sys/namespaces/{name}")


def inside(testbed: Testbed, namespace: str) -> VaultRoot:
    return VaultRoot(Api(testbed.vault.address, {"X-Vault-Token": ROOT_TOKEN, "X-Vault-Namespace": namespace}))


def within(namespace: str, policy: str) -> str:
    """The same rights, in a Vault namespace."""
    return re.sub('path "', f'path "{namespace}/', policy)


@pytest.fixture
def process(testbed: Testbed, team: str, place: Place, vaultsync: VaultsyncFactory) -> VaultsyncProcess:
    """A vaultsync with a token of the root namespace that has access to the team's."""
    testbed.vault_root.policy(team, testbed.vault_policy + within(team, testbed.vault_policy))
    paths = f"*/{{namespace}}/**,{team}:*/{{namespace}}/**"
    return vaultsync({"VAULT_TOKEN": testbed.vault_root.token([team]), "VAULTSYNC_SEED_PATHS": paths})


def test_a_store_of_a_vault_namespace_is_seeded_and_healed(
    testbed: Testbed, team: str, place: Place, process: VaultsyncProcess
) -> None:
    place.store("team", namespace=team)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, store="team")
    first = place.wait_for_secret("app")
    assert place.read("app") is None, "the root's mount is unchanged"
    theirs = inside(testbed, team)
    theirs.delete(place.path("app"))
    place.wait_for(lambda: another(place, "app", first))
    theirs.put(place.path("app"), password="a person's")
    place.wait_for_secret("app", p="a person's")


def test_a_vault_namespace_in_the_path_is_reported_and_nothing_is_created(
    testbed: Testbed, team: str, place: Place, process: VaultsyncProcess
) -> None:
    """Changes are reported by namespace, and the globs of the root do not allow paths in a Vault namespace."""
    place.store("sly", path=f"{team}/secret")
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, store="sly")
    place.wait_until_reported("app", f"is in the Vault namespace {team}", "spec.provider.vault.namespace")
    assert inside(testbed, team).get(place.path("app")) is None
