"""Paths that have an owner: another tool, a PushSecret, or an ExternalSecret that wants its value only once."""

import time

import pytest

from tests.integration.test_healing import SEED, another
from tests.testbed.engine import Engine
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place

PUSH_RULES = """
path "secret/data/*" { capabilities = ["create", "read", "update", "patch"] }
path "secret/metadata/*" { capabilities = ["create", "read", "update", "patch"] }
"""
QUIET = 3.0
"""Seconds in which nothing may happen; vaultsync heals in less than 0.1 s."""


@pytest.fixture
def pushing(place: Place) -> Place:
    """A store with which a PushSecret may write."""
    place.vault.policy(f"push-{place.name}", PUSH_RULES)
    token = place.vault.token([f"push-{place.name}"])
    place.kube.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "push", "namespace": place.name},
            "stringData": {"token": token},
        }
    )
    place.store("push", auth={"tokenSecretRef": {"name": "push", "key": "token"}})
    return place


def push(place: Place, key: str, namespace: str = "") -> None:
    """A PushSecret of a Kubernetes Secret with the value `pushed`."""
    name = key.rpartition("/")[2]
    metadata = {"name": f"source-{name}", "namespace": namespace or place.name}
    place.kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"p": "pushed"}})
    place.kube.create(
        {
            "apiVersion": "external-secrets.io/v1alpha1",
            "kind": "PushSecret",
            "metadata": {"name": name, "namespace": namespace or place.name},
            "spec": {
                "refreshInterval": "1h",
                "secretStoreRefs": [{"name": "push", "kind": "SecretStore"}],
                "selector": {"secret": {"name": f"source-{name}"}},
                "data": [{"match": {"secretKey": "p", "remoteRef": {"remoteKey": place.path(key), "property": "p"}}}],
            },
        }
    )


def test_a_deleted_path_of_a_push_secret_is_left_to_it(pushing: Place, vaultsync: VaultsyncFactory) -> None:
    push(pushing, "app")
    pushing.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    vaultsync().wait_until_ready()
    pushing.wait_for_secret("app", p="pushed")
    version = pushing.version("app")
    pushing.vault.delete(pushing.path("app"))
    pushing.wait_until_reported("app", "PushSecret", f"{pushing.name}/app", "leaves it to its owner")
    time.sleep(QUIET)
    assert pushing.version("app") == version
    pushing.wait_for_secret("app", p="pushed")


def test_the_path_of_a_new_push_secret_is_not_created_before_it(pushing: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync().wait_until_ready()
    push(pushing, "app")
    pushing.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    pushing.wait_for_secret("app", 30.0, p="pushed")


def test_a_push_secret_that_comes_later_is_reported_with_the_command_that_hands_the_path_over(
    pushing: Place, vaultsync: VaultsyncFactory
) -> None:
    pushing.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    vaultsync().wait_until_ready()
    pushing.wait_for_secret("app")
    metadata = pushing.wait_for(lambda: (pushing.vault.metadata(pushing.path("app")) or {}).get("custom_metadata"), 20)
    assert metadata["managed-by"] == "vaultsync"
    push(pushing, "app")
    told = pushing.wait_until_reported("app", f"PushSecret {pushing.name}/app", "-custom-metadata=managed-by=")
    assert f"managed-by=external-secrets secret/{pushing.path('app')}" in told
    handed = {"custom_metadata": {**metadata, "managed-by": "external-secrets"}}
    pushing.vault.api.request("POST", f"/v1/secret/metadata/{pushing.path('app')}", handed)
    pushing.kube.patch(
        "external-secrets.io/v1alpha1", "PushSecret", "app", {"metadata": {"labels": {"again": "x"}}}, pushing.name
    )
    pushing.wait_for_secret("app", 30.0, p="pushed")
    pushing.wait_until_healthy("app")


def test_another_tenants_push_secret_does_not_keep_a_path_from_being_healed(
    pushing: Place, vaultsync: VaultsyncFactory
) -> None:
    with Place(pushing.testbed) as other:
        other.vault.policy("nothing", 'path "none/*" { capabilities = ["read"] }')
        metadata = {"name": "push", "namespace": other.name}
        token = {"token": other.vault.token(["nothing"])}
        other.kube.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": token})
        other.store("push", auth={"tokenSecretRef": {"name": "push", "key": "token"}})
        push(pushing, "app", other.name)
        vaultsync().wait_until_ready()
        pushing.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
        before = pushing.wait_for_secret("app")
        pushing.vault.delete(pushing.path("app"))
        pushing.wait_for(lambda: another(pushing, "app", before))


def test_a_path_that_another_tool_manages_is_left_to_it(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    vaultsync().wait_until_ready()
    place.put("app", p="0")
    place.wait_for_secret("app", p="0")
    metadata = {"custom_metadata": {"managed-by": "terraform"}}
    place.vault.api.request("POST", f"/v1/secret/metadata/{place.path('app')}", metadata)
    place.vault.delete(place.path("app"))
    told = place.wait_until_reported("app", "managed-by=terraform", "vault kv metadata patch")
    time.sleep(QUIET)
    assert place.version("app") == 1
    assert f"secret/{place.path('app')}" in told
    place.put("app", p="1")
    place.wait_for_secret("app", p="1")


@pytest.mark.parametrize("on", ["ExternalSecret", "Namespace"])
def test_a_retired_value_is_created_once_and_never_again(place: Place, on: str, vaultsync: VaultsyncFactory) -> None:
    own = {"vaultsync.io/heal": "false"} if on == "ExternalSecret" else {}
    if on == "Namespace":
        annotations = {"metadata": {"annotations": {"vaultsync.io/heal": "false"}}}
        place.kube.patch("v1", "Namespace", place.name, annotations)
    vaultsync().wait_until_ready()
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED | own)
    before = place.wait_for_secret("app")
    place.wait_for(lambda: place.ready("app"))
    place.vault.delete(place.path("app"))
    place.wait_until_reported("app", 'vaultsync.io/heal is "false"')
    time.sleep(QUIET)
    assert place.secret("app") == before
    assert place.version("app") == 1
    vaultsync().wait_until_ready()
    time.sleep(QUIET)
    assert place.version("app") == 1, "nor by the next process"


def test_nothing_is_created_for_a_namespace_that_is_being_deleted(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED)
    vaultsync().wait_until_ready()
    place.wait_for_secret("app")
    place.kube.delete("v1", "Namespace", place.name)  # no controller-manager finishes this here
    time.sleep(0.5)
    place.vault.delete(place.path("app"))
    time.sleep(QUIET)
    assert place.version("app") == 1


@pytest.fixture(params=["metadata", "config"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the lifetime of a value is set: at its path, or for the mount."""
    return str(request.param)


def test_a_value_that_expires_is_announced_and_not_replaced_again_and_again(
    place: Place, where: str, engine: Engine, vaultsync: VaultsyncFactory
) -> None:
    mount = engine.name
    engine.enable("2")
    engine.store("v2")
    target = "config" if where == "config" else f"metadata/{place.path('app')}"
    place.vault.api.request("POST", f"/v1/{mount}/{target}", {"delete_version_after": "20s"})
    vaultsync({"VAULT_TOKEN": place.vault.token([mount])}).wait_until_ready()
    place.external_secret("app", {"p": ("app", "p")}, annotations=SEED, store="own")
    before = place.wait_for_secret("app")
    [notice] = place.wait_for(lambda: [text for reason, text in place.events("app") if reason == "Expires"])
    assert "delete_version_after=20s" in notice
    assert "will create no new value" in notice
    place.wait_for(lambda: "has expired" in place.annotations("app").get("vaultsync.io/message", ""), 40)
    time.sleep(QUIET)
    assert place.version("app", mount) == 1
    assert place.secret("app") == before
    place.vault.api.request("POST", f"/v1/{mount}/{target}", {"delete_version_after": "0s"})
    place.put("app", mount, p="kept")
    place.wait_for_secret("app", p="kept")
    place.wait_until_healthy("app")
