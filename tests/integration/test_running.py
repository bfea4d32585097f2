"""Running vaultsync: settings, signals, health, logs; and ExternalSecrets of any size, number and content."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.testbed.api import Api, ApiError, Json
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import NAMESPACE, POLICY, PROJECT
from tests.testbed.place import Place
from tests.testbed.processes import free_port
from tests.testbed.servers import kubeconfig_text
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import FOREIGN

SEED = {"vaultsync.io/seed": "true"}
TOKEN = "hvs.not-to-be-seen"
PATIENCE = 60.0
STOP_SECONDS = 5.0
WELL = {"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": TOKEN, "KUBECONFIG": "/nowhere/kubeconfig"}


def run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs vaultsync to its end."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    command = [sys.executable, "-m", "vaultsync", *arguments]
    return subprocess.run(command, env=own | env, cwd=PROJECT, text=True, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"VAULT_ADDR": ""}, "VAULT_ADDR is not set"),
        ({"VAULT_TOKEN": ""}, "VAULT_TOKEN is not set"),
        ({"VAULT_ADDR": "", "VAULT_TOKEN": ""}, "VAULT_ADDR is not set; VAULT_TOKEN is not set"),
        ({"VAULT_ADDR": "vault:8200"}, "VAULT_ADDR must be an address such as https://vault.vault:8200"),
        ({"VAULT_TOKEN": f"{TOKEN}\nx"}, "VAULT_TOKEN must be"),
        ({"VAULT_TOKEN": f"{TOKEN}…"}, "VAULT_TOKEN must be"),
        ({"VAULT_ADDR": "https://vault:8200", "VAULT_CACERT": "/nowhere/ca.pem"}, "VAULT_CACERT "),
        ({"VAULT_ADDR": "https://vault:8200", "VAULT_CACERT": __file__}, "VAULT_CACERT "),
        ({"VAULTSYNC_SEED": "maybe"}, "VAULTSYNC_SEED "),
        ({"VAULTSYNC_RESYNC": "soon"}, "VAULTSYNC_RESYNC must be a duration such as 90s, 1h or 1h30m"),
        ({"VAULTSYNC_RESYNC": "1s"}, "VAULTSYNC_RESYNC "),
        ({"VAULTSYNC_VAULT_TIMEOUT": "0"}, "VAULTSYNC_VAULT_TIMEOUT "),
        ({"VAULTSYNC_STORE_SERVERS": "http://a:1,b:2"}, "VAULTSYNC_STORE_SERVERS must be an address"),
        ({"VAULTSYNC_HEALTH_LISTEN": "8080"}, "VAULTSYNC_HEALTH_LISTEN must be host:port, such as 0.0.0.0:8080"),
        ({"VAULTSYNC_AUDIT_LISTEN": "0.0.0.0:99999"}, "VAULTSYNC_AUDIT_LISTEN must be udp:HOST:PORT, "),
        ({"VAULTSYNC_LOG_FORMAT": "xml"}, "VAULTSYNC_LOG_FORMAT "),
        ({"VAULTSYNC_LOG_LEVEL": "{x}"}, "VAULTSYNC_LOG_LEVEL "),
        ({}, "KUBECONFIG: no usable Kubernetes configuration: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_one_line_and_exit_2(wrong: dict[str, str], said: str) -> None:
    ended = run(WELL | wrong, "run")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"vaultsync: {said}")
    assert len(ended.stderr.splitlines()) == 1
    assert TOKEN not in ended.stdout + ended.stderr


@pytest.mark.parametrize("setting", ["VAULTSYNC_HEALTH_LISTEN", "VAULTSYNC_AUDIT_LISTEN"])
def test_an_address_in_use_is_one_line_and_a_failure(
    testbed: Testbed, vaultsync: VaultsyncFactory, setting: str
) -> None:
    process = vaultsync({setting: f"127.0.0.1:{testbed.vault.port}"}, audit=False)
    assert process.wait(PATIENCE) == 1
    [line] = process.output().splitlines()
    assert json.loads(line)["level"] == "ERROR"
    assert str(testbed.vault.port) in line


def test_a_trailing_newline_of_the_token_is_ignored(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync({"VAULT_TOKEN": place.testbed.identity.vault_token + "\n"})
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app", PATIENCE)


def test_help_and_version_need_no_settings() -> None:
    shown = run({}, "run", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "VAULTSYNC_SEED" in shown.stdout
    assert re.match(r"vaultsync \d+\.\d+\.\d+\n", run({}, "version").stdout)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(place: Place, vaultsync: VaultsyncFactory, number: signal.Signals) -> None:
    process = vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app")
    os.kill(process.pid, number)
    assert process.wait(STOP_SECONDS) == 0
    assert "Traceback" not in process.output()
    assert json.loads(process.output().splitlines()[-1])["message"] == "vaultsync stops"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_while_it_waits_for_kubernetes(
    testbed: Testbed, vaultsync: VaultsyncFactory, tmp_path: Path, number: signal.Signals
) -> None:
    """It is alive, but not ready until Kubernetes answers."""
    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text(
        kubeconfig_text(f"https://127.0.0.1:{free_port()}", testbed.kube_apiserver.ca, "token", NAMESPACE)
    )
    process = vaultsync({"KUBECONFIG": str(nowhere)}, audit=False)
    process.wait_until(lambda: "waiting for Kubernetes" in process.output(), PATIENCE)
    assert process.health.answers("/livez")
    assert process.health.answers("/readyz", 503)
    os.kill(process.pid, number)
    assert process.wait(STOP_SECONDS) == 0


def test_health_is_served(vaultsync: VaultsyncFactory) -> None:
    process = vaultsync()
    process.wait_until_ready(PATIENCE)
    assert process.health.answers("/livez")
    assert "vaultsync_new_paths_total 0.0" in process.health.text("/metrics")
    assert process.health.answers("/values", 404)


def test_json_log_lines_are_objects_with_fields(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync({"VAULTSYNC_LOG_FORMAT": "json", "VAULTSYNC_LOG_LEVEL": "DEBUG"})
    place.external_secret("app", {"p": ("app", "a{x}<red>")}, annotations=SEED)
    place.wait_for_secret("app", PATIENCE)
    place.wait_for(lambda: '"force-synced"' in process.output())
    assert process.stop() == 0
    lines = [json.loads(line) for line in process.output().splitlines()]
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)
    [seeded] = [line for line in lines if line["message"] == "seeded"]
    assert seeded.items() >= {"path": f"secret/{place.path('app')}", "version": 1, "reason": "Seeded"}.items()
    assert (seeded["external_secrets"], seeded["properties"]) == ([f"{place.name}/app"], ["a{x}<red>"])
    assert seeded["duration_ms"] > 0
    [synced] = [line for line in lines if line["message"] == "force-synced"]
    assert synced["external_secret"] == f"{place.name}/app"
    assert synced["duration_ms"] > 0


def test_text_log_lines_are_human_readable(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync({"VAULTSYNC_LOG_FORMAT": "text", "VAULTSYNC_LOG_LEVEL": "DEBUG"})
    place.external_secret("app", {"p": ("app", "a{x}<red>")}, annotations=SEED)
    place.wait_for_secret("app", PATIENCE)
    place.wait_for(lambda: "force-synced" in process.output())
    assert process.stop() == 0
    lines = process.output().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING) ", line) for line in lines)
    [seeded] = [line for line in lines if " seeded " in line]
    assert f"path=secret/{place.path('app')} properties=['a{{x}}<red>'] version=1 reason=Seeded" in seeded


TEXTS = (
    "",
    " ",
    ".",
    "..",
    "/",
    "//",
    "../../../sys/policies/acl/vaultsync",
    "x/../../outside",
    "data/",
    "metadata/x",
    "destroy/x",
    "subkeys/x",
    "\n",
    "a\nb",
    "\x00",
    "\x7f",
    "\u202e",
    "\ud7ff\ufffe",
    "{x}",
    "{",
    "{0.__class__}",
    "<red>",
    "</red>",
    "%s%n",
    "%2e%2e/x",
    "%00",
    "ключ/🙂",
    "a?version=1",
    "a#b",
    "a b",
    "a\\b",
    "a;b",
    " lead",
    "trail ",
    "x/",
    "x." * 20,
    "y" * 3000,
    '"',
    "'",
    "null",
    "-1",
    "#(a==1)#",
    "@this",
    "@pretty:{}",
    "a|@reverse",
    "*",
    "!true",
    "[a,b]",
    "..a",
    "a..b",
    ".a",
)


def nonsense(place: Place) -> dict[str, Json]:
    """Invalid specs that the CRD accepts."""

    def data(*remotes: Json, **more: Json) -> Json:
        return {"data": [{"secretKey": f"k{i}", "remoteRef": remote, **more} for i, remote in enumerate(remotes)]}

    bare = {"sourceRef": {"storeRef": {"name": "bare"}}}
    bare_v1 = {"sourceRef": {"storeRef": {"name": "bare-v1"}}}
    keys = [place.path(text) for text in TEXTS]
    system = ("sys/policies/acl/x", "sys/mounts/x", "auth/token/create", "cubbyhole/x", "identity/entity", "nowhere/x")
    long = {"key": place.path("long"), "property": "password"}
    return {
        "empty": {"data": []},
        "nothing": {},
        "no-store": {"data": [{"secretKey": "p", "remoteRef": {"key": place.path("a"), "property": "p"}}]},
        "keys": data(*({"key": key, "property": "p"} for key in keys)),
        "outside": data(*({"key": f"../{key}", "property": "p"} for key in keys), {"key": "", "property": "p"}),
        "properties": data(*({"key": place.path("properties"), "property": text} for text in TEXTS)),
        "versions": data(*({"key": place.path("versions"), "property": "p", "version": text} for text in TEXTS)),
        "metadata": data({"key": place.path("metadata"), "property": "p", "metadataPolicy": "Fetch"}),
        "bare-keys": data(*({"key": key, "property": "p"} for key in (*system, *TEXTS)), **bare),
        "bare-v1-keys": data(*({"key": key, "property": "p"} for key in (*system, *TEXTS)), **bare_v1),
        "v1-keys": data(*({"key": key, "property": "p"} for key in keys), sourceRef={"storeRef": {"name": "old"}}),
        "lost-store": data({"key": place.path("a"), "property": "p"}, sourceRef={"storeRef": {"name": "nowhere"}}),
        "nameless-store": data({"key": place.path("n"), "property": "p"}, sourceRef={"storeRef": {}}),
        "cluster-store": data(
            {"key": place.path("a")}, sourceRef={"storeRef": {"name": "x", "kind": "ClusterSecretStore"}}
        ),
        "generator": {"dataFrom": [{"sourceRef": {"generatorRef": {"kind": "Password", "name": "nowhere"}}}]},
        "extracts": {"dataFrom": [{"extract": {"key": key, "property": key}} for key in keys]},
        "finds": {"dataFrom": [{"find": {"path": place.path(text), "name": {"regexp": text}}} for text in TEXTS]},
        "find-nothing": {"dataFrom": [{"find": {}}, {"find": {"tags": {"{x}": "<red>"}}}, {}]},
        "all-at-once": {
            "dataFrom": [
                {
                    "extract": {"key": place.path("a")},
                    "find": {"path": place.name},
                    "sourceRef": {"storeRef": {"name": "vault"}},
                    "rewrite": [{"regexp": {"source": "(", "target": "$9"}}, {"transform": {"template": "{{ .x"}}],
                }
            ]
        },
        "interval": {"refreshInterval": "soon", **data(long)},
        "template": {
            "target": {
                "name": "template",
                "template": {
                    "type": "<red>/{x}",
                    "data": {"x": "{{ fail `{x}` }}", "y": "{{ .", "z": "{0}" * 1000},
                    "metadata": {"labels": {"a": "{{ .k0 }}"}, "annotations": {"b": "\n"}},
                    "templateFrom": [{"literal": "{{ range }}"}, {}],
                },
            },
            **data(long),
        },
        "entries-of-one-path": data(*({"key": place.path("one"), "property": f"p{i}"} for i in range(1000))),
        "entries-of-many-paths": data(*({"key": place.path(f"many/{i}"), "property": "p"} for i in range(300))),
        "large": {"target": {"template": {"data": {"x": "y" * 300_000}}}, **data(long)},
    }


NONSENSE_ANNOTATIONS = {
    "versions-deep": {"vaultsync.io/versions": "[" * 200_000},
    "versions-odd": {"vaultsync.io/versions": '{"a": 1, "b": null, "c": {"d": []}}'},
    "versions-full": {"vaultsync.io/versions": json.dumps({"x" * 60_000: "y" * 60_000, "z": "\u0000"})},
    "report-odd": {"vaultsync.io/created": "{x} <red>", "vaultsync.io/message": "\u0000" + "m" * 100_000},
    "force-sync-odd": {"force-sync": "f" * 100_000, "vaultsync.io/force-sync": "{x}"},
    "seed-long": {"vaultsync.io/seed": "{x}" * 50_000},
    "full": {"example.com/full": "f" * (256 * 1024 - 60)},
}


@contextmanager
def vault_outside_unchanged(place: Place) -> Iterator[None]:
    """Asserts that only paths below the place's prefix change in Vault."""

    def outside() -> Json:
        root = place.vault.api
        names = {
            mount: [name for name in place.vault.names("", mount) if name.strip("/") != place.name]
            for mount in ("secret", "team/kv", "kv1")
        }
        system = {
            path: root.request("GET", f"/v1/{path}")["data"]
            for path in ("sys/mounts", "sys/auth", "sys/policies/acl?list=true", f"sys/policies/acl/{POLICY}")
        }
        return {"names": names, "system": system}

    before = outside()
    yield
    assert outside() == before


def test_nonsense_in_every_field_does_not_stop_the_others_and_writes_nothing_outside(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    place.store("bare", path=None)
    place.store("bare-v1", path=None, version="v1")
    place.store("old", path="kv1", version="v1")
    place.put("there", password="a person's")
    process = vaultsync({"VAULTSYNC_LOG_LEVEL": "DEBUG", "VAULTSYNC_SEED_BUDGET": "0"})
    refused: dict[str, str] = {}

    def create(name: str, spec: Json, annotations: dict[str, str]) -> None:
        item = {
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": name, "namespace": place.name, "annotations": SEED | annotations},
            "spec": {"secretStoreRef": {"name": "vault", "kind": "SecretStore"}, "refreshInterval": "1h", **spec},
        }
        if name == "no-store":
            del item["spec"]["secretStoreRef"]  # type: ignore[attr-defined]
        try:
            place.kube.create(item)
        except ApiError as error:
            refused[name] = str(error)

    with vault_outside_unchanged(place):
        for name, spec in nonsense(place).items():
            create(name, spec, {})
        for name, annotations in NONSENSE_ANNOTATIONS.items():
            entry = {"secretKey": "p", "remoteRef": {"key": place.path(name), "property": "password"}}
            create(name, {"data": [entry]}, annotations)
        assert refused == {}
        place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
        place.wait_for(lambda: place.read("witness"), PATIENCE)
        for path in ("long", *NONSENSE_ANNOTATIONS.keys() - {"seed-long"}):
            place.wait_for(partial(place.read, path), PATIENCE, f"{path} is seeded")
        place.wait_for(lambda: len(place.read("one") or ()) == 1000, PATIENCE, "1,000 properties are seeded")
        place.wait_for(lambda: len(place.vault.names(place.path("many"))) == 300, PATIENCE, "300 paths are seeded")
        # a deleted value is healed, so the watches and the workers still run
        place.vault.delete(place.path("long"))
        place.wait_for(lambda: place.read("long"), PATIENCE, "healed")
        time.sleep(2)
    assert process.alive
    assert place.read("seed-long") is None
    assert place.read("there") == {"password": "a person's"}
    assert place.version("one") == 1
    output = process.output()
    assert "failed unexpectedly" not in output
    assert "Traceback" not in output
    assert place.testbed.eso is not None
    assert place.testbed.eso.process.alive
    process.stop()
    process.start()
    process.wait_until_ready(PATIENCE)
    place.external_secret("last", {"p": ("last", "password")}, annotations=SEED)
    place.wait_for(lambda: place.read("last"), PATIENCE)
    assert "failed unexpectedly" not in process.output()


def test_only_kv_is_ever_written(place: Place, vaultsync: VaultsyncFactory) -> None:
    """Most tokens also have the policy `default`, which allows writes to a cubbyhole."""
    token = place.vault.token([POLICY], default=True)
    vaultsync({"VAULT_TOKEN": token})
    place.store("bare-v1", path=None, version="v1")
    data = {"p": (f"cubbyhole/{place.name}", "password")}
    place.external_secret("app", data, annotations=SEED, store="bare-v1", absolute=True)
    place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
    place.wait_for_secret("witness", PATIENCE)
    time.sleep(1)
    cubbyhole = Api(place.testbed.vault.address, {"X-Vault-Token": token})
    assert cubbyhole.find(f"/v1/cubbyhole/{place.name}") is None


def test_an_external_secret_with_full_annotations_is_reported(place: Place, vaultsync: VaultsyncFactory) -> None:
    """The API server accepts 256 KiB of annotations: no other fits, so only an Event can report it."""
    process = vaultsync()
    full = {**SEED, "example.com/full": "f" * (256 * 1024 - 60)}
    place.external_secret("app", {"p": ("app", "password")}, annotations=full)
    place.wait_for(lambda: place.read("app"), PATIENCE)
    place.wait_for(
        lambda: any(f"{place.name}/app" in line and "WARNING" in line for line in process.output().splitlines()),
        what="a warning that the ExternalSecret can't be force-synced",
    )


def test_an_object_of_more_than_a_megabyte_passes_the_watch(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync().wait_until_ready(PATIENCE)
    template = {"template": {"data": {"x": "y" * 1_200_000}}}
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED, target=template)
    place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
    place.wait_for_secret("witness", PATIENCE)
    place.wait_for(lambda: place.read("app"), PATIENCE)
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: place.read("app"), PATIENCE, "healed")


def test_an_external_secret_that_is_being_deleted_is_not_seeded(place: Place, vaultsync: VaultsyncFactory) -> None:
    """A finalizer such as external-secrets' own delays the deletion."""
    vaultsync()
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    place.wait_for_secret("app", PATIENCE)
    place.patch("app", {"metadata": {"finalizers": ["example.com/kept"]}})
    place.delete("app")
    time.sleep(0.5)
    place.vault.delete(place.path("app"))
    place.external_secret("witness", {"p": ("witness", "password")}, annotations=SEED)
    place.wait_for_secret("witness", PATIENCE)
    time.sleep(0.5)
    found = place.read("app")
    place.patch("app", {"metadata": {"finalizers": []}})
    assert found is None


def test_a_cluster_store_is_used_only_where_its_conditions_match(place: Place, vaultsync: VaultsyncFactory) -> None:
    store = f"cluster-{place.name}"
    kind = ("external-secrets.io/v1", "ClusterSecretStore", store)
    place.store(store, kind="ClusterSecretStore")
    open_to = {
        "names": {"namespaces": [place.name]},
        "patterns": {"namespaceRegexes": [f"^{place.name[:3]}.*$"]},
        "labels": {"namespaceSelector": {"matchLabels": {"team": place.name}}},
    }
    try:
        place.kube.patch(*kind, {"spec": {"conditions": [{"namespaces": ["elsewhere"]}]}})
        vaultsync()
        reference = {"name": store, "kind": "ClusterSecretStore"}
        for name in ("closed", *open_to):
            data = {"p": (name, "password")}
            place.external_secret(name, data, annotations=SEED, secretStoreRef=reference)
            place.external_secret(f"witness-{name}", {"p": (f"witness-{name}", "p")}, annotations=SEED)
            place.wait_for_secret(f"witness-{name}", PATIENCE)
            assert place.read(name) is None
            if name == "closed":
                time.sleep(0.5)
                assert place.read(name) is None
                place.delete(name)
                continue
            place.kube.patch(*kind, {"spec": {"conditions": [{"namespaces": ["elsewhere"]}, open_to[name]]}})
            labels = {"team": place.name if name == "labels" else None}
            place.kube.patch("v1", "Namespace", place.name, {"metadata": {"labels": labels}})
            place.wait_for(partial(place.read, name), PATIENCE, f"{name} is seeded")
            place.kube.patch(*kind, {"spec": {"conditions": [{"namespaces": ["elsewhere"]}]}})
            time.sleep(0.5)  # the store's conditions exclude it again
            place.vault.delete(place.path(name))
            time.sleep(0.5)
            assert place.read(name) is None
    finally:
        place.kube.delete(*kind)


def test_two_hundred_at_once_are_all_seeded(place: Place, vaultsync: VaultsyncFactory) -> None:
    names = [f"app{number}" for number in range(200)]
    for name in names:
        place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
    vaultsync({"VAULTSYNC_SEED_BUDGET": "0"})
    place.wait_for(lambda: len(place.vault.names(place.name)) == 200, PATIENCE)
    for name in names:
        place.wait_for_secret(name, PATIENCE)
    assert {place.version(name) for name in names} == {1}
