"""Generated values, the rules that apply, and the allowed paths, as external-secrets delivers them to the Secret."""

import json
import os
import re
import subprocess
from collections.abc import Mapping

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key, load_ssh_public_key

from tests.integration.test_healing import another
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import PROJECT
from tests.testbed.place import Place
from vaultsync.commands import help_text

README = PROJECT / "README.md"

SEED = {"vaultsync.io/seed": "true"}
HEX = re.compile(r"[0-9a-f]{64}")
POLICY = 'length = 24\nrule "charset" { charset = "xyz" }\n'


def ruled(rules: str | Mapping[str, object]) -> dict[str, str]:
    """The annotations of an ExternalSecret with these rules."""
    return SEED | {"vaultsync.io/generate": rules if isinstance(rules, str) else json.dumps(rules)}


def test_each_format_reaches_the_secret(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.vault.password_policy("ops", POLICY)
    vaultsync()
    rules = """
    user: {value: postgres}
    password: {format: password, length: 40, symbols: "!#%+", digits: 4, exclude: "O0Il"}
    hex: {format: hex, bytes: 16}
    base64: {format: base64, bytes: 48}
    base64url: {format: base64url, bytes: 48}
    uuid: {format: uuid}
    ops: {format: policy, name: ops}
    url: {template: "postgres://{{ .user }}:{{ .password | urlquery }}@db/app"}
    "*": {format: password, length: 12}
    """
    names = ("user", "password", "hex", "base64", "base64url", "uuid", "ops", "url", "rest")
    place.external_secret("app", {name: ("app", name) for name in names}, annotations=ruled(rules))
    found = place.wait_for_secret("app")
    assert found["user"] == "postgres"
    assert len(found["password"]) == 40
    assert not set("O0Il") & set(found["password"])
    assert set("!#%+") & set(found["password"])
    assert re.fullmatch("[0-9a-f]{32}", found["hex"])
    assert re.fullmatch("[A-Za-z0-9+/]{64}", found["base64"])
    assert re.fullmatch("[A-Za-z0-9_-]{64}", found["base64url"])
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", found["uuid"])
    assert re.fullmatch("[xyz]{24}", found["ops"])
    assert re.fullmatch(r"postgres://postgres:[A-Za-z0-9%._~-]+@db/app", found["url"])
    assert re.fullmatch("[A-Za-z0-9]{12}", found["rest"])
    assert place.version("app") == 1, "all properties in one write"


def test_key_pairs_have_two_halves(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    rules = {
        "tls": {"format": "rsa", "bits": 2048, "public": "tls_pub", "encoding": "pem"},
        "ssh": {"format": "ed25519", "public": "ssh_pub", "encoding": "openssh"},
    }
    names = ("tls", "tls_pub", "ssh", "ssh_pub")
    place.external_secret("app", {name: ("app", name) for name in names}, annotations=ruled(rules))
    found = place.wait_for_secret("app")
    private = load_pem_private_key(found["tls"].encode(), None)
    assert private.public_key() == load_pem_public_key(found["tls_pub"].encode())
    assert found["ssh"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    load_ssh_public_key(found["ssh_pub"].encode())


@pytest.mark.parametrize("strategy", ["Base64", "Base64URL", "Auto"])
def test_values_that_external_secrets_decodes_are_encoded(
    place: Place, vaultsync: VaultsyncFactory, strategy: str
) -> None:
    vaultsync()
    entry = {
        "secretKey": "user",
        "remoteRef": {"key": place.path("app"), "property": "user", "decodingStrategy": strategy},
    }
    place.external_secret("app", annotations=ruled({"user": {"value": "subjects?>~"}}), entries=[entry])
    assert place.wait_for_secret("app") == {"user": "subjects?>~"}
    assert place.read("app") != {"user": "subjects?>~"}


def test_a_whole_path_needs_property_names_and_the_message_says_so(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.external_secret("app", annotations=SEED, dataFrom=[{"extract": {"key": place.path("app")}}])
    place.wait_until_reported("app", "spec.dataFrom[0].extract", "vaultsync.io/generate")
    place.patch("app", {"metadata": {"annotations": ruled("{user: {value: app}, password: {format: uuid}}")}})
    found = place.wait_for_secret("app")
    assert found.keys() == {"user", "password"}
    place.wait_until_healthy("app")


def test_wrong_rules_are_reported_and_nothing_is_written_until_they_are_fixed(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    vaultsync()
    data = {"p": ("app", "password"), "u": ("app", "user")}
    place.external_secret("app", data, annotations=ruled("{password: {format: password, length: 4}, user: {value: a}}"))
    place.wait_until_reported("app", "vaultsync.io/generate", "password.length")
    assert place.version("app") == 0, "not even the property with a valid rule"
    place.patch("app", {"metadata": {"annotations": ruled("{password: {format: password}, user: {value: a}}")}})
    assert len(place.wait_for_secret("app")["p"]) == 32
    place.wait_until_healthy("app")


def test_of_two_rules_the_older_objects_wins_and_the_younger_is_reported(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    place.external_secret("a-old", {"u": ("app", "user")}, annotations=ruled("user: {value: old}"))
    place.external_secret("b-young", {"u": ("app", "user")}, annotations=ruled("user: {value: young}"))
    vaultsync()
    assert place.wait_for_secret("b-young") == {"u": "old"}
    place.wait_until_reported("b-young", "'user'", f"{place.name}/a-old")
    place.patch("b-young", {"metadata": {"annotations": ruled("user: {value: old}")}})
    place.wait_until_healthy("b-young")


def test_a_pinned_version_and_an_empty_find_are_reported(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    pinned = {"key": place.path("app"), "property": "p", "version": "7"}
    place.external_secret("pinned", annotations=SEED, entries=[{"secretKey": "p", "remoteRef": pinned}])
    find = {"path": place.name, "name": {"regexp": ".*"}}
    place.external_secret("find", annotations=SEED, dataFrom=[{"find": find}])
    place.wait_until_reported("pinned", "spec.data[0].remoteRef", "'7'")
    place.wait_until_reported("find", "dataFrom.find")


def test_the_cluster_wide_rules_apply_without_own_rules(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync({"VAULTSYNC_GENERATE": '{user: {value: cluster}, "*": {format: uuid}}'})
    data = {"u": ("app", "user"), "p": ("app", "password")}
    place.external_secret("app", data, annotations=ruled("password: {format: hex, bytes: 16}"))
    found = place.wait_for_secret("app")
    assert found["u"] == "cluster"
    assert re.fullmatch("[0-9a-f]{32}", found["p"])


def test_the_readmes_example_works_as_it_stands(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    (example,) = re.findall(r"```yaml\n(apiVersion.*?)```", README.read_text(), re.DOTALL)
    document = yaml.safe_load(example.replace("dev-1", place.name))
    rules = yaml.safe_load(document["metadata"]["annotations"]["vaultsync.io/generate"])
    place.kube.create(document)
    found = place.wait_for_secret("database")
    public = {rule["public"] for rule in rules.values() if "public" in rule}
    assert found.keys() == (rules.keys() - {"*"}) | public | {"session", "session-key"}
    place.wait_until_healthy("database")
    (command,) = re.findall(r"```sh\n(kubectl .* annotate externalsecret .*)\n```", README.read_text())
    path = os.pathsep.join([str(place.testbed.binaries["kubectl"].parent), os.environ["PATH"]])
    environment = {**os.environ, **place.testbed.env, "PATH": path}
    subprocess.run(["bash", "-c", command.replace("dev-1", place.name)], check=True, env=environment, timeout=30)
    place.wait_for(lambda: place.version("database") == 2, what="all properties are rotated")
    rotated = place.wait_for(lambda: another(place, "database", found), what="the new values are in the Secret")
    assert {name for name in found if rotated[name] == found[name]} == {"user"}


def test_each_rule_of_the_help_works_as_it_stands(place: Place, vaultsync: VaultsyncFactory) -> None:
    place.vault.password_policy("ops", POLICY)
    vaultsync()
    written = {f"p{number}": rule for number, rule in enumerate(help_text.RULES)}
    annotation = "\n".join(f"{name}: {rule}" for name, rule in written.items())
    place.external_secret("app", {name: ("app", name) for name in written}, annotations=ruled(annotation))
    assert place.wait_for_secret("app").keys() == written.keys()
    place.wait_until_healthy("app")


# -- allowed paths


def test_a_path_of_another_namespace_is_refused_by_name_and_the_rest_continues(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    vaultsync()
    data = {"mine": (f"{place.name}/a", "p"), "theirs": (f"else-{place.name}/a", "p")}
    place.external_secret("app", data, annotations=SEED, absolute=True)
    place.wait_until_reported("app", f"secret/else-{place.name}/a", f"*/{place.name}/**", "VAULTSYNC_SEED_PATHS")
    assert place.vault.version(f"else-{place.name}/a") == 0
    assert place.version("a") == 1


ESCAPES = ("{}/../else-{}/a", "{}/%2e%2e/else-{}/a", "else-{}//a", "{}/а", "{}/*")  # one of them is Cyrillic


@pytest.mark.parametrize("key", ESCAPES, ids=range(len(ESCAPES)))
def test_no_spelling_escapes_the_namespace(place: Place, vaultsync: VaultsyncFactory, key: str) -> None:
    vaultsync()
    before = place.vault.names("")
    written = key.format(place.name, place.name)
    place.external_secret("app", {"p": (written, "p")}, annotations=SEED, absolute=True)
    place.wait_until_reported("app", "spec.data[0].remoteRef")
    assert place.vault.names("") == before


def test_a_store_created_by_the_author_does_not_escape_either(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync()
    place.store("sly", path=f"secret/data/else-{place.name}", version="v1")
    place.external_secret("app", {"p": ("a", "p")}, annotations=SEED, store="sly", absolute=True)
    place.wait_until_reported("app", "spec.data[0].remoteRef")
    assert place.vault.version(f"else-{place.name}/a") == 0


def test_a_label_of_the_namespace_allows_a_path(place: Place, vaultsync: VaultsyncFactory) -> None:
    vaultsync({"VAULTSYNC_SEED_PATHS": "*/{label:example.com/team}/**"})
    team = f"team-{place.name}"
    place.external_secret("app", {"p": (f"{team}/a", "p")}, annotations=SEED, absolute=True)
    place.wait_until_reported("app", "the namespace has no label example.com/team")
    label = {"metadata": {"labels": {"example.com/team": team}}}
    place.kube.patch("v1", "Namespace", place.name, label)
    assert HEX.fullmatch(place.wait_for_secret("app")["p"])


def test_a_used_up_budget_is_reported_and_heals_are_free(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync({"VAULTSYNC_SEED_BUDGET": "2"})
    for name in ("a", "b"):
        place.external_secret(name, {"p": (name, "p")}, annotations=SEED)
        place.wait_for_secret(name)
    place.external_secret("c", {"p": ("c", "p")}, annotations=SEED)
    place.wait_until_reported("c", "VAULTSYNC_SEED_BUDGET")
    assert place.version("c") == 0
    metrics = process.health.text("/metrics")
    assert "\nvaultsync_new_paths_total 2.0\n" in metrics
    assert "\nvaultsync_new_paths_put_off_total 1.0\n" in metrics
    before = place.secret("a")
    place.vault.delete(place.path("a"))
    place.wait_for(lambda: place.secret("a") != before, what="the deleted value is healed")
