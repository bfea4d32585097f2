"""The properties of one path stay consistent: a heal, a rotation or a template never mixes old and new parts."""

import json

import pytest

from tests.integration.test_healing import another
from tests.integration.test_rotation import annotate, marked
from tests.integration.test_values import ruled
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place

RULES = {
    "user": {"value": "app"},
    "password": {"format": "password", "length": 24, "symbols": ""},
    "url": {"template": "db://{{ .user }}:{{ .password }}@db"},
}
READ = {"user": ("db", "user"), "password": ("db", "password"), "url": ("db", "url")}


def is_consistent(values: dict[str, str]) -> bool:
    return values["url"] == f"db://{values['user']}:{values['password']}@db" and values["user"] == "app"


def replaced(place: Place, name: str, before: dict[str, str]) -> dict[str, str]:
    """Waits for other values that are consistent.

    external-secrets reads each entry of spec.data with its own request: a refresh during the write, which the
    annotation of a rotation causes, may see both versions. The force-sync after the write ends that.
    """

    def probe() -> dict[str, str] | None:
        found = another(place, name, before)
        return found if found and found["url"] == f"db://{found['user']}:{found['password']}@db" else None

    return place.wait_for(probe, what=f"{name} has other, consistent values")


def limit(place: Place, path: str, **settings: object) -> None:
    """Sets the metadata of a path, which need not exist."""
    place.vault.api.request("POST", f"/v1/secret/metadata/{place.path(path)}", settings)


LIMITS = {"none": {}, "one version": {"max_versions": 1}, "check-and-set": {"cas_required": True, "max_versions": 1}}


@pytest.mark.parametrize("settings", LIMITS.values(), ids=LIMITS)
def test_a_heal_creates_all_parts_anew(place: Place, settings: dict[str, object], vaultsync: VaultsyncFactory) -> None:
    limit(place, "db", **settings)
    vaultsync().wait_until_ready()
    place.external_secret("db", READ, annotations=ruled(RULES))
    before = place.wait_for_secret("db")
    assert is_consistent(before)
    for delete in (place.vault.delete, place.vault.delete_metadata):
        delete(place.path("db"))
        after = place.wait_for(lambda old=before: another(place, "db", old))  # type: ignore[misc]
        assert is_consistent(after)
        assert after["password"] != before["password"]
        before = after


@pytest.mark.parametrize("settings", LIMITS.values(), ids=LIMITS)
def test_a_rotation_replaces_all_parts_and_keeps_the_fixed_one(
    place: Place, settings: dict[str, object], vaultsync: VaultsyncFactory
) -> None:
    limit(place, "db", **settings)
    vaultsync().wait_until_ready()
    place.external_secret("db", READ, annotations=ruled(RULES))
    before = place.wait_for_secret("db")
    marked(place, "db")
    annotate(place, "db", rotate="now")
    after = replaced(place, "db", before)
    assert after["password"] != before["password"]
    assert after["user"] == "app"


def test_a_part_that_is_removed_is_not_replaced_while_another_part_contains_it(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    vaultsync().wait_until_ready()
    place.external_secret("db", READ, annotations=ruled(RULES))
    before = place.wait_for_secret("db")
    place.put("db", user=before["user"], url=before["url"])  # a person's version, without the password
    place.wait_until_reported("db", "password", "values that exist are never read or replaced")
    assert place.secret("db") == before
    place.vault.delete(place.path("db"))
    after = place.wait_for(lambda: another(place, "db", before))
    assert is_consistent(after)


def test_two_namespaces_with_different_rules_read_one_consistent_path(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    path = f"shared/{place.name}"
    read = {name: (f"secret/{path}", prop) for name, (_, prop) in READ.items()}
    with Place(place.testbed) as other:
        process = vaultsync({"VAULTSYNC_SEED_PATHS": "*/{namespace}/**,*/shared/**"})
        process.wait_until_ready()
        place.external_secret("db", read, annotations=ruled(RULES), absolute=True)
        place.wait_for_secret("db")
        theirs = {**RULES, "password": {"format": "hex", "bytes": 16}, "url": {"template": "{{ .password }}"}}
        other.external_secret("db", read, annotations=ruled(theirs), absolute=True)
        before = other.wait_for_secret("db")
        assert is_consistent(before)
        other.wait_until_reported("db", "older and takes precedence")
        for delete in (place.vault.delete, place.vault.delete_metadata):
            delete(path)
            after = place.wait_for(lambda old=before: another(place, "db", old))  # type: ignore[misc]
            assert is_consistent(after)
            other.wait_for(lambda new=after: other.secret("db") == new)  # type: ignore[misc]
            before = after
        place.vault.delete_metadata(path)


def test_a_change_of_the_fixed_companion_is_no_reason_to_mix(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync().wait_until_ready()
    place.external_secret("db", READ, annotations=ruled(RULES))
    before = place.wait_for_secret("db")
    marked(place, "db")
    renamed = {**RULES, "user": {"value": "app2"}}
    place.annotate("db", **{"vaultsync.io/generate": json.dumps(renamed), "vaultsync.io/rotate": "now"})
    after = replaced(place, "db", before)
    assert after["user"] == "app2"
    assert after["password"] != before["password"]
