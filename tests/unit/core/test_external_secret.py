"""core/external_secret: Kubernetes objects, valid and invalid ones."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import entry, external_secret, external_secret_json, store, store_json
from vaultsync.core.external_secret import (
    MAX_VERSIONS_BYTES,
    CreatedCondition,
    FindRef,
    Namespace,
    ObjectName,
    RemoteRef,
    StoreName,
    parse_external_secret,
    parse_namespace,
    parse_store,
)

KNOWN = ["metadata", "spec", "status", "annotations", "data", "dataFrom", "remoteRef", "extract", "find", "key", "path"]
KNOWN += ["property", "version", "sourceRef", "storeRef", "secretStoreRef", "name", "kind", "namespace", "provider"]
KNOWN += ["vault", "server", "conditions", "type", "vaultsync.io/versions", "vaultsync.io/seed", "refreshTime"]
KNOWN += ["creationTimestamp", "refreshInterval", "syncedResourceVersion", "refreshPolicy", "generatorRef", "uid"]
TEXTS = [
    "",
    "{",
    '{"a":1}',
    "[]",
    "Created",
    "2024-01-01T00:00:00Z",
    "2024-01-01T00:00:00",
    "9999-12-31T23:59:59-12:00",
]
TEXTS += ["0001-01-01T00:00:00+14:00", "0s", "v1", "Fetch", "CreatedOnce", "[" * 5000, "true"]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KNOWN), inner, max_size=6),
    max_leaves=30,
)
documents = st.dictionaries(st.sampled_from(KNOWN), anything, max_size=8)


@given(documents)
def test_no_json_makes_the_parsers_raise(document: dict[str, Any]) -> None:
    parsed = parse_external_secret(document)
    assert all(isinstance(value, str) for value in parsed.annotations.values())
    assert all(isinstance(value, str) for value in parsed.versions.values())
    parse_store(document)
    parse_namespace(document)


@given(anything, anything, anything, anything, anything)
def test_nonsense_in_every_field_of_an_external_secret_is_parsed(
    metadata: object, data: object, data_from: object, status: object, store_ref: object
) -> None:
    spec = {"data": data, "dataFrom": data_from, "secretStoreRef": store_ref}
    parse_external_secret({"metadata": metadata, "spec": spec, "status": status})


@given(anything)
def test_a_namespaces_annotation_is_a_text_or_nothing(value: object) -> None:
    seed = parse_namespace({"metadata": {"name": "a", "annotations": {"vaultsync.io/seed": value}}}).annotations
    assert seed == {} or isinstance(seed["vaultsync.io/seed"], str)


def test_a_typical_external_secret() -> None:
    document = external_secret_json(
        data=[entry("a", "user"), entry("b", "pw", version="3"), entry("c", metadataPolicy="Fetch")],
        data_from=[{"extract": {"key": "d"}}, {"find": {"path": "e", "name": {"regexp": ".*"}}}, {"find": {}}],
        annotations={"vaultsync.io/seed": "true", "other": "x", "vaultsync.io/versions": '{"secret/data/a":"3"}'},
        status={"refreshTime": "2025-01-01T00:00:00Z", "syncedResourceVersion": "1-a"},
    )
    parsed = parse_external_secret(document)
    vault = StoreName("SecretStore", "dev-1", "vault")
    assert parsed.name == ObjectName("dev-1", "app")
    assert parsed.refs == (
        RemoteRef("spec.data[0].remoteRef", vault, "a", "user", "", False, False),
        RemoteRef("spec.data[1].remoteRef", vault, "b", "pw", "3", False, False),
        RemoteRef("spec.data[2].remoteRef", vault, "c", "", "", True, False),
        RemoteRef("spec.dataFrom[0].extract", vault, "d", "", "", False, True),
    )
    assert parsed.finds == (
        FindRef("spec.dataFrom[1].find", vault, "e"),
        FindRef("spec.dataFrom[2].find", vault, None),
    )
    assert parsed.annotations.keys() == {"vaultsync.io/seed", "vaultsync.io/versions"}
    assert parsed.versions == {"secret/data/a": "3"}
    assert parsed.refreshed == datetime(2025, 1, 1, tzinfo=UTC)
    assert parsed.created_condition is None


def test_an_entrys_own_store_counts_before_the_external_secrets() -> None:
    other = {"kind": "ClusterSecretStore", "name": "shared"}
    parsed = parse_external_secret(
        external_secret_json(
            data=[entry("a", store=other), entry("b", store={"name": "near"}), entry("c")],
            data_from=[
                {"extract": {"key": "d"}, "sourceRef": {"storeRef": other}},
                {"sourceRef": {"generatorRef": {"kind": "Password", "name": "p"}}},
            ],
            store={"kind": "ClusterSecretStore", "name": "default"},
        )
    )
    assert [ref.store for ref in parsed.refs] == [
        StoreName("ClusterSecretStore", "", "shared"),
        StoreName("SecretStore", "dev-1", "near"),
        StoreName("ClusterSecretStore", "", "default"),
        StoreName("ClusterSecretStore", "", "shared"),
    ]


def test_an_entry_without_any_store_reads_nothing() -> None:
    assert parse_external_secret(external_secret_json(data=[entry("a")], store={"name": ""})).refs == ()


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ('{"a":"1","b":2,"c":null}', {"a": "1"}),
        ("[1]", {}),
        ("{", {}),
        ("", {}),
        ("[" * 60_000, {}),
        (json.dumps({"a": "x" * MAX_VERSIONS_BYTES}), {}),
    ],
)
def test_the_versions_annotation_is_untrusted(text: str, versions: dict[str, str]) -> None:
    assert external_secret("a", annotations={"vaultsync.io/versions": text}).versions == versions


def test_the_versions_annotation_is_read_up_to_its_limit() -> None:
    value = "x" * (MAX_VERSIONS_BYTES - len('{"a":""}'))
    assert external_secret("a", annotations={"vaultsync.io/versions": f'{{"a":"{value}"}}'}).versions == {"a": value}


SYNCED = {"syncedResourceVersion": "1-abc", "refreshTime": "2025-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("spec", "status", "ignores"),
    [
        # external-secrets 0.20.4, shouldRefresh
        ({"refreshPolicy": "CreatedOnce"}, SYNCED, True),
        ({"refreshPolicy": "CreatedOnce"}, {}, False),
        ({"refreshPolicy": "CreatedOnce"}, {"refreshTime": SYNCED["refreshTime"]}, False),
        ({"refreshPolicy": "CreatedOnce", "refreshInterval": "1h"}, SYNCED, True),
        ({"refreshPolicy": "OnChange"}, SYNCED, False),
        ({"refreshPolicy": "OnChange", "refreshInterval": "0"}, SYNCED, False),
        ({"refreshPolicy": "Periodic", "refreshInterval": "1h"}, SYNCED, False),
        ({"refreshPolicy": "Periodic", "refreshInterval": "0"}, SYNCED, True),
        ({"refreshInterval": "0"}, SYNCED, True),
        ({"refreshInterval": "0s"}, SYNCED, True),
        ({"refreshInterval": "0h0m0s"}, SYNCED, True),
        ({"refreshInterval": "0.0s"}, SYNCED, True),
        ({"refreshInterval": "-1h"}, SYNCED, True),
        ({"refreshInterval": "0"}, {}, False),
        ({"refreshInterval": "0"}, {"syncedResourceVersion": "1-abc"}, True),
        ({"refreshInterval": "10s"}, SYNCED, False),
        ({"refreshInterval": "0h30m"}, SYNCED, False),
        ({"refreshInterval": "1ns"}, SYNCED, False),
        ({}, SYNCED, False),
    ],
)
def test_which_ignore_a_force_sync(spec: dict[str, Any], status: dict[str, Any], ignores: bool) -> None:
    assert external_secret("a", spec=spec, status=status).ignores_force_sync is ignores


@pytest.mark.parametrize(
    ("times", "refreshed"),
    [
        (("2025-01-02T00:00:00Z", "2025-01-01T00:00:00Z"), "2025-01-02T00:00:00+00:00"),
        (("2025-01-01T00:00:00Z", "2025-01-02T00:00:00+01:00"), "2025-01-02T00:00:00+01:00"),
        (("2025-01-01T00:00:00", "never"), "2025-01-01T00:00:00+00:00"),
        (("", ""), None),
    ],
)
def test_the_later_of_creation_and_refresh_counts(times: tuple[str, str], refreshed: str | None) -> None:
    found = external_secret("a", created=times[0], status={"refreshTime": times[1]}).refreshed
    assert (found and found.isoformat()) == refreshed


def test_what_was_reported_is_read_from_the_condition_or_else_the_annotations() -> None:
    condition = {"type": "Created", "status": "True", "reason": "Success", "message": "m"}
    annotations = {"vaultsync.io/created": "False ErrorCreating", "vaultsync.io/message": "n"}
    by_condition = external_secret("a", status={"conditions": [{"type": "Ready"}, condition]}, annotations=annotations)
    assert by_condition.created_condition == CreatedCondition(True, "Success", "m")
    assert external_secret("a", annotations=annotations).created_condition == CreatedCondition(
        False, "ErrorCreating", "n"
    )
    assert external_secret("a", annotations={"vaultsync.io/created": "nonsense"}).created_condition is None


def test_a_typical_store() -> None:
    parsed = store(vault_namespace="/team/", path="kv")
    assert parsed.name == StoreName("SecretStore", "dev-1", "vault")
    assert (parsed.server, parsed.path, parsed.kv, parsed.vault_namespace) == (
        "http://vault.test:8200",
        "kv",
        2,
        "team",
    )


@pytest.mark.parametrize(("version", "kv"), [("v1", 1), ("v2", 2), (None, 2), ("v3", 2)])
def test_a_stores_kv_version_is_2_unless_it_says_otherwise(version: str | None, kv: int) -> None:
    assert store(version=version).kv == kv


def test_an_empty_store_path_is_one_that_is_set() -> None:
    assert (store(path="").path, store(path=None).path) == ("", None)


def test_a_cluster_store_has_no_namespace_and_another_provider_no_server() -> None:
    assert store(kind="ClusterSecretStore").name == StoreName("ClusterSecretStore", "", "vault")
    assert parse_store(store_json(server=None)).server is None


def managed(time: str, *fields: str, **more: str) -> dict[str, object]:
    return {"manager": "kubectl", "operation": "Apply", "time": time, "fieldsV1": {name: {} for name in fields}, **more}


def test_when_a_stores_spec_was_changed_is_known_from_its_managers() -> None:
    spec, later = managed("2026-01-01T10:00:00Z", "f:metadata", "f:spec"), managed("2026-01-01T11:00:00Z", "f:spec")
    label = managed("2026-01-01T12:00:00Z", "f:metadata")
    status = managed("2026-01-01T13:00:00Z", "f:status", subresource="status")
    assert store(managed=[spec, later, label, status]).changed == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert store(managed=[managed("yesterday", "f:spec"), label]).changed is None
    assert store(managed=[later]) == store(managed=[spec]), "which is no change of what is read"


def test_a_namespace() -> None:
    assert parse_namespace({"metadata": {"name": "a"}}) == Namespace("a")
    annotated = {"metadata": {"name": "a", "annotations": {"vaultsync.io/seed": "yes", "other": "x"}}}
    assert parse_namespace(annotated) == Namespace("a", annotations={"vaultsync.io/seed": "yes"})
    ending = {"metadata": {"name": "a", "deletionTimestamp": "2026-11-27T12:00:00Z"}}
    assert parse_namespace(ending) == Namespace("a", is_ending=True)


def test_names_as_people_write_them() -> None:
    assert str(ObjectName("a", "b")) == "a/b"
    assert str(StoreName("SecretStore", "a", "b")) == "SecretStore a/b"
    assert str(StoreName("ClusterSecretStore", "", "b")) == "ClusterSecretStore b"
