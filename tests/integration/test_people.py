"""Reports to users: Events, the status on each ExternalSecret, and logs; never a value, and no unnecessary write."""

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.testbed.api import Json
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import DEPLOY, POLICY
from tests.testbed.place import Place

SEED = {"vaultsync.io/seed": "true"}
SHIPPED_POLICY = (DEPLOY / "vault" / "policy.hcl").read_text()
HEALS_BY_ITSELF = 75.0
"""Seconds: the longest wait between two attempts is 60."""


@contextmanager
def denied(place: Place, *paths: str) -> Iterator[None]:
    """Denies vaultsync these API paths in Vault."""
    rules = [f'path "{path}" {{ capabilities = ["deny"] }}' for path in paths]
    place.vault.policy(POLICY, "\n".join([SHIPPED_POLICY, *rules]))
    try:
        yield
    finally:
        place.vault.policy(POLICY, SHIPPED_POLICY)


def report(place: Place, name: str) -> tuple[str, str]:
    """The report in the annotations, used if the CRD has no condition: status with reason, and message."""
    found = place.annotations(name)
    return found.get("vaultsync.io/created", ""), found.get("vaultsync.io/message", "")


def wait_for_report(place: Place, name: str, created: str, message: str, timeout: float = 15) -> None:
    """Waits for this report; the message may be a part of the reported one."""

    def is_it() -> bool:
        status, said = report(place, name)
        return status == created and message in said

    try:
        place.wait_for(is_it, timeout)
    except AssertionError:
        pytest.fail(f"{name} says {report(place, name)}, not {(created, message)}")


def wait_for_another_secret(place: Place, name: str, old: dict[str, str] | None, timeout: float = 15) -> None:
    """Waits until the Secret exists with other values."""
    place.wait_for(lambda: place.secret(name) not in (None, old), timeout, f"{name} has other values")


def own_events(place: Place, name: str, reason: str | None = None) -> list[Json]:
    events = place.kube.events_of(name, place.name)
    return [
        event
        for event in events
        if event["source"].get("component") == "vaultsync" and reason in (None, event["reason"])
    ]


def wait_for_event(place: Place, name: str, reason: str, count: int = 1) -> Json:
    """Waits for the only Event of that reason, with this count."""
    place.wait_for(lambda: sum(event["count"] for event in own_events(place, name, reason)) >= count)
    [event] = own_events(place, name, reason)
    assert event["count"] == count
    return event


def of_vaultsync(item: Json | None) -> tuple[str, dict[str, str]]:
    """The state that a write of vaultsync changes: the annotations; and the version of the object, for other writes."""
    assert item is not None
    return item["metadata"]["resourceVersion"], item["metadata"].get("annotations") or {}


def test_actions_are_reported_as_events_on_the_object(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password"), "u": ("app", "user")}, annotations=SEED)
    first = place.wait_for_secret("app")
    seeded = wait_for_event(place, "app", "Seeded")
    assert seeded["message"] == f"created secret/{place.path('app')} version 1 with password, user"
    place.vault.delete(place.path("app"))
    wait_for_another_secret(place, "app", first)
    recreated = wait_for_event(place, "app", "Recreated")
    assert recreated["message"] == f"re-created secret/{place.path('app')} version 2 with password, user"
    place.put("app", password="a person's", user="a person")
    place.wait_for_secret("app", p="a person's")
    synced = wait_for_event(place, "app", "ForceSynced")
    assert synced["message"] == f"changed in Vault: secret/data/{place.path('app')}"
    item = place.get("app")
    assert item is not None
    for event in (seeded, recreated, synced):
        assert event["type"] == "Normal"
        assert event["involvedObject"]["uid"] == item["metadata"]["uid"]


def test_the_report_says_what_was_seeded(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.external_secret("other", {"p": ("app", "password")})
    place.wait_for_secret("other")
    wait_for_report(place, "app", "True Success", f"created secret/{place.path('app')} version 1 with password")
    place.vault.delete(place.path("app"))
    wait_for_report(place, "app", "True Success", f"re-created secret/{place.path('app')} version 2 with password")
    assert report(place, "other") == ("", "")


@pytest.mark.parametrize("fixed", ["by itself", "at a signal"])
def test_a_refusal_is_reported_with_vaults_message_and_recovers_once_it_is_fixed(
    place: Place, vaultsync: VaultsyncFactory, fixed: str
) -> None:
    vaultsync()
    with denied(place, f"secret/data/{place.path('app')}"):
        place.external_secret("app", {"p": ("app", "password"), "q": ("fine", "password")}, annotations=SEED)
        place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
        place.wait_for_secret("witness")
        said = f"Vault returned 403: permission denied on secret/data/{place.path('app')}"
        event = wait_for_event(place, "app", "SeedFailed")
        assert (event["type"], event["message"]) == ("Warning", said)
        assert report(place, "app") == ("False ErrorCreating", said)
        assert list(place.read("fine") or {}) == ["password"]
    if fixed == "at a signal":
        place.annotate("app", create="true")
    found = place.wait_for_secret("app", timeout=HEALS_BY_ITSELF)
    assert (place.read("app"), place.read("fine")) == ({"password": found["p"]}, {"password": found["q"]})
    wait_for_report(place, "app", "True Success", f"created secret/{place.path('app')} version 1 with password")


def test_a_refused_read_is_reported_too(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    with denied(place, f"secret/subkeys/{place.path('app')}"):
        place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
        said = f"Vault returned 403: permission denied on secret/subkeys/{place.path('app')}"
        wait_for_report(place, "app", "False ErrorCreating", said)
        assert place.read("app") is None
    place.annotate("app", create="true")
    place.wait_for_secret("app")
    wait_for_report(place, "app", "True Success", "created secret/")


def test_a_path_that_cannot_be_created_again_is_reported_as_such(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    first = place.wait_for_secret("app")
    with denied(place, f"secret/data/{place.path('app')}"):
        place.vault.delete(place.path("app"))
        wait_for_report(place, "app", "False Recreating", "Vault returned 403: permission denied on secret/data/")
        assert place.secret("app") == first
    place.annotate("app", create="true")
    wait_for_another_secret(place, "app", first)
    wait_for_report(place, "app", "True Success", "re-created secret/")


def test_a_value_written_by_an_operator_after_a_failure_is_reported_as_existing(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    vaultsync()
    place.external_secret("app", dataFrom=[{"extract": {"key": place.path("app")}}], annotations=SEED)
    wait_for_report(place, "app", "False ErrorCreating", "no entry names a property of it")
    place.put("app", password="a person's")
    place.wait_for_secret("app", password="a person's")
    wait_for_report(place, "app", "True Exists", "everything that it reads exists in Vault")


def test_the_same_again_raises_the_count_of_one_event(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.put("app", password="0")
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app", p="0")
    for number in (1, 2, 3):
        place.put("app", password=str(number))
        place.wait_for_secret("app", p=str(number))
        wait_for_event(place, "app", "ForceSynced", number)
    for number in (1, 2):
        before = place.secret("app")
        with denied(place, f"secret/data/{place.path('app')}"):
            place.vault.delete(place.path("app"))
            wait_for_event(place, "app", "SeedFailed", number)
            time.sleep(1)  # further attempts are made
            wait_for_event(place, "app", "SeedFailed", number)
        wait_for_another_secret(place, "app", before, HEALS_BY_ITSELF)
        wait_for_report(place, "app", "True Success", "re-created secret/")


def test_an_unchanged_state_writes_nothing_not_even_after_a_restart(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.store("old", path="kv1", version="v1")
    place.put("there", password="a person's")
    place.put("red", password="a person's")
    place.external_secret("there", {"p": ("there", "password")})
    place.external_secret("red", {"p": ("red", "password")}, refresh="1s")
    for name in ("there", "red"):
        place.wait_for_secret(name)
    process = vaultsync()
    place.external_secret("seeded", {"p": ("seeded", "password")}, annotations=SEED)
    place.external_secret("healed", {"p": ("healed", "password")}, annotations=SEED)
    place.external_secret("v1", {"p": ("v1", "password")}, annotations=SEED, store="old")
    place.external_secret("wrong", {"p": ("wrong", "password")}, annotations={"vaultsync.io/seed": "yes"})
    place.external_secret("whole", dataFrom=[{"extract": {"key": place.path("whole")}}], annotations=SEED)
    finds = [{"find": {"path": place.name, "name": {"regexp": "there"}}}]
    place.external_secret("found", dataFrom=finds)
    with denied(place, f"secret/data/{place.path('refused')}"):
        place.external_secret("refused", {"p": ("refused", "password")}, annotations=SEED)
        first = place.wait_for_secret("healed")
        for name in ("seeded", "v1", "found"):
            place.wait_for_secret(name)
        place.vault.delete(place.path("healed"))
        wait_for_another_secret(place, "healed", first)
        place.vault.delete(place.path("red"))
        place.wait_for(lambda: place.ready("red") == ("False", "SecretSyncedError"))
        for name, created in (
            ("seeded", "True Success"),
            ("healed", "True Success"),
            ("v1", "True Success"),
            ("wrong", "False ErrorAnnotation"),
            ("whole", "False ErrorCreating"),
            ("refused", "False ErrorCreating"),
        ):
            wait_for_report(place, name, created, "")
        time.sleep(1)
        names = ["there", "red", "seeded", "healed", "wrong", "whole", "found", "refused", "v1"]
        before = {name: of_vaultsync(place.get(name)) for name in names}
        events = {name: [event["count"] for event in own_events(place, name)] for name in names}
        time.sleep(3)
        assert {name: of_vaultsync(place.get(name)) for name in names} == before
        assert process.stop() == 0
        process.start()
        process.wait_until_ready()
        place.wait_for(lambda: "subscribed to Vault's event stream" in process.output())
        time.sleep(3)
        # KV v1 does not show whether a value was written in the meantime: it is read again once
        names.remove("v1")
        del before["v1"], events["v1"]
        assert {name: of_vaultsync(place.get(name)) for name in names} == before
        assert {name: [event["count"] for event in own_events(place, name)] for name in names} == events


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("this ExternalSecret", "vaultsync.io/seed", "yes"),
        ("this ExternalSecret", "vaultsync.io/seed", ""),
        ("this ExternalSecret", "create", "True"),
        ("Namespace", "vaultsync.io/seed", "{maybe} <red>"),
    ],
)
def test_a_wrong_annotation_is_reported_on_the_object_until_it_is_fixed(
    place: Place, vaultsync: VaultsyncFactory, where: str, name: str, value: str
) -> None:
    def annotate(value: str) -> None:
        change = {"metadata": {"annotations": {name: value}}}
        if where == "Namespace":
            place.kube.patch("v1", "Namespace", place.name, change)
        else:
            place.patch("app", change)

    vaultsync()
    place.external_secret("app", {"p": ("app", "password")})
    place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
    annotate(value)
    on = where + (f" {place.name}" if where == "Namespace" else "")
    said = f'annotation {name} on {on} is {value!r}; it must be "true" or "false"'
    wait_for_report(place, "app", "False ErrorAnnotation", said)
    assert wait_for_event(place, "app", "SeedFailed")["message"] == said
    place.wait_for_secret("witness")
    assert place.read("app") is None
    annotate("true")
    place.wait_for_secret("app")
    wait_for_report(place, "app", "True Success", "created secret/")


@pytest.mark.parametrize("failure", ["wrong annotation", "refused"])
def test_the_failure_is_removed_when_seeding_is_no_longer_requested(
    place: Place, vaultsync: VaultsyncFactory, failure: str
) -> None:
    vaultsync()
    with denied(place, f"secret/data/{place.path('app')}"):
        seed = {"vaultsync.io/seed": "yes"} if failure == "wrong annotation" else SEED
        place.external_secret("app", {"p": ("app", "password")}, annotations=seed)
        reason = "ErrorAnnotation" if failure == "wrong annotation" else "ErrorCreating"
        wait_for_report(place, "app", f"False {reason}", "")
        place.patch("app", {"metadata": {"annotations": {"vaultsync.io/seed": None}}})
        place.wait_for(lambda: not report(place, "app")[0].startswith("False"), what="the failure to be gone")


def test_each_reason_why_nothing_can_be_created_is_reported(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.store("v1-store-v2-mount", path="secret", version="v1")
    place.store("v2-store-v1-mount", path="kv1", version="v2")

    def ref(**remote: str) -> dict[str, object]:
        return {"data": [{"secretKey": "p", "remoteRef": {"key": place.path("missing")} | remote}]}

    def extract(**remote: str) -> dict[str, object]:
        return {"dataFrom": [{"extract": {"key": place.path("missing")} | remote}]}

    def store(name: str) -> dict[str, object]:
        return {"secretStoreRef": {"name": name, "kind": "SecretStore"}}

    path = f"secret/{place.path('missing')}"
    data, whole = f"spec.data[0].remoteRef: {path} ", f"spec.dataFrom[0].extract: {path} "
    cases: dict[str, tuple[Mapping[str, object], str]] = {
        "no-property": (ref(), data + "is missing and no entry names a property of it"),
        "extract": (extract(), whole + "is missing and no entry names a property of it"),
        "extract-property": (
            extract(property="db"),
            whole + "is missing, and an extract's property holds a JSON object",
        ),
        "pinned": (ref(property="p", version="3"), data + "is missing and can't be created: version pins version '3'"),
        "gjson": (ref(property="a.#.b"), data + "has no key 'a.#.b', and as a gjson expression it can't be created"),
        "dots": (
            ref(key=place.path("x/../missing"), property="p"),
            data + "is missing and can't be created: the key holds a '.' or '..' segment",
        ),
        "v1-on-v2": (
            {**ref(property="p"), **store("v1-store-v2-mount")},
            "is in a KV v2 mount, but the store says version v1; set the store's spec.provider.vault.version to v2",
        ),
        "v2-on-v1": (
            {**ref(property="p"), **store("v2-store-v1-mount")},
            "is in a KV v1 mount, but the store says version v2; set the store's spec.provider.vault.version to v1",
        ),
    }
    vaultsync()
    for name, (spec, _) in cases.items():
        place.kube.create(
            {
                "apiVersion": "external-secrets.io/v1",
                "kind": "ExternalSecret",
                "metadata": {"name": name, "namespace": place.name, "annotations": SEED},
                "spec": {"secretStoreRef": {"name": "vault", "kind": "SecretStore"}, **spec},
            }
        )
    for name in cases:
        wait_for_report(place, name, "False ErrorCreating", "")
    reports = {name: report(place, name) for name in cases}
    # the expected messages that are missing from the reports
    expected = {name: f"…{said}" for name, (_, said) in cases.items() if said not in reports[name][1]}
    assert {name: reports[name][1] for name in expected} == expected
    assert {status for status, _ in reports.values()} == {"False ErrorCreating"}
    for name in cases:
        assert wait_for_event(place, name, "SeedFailed")["message"] == reports[name][1]
    assert [place.read("missing", mount) for mount in ("secret", "kv1")] == [None, None]


def test_one_bad_entry_does_not_keep_the_others_from_being_seeded(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    data = {"bad": ("bad", "a.#.b"), "good": ("good", "password"), "along": ("bad", "password")}
    place.external_secret("app", data, annotations=SEED)
    place.wait_for(lambda: place.read("good") and place.read("bad"))
    assert list(place.read("bad") or {}) == ["password"]
    wait_for_report(place, "app", "False ErrorCreating", "has no key 'a.#.b'")


def test_kubectl_describe_shows_the_events(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.external_secret("whole", dataFrom=[{"extract": {"key": place.path("whole")}}], annotations=SEED)
    wait_for_event(place, "app", "Seeded")
    wait_for_event(place, "whole", "SeedFailed")
    wait_for_report(place, "app", "True Success", "")
    shown = {name: kubectl(place, "describe", "externalsecret", name) for name in ("app", "whole")}
    assert re.search(rf"Normal +Seeded .*vaultsync +created secret/{place.path('app')} version 1", shown["app"])
    assert re.search(r"vaultsync.io/created: True Success\n", shown["app"])
    assert re.search(r"Warning +SeedFailed .*vaultsync +spec.dataFrom\[0\].extract: secret/", shown["whole"])
    assert re.search(r"vaultsync.io/created: False ErrorCreating\n", shown["whole"])


def kubectl(place: Place, *arguments: str) -> str:
    command = [str(place.testbed.binaries["kubectl"]), "--namespace", place.name, *arguments]
    env = {"KUBECONFIG": str(place.testbed.kubeconfig), "HOME": str(place.testbed.work), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_value_is_in_logs_events_or_annotations(place: Place, vaultsync: VaultsyncFactory, log_format: str) -> None:
    place.store("old", path="kv1", version="v1")
    process = vaultsync({"VAULTSYNC_LOG_FORMAT": log_format, "VAULTSYNC_LOG_LEVEL": "DEBUG"})
    place.put("theirs", user="value-of-a-person")
    with denied(place, f"secret/data/{place.path('refused')}"):
        place.external_secret("refused", {"p": ("refused", "password")}, annotations=SEED)
        place.external_secret("app", {"p": ("app", "password"), "q": ("app", "other")}, annotations=SEED)
        place.external_secret("theirs", {"p": ("theirs", "password")}, annotations=SEED)
        place.external_secret("old", {"p": ("app", "password")}, annotations=SEED, store="old")
        first = place.wait_for_secret("app")
        place.vault.delete(place.path("app"))
        wait_for_another_secret(place, "app", first)
        place.put("app", password="value-of-a-rotation", other="value-too")
        place.wait_for_secret("app", p="value-of-a-rotation")
        for name in ("theirs", "old"):
            place.wait_for_secret(name)
        wait_for_event(place, "refused", "SeedFailed")
    place.wait_for_secret("refused", timeout=HEALS_BY_ITSELF)
    wait_for_event(place, "app", "ForceSynced")
    assert process.stop() == 0
    values = all_values(place)
    assert len(values) >= 9
    secrets = (
        values | set(first.values()) | {place.testbed.identity.vault_token, place.testbed.identity.kubernetes_token}
    )
    names = ("refused", "app", "theirs", "old")
    shown = {
        "logs": process.output(),
        "Events": json.dumps([place.kube.events_of(name, place.name) for name in names]),
        "annotations": json.dumps([place.annotations(name) for name in names]),
    }
    assert "seeded" in shown["logs"]
    assert "pass failed" in shown["logs"]
    leaks = [(where, secret) for where, text in shown.items() for secret in secrets if secret in text]
    assert leaks == []


def all_values(place: Place) -> set[str]:
    """Every value below the prefix, including old versions (undeletes deleted ones)."""
    found: set[str] = set()
    for name in place.vault.names(place.name):
        path = place.path(name)
        for number in range(1, place.version(name) + 1):
            place.vault.undelete(path, [number])
            version = place.vault.api.request("GET", f"/v1/secret/data/{path}?version={number}")["data"]["data"]
            found |= set(version.values())
    for name in place.vault.names(place.name, "kv1"):
        found |= set((place.read(name, "kv1") or {}).values())
    return found
