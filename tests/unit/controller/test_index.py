"""The index finds the readers of a path, in whatever order the objects arrive."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import ADDRESS, Anything, entry, external_secret, namespace, path, store, store_json
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.annotation_parser import SeedChoice, SeedMode
from vaultsync.core.external_secret import ExternalSecret, Namespace, ObjectName, Store, StoreName, parse_store
from vaultsync.core.paths import FindPrefix
from vaultsync.generation.rules import UuidRule

APP, OTHER = ObjectName("dev-1", "app"), ObjectName("dev-1", "other")
A, B, C = path("secret/data/a"), path("secret/data/b"), path("secret/data/c")


def index(*items: Store | Namespace | ExternalSecret, mode: SeedMode = SeedMode.ANNOTATED) -> Index:
    made = Index(frozenset({server_identity(ADDRESS)}), mode)
    for item in items:
        if isinstance(item, Store):
            made.put_store(item)
        elif isinstance(item, Namespace):
            made.put_namespace(item)
        else:
            made.put(item)
    return made


def find(where: str | None = None, **fields: Anything) -> ExternalSecret:
    return external_secret(data_from=[{"find": {"path": where} if where is not None else {}}], **fields)


def links(made: Index) -> list[object]:
    return [made._by_path, made._by_prefix, made._by_store, made._by_namespace, made._entries]


def test_a_new_external_secret_needs_a_look_at_all_it_reads() -> None:
    made = index(store())
    assert made.put(external_secret("a", "b")) == {APP, A, B}
    assert made.reader_names(A) == {APP}
    assert made.knows(A)
    assert not made.knows(C)


def test_the_same_again_is_no_news() -> None:
    made = index(store(), external_secret("a"))
    assert made.put(external_secret("a", resource_version="2", status={"refreshTime": "2025-01-01T00:00:00Z"})) == set()
    found = made.entry(APP)
    assert found is not None
    assert found.object.resource_version == "2"


def test_a_changed_one_needs_a_look_at_what_it_newly_reads() -> None:
    made = index(store(), external_secret("a", "b"))
    assert made.put(external_secret("b", "c")) >= {APP, C}
    assert made.reader_names(A) == set()
    assert made.reader_names(C) == {APP}


def test_a_path_that_is_no_longer_read_gets_a_pass_to_be_forgotten() -> None:
    made = index(store(), external_secret("a", "b"))
    assert A in made.put(external_secret("b"))


def test_a_new_property_of_the_same_path_needs_a_look() -> None:
    made = index(store(), external_secret(("a", "x")))
    assert made.put(external_secret(("a", "x"), ("a", "y"))) == {APP, A}


@pytest.mark.parametrize("annotation", ["vaultsync.io/seed", "create", "vaultsync.io/force-sync"])
def test_a_changed_annotation_queues_all_references(annotation: str) -> None:
    made = index(store(), external_secret("a", "b"))
    assert made.put(external_secret("a", "b", annotations={annotation: "true"})) == {APP, A, B}


def test_vaultsyncs_own_annotations_are_no_news() -> None:
    made = index(store(), external_secret("a"))
    own = {"vaultsync.io/versions": "{}", "vaultsync.io/created": "True Success", "force-sync": "now"}
    assert made.put(external_secret("a", annotations=own)) == set()


def test_a_new_object_of_the_same_name_needs_a_look_at_all() -> None:
    made = index(store(), external_secret("a"))
    assert made.put(external_secret("a", uid="another")) == {APP, A}


def test_removed_means_forgotten() -> None:
    made = index(store(), external_secret("a"), external_secret("a", name="other"))
    made.remove(APP)
    made.remove(ObjectName("no", "where"))
    assert made.reader_names(A) == {OTHER}
    assert made.entry(APP) is None


def test_a_store_that_comes_late_resolves_what_waited_for_it() -> None:
    made = index(external_secret("a"))
    assert not made.knows(A)
    assert made.put_store(store()) == {APP, A}
    assert made.reader_names(A) == {APP}
    assert made.put_store(store()) == set()


def test_a_changed_store_moves_its_readers() -> None:
    made = index(store(), external_secret("a"))
    assert made.put_store(store(path="team/kv")) >= {APP, path("team/kv/data/a")}
    assert not made.knows(A)


def test_a_store_that_only_changes_its_kv_version_is_news() -> None:
    made = index(store(path="kv1", version="v2"), external_secret("a"))
    assert made.put_store(store(path="kv1", version="v1")) >= {APP, path("kv1/a")}


def test_a_removed_store_leaves_nothing_to_read() -> None:
    made = index(store(), external_secret("a"))
    made.remove_store(StoreName("SecretStore", "dev-1", "vault"))
    assert not made.knows(A)
    assert made.entry(APP) is not None
    assert made.put_store(store()) == {APP, A}


def test_a_foreign_server_is_left_alone() -> None:
    made = index(store(server="http://elsewhere:8200"), external_secret("a"))
    assert not made.knows(A)
    assert made.put_store(store()) == {APP, A}
    made.put_store(store(server=None))
    assert not made.knows(A)


def test_an_entrys_own_store_is_followed() -> None:
    shared = store("shared", path="team/kv", kind="ClusterSecretStore")
    own = {"kind": "ClusterSecretStore", "name": "shared"}
    made = index(store(), shared, external_secret(data=[entry("a", "x"), entry("a", "x", store=own)]))
    assert set(made.paths()) == {A, path("team/kv/data/a")}
    made.put_store(store("shared", path="other", kind="ClusterSecretStore"))
    assert set(made.paths()) == {A, path("other/data/a")}


def test_a_store_of_another_kubernetes_namespace_is_another_store() -> None:
    made = index(store(namespace="dev-2"), external_secret("a"))
    assert not made.knows(A)


def test_vault_namespaces_are_kept_apart() -> None:
    made = index(store(vault_namespace="team"), external_secret("a"))
    assert made.knows(path("secret/data/a", "team"))
    assert not made.knows(A)


def test_all_spellings_of_a_path_are_one_path_and_one_group_of_references() -> None:
    made = index(store(), external_secret(("a", "x"), ("secret/a", "y"), ("secret/data/a", "z")))
    assert list(made.paths()) == [A]
    assert [reference.property for reference in made.readers(A)[0].references] == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("ref", "word"), [(entry("../a", "x"), "'..'"), (entry("", "x"), "empty"), (entry("a", "x", version="3"), "'3'")]
)
def test_what_must_not_be_created_says_why(ref: dict[str, Any], word: str) -> None:
    made = index(store(), external_secret(data=[ref]))
    (found,) = made.paths()
    assert word in made.readers(found)[0].references[0].refusal


def test_readers_come_oldest_first_and_with_their_choice() -> None:
    seeded = {"vaultsync.io/seed": "true"}
    young = external_secret("a", name="app", created="2024-05-01T00:00:00Z", annotations=seeded)
    old = external_secret("a", name="other", created="2024-01-01T00:00:00Z")
    made = index(store(), namespace(), young, old)
    assert [(reader.name, reader.choice) for reader in made.readers(A)] == [
        (OTHER, SeedChoice.NOT_ASKED),
        (APP, SeedChoice.WANTED),
    ]


def choice(made: Index, name: ObjectName) -> SeedChoice:
    entry = made.entry(name)
    assert entry is not None
    return made.choice(entry)[0]


def test_a_namespace_that_comes_late_or_changes_is_news_for_all_in_it() -> None:
    made = index(store(), external_secret("a"), external_secret("b", name="other"))
    assert choice(made, APP) is SeedChoice.REFUSED
    assert made.put_namespace(namespace(seed="true")) == {APP, OTHER, A, B}
    assert made.put_namespace(namespace(seed="true")) == set()
    assert choice(made, APP) is SeedChoice.WANTED
    assert made.put_namespace(namespace("dev-2", "true")) == set()
    assert made.put_namespace(namespace(seed="false")) == {APP, OTHER, A, B}
    made.remove_namespace("dev-1")
    assert choice(made, APP) is SeedChoice.REFUSED


def test_a_namespace_that_changes_is_news_for_the_only_one_in_it() -> None:
    made = index(store(), namespace(), external_secret("a"))
    assert made.put_namespace(namespace(seed="true")) == {APP, A}


@pytest.mark.parametrize(
    ("case", "store_path", "version", "key", "read"),
    [
        ("nothing is taken off the key", "secret", "v2", "secret/a", "secret/data/secret/a"),
        ("a plain key", "secret", "v2", "a", "secret/data/a"),
        ("without a store path the key holds data", None, "v2", "secret/data/a", "secret/data/a"),
        ("without a store path and data it is refused", None, "v2", "secret/a", None),
        ("KV v1 has no custom metadata", "kv1", "v1", "a", None),
    ],
)
def test_custom_metadata_is_read_where_external_secrets_reads_it(
    case: str, store_path: str | None, version: str, key: str, read: str | None
) -> None:
    made = index(store(path=store_path, version=version), namespace())
    made.put(external_secret(data=[entry(key, metadataPolicy="Fetch")]))
    assert [one.path for one in made.paths()] == ([read] if read else []), case


def test_a_find_by_tags_in_kv_v1_reads_nothing() -> None:
    find = {"path": "x", "tags": {"team": "a"}}
    made = index(store(path="kv1", version="v1"), namespace(), external_secret(data=(), data_from=[{"find": find}]))
    assert list(made.prefixes()) == []


def test_a_store_reference_without_a_name_is_no_store() -> None:
    """Not the ExternalSecret's own either: external-secrets sends no request, and nothing may be created."""
    made = index(store(), namespace(), external_secret(data=[entry("a", store={"kind": "SecretStore"})]))
    assert list(made.paths()) == []


def test_rules_are_read_from_the_annotation_and_a_change_is_news_for_all_paths() -> None:
    seed = {"vaultsync.io/seed": "true"}
    made = index(store(), namespace(), external_secret("a", annotations=seed))
    ruled = external_secret("a", annotations=seed | {"vaultsync.io/generate": "password: {format: uuid}"})
    assert made.put(ruled) == {APP, A}
    (reader,) = made.readers(A)
    assert isinstance(reader.rules.rule_for("password"), UuidRule)
    assert reader.choice is SeedChoice.WANTED


def test_wrong_rules_refuse_the_object_and_say_what_is_wrong() -> None:
    annotations = {"vaultsync.io/seed": "true", "vaultsync.io/generate": "password: {format: uiud}"}
    made = index(store(), namespace(), external_secret("a", annotations=annotations))
    entry = made.entry(APP)
    assert entry is not None
    refused, problem = made.choice(entry)
    assert refused is SeedChoice.REFUSED
    assert problem.startswith("annotation vaultsync.io/generate on this ExternalSecret: password")
    made.put(external_secret("a", annotations=annotations | {"vaultsync.io/seed": "false"}))
    entry = made.entry(APP)
    assert entry is not None
    assert made.choice(entry) == (SeedChoice.REFUSED, ""), "an object that has opted out gets no report on rules"


def test_a_find_reads_whatever_is_under_its_prefix() -> None:
    made = index(store())
    prefix = FindPrefix("", "secret/data/dev-1/", 2)
    assert made.put(find("dev-1")) == {APP, prefix}
    assert made.reader_names(path("secret/data/dev-1/a/b")) == {APP}
    assert made.prefixes_of(path("secret/data/dev-1/a/b")) == [prefix]
    assert not made.knows(path("secret/data/dev-10/a"))
    assert not made.knows(path("secret/data/dev-1"))
    assert not made.knows(path("secret/data/dev-1/a", "team"))
    assert made.readers(path("secret/data/dev-1/a")) == []


def test_nested_finds_and_names_are_all_readers() -> None:
    made = index(store(), find(name="whole"), find("dev-1", name="part"), external_secret("dev-1/a"))
    assert made.reader_names(path("secret/data/dev-1/a")) == {
        ObjectName("dev-1", "whole"),
        ObjectName("dev-1", "part"),
        APP,
    }


def test_a_cluster_store_closed_to_the_namespace_reads_nothing() -> None:
    """external-secrets refuses a ClusterSecretStore whose spec.conditions do not name the namespace."""
    document = store_json(kind="ClusterSecretStore")
    document["spec"]["conditions"] = [{"namespaces": ["prod"]}]
    own = {"kind": "ClusterSecretStore", "name": "vault"}
    made = index(parse_store(document), external_secret("a", store=own))
    assert not made.knows(A)


names = st.sampled_from(["app", "other", "third"])
changes = st.one_of(
    st.tuples(st.just("put"), names, st.lists(st.sampled_from(["a", "b", "secret/a"]), max_size=3), st.booleans()),
    st.tuples(st.just("remove"), names),
    st.tuples(st.just("store"), st.sampled_from(["secret", "team/kv"]), st.sampled_from([ADDRESS, "http://x:1", None])),
    st.tuples(st.just("remove store")),
)


@given(st.lists(changes, max_size=12))
def test_whatever_happened_the_links_are_those_of_a_fresh_index_and_empty_in_the_end(steps: list[Any]) -> None:
    made = index()
    objects: dict[str, ExternalSecret] = {}
    current: Store | None = None
    for kind, *rest in steps:
        if kind == "put":
            finds = [{"find": {"path": "x"}}] if rest[2] else []
            objects[rest[0]] = external_secret(*rest[1], name=rest[0], data_from=finds)
            made.put(objects[rest[0]])
        elif kind == "remove":
            objects.pop(rest[0], None)
            made.remove(ObjectName("dev-1", rest[0]))
        elif kind == "store":
            current = store(path=rest[0], server=rest[1])
            made.put_store(current)
        else:
            current = None
            made.remove_store(StoreName("SecretStore", "dev-1", "vault"))
    fresh = index(*([current] if current else []), *objects.values())
    assert links(made) == links(fresh)
    for name in objects:
        made.remove(ObjectName("dev-1", name))
    assert not any(links(made))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://vault", "https://VAULT:443/", True),
        ("http://vault:80", "HTTP://vault", True),
        ("http://vault:8200", "http://vault:8200/", True),
        (" http://vault:8200", "http://vault:8200", True),
        ("http://vault:8200", "https://vault:8200", False),
        ("http://vault:8200", "http://vault:8201", False),
        ("http://vault:8200/a", "http://vault:8200/b", False),
        ("http://[::1]:8200", "http://[::1]:8200/", True),
    ],
)
def test_addresses_are_compared_by_what_they_mean(one: str, other: str, same: bool) -> None:
    assert (server_identity(one) == server_identity(other)) is same


@given(st.text(max_size=20) | st.sampled_from(["http://[::1", "http://x:y", "http://x:99999999", "//", "http://"]))
def test_no_address_makes_the_comparison_raise(address: str) -> None:
    server_identity(address)
