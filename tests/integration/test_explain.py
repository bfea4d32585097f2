"""`explain`, `plan` and the dry run: they report what vaultsync would do, and change nothing."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.testbed.api import Json
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import PROJECT
from tests.testbed.place import Place
from tests.testbed.processes import free_port
from tests.testbed.vaultsync import FOREIGN

SEED = {"vaultsync.io/seed": "true"}
VALUE = "not-to-be-seen"
PATIENCE = 60.0


def ask(place: Place, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs vaultsync to its end, for this place alone; asserts that its output has no value."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    given = {**place.testbed.identity.env, "VAULTSYNC_NAMESPACES": place.name, **(env or {})}
    command = [sys.executable, "-m", "vaultsync", *arguments]
    ended = subprocess.run(
        command, env=own | given, cwd=PROJECT, text=True, capture_output=True, timeout=60, check=False
    )
    assert VALUE not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended


def remote(key: str, wanted: str, **entry: object) -> Json:
    return {"secretKey": f"k-{key.rpartition('/')[2]}", "remoteRef": {"key": key, "property": wanted}, **entry}


def signs(place: Place, name: str) -> tuple[object, ...]:
    """The fields that a write of vaultsync would change on an ExternalSecret, without external-secrets' own status."""
    document = place.get(name)
    assert document is not None
    metadata = document["metadata"]
    managers = {one["manager"] for one in metadata["managedFields"]}
    kinds = [one["type"] for one in document.get("status", {}).get("conditions", ()) if one["type"] != "Ready"]
    return metadata.get("annotations"), metadata["generation"], managers, kinds


@pytest.fixture
def mixed(place: Place) -> str:
    """An ExternalSecret in which each entry is another case."""
    place.put("there", password=VALUE)
    place.put("half", user=VALUE)
    place.store("foreign", server="http://elsewhere.invalid:8200")
    rules = {"password": {"format": "password", "length": 40}, "url": {"template": "{{ .user }}"}}
    annotations = SEED | {"vaultsync.io/generate": json.dumps(rules)}
    entries = [
        remote(place.path("there"), "password"),
        remote(place.path("new"), "password"),
        remote(place.path("half"), "password"),
        remote(place.path("half"), "url"),
        remote(f"else-{place.name}/a", "password"),
        remote("no-such-mount/a", "password", sourceRef={"storeRef": {"name": "bare", "kind": "SecretStore"}}),
        remote(place.path("away"), "password", sourceRef={"storeRef": {"name": "foreign", "kind": "SecretStore"}}),
        remote(place.path("lost"), "password", sourceRef={"storeRef": {"name": "nowhere", "kind": "SecretStore"}}),
    ]
    place.store("bare", path=None)
    place.external_secret("mixed", annotations=annotations, entries=entries)
    place.external_secret("unasked", {"p": ("unasked", "password")})
    return "mixed"


def test_every_case_is_reported_as_json(place: Place, mixed: str) -> None:
    ended = ask(place, "explain", f"{place.name}/{mixed}", "-o", "json")
    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert (document["namespace"], document["name"], document["seeding"]) == (place.name, mixed, "wanted")
    there, new, half, url, other, no_mount, foreign, lost = document["reads"]
    assert there["path"] == f"secret/{place.name}/there"
    assert (there["in_vault"], there["version"], there["property"]) == ("present", 1, "password")
    assert there["written"].startswith("20")
    assert (new["action"], new["why"]) == ("seed", "password, 40 characters")
    assert (new["in_vault"], new["version"], new["problems"]) == ("missing", None, [])
    assert (half["action"], half["version"]) == ("add", 1)
    assert url["action"] != "add"
    assert "is generated together with user" in url["problems"][0]
    assert "VAULTSYNC_SEED_PATHS" in other["problems"][0]
    assert other["in_vault"] == "missing"
    assert no_mount["problems"][0].startswith("Vault returned 403")
    assert no_mount["in_vault"] is None
    assert "http://elsewhere.invalid:8200" in foreign["problems"][0]
    assert foreign["path"] is None
    assert lost["problems"] == [f"there is no SecretStore {place.name}/nowhere"]


def test_every_case_is_reported_as_a_table(place: Place, mixed: str) -> None:
    ended = ask(place, "explain", f"{place.name}/{mixed}")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0].split() == ["ExternalSecret:", f"{place.name}/{mixed}"]
    header = lines[3]
    assert re.split(" {3,}", header) == [
        *("PATH", "PROPERTY", "VERSION", "AGE", "IN VAULT", "MADE BY", "ACTION", "FIELD", "STORE", "WHY")
    ]
    [new] = [line for line in lines if f"/{place.name}/new " in line]
    assert re.split(" {3,}", new)[1:] == [
        "password",
        *("-", "-", "missing", "-", "seed", "spec.data[1].remoteRef", f"SecretStore {place.name}/vault"),
        "password, 40 characters",
    ]
    assert len(lines) == 4 + 8
    assert len({line.find("spec.data") for line in lines[4:]}) == 1, "the columns are aligned"


def test_one_that_does_not_request_seeding_is_explained(place: Place, mixed: str) -> None:
    ended = ask(place, "explain", f"{place.name}/unasked")
    assert ended.returncode == 0
    assert "not requested" in ended.stdout
    everything = ask(place, "explain", f"{place.name}/unasked", "-o", "json", env={"VAULTSYNC_SEED": "all"})
    assert json.loads(everything.stdout)["reads"][0]["action"] == "seed"


def test_a_missing_external_secret_is_one_line_and_exit_1(place: Place) -> None:
    ended = ask(place, "explain", f"{place.name}/nobody")
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = ended.stderr.splitlines()
    assert f"{place.name}/nobody" in line


def test_a_plan_is_printed_and_nothing_is_written(place: Place, mixed: str) -> None:
    place.external_secret("calm", {"p": ("there", "password")}, annotations=SEED)
    place.wait_for_secret("calm")
    place.wait_for(lambda: place.ready(mixed) and place.ready("unasked"), what="external-secrets has spoken")
    place.wait_for(lambda: place.ready("calm") == ("True", "SecretSynced"), what="external-secrets is done")
    names = ("calm", mixed, "unasked")
    before, calm = {name: signs(place, name) for name in names}, place.get("calm")
    ended = ask(place, "plan", "-o", "json")
    assert (ended.returncode, ended.stderr) == (2, "")
    document = json.loads(ended.stdout)
    assert [one["name"] for one in document["external_secrets"]] == list(names)
    summary = document["summary"]
    assert (summary["external_secrets"], summary["seed"], summary["add"]) == (3, 1, 1)
    assert (summary["problems"], summary["unseen"]) == (1, 1)
    table = ask(place, "plan")
    assert table.returncode == 2
    assert table.stdout.splitlines()[-1].startswith("Plan: 1 path to seed, 1 to add to, ")
    assert [place.version(path) for path in ("new", "half", "there")] == [0, 1, 1]
    assert {name: signs(place, name) for name in names} == before
    assert place.get("calm") == calm, "even its resourceVersion is unchanged"
    assert [place.events(name, "vaultsync") for name in names] == [[], [], []]


def test_vaultsync_then_does_what_the_plan_says(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("there", password=VALUE)
    place.external_secret("app", {"a": ("new", "password"), "b": ("there", "password")}, annotations=SEED)
    assert ask(place, "plan").returncode == 2
    process = vaultsync()
    assert place.wait_for_secret("app").keys() == {"a", "b"}
    place.wait_for(lambda: ask(place, "plan").returncode == 0, PATIENCE, "nothing is left to do")
    process.stop()
    ended = ask(place, "plan")
    assert ended.returncode == 0
    assert ended.stdout.endswith("Plan: nothing to do; 1 ExternalSecret in all.\n")
    reads = json.loads(ask(place, "plan", "-o", "json").stdout)["external_secrets"][0]["reads"]
    assert [read["made_by"] for read in reads] == [f"vaultsync for {place.name}/app", "another client"]
    place.annotate("app", **{"vaultsync.io/rotate": "now"})
    reads = json.loads(ask(place, "plan", "-o", "json").stdout)["external_secrets"][0]["reads"]
    assert [read["action"] for read in reads] == ["rotate", "nothing"]
    assert "not marked as made by vaultsync" in reads[1]["problems"][0]
    place.annotate("app", **{"vaultsync.io/rotate": None})
    place.put("there", password=f"{VALUE}-2")
    reads = json.loads(ask(place, "plan", "-o", "json").stdout)["external_secrets"][0]["reads"]
    assert [read["action"] for read in reads] == ["nothing", "force-sync"]


def test_a_path_that_may_not_be_read_is_not_nothing_to_do(place: Place) -> None:
    place.external_secret("app", {"a": ("new", "password")}, annotations=SEED)
    ended = ask(place, "plan", env={"VAULT_TOKEN": "wrong"})
    assert ended.returncode == 1
    assert "Vault returned 403" in ended.stdout
    assert "1 reference that Vault refused to read" in ended.stdout


@pytest.mark.parametrize("which", ["VAULT_ADDR", "KUBECONFIG"])
def test_an_unreachable_server_is_one_line_and_exit_1(place: Place, which: str) -> None:
    place.external_secret("app", {"a": ("new", "password")}, annotations=SEED)
    nowhere = f"http://127.0.0.1:{free_port()}"
    if which == "VAULT_ADDR":
        env = {which: nowhere, "VAULTSYNC_STORE_SERVERS": place.testbed.vault.address}
    else:
        text = place.testbed.identity.kubeconfig.read_text()
        file = place.testbed.work / f"{place.name}.kubeconfig"
        file.write_text(re.sub(r"https?://[^\s\"']+", nowhere, text))
        env = {which: str(file)}
    for arguments in (["plan"], ["explain", f"{place.name}/app"]):
        ended = ask(place, *arguments, env=env)
        assert (ended.returncode, ended.stdout) == (1, "")
        [line] = ended.stderr.splitlines()
        assert nowhere in line


def test_wrong_arguments_of_plan_have_another_exit_code_than_something_to_do(place: Place) -> None:
    assert ask(place, "plan", "everything").returncode == 64
    assert ask(place, "plan", env={"VAULT_ADDR": ""}).returncode == 64
    assert ask(place, "explain", "app").returncode == 2


def test_a_dry_run_says_what_it_would_do_and_does_nothing(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.put("there", password=VALUE)
    place.external_secret("app", {"a": ("new", "password")}, annotations=SEED)
    place.external_secret("mine", {"b": ("there", "password")}, annotations=SEED)
    place.external_secret("theirs", {"c": (f"else-{place.name}/a", "password")}, annotations=SEED, absolute=True)
    place.wait_for_secret("mine")
    place.wait_for(lambda: place.ready("app"), what="external-secrets has spoken")
    place.wait_for(lambda: place.ready("theirs"), what="external-secrets has spoken")
    before = {name: signs(place, name) for name in ("app", "mine", "theirs")}
    # the first entry of an audit device would cause a second full scan
    process = vaultsync({"VAULTSYNC_DRY_RUN": "true", "VAULTSYNC_NAMESPACES": place.name}, audit=False)
    process.wait_until_ready(PATIENCE)

    def said(message: str) -> list[Json]:
        lines = [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == message]

    [seed] = place.wait_for(lambda: said("would seed"))
    assert (seed["path"], seed["properties"]) == (f"secret/{place.name}/new", ["password"])
    assert seed["external_secrets"] == [f"{place.name}/app"]
    place.put("there", password=f"{VALUE}-2")
    place.wait_for(lambda: [one for one in said("would force-sync") if one["external_secret"] == f"{place.name}/mine"])
    place.wait_for(lambda: said("can't seed"))
    process.stop()
    assert VALUE not in process.output()
    assert not said("seeded") + said("force-synced")
    assert place.version("new") == 0
    assert place.secret("mine") == {"b": VALUE}
    assert {name: signs(place, name) for name in before} == before
    assert [place.events(name, "vaultsync") for name in ("app", "mine", "theirs")] == [[], [], []]
