"""vaultsync records the ownership of values in Vault, and rotates owned values on request or by age; no others."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.test_healing import count_force_syncs
from tests.integration.test_people import wait_for_event
from tests.integration.test_values import ruled
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.core.annotation_parser import parse_rotation
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.paths import VaultPath
from vaultsync.core.rotate import due_at

SEED = {"vaultsync.io/seed": "true"}
ROTATE, AFTER = "vaultsync.io/rotate", "vaultsync.io/rotate-after"
HOUR = 3600.0
MADE = "vaultsync-made"


def metadata(place: Place, path: str) -> dict[str, str]:
    """The custom metadata of a path."""
    return (place.vault.metadata(place.path(path)) or {}).get("custom_metadata") or {}


def note(place: Place, path: str, **custom_metadata: str) -> None:
    """Patches an operator's custom metadata, `_` for `-`; other keys are kept, and the path need not exist."""
    named = {key.replace("_", "-"): value for key, value in custom_metadata.items()}
    body = {"custom_metadata": {**metadata(place, path), **named}}
    place.vault.api.request("POST", f"/v1/secret/metadata/{place.path(path)}", body)


def marked(place: Place, *paths: str) -> None:
    """Waits until the current version is owned."""

    def probe() -> bool:
        return all(
            metadata(place, path).get("vaultsync-version", "").startswith(f"{place.version(path)}@") for path in paths
        )

    place.wait_for(probe, what=f"{paths} are marked")


def annotate(place: Place, name: str, **annotations: str) -> None:
    """Annotations, such as rotate_after="30d"."""
    named = {f"vaultsync.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    place.patch(name, {"metadata": {"annotations": named}})


def changed(place: Place, name: str, before: dict[str, str]) -> dict[str, str]:
    """Waits until each value of the Secret has changed."""

    def probe() -> dict[str, str] | None:
        found = place.secret(name) or {}
        return found if found.keys() == before.keys() and not found.items() & before.items() else None

    return place.wait_for(probe, what=f"{name} has other values")


def make_old(place: Place, path: str, due: datetime) -> None:
    """Sets the recorded time so that the value reaches the age of an hour, plus its jitter, at that time."""
    late = due_at(VaultPath("", f"secret/data/{place.path(path)}"), due, HOUR) - due
    note(place, path, vaultsync_made=(due - late).isoformat())


def written(place: Place, path: str, version: int) -> datetime:
    versions = (place.vault.metadata(place.path(path)) or {})["versions"]
    return datetime.fromisoformat(versions[str(version)]["created_time"])


def logged(process: VaultsyncProcess, message: str) -> int:
    return process.output().count(f'"message": "{message}"')


def answered(place: Place, name: str, words: str) -> None:
    """Waits until the ownership of the path of the same name records the ExternalSecret's rotation request."""
    request = parse_rotation(ObjectName(place.name, name), {ROTATE: words}).request_id
    place.wait_for(lambda: request in metadata(place, name).get("vaultsync-rotations", ""), what=f"{words} is answered")
    marked(place, name)


def seeded_before(place: Place, vaultsync: VaultsyncFactory, annotations: dict[str, dict[str, str]]) -> None:
    """Seeds ExternalSecrets with these annotations, each its own path, by a process that then ends."""
    process = vaultsync()
    for name, own in annotations.items():
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED | own)
    for name in annotations:
        place.wait_for_secret(name)
    assert process.stop() == 0


# -- ownership


def test_created_paths_are_owned_and_other_metadata_is_kept(place: Place, vaultsync: VaultsyncFactory) -> None:
    note(place, "app", owner="ops")
    note(place, "pushed", managed_by="external-secrets")
    place.put("mixed", user="a person's")
    vaultsync({"VAULTSYNC_CLUSTER": "east"})
    before = datetime.now(UTC)
    data = {name: (name, "password") for name in ("app", "pushed", "mixed")}
    place.external_secret("app", data, annotations=SEED)
    place.wait_for_secret("app")
    marked(place, *data)
    mark = metadata(place, "app")
    made = datetime.fromisoformat(mark.pop(MADE))
    assert abs(made - before) < timedelta(seconds=10)
    assert mark.pop("vaultsync-version").startswith("1@")
    assert mark == {
        "owner": "ops",
        "managed-by": "vaultsync",
        "vaultsync-external-secret": f"{place.name}/app",
        "vaultsync-cluster": "east",
        "vaultsync-properties": "*",
    }
    assert metadata(place, "pushed")["managed-by"] == "external-secrets"
    assert metadata(place, "mixed")["vaultsync-properties"] == '["password"]'
    assert "managed-by" not in metadata(place, "mixed")


def test_a_process_stopped_right_after_a_seed_records_the_ownership(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for(lambda: place.version("app"))
    place.wait_for(lambda: logged(process, "seeded"))
    assert MADE not in metadata(place, "app"), "ownership is written after the values"
    assert process.stop() == 0
    assert MADE in metadata(place, "app")


def test_a_metadata_change_of_vaultsync_is_not_a_change_but_an_operators_is(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    note(place, "app", owner="ops")
    process = vaultsync()
    reference = {"key": place.path("app"), "property": "owner", "metadataPolicy": "Fetch"}
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.external_secret("meta", entries=[{"secretKey": "owner", "remoteRef": reference}])
    place.wait_for_secret("app")
    place.wait_for_secret("meta", owner="ops")
    marked(place, "app")
    annotate(place, "app", rotate="1")
    place.wait_for(lambda: place.version("app") == 2)
    marked(place, "app")
    place.wait_for(lambda: count_force_syncs(process, place, "app") == 2)
    before = count_force_syncs(process, place, "meta")
    assert before <= 2, "one for each version at most"
    note(place, "app", owner="dev")
    place.wait_for_secret("meta", owner="dev")
    place.wait_for(lambda: count_force_syncs(process, place, "meta") > before)
    assert count_force_syncs(process, place, "meta") == before + 1


# -- on request


def test_each_new_request_rotates_only_owned_paths_once(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("mixed", user="a person's")
    process = vaultsync()
    data = {"p": ("app", "password"), "mixed": ("mixed", "password")}
    place.external_secret("app", data, annotations=SEED)
    place.external_secret("user", {"user": ("mixed", "user")}, annotations=SEED)
    first = place.wait_for_secret("app")
    annotate(place, "app", rotate="2026-01-01")
    second = changed(place, "app", first)
    answered(place, "app", "2026-01-01")
    assert (place.version("app"), place.version("mixed")) == (2, 3)
    assert place.read("app") == {"password": second["p"]}
    assert place.read("mixed") == {"user": "a person's", "password": second["mixed"]}
    assert process.stop() == 0
    next_process = vaultsync()
    annotate(place, "app", rotate="2026-01-01")
    place.wait_for(lambda: "changes in Vault are reported by" in next_process.output())
    annotate(place, "app", rotate="2026-02-01")
    answered(place, "app", "2026-02-01")
    third = changed(place, "app", second)
    assert (place.version("app"), place.version("mixed")) == (3, 4), (
        "neither the restart nor the old request caused a rotation"
    )
    assert place.read("mixed") == {"user": "a person's", "password": third["mixed"]}
    assert place.secret("user") == {"user": "a person's"}


def test_a_rotation_is_reported(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    first = place.wait_for_secret("app")
    annotate(place, "app", rotate="now")
    changed(place, "app", first)
    said = f"rotated secret/{place.path('app')} version 2 with password (requested by {place.name}/app)"
    assert wait_for_event(place, "app", "Rotated")["message"] == said
    place.wait_until_healthy("app")
    assert (place.get("app") or {})["metadata"]["annotations"]["vaultsync.io/message"] == said


def test_properties_that_were_created_together_are_rotated_together(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    rules = {
        "user": {"value": "app"},
        "password": {"format": "password", "length": 20},
        "url": {"template": "postgres://{{ .user }}:{{ .password }}@db"},
    }
    place.external_secret("app", {"p": ("app", "password"), "url": ("app", "url")}, annotations=ruled(rules))
    first = place.wait_for_secret("app")
    annotate(place, "app", rotate="now")
    second = changed(place, "app", first)
    assert second["url"] == f"postgres://app:{second['p']}@db"
    assert len(second["p"]) == 20
    assert place.version("app") == 2


def test_an_operators_value_is_never_rotated_until_it_is_deleted(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("theirs", password="a person's")
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.external_secret("theirs", {"p": ("theirs", "password")}, annotations=SEED)
    place.wait_for_secret("app")
    marked(place, "app")
    place.put("app", password="a person's")
    place.wait_for_secret("app", p="a person's")
    make_old(place, "app", datetime.now(UTC) - timedelta(days=1))
    for name in ("app", "theirs"):
        annotate(place, name, rotate="now", rotate_after="1h")
    place.wait_until_reported(
        "app", ROTATE, f"secret/{place.path('app')} was written by another client since", "delete it in Vault"
    )
    place.wait_until_reported("theirs", ROTATE, "is not marked as made by vaultsync", "delete it in Vault")
    for name in ("app", "theirs"):
        place.vault.delete(place.path(name))
        changed(place, name, {"p": "a person's"})
        place.wait_until_healthy(name)
    assert (place.version("app"), place.version("theirs")) == (3, 2), (
        "the heal was the first write after the operator's"
    )
    before = place.secret("app") or {}
    annotate(place, "app", rotate="again")
    changed(place, "app", before)


# -- by age


@pytest.mark.parametrize("by", ["annotation", "setting"])
def test_a_value_of_the_maximum_age_is_rotated_once_when_it_is_due(
    place: Place, vaultsync: VaultsyncFactory, by: str
) -> None:
    data = {"app": {AFTER: "1h"} if by == "annotation" else {}, "never": {AFTER: "never"}}
    seeded_before(place, vaultsync, data)
    before = place.secret("app") or {}
    due = datetime.now(UTC) + timedelta(seconds=3)
    for name in data:
        make_old(place, name, due)
    vaultsync({"VAULTSYNC_ROTATE_AFTER": "1h"} if by == "setting" else {})
    changed(place, "app", before)
    assert timedelta() <= written(place, "app", 2) - due < timedelta(seconds=2)
    marked(place, "app")
    assert due < datetime.fromisoformat(metadata(place, "app")[MADE])
    assert wait_for_event(place, "app", "Rotated")["message"].endswith("(older than 1h)")
    annotate(place, "app", rotate="now")
    answered(place, "app", "now")
    assert (place.version("app"), place.version("never")) == (3, 1), "by age once, by request once"


def test_a_wrong_age_is_reported_until_it_is_fixed(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED | {AFTER: "soon"})
    place.wait_until_reported("app", AFTER, "'soon'", "30d", "never")
    assert place.version("app") == 0, "an invalid age is not guessed"
    annotate(place, "app", rotate_after="30d")
    place.wait_for_secret("app")
    place.wait_until_healthy("app")


def test_a_dry_run_rotates_nothing_and_logs_what_it_would_rotate(place: Place, vaultsync: VaultsyncFactory) -> None:
    seeded_before(place, vaultsync, {"asked": {}, "old": {AFTER: "1h"}})
    before = place.vault.metadata(place.path("asked"))
    annotate(place, "asked", rotate="now")
    make_old(place, "old", datetime.now(UTC))
    process = vaultsync({"VAULTSYNC_DRY_RUN": "true"})
    place.wait_for(lambda: logged(process, "would rotate") >= 2)
    assert process.stop() == 0
    assert place.vault.metadata(place.path("asked")) == before
    assert place.version("old") == 1
