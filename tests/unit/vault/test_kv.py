"""vault/kv: paths of KV's API, and what its responses say."""

import pytest

from tests.unit.build import V1, V2, gone, live, path
from vaultsync.core.errors import VaultRejected, VaultUnavailable
from vaultsync.core.paths import FindPrefix, Mount
from vaultsync.vault.kv import (
    folder_path,
    is_ambiguous,
    list_path,
    parse_keys,
    parse_state,
    parse_written,
    v2_api_path,
)

A = path("secret/data/dev/a")
CREATED = {"version": 4, "created_time": "2025-06-01T12:00:00Z"}


def test_a_secret_has_a_path_in_each_folder_of_the_api() -> None:
    assert v2_api_path(V2, "metadata", A) == "secret/metadata/dev/a"
    assert v2_api_path(Mount("team/secret/", 2), "subkeys", path("team/secret/data/a")) == "team/secret/subkeys/a"


@pytest.mark.parametrize(("mount", "where"), [(V2, "secret/a"), (V2, "secret/data/"), (V1, "kv1/a")])
def test_what_is_no_data_path_has_none(mount: Mount, where: str) -> None:
    with pytest.raises(VaultRejected, match="no data path"):
        v2_api_path(mount, "metadata", path(where))


def test_folders_are_listed_by_the_metadata_in_v2_alone() -> None:
    assert list_path(V2, FindPrefix("", "secret/data/dev/", 2)) == "secret/metadata/dev/"
    assert list_path(V1, FindPrefix("", "kv1/dev/", 1)) == "kv1/dev/"
    assert (folder_path(V2, A), folder_path(V1, path("kv1/dev/a"))) == ("secret/metadata/dev/", "kv1/dev/")
    assert (folder_path(V2, path("secret/data/a")), folder_path(V1, path("kv1/a"))) == ("secret/metadata/", "kv1/")


@pytest.mark.parametrize(
    ("data", "keys"),
    [({"keys": ["a", "b/", 1, None]}, ["a", "b/"]), ({"keys": "a"}, []), ({}, []), (None, []), (5, [])],
)
def test_of_a_listing_only_names_count(data: object, keys: list[str]) -> None:
    assert parse_keys({"data": data}) == keys


def test_a_state_is_live_deleted_or_none() -> None:
    found = parse_state(V2, {"data": {"subkeys": {"p": None}, "metadata": CREATED}})
    assert (found.exists, found.version, found.subkeys, is_ambiguous(found)) == (True, 4, {"p": None}, False)
    found = parse_state(V2, {"data": {"subkeys": None, "metadata": CREATED}})
    assert (found.exists, found.version, found.subkeys, is_ambiguous(found)) == (False, 4, {}, False)
    found = parse_state(V2, {"errors": []})
    assert (found.exists, found.version, is_ambiguous(found)) == (False, 0, True)


@pytest.mark.parametrize("version", ["4", [4], {"a": 1}])
def test_a_version_that_is_no_number_is_not_vaults(version: object) -> None:
    with pytest.raises(VaultUnavailable, match="not Vault's"):
        parse_state(V2, {"data": {"subkeys": {}, "metadata": {"version": version}}})
    with pytest.raises(VaultUnavailable, match="not Vault's"):
        parse_written(gone(), ["p"], A, {"data": {"version": version}})


def test_after_a_write_the_new_keys_are_there_and_the_others_of_a_live_version() -> None:
    assert parse_written(live("old", version=3), ["p"], A, {"data": CREATED}).subkeys == {"old": None, "p": None}
    made = parse_written(gone(3), ["p"], A, {"data": CREATED})
    assert (made.exists, made.version, made.subkeys) == (True, 4, {"p": None})
