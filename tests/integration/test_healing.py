"""Healing: deleted values are replaced, written values reach every reader, no change is missed."""

import time

import pytest

from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.kube import EXTERNAL_SECRETS
from tests.testbed.place import Place
from tests.testbed.vaultsync import VaultsyncProcess

SEED = {"vaultsync.io/seed": "true"}


def force_sync(place: Place, name: str) -> str | None:
    """The annotation's value, which changes with each force-sync."""
    found = place.get(name)
    return ((found or {"metadata": {}})["metadata"].get("annotations") or {}).get("force-sync")


def count_force_syncs(process: VaultsyncProcess, place: Place, name: str) -> int:
    mark = f'"external_secret": "{place.name}/{name}"'
    return sum(mark in line and '"message": "force-synced"' in line for line in process.output().splitlines())


def another(place: Place, name: str, first: dict[str, str]) -> dict[str, str] | None:
    """The Secret's values once they have changed."""
    found = place.secret(name)
    return found if found != first else None


@pytest.mark.parametrize("how", ["delete", "delete version", "destroy", "metadata delete", "v1 delete"])
def test_a_deleted_path_is_created_again_with_a_new_value(place: Place, vaultsync: VaultsyncFactory, how: str) -> None:
    v1 = how == "v1 delete"
    place.store("old", path="kv1", version="v1")
    process = vaultsync()
    place.external_secret("app", {"password": ("app", "password")}, annotations=SEED, store="old" if v1 else "vault")
    first = place.wait_for_secret("app")
    place.wait_for(lambda: count_force_syncs(process, place, "app") == 1)
    path = place.path("app")
    match how:
        case "delete":
            place.vault.delete(path)
        case "delete version":
            place.vault.api.request("POST", f"/v1/secret/delete/{path}", {"versions": [1]})
        case "destroy":
            place.vault.destroy(path, [1])
        case "metadata delete":
            place.vault.delete_metadata(path)
        case _:
            place.vault.delete(path, "kv1")
    second = place.wait_for(lambda: another(place, "app", first))
    assert place.read("app", "kv1" if v1 else "secret") == second
    place.wait_for(lambda: any(reason == "Recreated" for reason, _ in place.events("app", "vaultsync")))
    time.sleep(0.5)  # time for a second force-sync because of its own write
    assert count_force_syncs(process, place, "app") == 2


def test_a_property_that_a_new_version_lacks_is_added_again(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password"), "u": ("app", "user")}, annotations=SEED)
    first = place.wait_for_secret("app")
    place.put("app", user="a person's")
    place.wait_for_secret("app", u="a person's")
    place.wait_for(lambda: (place.secret("app") or first)["p"] != first["p"])
    second = place.wait_for_secret("app")
    assert place.read("app") == {"user": "a person's", "password": second["p"]}


def test_write_patch_and_undelete_reach_every_reader(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("app", password="1")
    place.external_secret("plain", {"p": ("app", "password")})
    place.external_secret("whole", dataFrom=[{"extract": {"key": place.path("app")}}])
    finds = [{"find": {"path": place.name, "name": {"regexp": ".*app.*"}}}]
    place.external_secret("found", dataFrom=finds)
    place.external_secret("deaf", {"p": ("app", "password")}, annotations={"vaultsync.io/force-sync": "false"})
    for name in ("plain", "whole", "found", "deaf"):
        place.wait_for_secret(name)
    vaultsync().wait_until_ready()
    place.put("app", password="2")
    place.wait_for_secret("plain", p="2")
    place.wait_for_secret("whole", password="2")
    place.wait_for(lambda: any('"2"' in value for value in (place.secret("found") or {}).values()))
    time.sleep(0.3)
    patch = {"data": {"password": "3"}}
    url = f"/v1/secret/data/{place.path('app')}"
    place.vault.api.request("PATCH", url, patch, content_type="application/merge-patch+json")
    place.wait_for_secret("plain", p="3")
    place.wait_for_secret("whole", password="3")
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: place.ready("plain") == ("False", "SecretSyncedError"))
    place.vault.undelete(place.path("app"), [3])
    place.wait_for(lambda: place.ready("plain") == ("True", "SecretSynced"))
    assert place.secret("deaf") == {"p": "1"}
    assert force_sync(place, "deaf") is None


def test_a_burst_on_one_path_is_two_force_syncs_and_the_last_value_arrives(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    place.put("app", password="0")
    place.external_secret("app", {"p": ("app", "password")})
    place.wait_for_secret("app")
    time.sleep(2.5)  # so that the value is older than the ExternalSecret's last refresh
    place.annotate("app", testing="refresh")
    time.sleep(0.5)
    process = vaultsync()
    process.wait_until_ready()
    time.sleep(1)
    before = count_force_syncs(process, place, "app")
    for number in range(1, 101):
        place.put("app", password=str(number))
    place.wait_for_secret("app", p="100")
    time.sleep(0.5)
    assert 1 <= count_force_syncs(process, place, "app") - before <= 2


def test_no_path_of_a_burst_is_lost(place: Place, vaultsync: VaultsyncFactory) -> None:
    names = [f"app{number}" for number in range(100)]
    for name in names:
        place.put(name, password="0")
        place.external_secret(name, {"p": (name, "password")})
    for name in names:
        place.wait_for_secret(name, timeout=30)
    vaultsync().wait_until_ready()
    for name in names:
        place.put(name, password="1")
    for name in names:
        place.wait_for_secret(name, timeout=30, p="1")


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_changes_while_vaultsync_is_stopped_are_caught_up(
    place: Place, vaultsync: VaultsyncFactory, signal: str
) -> None:
    process = vaultsync()
    for name in ("deleted", "written", "untouched"):
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
    old = {name: place.wait_for_secret(name) for name in ("deleted", "written", "untouched")}
    place.wait_for(lambda: force_sync(place, "untouched"))
    if signal == "TERM":
        assert process.stop() == 0
    else:
        process.kill()
    place.vault.delete(place.path("deleted"))
    place.put("written", password="new")
    mark = force_sync(place, "untouched")
    process.start()
    place.wait_for(lambda: another(place, "deleted", old["deleted"]))
    place.wait_for_secret("written", p="new")
    time.sleep(0.5)
    assert force_sync(place, "untouched") == mark
    process.stop()
    marks = {name: force_sync(place, name) for name in old}
    process.start()
    process.wait_until_ready()
    time.sleep(1)
    assert {name: force_sync(place, name) for name in old} == marks


def test_the_resync_finds_changes_without_an_event(place: Place, vaultsync: VaultsyncFactory) -> None:
    """Without an audit device, a deletion is not detected until external-secrets refreshes."""
    vaultsync({"VAULTSYNC_RESYNC": "10s"}, audit=False)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    first = place.wait_for_secret("app")
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: another(place, "app", first), timeout=15)


def test_without_an_audit_device_a_failed_external_secret_triggers_the_heal(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    vaultsync(audit=False)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, refresh="1s")
    first = place.wait_for_secret("app")
    place.wait_for(lambda: place.ready("app") == ("True", "SecretSynced"))
    time.sleep(0.5)
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: another(place, "app", first), timeout=8)


def test_one_websocket_for_any_number_and_no_requests_at_rest(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync()
    for number in range(20):
        place.external_secret(f"app{number}", {"p": (f"app{number}", "password")}, annotations=SEED)
    for number in range(20):
        place.wait_for_secret(f"app{number}")

    def is_marked(number: int) -> bool:
        found = place.vault.metadata(place.path(f"app{number}")) or {}
        return "vaultsync-made" in (found.get("custom_metadata") or {})

    place.wait_for(lambda: all(map(is_marked, range(20))), what="all are owned")
    time.sleep(1)
    audit = place.testbed.work / "logs" / "audit.log"
    before = audit.stat().st_size
    time.sleep(3)
    with audit.open("rb") as file:
        file.seek(before)
        own = [line for line in file if b'"policies":["vaultsync"]' in line]
    assert own == []
    assert process.output().count("subscribed to Vault's event stream") == 1


def test_when_a_store_changes_its_mount_its_readers_are_refreshed(place: Place, vaultsync: VaultsyncFactory) -> None:
    """The values are older than the last refresh, and external-secrets ignores a changed store."""
    vaultsync()
    place.put("app", mount="team/kv", password="from team/kv")
    place.put("app", password="from secret")
    time.sleep(2)  # otherwise vaultsync's tolerance for clock skew would cause it
    place.external_secret("app", {"password": ("app", "password")})
    place.wait_for_secret("app", password="from secret")
    change = {"spec": {"provider": {"vault": {"path": "team/kv"}}}}
    place.kube.patch(EXTERNAL_SECRETS, "SecretStore", "vault", change, place.name)
    place.wait_for_secret("app", 30, password="from team/kv")


def test_a_store_changed_while_vaultsync_was_stopped_is_caught_up(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("app", mount="team/kv", password="from team/kv")
    place.put("app", password="from secret")
    place.external_secret("app", {"password": ("app", "password")})
    place.wait_for_secret("app", password="from secret")
    time.sleep(2)  # Kubernetes' times are whole seconds
    change = {"spec": {"provider": {"vault": {"path": "team/kv"}}}}
    place.kube.patch(EXTERNAL_SECRETS, "SecretStore", "vault", change, place.name)
    time.sleep(2)
    assert place.secret("app") == {"password": "from secret"}, "external-secrets ignores a changed store"
    vaultsync()
    place.wait_for_secret("app", 30, password="from team/kv")
