"""Seeding: the missing values of an ExternalSecret are created once, and reach its Kubernetes Secret."""

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.testbed.api import ApiError
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place

SEED = {"vaultsync.io/seed": "true"}
HEX = re.compile(r"[0-9a-f]{64}")


def test_a_missing_path_is_created_and_reaches_the_secret(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("postgres", {"password": ("postgres", "password")}, annotations=SEED)
    found = place.wait_for_secret("postgres")
    assert HEX.fullmatch(found["password"])
    assert place.read("postgres") == found
    assert place.version("postgres") == 1


SPELLINGS = ("{}/a", "secret/{}/a", "secret/data/{}/a", "/{}/a", "secret/{}/a/")


@pytest.mark.parametrize("key", SPELLINGS, ids=lambda key: key.format("x"))
def test_every_spelling_of_a_key_is_one_path(place: Place, vaultsync: VaultsyncFactory, key: str) -> None:
    vaultsync()
    written = key.format(place.name)
    place.external_secret("app", {"password": (written, "password")}, annotations=SEED, absolute=True)
    found = place.wait_for_secret("app")
    assert place.read("a") == found


def test_without_a_store_path_the_mount_is_in_the_key(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.store("bare", path=None)
    data = {"one": (f"secret/{place.name}/a", "x"), "two": (f"team/kv/data/{place.name}/b", "y")}
    place.external_secret("app", data, annotations=SEED, store="bare", absolute=True)
    found = place.wait_for_secret("app")
    assert (place.read("a"), place.read("b", "team/kv")) == ({"x": found["one"]}, {"y": found["two"]})


def test_a_mount_with_a_slash_a_v1_mount_and_a_cluster_store(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.store("team", path="team/kv")
    place.store("old", path="kv1", version="v1")
    cluster = f"cluster-{place.name}"
    place.store(cluster, kind="ClusterSecretStore")
    refs = [("team", "SecretStore"), ("old", "SecretStore"), (cluster, "ClusterSecretStore")]
    data = [
        {
            "secretKey": name.split("-")[0],
            "remoteRef": {"key": f"{place.name}/a", "property": "password"},
            "sourceRef": {"storeRef": {"name": name, "kind": kind}},
        }
        for name, kind in refs
    ]
    place.kube.create(
        {
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": "app", "namespace": place.name, "annotations": SEED},
            "spec": {"secretStoreRef": {"name": "nowhere"}, "data": data},
        }
    )
    try:
        found = place.wait_for_secret("app")
    finally:
        place.kube.delete("external-secrets.io/v1", "ClusterSecretStore", cluster)
    for key, mount in (("team", "team/kv"), ("old", "kv1"), ("cluster", "secret")):
        assert place.read("a", mount) == {"password": found[key]}


def test_all_properties_of_a_path_are_created_in_one_write(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.external_secret("one", {"a": ("shared", "a"), "b": ("shared", "b")}, annotations=SEED)
    place.external_secret("two", {"c": ("shared", "c")})
    vaultsync()
    place.wait_for_secret("one")
    place.wait_for_secret("two")
    assert sorted(place.read("shared") or {}) == ["a", "b", "c"]
    assert place.version("shared") == 1


def test_a_missing_property_is_added_and_the_others_are_kept(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("app", user="somebody", nested={"list": [1, 2]})
    vaultsync()
    place.external_secret("app", {"p": ("app", "password"), "u": ("app", "user")}, annotations=SEED)
    found = place.wait_for_secret("app")
    assert HEX.fullmatch(found["p"])
    assert place.read("app") == {"user": "somebody", "nested": {"list": [1, 2]}, "password": found["p"]}


def test_a_nested_property_that_exists_is_left_alone(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("app", db={"password": "deep"}, list=["first"])
    vaultsync()
    place.external_secret("app", {"p": ("app", "db.password"), "l": ("app", "list.0")}, annotations=SEED)
    assert place.wait_for_secret("app") == {"p": "deep", "l": "first"}
    assert place.version("app") == 1


@pytest.mark.parametrize("how", ["deleted", "destroyed"])
def test_a_deleted_latest_version_counts_as_missing(place: Place, vaultsync: VaultsyncFactory, how: str) -> None:
    place.put("app", password="old")
    if how == "deleted":
        place.vault.delete(place.path("app"))
    else:
        place.vault.destroy(place.path("app"), [1])
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    found = place.wait_for_secret("app")
    assert HEX.fullmatch(found["p"])
    assert place.version("app") == 2


def test_two_replicas_and_a_person_never_overwrite_each_other(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync(name="one")
    vaultsync(name="two")
    names = [f"app{number}" for number in range(20)]

    def person(name: str) -> None:
        """An operator's tool that, like vaultsync, writes only to missing paths."""
        body = {"options": {"cas": 0}, "data": {"password": "a person's"}}
        with suppress(ApiError):  # losing the race is one of the two valid outcomes
            place.vault.api.request("POST", f"/v1/secret/data/{place.path(name)}", body)

    def create(name: str) -> None:
        place.external_secret(name, {"password": (name, "password")}, annotations=SEED)

    def both(name: str) -> None:
        create(name)
        person(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(both, names))
    for name in names:
        found = place.wait_for_secret(name)
        assert place.version(name) == 1
        assert place.read(name) == found


@pytest.mark.parametrize(
    ("mode", "of_namespace", "own", "seeded"),
    [
        ("annotated", None, {"vaultsync.io/seed": "true"}, True),
        ("annotated", None, {"create": "true"}, True),
        ("annotated", None, {}, False),
        ("annotated", "true", {}, True),
        ("annotated", "true", {"vaultsync.io/seed": "false"}, False),
        ("all", None, {}, True),
        ("all", "false", {}, False),
        ("off", "true", {"vaultsync.io/seed": "true"}, False),
    ],
)
def test_which_external_secrets_are_seeded(
    place: Place, vaultsync: VaultsyncFactory, mode: str, of_namespace: str | None, own: dict[str, str], seeded: bool
) -> None:
    annotations = {"vaultsync.io/seed": of_namespace}
    place.kube.patch("v1", "Namespace", place.name, {"metadata": {"annotations": annotations}})
    place.external_secret("app", {"p": ("app", "password")}, annotations=own)
    place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
    vaultsync({"VAULTSYNC_SEED": mode}).wait_until_ready()
    if seeded:
        place.wait_for_secret("app")
    else:
        if mode != "off":
            place.wait_for_secret("witness")
        else:
            place.wait_for(lambda: place.ready("witness"))
        assert place.read("app") is None


def test_a_store_of_another_vault_is_ignored_and_logged_once(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.store("foreign", server="http://127.0.0.1:1")
    process = vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, store="foreign")
    place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
    place.wait_for_secret("witness")
    assert place.read("app") is None
    lines = [line for line in process.output().splitlines() if "store ignored" in line and place.name in line]
    assert len(lines) == 1


def test_an_additional_address_of_this_vault_is_accepted(place: Place, vaultsync: VaultsyncFactory) -> None:
    other = place.testbed.vault.address.replace("127.0.0.1", "localhost")
    place.store("alias", server=other + "/")
    vaultsync({"VAULTSYNC_STORE_SERVERS": f"http://vault.example:8200, {other}"})
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, store="alias")
    place.wait_for_secret("app", timeout=30)  # external-secrets' only worker may hang on the store of the previous test
