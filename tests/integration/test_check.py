"""`check`: each problem is provoked on real servers and reported in its own line; the printed commands fix it."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.integration.test_explain import signs
from tests.integration.test_login import reviewer, signers
from tests.integration.test_policy import Right as Capability
from tests.integration.test_policy import rights as capabilities
from tests.integration.test_policy import without
from tests.manual import DOCS, commands, section
from tests.testbed.api import Json
from tests.testbed.identity import DEPLOY, NAMESPACE, PROJECT
from tests.testbed.place import Place
from tests.testbed.processes import free_port
from tests.testbed.servers import ROOT_TOKEN, Vault
from tests.testbed.testbed import Options, Testbed, apply_crds
from tests.testbed.vaultsync import FOREIGN
from vaultsync.commands.check import command
from vaultsync.commands.check.rbac import DEFAULT_LEASE, RBAC_RULES, RbacRule, leader_rules
from vaultsync.commands.check.report import Check, CheckResult, Status
from vaultsync.config.settings import Settings, variable

SEED = {"vaultsync.io/seed": "true"}
RBAC = "rbac.authorization.k8s.io/v1"
VALUE = "not-to-be-seen"
POLICY_RULE = {"vaultsync.io/generate": json.dumps({"password": {"format": "policy", "name": "ops"}})}
SHIPPED = (DEPLOY / "vault" / "policy.hcl").read_text()
LISTENS = {"VAULTSYNC_AUDIT_LISTEN": "127.0.0.1:1"}
"""An address that `check` must not use; it cannot be bound."""
IN_A_POD = {**LISTENS, "VAULTSYNC_LEASE": DEFAULT_LEASE, "VAULTSYNC_POD_NAME": "vaultsync-0"}
"""The Lease of deploy/base."""


def environment(testbed: Testbed, env: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    tools = [str(Path(sys.executable).parent), str(testbed.binaries["kubectl"].parent), str(testbed.cli.parent)]
    return {**own, "HOME": str(testbed.work), "PATH": os.pathsep.join([*tools, os.environ["PATH"]]), **env}


def run(testbed: Testbed, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs vaultsync to its end and asserts that its output has no value or token."""
    command = [sys.executable, "-m", "vaultsync", "check", *arguments]
    ended = subprocess.run(
        command, env=environment(testbed, env), cwd=PROJECT, text=True, capture_output=True, timeout=60, check=False
    )
    said = ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert VALUE not in said
    token = env.get("VAULT_TOKEN", "")
    assert len(token) < 10 or token not in said
    return ended


Lines = dict[tuple[str, str | None], Json]


def check(place: Place, *, code: int, env: Mapping[str, str] | None = None) -> Lines:
    """Runs `check` for this place alone; returns the lines by check and subject."""
    given = {**place.testbed.identity.env, **LISTENS, "VAULTSYNC_NAMESPACES": place.name, **(env or {})}
    ended = run(place.testbed, "-o", "json", env=given)
    assert ended.stderr == ""
    document = json.loads(ended.stdout)
    found = {(line["check"], line["of"]): line for line in document["checks"]}
    assert len(found) == len(document["checks"])
    assert sum(document["summary"].values()) == len(found)
    assert all(line["fix"] for line in found.values() if line["mark"] in ("failed", "warning"))
    assert not any(line["fix"] for line in found.values() if line["mark"] in ("ok", "not asked"))
    assert ended.returncode == code, document
    return found


def marked(lines: Lines, mark: str) -> set[str]:
    """The checks with this result."""
    return {f"{name} {of}" if of else name for (name, of), line in lines.items() if line["mark"] == mark}


def ask(place: Place, **env: str) -> list[CheckResult]:
    """The same in this process, for repeated checks."""
    given = {**place.testbed.identity.env, **LISTENS, "VAULTSYNC_NAMESPACES": place.name, **env}
    names = {variable(name): name for name in Settings.model_fields}
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        settings = Settings()
    return asyncio.run(command.check(settings)).results


def wrong(lines: list[CheckResult]) -> list[CheckResult]:
    """The checks that are not `ok`, except audit devices, which vaultsync's policies do not allow to list."""
    return [line for line in lines if line.status is not Status.OK and line.check is not Check.AUDIT]


def by_mark(lines: list[CheckResult], mark: Status) -> list[CheckResult]:
    return [line for line in lines if line.status is mark]


@pytest.fixture
def used(place: Place) -> Place:
    """A place with an ExternalSecret in each kind of mount, all with seeding."""
    place.vault.password_policy("ops", 'length = 20\nrule "charset" { charset = "abcdefghij" }')
    place.put("there", password=VALUE)
    place.store("team", path="team/kv")
    place.store("old", path="kv1", version="v1")
    place.external_secret("app", {"a": ("there", "password"), "b": ("new", "user")}, annotations=SEED | POLICY_RULE)
    place.external_secret("team", {"a": ("new", "password")}, annotations=SEED, store="team")
    place.external_secret("old", {"a": ("new", "password")}, annotations=SEED, store="old")
    return place


# -- a correct setup


def test_a_correct_setup_passes_every_check_and_nothing_is_written(used: Place) -> None:
    names = ("app", "team", "old")
    used.wait_for(lambda: all(used.ready(name) for name in names), what="external-secrets has written a status")
    before = {name: signs(used, name) for name in names}
    log = used.testbed.work / "logs" / f"{used.name}.log"
    used.vault.audit(used.name, "file", file_path=str(log))
    try:
        lines = check(used, code=0)
    finally:
        used.vault.unaudit(used.name)
    assert marked(lines, "ok") == {
        *("settings", "kubernetes", "crds", "vault", "login", "source", "stores", "externalsecrets"),
        *(f"permission {one.label}" for one in RBAC_RULES if one.resource != "externalsecrets/status"),
        *("policy sys/ and auth/", "policy secret/", "policy team/kv/", "policy kv1/"),
    }
    assert lines["stores", None]["found"] == "3 in this Vault"
    assert lines["externalsecrets", None]["found"] == "3 read this Vault, 3 to be seeded; none is blocked"
    assert lines["policy", "secret/"]["found"].endswith("(checked for 2 paths in use)")
    assert "as system:serviceaccount:vaultsync:vaultsync" in lines["kubernetes", None]["found"]
    assert {name: signs(used, name) for name in names} == before
    assert used.version("new") == used.version("new", "team/kv") == 0
    assert [used.events(name, "vaultsync") for name in names] == [[], [], []]
    requests = {(one["operation"], one["path"]) for one in asked_of_vault(log)}
    assert {operation for operation, _ in requests} <= {"read", "list", "update"}
    assert {path for operation, path in requests if operation == "update"} == {"sys/capabilities-self"}
    read = {path for operation, path in requests if operation == "read"}
    assert not [path for path in read if path.startswith(("secret/data/", "team/kv/data/", "kv1/"))]


def asked_of_vault(log: Path) -> list[Json]:
    """The requests of vaultsync's token in an audit log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [one["request"] for one in lines if "vaultsync" in one.get("auth", {}).get("token_policies", ())]


def test_a_table_has_a_line_for_each_check(place: Place) -> None:
    place.external_secret("app", {"a": ("new", "password")}, annotations=SEED)
    given = {**place.testbed.identity.env, "VAULTSYNC_NAMESPACES": place.name}
    ended = run(place.testbed, env=given)
    assert (ended.returncode, ended.stderr) == (0, "")
    *rows, empty, last = ended.stdout.splitlines()
    assert (empty, last) == ("", f"{len(rows) - 2} ok, 0 failed, 1 warning, 1 not asked")
    assert len(rows) > len(Check)
    [warning, unread] = [row for row in rows if not row.startswith("ok ")]
    assert unread.split()[:3] == ["not", "asked", "audit"]
    assert warning.split()[:2] == ["warning", "source"]
    assert ". To do: set VAULTSYNC_AUDIT_LISTEN, such as udp:0.0.0.0:8220" in warning
    assert "\x1b" not in ended.stdout


def test_the_commands_of_the_readme_work(used: Place) -> None:
    block = next(one for one in commands(section("Check and preview")) if "vaultsync check" in one)
    assert block.splitlines() == ["vaultsync check", "vaultsync check --print-setup"]
    given = {**used.testbed.identity.env, **LISTENS, "VAULTSYNC_NAMESPACES": used.name}
    for line in block.splitlines():
        done = sh(used.testbed, line, given)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def sh(testbed: Testbed, script: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh"],
        input=script,
        env=environment(testbed, env),
        cwd=PROJECT,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


# -- settings


def test_each_wrong_setting_has_a_line_and_other_checks_are_skipped(testbed: Testbed) -> None:
    given = {"VAULT_ADDR": "vault", "VAULT_TOKEN": "", "VAULTSYNC_RESYNC": "often"}
    ended = run(testbed, "-o", "json", env=given)
    assert (ended.returncode, ended.stderr) == (2, "")
    checks = json.loads(ended.stdout)["checks"]
    wrong = [(line["check"], line["of"]) for line in checks if line["mark"] == "failed"]
    assert wrong == [("settings", "VAULT_ADDR"), ("settings", "VAULT_TOKEN"), ("settings", "VAULTSYNC_RESYNC")]
    assert [line["check"] for line in checks if line["mark"] == "not asked"] == [*Check][1:]


# -- Kubernetes


class Account:
    """A ServiceAccount with rights of its own."""

    def __init__(self, place: Place, rules: list[Json], *, namespaces: tuple[str, ...] = ()) -> None:
        self._place = place
        self._name = name = f"check-{place.name}"
        assert place.testbed.identity  # creates the namespace
        place.kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": self.metadata})
        self.rules(rules)
        self.own_rules([])
        place.kube.apply(self.binding(NAMESPACE, name, "Role"))
        for namespace in namespaces or ("",):
            place.kube.apply(self.binding(namespace, name))
        token = place.kube.token_for(name, NAMESPACE)
        file = place.testbed.work / f"{name}.kubeconfig"
        self.env = {"KUBECONFIG": str(place.testbed.kube_apiserver.kubeconfig(file, token))}

    @property
    def metadata(self) -> Json:
        return {"name": self._name, "namespace": NAMESPACE}

    def rules(self, rules: list[Json]) -> None:
        """Binds the rules in the namespaces."""
        self._place.kube.apply(
            {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": self._name}, "rules": rules}
        )

    def own_rules(self, rules: list[Json]) -> None:
        """Binds the rules in vaultsync's own namespace."""
        self._place.kube.apply({"apiVersion": RBAC, "kind": "Role", "metadata": self.metadata, "rules": rules})

    def binding(self, namespace: str, role: str, kind: str = "ClusterRole") -> Json:
        """The binding of a role, in a namespace or "" in all."""
        name = self._name
        return {
            "apiVersion": RBAC,
            "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
            "metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", **self.metadata}],
        }

    def delete(self) -> None:
        name = self._name
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            self._place.kube.delete(RBAC, kind, name)
        for kind in ("RoleBinding", "Role"):
            self._place.kube.delete(RBAC, kind, name, NAMESPACE)
        self._place.kube.delete("v1", "ServiceAccount", name, NAMESPACE)


def shipped_rules(file: str = "clusterrole") -> list[Json]:
    rules: list[Json] = yaml.safe_load((DEPLOY / "base" / f"{file}.yaml").read_text())["rules"]
    return rules


@contextmanager
def account(place: Place, rules: list[Json], *, namespaces: tuple[str, ...] = ()) -> Iterator[Account]:
    made = Account(place, rules, namespaces=namespaces)
    try:
        yield made
    finally:
        made.delete()


def less(rules: list[Json], verb: str, right: RbacRule) -> list[Json]:
    """The rules without one verb of a right."""
    found = []
    for rule in rules:
        for resource in rule["resources"]:
            for name in rule.get("resourceNames") or [""]:
                is_it = (resource, name) == (right.resource, right.name)
                verbs = [other for other in rule["verbs"] if not (is_it and other == verb)]
                one = {"apiGroups": rule["apiGroups"], "resources": [resource], "verbs": verbs}
                found += [one | ({"resourceNames": [name]} if name else {})] if verbs else []
    return found


def test_without_rights_each_missing_right_has_a_line(place: Place) -> None:
    with account(place, []) as nobody:
        lines = check(place, code=1, env=nobody.env)
    stores = {"secretstores", "clustersecretstores"}
    failed = {"externalsecrets", "pushsecrets", *stores, "namespaces", "namespaces/kube-system", "events"}
    assert marked(lines, "failed") == {f"permission {one}" for one in failed}
    assert marked(lines, "not asked") == {"audit", "stores", "policy mounts", "externalsecrets"}
    assert lines["stores", None]["found"] == "needs permission externalsecrets"
    line = lines["permission", "externalsecrets"]
    assert line["found"] == f"may not list, watch, patch in {place.name}"
    assert "deploy/namespaced" in line["fix"]


def test_each_missing_right_is_reported(place: Place) -> None:
    with account(place, []) as made:
        for right in RBAC_RULES:
            for verb in right.verbs:
                made.rules(less(shipped_rules(), verb, right))
                red = by_mark(ask(place, **made.env, VAULTSYNC_NAMESPACES=""), Status.FAILED)
                reported = [(line.check, line.subject, line.found) for line in red if line.check is Check.PERMISSION]
                is_used = right.resource != "externalsecrets/status"  # this CRD does not take the condition
                assert reported == ([(Check.PERMISSION, right.label, f"may not {verb}")] if is_used else [])
        made.rules(shipped_rules())
        assert by_mark(ask(place, **made.env, VAULTSYNC_NAMESPACES=""), Status.FAILED) == []


def test_each_missing_right_in_its_own_namespace_is_reported(place: Place) -> None:
    """The other checks still run: without the right to Leases, ExternalSecrets can be listed."""
    with account(place, shipped_rules()) as made:
        for right in leader_rules(DEFAULT_LEASE, labels=True):
            env = {**made.env, **IN_A_POD}
            for verb in right.verbs:
                made.own_rules(less(shipped_rules("role"), verb, right))
                [line] = wrong(ask(place, **env))
                found = (line.status, line.check, line.subject, line.found)
                assert found == (Status.FAILED, Check.PERMISSION, right.label, f"may not {verb} in {NAMESPACE}")
                assert "--print-setup" in line.fix
        made.own_rules(shipped_rules("role"))
        assert wrong(ask(place, **env)) == []


def test_rights_in_its_own_namespace_are_required_only_if_they_are_used(place: Place) -> None:
    def asked_for(**env: str) -> set[str]:
        lines = [line for line in ask(place, **env) if line.check is Check.PERMISSION]
        return {line.subject for line in lines} & {right.label for right in leader_rules(DEFAULT_LEASE, labels=True)}

    with account(place, shipped_rules()) as made:
        lease = {"leases", "leases/vaultsync"}
        assert asked_for(**made.env) == set()
        assert asked_for(**made.env, VAULTSYNC_LEASE=DEFAULT_LEASE) == lease
        assert asked_for(**made.env, **IN_A_POD) == {*lease, "pods"}
        assert asked_for(**made.env, **IN_A_POD | {"VAULTSYNC_AUDIT_LISTEN": "unix:/run/audit"}) == lease
        assert asked_for(**made.env, **IN_A_POD, VAULTSYNC_DRY_RUN="true") == set()


def test_a_namespace_without_a_binding_is_named(place: Place, elsewhere: Place) -> None:
    with account(place, shipped_rules(), namespaces=(place.name,)) as made:
        both = f"{place.name},{elsewhere.name}"
        lines = check(place, code=1, env={**made.env, "VAULTSYNC_NAMESPACES": both})
        assert lines["permission", "events"]["found"] == f"may not create, patch in {elsewhere.name}"
        assert lines["permission", "clustersecretstores"]["found"] == "may not list, watch"


def test_rights_are_checked_in_each_namespace_that_the_selector_matches(place: Place, elsewhere: Place) -> None:
    for one in (place, elsewhere):
        place.kube.patch("v1", "Namespace", one.name, {"metadata": {"labels": {"check": place.name}}})
    outside = ("namespaces", "clustersecretstores")
    rules = [{**rule, "resources": [one for one in rule["resources"] if one in outside]} for rule in shipped_rules()]
    env = {"VAULTSYNC_NAMESPACES": "", "VAULTSYNC_NAMESPACE_SELECTOR": f"check={place.name}"}
    with account(place, [rule for rule in rules if rule["resources"]]) as made:
        place.kube.apply(made.binding(place.name, "vaultsync"))
        lines = check(place, code=1, env={**made.env, **env})
        assert lines["permission", "events"]["found"] == f"may not create, patch in {elsewhere.name}"
        assert lines["permission", "namespaces"]["mark"] == "ok"
        place.kube.apply(made.binding(elsewhere.name, "vaultsync"))
        assert marked(check(place, code=0, env={**made.env, **env}), "failed") == set()


def test_a_dry_run_needs_only_read_rights(place: Place) -> None:
    rules = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb in ("get", "list", "watch")]}
        for rule in shipped_rules()
    ]
    with account(place, [rule for rule in rules if rule["verbs"]]) as made:
        red = check(place, code=1, env=made.env)
        assert marked(red, "failed") == {"permission externalsecrets", "permission events"}
        lines = check(place, code=0, env={**made.env, "VAULTSYNC_DRY_RUN": "true"})
        assert lines["permission", "externalsecrets"]["found"] == "list, watch"
        assert ("permission", "events") not in lines


@pytest.mark.parametrize("what", ["no file", "no server", "no credentials"])
def test_without_kubernetes_the_other_checks_are_skipped(place: Place, what: str) -> None:
    text = place.testbed.identity.kubeconfig.read_text()
    if what == "no server":
        text = text.replace(place.testbed.kube_apiserver.address, f"https://127.0.0.1:{free_port()}")
    if what == "no credentials":
        text = text.replace(place.testbed.identity.kubernetes_token, "wrong")
    file = place.testbed.work / f"{place.name}.kubeconfig"
    if what != "no file":
        file.write_text(text)
    lines = check(place, code=1, env={"KUBECONFIG": str(file)})
    assert marked(lines, "failed") == {"kubernetes"}
    assert marked(lines, "not asked") == {"crds", "permission", "audit", "stores", "policy mounts", "externalsecrets"}
    assert lines["stores", None]["found"] == "needs kubernetes"


# -- Vault


@pytest.mark.parametrize("what", ["no server", "silent", "untrusted", "another"])
def test_without_vault_the_other_checks_are_skipped(place: Place, what: str) -> None:
    """The API server acts as a Vault with a self-signed certificate, and as a server that is not a Vault."""
    server = place.testbed.kube_apiserver
    env = {"VAULT_ADDR": server.address, "VAULTSYNC_VAULT_TIMEOUT": "1s"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if what in ("no server", "silent"):
            port = free_port() if what == "no server" else silent.getsockname()[1]
            env["VAULT_ADDR"] = f"http://127.0.0.1:{port}"
        if what == "another":
            env["VAULT_CACERT"] = str(server.ca)
        lines = check(place, code=1, env=env)
    assert {"vault"} <= marked(lines, "failed") <= {"vault", "stores"}
    assert marked(lines, "not asked") == {"login", "source", "audit", "policy", "externalsecrets"}
    assert ("VAULT_CACERT" in lines["vault", None]["fix"]) == (what == "untrusted")


def test_a_sealed_or_new_vault_is_reported(place: Place, tmp_path: Path) -> None:
    vault = Vault(tmp_path, place.testbed.binaries["vault"], "file")
    env = {"VAULT_ADDR": vault.address, "VAULTSYNC_STORE_SERVERS": place.testbed.vault.address}
    try:
        vault.start()
        vault.seal()
        sealed = check(place, code=1, env=env)
        assert marked(sealed, "failed") == {"vault"}
        assert marked(sealed, "not asked") == {"login", "source", "audit", "policy", "externalsecrets"}
        assert sealed["vault", None]["found"] == f"{vault.address} is sealed"
        done = sh(place.testbed, sealed["vault", None]["fix"] + f" {vault._unseal_key}", {})
        assert done.returncode == 0, done.stderr
        assert check(place, code=1, env={**env, "VAULT_TOKEN": ROOT_TOKEN})["vault", None]["mark"] == "ok"
    finally:
        vault.stop()


def test_an_uninitialised_vault_is_reported(place: Place, tmp_path: Path) -> None:
    class New(Vault):
        """Not initialised by the testbed."""

        def _unseal(self) -> None:
            pass

    vault = New(tmp_path, place.testbed.binaries["vault"], "file")
    vault.start()
    try:
        lines = check(place, code=1, env={"VAULT_ADDR": vault.address})
    finally:
        vault.stop()
    assert lines["vault", None]["found"] == f"{vault.address} is not initialised"


def test_an_unknown_token_is_reported(used: Place) -> None:
    lines = check(used, code=1, env={"VAULT_TOKEN": "hvs.wrong-and-not-to-be-seen"})
    assert marked(lines, "failed") == {"login"}
    assert marked(lines, "not asked") == {"source", "audit", "policy", "externalsecrets"}
    assert lines["login", None]["found"].startswith("Vault returned 403")


def test_a_root_token_fails_the_check(used: Place) -> None:
    lines = check(used, code=1, env={"VAULT_TOKEN": ROOT_TOKEN})
    assert marked(lines, "failed") == {"login"}
    assert marked(lines, "not asked") == {"policy"}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"ttl": "1h", "renewable": False, "no_parent": True}, "can't be renewed"),
        ({"ttl": "1h", "no_parent": True}, "no period"),
        ({"period": "1h", "explicit_max_ttl": "2h", "no_parent": True}, "explicit_max_ttl"),
        ({"period": "1h"}, "no orphan"),
        ({"period": "1h", "no_parent": True, "num_uses": 1000}, "more requests"),
    ],
)
def test_a_token_that_will_expire_is_a_warning(used: Place, made: Json, words: str) -> None:
    body = {"policies": ["vaultsync"], **made}
    token = used.vault.api.request("POST", "/v1/auth/token/create", body)["auth"]["client_token"]
    lines = check(used, code=0, env={"VAULT_TOKEN": token})
    assert marked(lines, "warning") == {"login"}
    assert words in lines["login", None]["found"]


def token_with(place: Place, text: str) -> str:
    place.vault.policy(f"vaultsync-{place.name}", text)
    return place.vault.token([f"vaultsync-{place.name}"])


@pytest.mark.parametrize("right", capabilities(SHIPPED), ids=str)
def test_each_missing_capability_is_reported_and_fixed(used: Place, right: Capability) -> None:
    """Follows the printed fix, except for the login, without which no other check runs."""
    token = token_with(used, without(SHIPPED, right))
    lines = [line for line in ask(used, VAULT_TOKEN=token) if line.status in (Status.FAILED, Status.WARNING)]
    if right.path == "auth/token/lookup-self":
        [line] = lines
        assert (line.check, line.status) == (Check.LOGIN, Status.FAILED)
        return
    if right.path == "auth/token/revoke-self":  # for other auth methods: vaultsync never revokes this token
        assert lines == []
        return
    first = next(line for line in lines if line.check is Check.POLICY)
    if right.path == "sys/capabilities-self":
        assert (first.status, lines) == (Status.WARNING, [first])
    else:
        place = right.path.split("/data/")[0].split("/subkeys/")[0].split("/metadata/")[0].removesuffix("*")
        assert first.status is Status.FAILED
        assert f"{right.capability} on " in first.found.replace(", ", " on , ")
        assert first.subject.strip("/") in (place.strip("/"), "sys/ and auth")
    command = first.fix.removeprefix("grant `update` on sys/capabilities-self: ")
    assert "vault policy write" in command
    done = sh(used.testbed, command, used.testbed.env)
    assert done.returncode == 0, done.stderr
    assert [line for line in ask(used, VAULT_TOKEN=token) if line.status in (Status.FAILED, Status.WARNING)] == []


@pytest.mark.parametrize(
    ("more", "of"),
    [
        ('path "secret/data/*" { capabilities = ["create", "update", "patch", "subscribe", "read"] }', "secret/"),
        ('path "secret/metadata/*" { capabilities = ["patch", "list", "subscribe", "delete"] }', "secret/"),
        ('path "kv1/*" { capabilities = ["create", "list", "subscribe", "update"] }', "kv1/"),
        ('path "sys/policies/acl/*" { capabilities = ["update"] }', "sys/ and auth/"),
        ('path "auth/token/create" { capabilities = ["update", "sudo"] }', "sys/ and auth/"),
    ],
)
def test_more_than_is_needed_is_a_warning(used: Place, more: str, of: str) -> None:
    lines = check(used, code=0, env={"VAULT_TOKEN": token_with(used, f"{SHIPPED}\n{more}")})
    assert marked(lines, "warning") == {f"policy {of}"}
    assert "but it may also" in lines["policy", of]["found"]


def test_without_seeding_fewer_capabilities_are_needed_and_more_are_reported(used: Place) -> None:
    lines = check(used, code=0, env={"VAULTSYNC_SEED": "off"})
    assert marked(lines, "warning") == {"policy secret/", "policy team/kv/", "policy kv1/"}
    assert "create, patch, update on secret/data/" in lines["policy", "secret/"]["found"]
    done = sh(used.testbed, "VAULTSYNC_SEED=off vaultsync policy --mount secret --mount team/kv --mount kv1=v1", {})
    env = {"VAULT_TOKEN": token_with(used, done.stdout)}
    assert marked(check(used, code=1, env=env), "failed") >= {"policy secret/", "policy team/kv/", "policy kv1/"}
    assert marked(check(used, code=0, env={**env, "VAULTSYNC_SEED": "off"}), "warning") == set()


def test_a_mount_without_readers_is_checked_too(place: Place) -> None:
    token = token_with(place, without(SHIPPED, Capability("secret/data/*", "create")))
    lines = check(place, code=1, env={"VAULT_TOKEN": token})
    assert lines["policy", "secret/"]["found"] == "may not create on secret/data/vaultsync-check"


def test_a_store_outside_of_every_kv_mount_is_reported(place: Place) -> None:
    place.store("wrong", path="cubbyhole")
    token = token_with(place, SHIPPED + 'path "cubbyhole/*" { capabilities = ["list"] }')
    lines = check(place, code=1, env={"VAULT_TOKEN": token})
    [(_, of)] = [key for key, line in lines.items() if line["mark"] == "failed"]
    assert of is not None
    assert of.startswith("cubbyhole/")


# -- the source


def test_the_audit_file_is_opened(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    env = {"VAULTSYNC_AUDIT_LISTEN": "", "VAULTSYNC_AUDIT_FILE": str(file), "VAULTSYNC_SOURCE": "audit"}
    assert "No such file" in check(place, code=1, env=env)["source", None]["found"]
    file.touch()
    silent = check(place, code=0, env=env)["source", None]
    assert silent["mark"] == "warning"
    assert "does not appear" in silent["found"]
    try:
        done = sh(
            place.testbed, silent["fix"].replace("enable file", f"enable -path={place.name} file"), place.testbed.env
        )
        assert done.returncode == 0, done.stderr
        assert check(place, code=0, env=env)["source", None]["mark"] == "ok"
        beside = check(place, code=0, env={**env, "VAULTSYNC_SOURCE": "auto"})["source", None]
        assert (beside["mark"], "the event stream" in beside["found"]) == ("ok", True)
    finally:
        place.vault.unaudit(place.name)


def test_the_port_of_a_running_vaultsync_is_left_alone(place: Place) -> None:
    """Port 1 of this address can be neither bound nor reached: the check does not try."""
    assert "127.0.0.1:1" in check(place, code=0)["source", None]["found"]


# -- audit devices


@pytest.fixture
def reader(place: Place) -> dict[str, str]:
    """The environment with a token that may list audit devices, by the documented policy block."""
    [block] = re.findall(r"```hcl\n(path \"sys/audit\".*?)```", (DOCS / "least-privilege.md").read_text(), re.DOTALL)
    return {"VAULT_TOKEN": token_with(place, f"{SHIPPED}\n{block}")}


@contextmanager
def receiver() -> Iterator[int]:
    """A TCP port to which Vault can write; it is never read."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def device(place: Place, **options: str) -> Iterator[str]:
    """Enables a socket device for this place; yields its path."""
    place.vault.audit(place.name, "socket", **options)
    try:
        yield f"{place.name}/"
    finally:
        place.vault.unaudit(place.name)


def elsewhere_from(port: int) -> str:
    """A host name that is not a loopback address by its spelling, and that Vault reaches."""
    return f"{socket.gethostname()}:{port}"


def ip_here() -> str:
    """The IP address behind that name."""
    return socket.gethostbyname(socket.gethostname())


def filled_in(fix: str) -> str:
    """The printed commands, with the IP address that the operator must fill in."""
    return fix.replace("address=IP:", f"address={ip_here()}:")


def test_a_tcp_device_that_can_block_vault_fails_and_the_printed_commands_fix_it(
    place: Place, reader: Mapping[str, str]
) -> None:
    with (
        receiver() as port,
        device(place, address=elsewhere_from(port), socket_type="tcp", write_timeout="3s", prefix="$x") as of,
    ):
        env = {**reader, "VAULTSYNC_AUDIT_LISTEN": f"udp:0.0.0.0:{port}"}
        line = check(place, code=1, env=env)["audit", of]
        assert line["mark"] == "failed"
        assert elsewhere_from(port) in line["found"]
        printed = run(place.testbed, "--print-setup", env={**place.testbed.identity.env, **env}).stdout
        assert f"#   {line['fix']}" in printed
        assert f"IP is the IP address of {socket.gethostname()}" in line["fix"]
        done = sh(place.testbed, filled_in(line["fix"]), place.testbed.env)
        assert done.returncode == 0, done.stderr
        [found] = [one for name, one in place.vault.api.request("GET", "/v1/sys/audit")["data"].items() if name == of]
        assert found["options"] == {
            "address": f"{ip_here()}:{port}",
            "socket_type": "udp",
            "write_timeout": "10ms",
        }
        lines = check(place, code=0, env=env)
        assert ("audit", of) not in lines  # fixed
        assert lines["audit", None]["mark"] in ("ok", "warning")  # other tests may have no second device


def test_a_device_without_a_socket_type_is_a_tcp_device(place: Place, reader: Mapping[str, str]) -> None:
    with receiver() as port, device(place, address=elsewhere_from(port)) as of:
        env = {**reader, "VAULTSYNC_AUDIT_LISTEN": f"127.0.0.1:{port}"}
        assert check(place, code=1, env=env)["audit", of]["mark"] == "failed"


def test_a_tcp_device_of_another_service_is_a_warning(place: Place, reader: Mapping[str, str]) -> None:
    with receiver() as port, device(place, address=elsewhere_from(port), socket_type="tcp") as of:
        line = check(place, code=0, env=reader)["audit", of]
        assert (line["mark"], "not vaultsync's" in line["fix"]) == ("warning", True)


def test_a_tcp_device_on_loopback_is_accepted(place: Place, reader: Mapping[str, str]) -> None:
    with receiver() as port:
        for host in ("127.0.0.1", "localhost"):
            with device(place, address=f"{host}:{port}", socket_type="tcp") as of:
                lines = check(place, code=0, env={**reader, "VAULTSYNC_AUDIT_LISTEN": f"tcp:127.0.0.1:{port}"})
                assert ("audit", of) not in lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "jsonx"}, "its format is jsonx"),
        ({"prefix": "audit: "}, "it has a prefix"),
        ({"log_raw": "true"}, "it has log_raw"),
        ({"socket_type": "tcp"}, "it sends by tcp, and vaultsync listens at udp:127.0.0.1:"),
    ],
)
def test_a_device_in_an_unreadable_format_is_a_warning_with_a_fix(
    place: Place, reader: Mapping[str, str], options: Mapping[str, str], words: str
) -> None:
    with (
        receiver() as port,
        device(place, **{"address": f"127.0.0.1:{port}", "socket_type": "udp", **options}) as of,
    ):
        env = {**reader, "VAULTSYNC_AUDIT_LISTEN": f"udp:127.0.0.1:{port}"}
        line = check(place, code=0, env=env)["audit", of]
        assert (line["mark"], words in line["found"]) == ("warning", True), line
        done = sh(place.testbed, line["fix"], place.testbed.env)
        assert done.returncode == 0, done.stderr
        assert ("audit", of) not in check(place, code=0, env=env)


def test_a_udp_device_without_a_short_write_timeout_is_a_warning_with_a_fix(
    place: Place, reader: Mapping[str, str]
) -> None:
    address = elsewhere_from(free_port())
    env = {**reader, "VAULTSYNC_AUDIT_LISTEN": f"udp:0.0.0.0:{address.rpartition(':')[2]}"}
    with device(place, address=address, socket_type="udp") as of:
        line = check(place, code=0, env=env)["audit", of]
        assert (line["mark"], "its write_timeout is missing" in line["found"]) == ("warning", True)
        done = sh(place.testbed, filled_in(line["fix"]), place.testbed.env)
        assert done.returncode == 0, done.stderr
        assert ("audit", of) not in check(place, code=0, env=env)


def test_no_device_and_only_one_device_are_warnings(place: Place, reader: Mapping[str, str], tmp_path: Path) -> None:
    api = place.vault.api
    others = {name.strip("/"): one for name, one in api.request("GET", "/v1/sys/audit")["data"].items()}
    env = {**reader, "VAULTSYNC_AUDIT_LISTEN": f"udp:127.0.0.1:{free_port()}"}
    try:
        for name in others:
            place.vault.unaudit(name)
        none = check(place, code=0, env=env)["audit", None]
        assert (none["mark"], none["found"][:26]) == ("warning", "0 devices, none of which w")
        assert "socket_type=udp" in none["fix"]
        with device(place, address=env["VAULTSYNC_AUDIT_LISTEN"].removeprefix("udp:"), socket_type="udp") as of:
            alone = check(place, code=0, env=env)["audit", None]
            assert (alone["mark"], f"{of} is the only device" in alone["found"]) == ("warning", True)
            command = alone["fix"].replace("/vault/logs", str(tmp_path))
            done = sh(place.testbed, command, place.testbed.env)
            assert done.returncode == 0, done.stderr
            well = check(place, code=0, env=env)["audit", None]
            assert (well["mark"], well["found"]) == ("ok", f"2 devices; {of} for vaultsync")
    finally:
        place.vault.unaudit("file")
        for name, one in others.items():
            place.vault.audit(name, one["type"], **one["options"])


def test_without_the_right_to_list_devices_the_line_says_what_to_check(place: Place) -> None:
    line = check(place, code=0)["audit", None]
    assert line["mark"] == "not asked"
    for words in ("`read` and `sudo` on sys/audit", "`vault audit list -detailed`", "socket_type is tcp or missing"):
        assert words in line["found"]


@pytest.mark.parametrize(
    ("listen", "is_reported"),
    [
        ("0.0.0.0:8220", True),
        ("tcp:0.0.0.0:8220", True),
        ("[::]:8220", True),
        ("127.0.0.1:8220", False),
        ("tcp:[::1]:8220", False),
        ("udp:0.0.0.0:8220", False),
        ("unix:/run/vaultsync/audit", False),
    ],
)
def test_listening_by_tcp_for_other_machines_is_a_warning(place: Place, listen: str, is_reported: bool) -> None:
    lines = [line for line in ask(place, VAULTSYNC_AUDIT_LISTEN=listen) if line.subject == "VAULTSYNC_AUDIT_LISTEN"]
    assert [line.status for line in lines] == [Status.WARNING] * is_reported
    assert all("VAULTSYNC_AUDIT_LISTEN=udp:" in line.fix and "socket_type=udp" in line.fix for line in lines)


def test_a_variable_of_an_earlier_version_is_a_warning(place: Place) -> None:
    line = check(place, code=0, env={"VAULTSYNC_POD_IP": "192.0.2.7"})["settings", "VAULTSYNC_POD_IP"]
    assert (line["mark"], "VAULTSYNC_POD_NAME" in line["fix"]) == ("warning", True)


# -- stores and ExternalSecrets


def test_a_store_with_another_address_of_this_vault_is_reported_and_fixed(place: Place) -> None:
    address = place.testbed.vault.address.replace("127.0.0.1", "localhost")
    place.store("spelled", server=address)
    place.store("foreign", server="http://elsewhere.invalid:8200")
    line = check(place, code=0)["stores", None]
    assert line["mark"] == "warning"
    assert line["found"] == (
        f"1 in this Vault; 1 in what may be this Vault by another address: SecretStore {place.name}/spelled"
    )
    name, _, value = line["fix"].split()[-1].partition("=")
    assert (name, value) == ("VAULTSYNC_STORE_SERVERS", address)
    fixed = check(place, code=0, env={name: value})["stores", None]
    assert fixed["found"] == f"2 in this Vault, 1 in another: SecretStore {place.name}/foreign"


def test_the_check_fails_if_no_store_uses_this_vault(place: Place, elsewhere: Place) -> None:
    place.kube.delete("external-secrets.io/v1", "SecretStore", "vault", place.name)
    assert check(place, code=0)["stores", None]["mark"] == "warning"
    place.store("foreign", server="http://elsewhere.invalid:8200")
    line = check(place, code=1)["stores", None]
    assert (line["mark"], line["found"]) == (
        "failed",
        f"0 in this Vault, 1 in another: SecretStore {place.name}/foreign",
    )


def test_the_first_blocked_external_secret_is_reported(used: Place) -> None:
    used.external_secret("aaa", {"a": (f"else-{used.name}/a", "password")}, annotations=SEED, absolute=True)
    used.external_secret("bbb", {"a": ("x", "password")}, annotations={"vaultsync.io/seed": "yes"})
    used.external_secret("ccc", {"a": (f"else-{used.name}/a", "password")}, absolute=True)  # seeding is not requested
    line = check(used, code=1)["externalsecrets", None]
    assert line["found"].startswith(f"{used.name}/aaa is blocked (and 1 more): ")
    assert "VAULTSYNC_SEED_PATHS" in line["found"]
    assert line["fix"] == f"vaultsync explain {used.name}/aaa, and for all: vaultsync plan"


def test_it_is_a_warning_if_no_external_secret_requests_seeding(place: Place) -> None:
    place.external_secret("app", {"a": ("new", "password")})
    line = check(place, code=0)["externalsecrets", None]
    assert line["mark"] == "warning"
    assert check(place, code=0, env={"VAULTSYNC_SEED": "all"})["externalsecrets", None]["mark"] == "ok"
    done = sh(place.testbed, line["fix"], place.testbed.env)
    assert done.returncode == 0, done.stderr
    assert check(place, code=0)["externalsecrets", None]["mark"] == "ok"


# -- from nothing


@pytest.fixture(scope="module")
def bare() -> Iterator[Testbed]:
    """Servers without any set-up, not even external-secrets' CRDs."""
    made = Testbed(Options(eso=False))
    with made:
        yield made


def as_vaultsync(testbed: Testbed, more: Mapping[str, str]) -> dict[str, str]:
    """The environment with the objects that were set up in Kubernetes, and no more."""
    token = testbed.kube.token_for("vaultsync", NAMESPACE)
    kubeconfig = testbed.kube_apiserver.kubeconfig(testbed.work / "own.kubeconfig", token, NAMESPACE)
    return {"KUBECONFIG": str(kubeconfig), "VAULT_ADDR": testbed.vault.address, **IN_A_POD, **more}


def kept_in(testbed: Testbed, secret: str) -> dict[str, str]:
    """The values of a Secret that the printed commands created."""
    values = testbed.kube.secret_values(secret, NAMESPACE)
    assert values is not None
    return values


def with_stores(testbed: Testbed, *namespaces: str) -> None:
    """Installs external-secrets' CRDs, and two stores in each namespace."""
    apply_crds(testbed.kube)
    for name in namespaces:
        testbed.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for store, path in (("a", "secret"), ("b", "team/kv")):
            provider: Json = {"server": testbed.vault.address, "path": path, "version": "v2"}
            provider["auth"] = {"tokenSecretRef": {"name": "x", "key": "x"}}
            testbed.kube.apply(
                {
                    "apiVersion": "external-secrets.io/v1",
                    "kind": "SecretStore",
                    "metadata": {"name": store, "namespace": name},
                    "spec": {"provider": {"vault": provider}},
                }
            )


def all_is_well(testbed: Testbed, env: Mapping[str, str]) -> None:
    ended = run(testbed, "-o", "json", env=env)
    lines = json.loads(ended.stdout)["checks"]
    assert [(line["check"], line["mark"]) for line in lines if line["mark"] != "ok"] == [("audit", "not asked")]
    assert ended.returncode == 0
    assert run(testbed, "--print-setup", env=env).stdout.endswith("\n# Nothing is missing.\n")


@pytest.mark.parametrize("settings", [{"VAULTSYNC_NAMESPACES": "shop,web"}, {}, {"VAULTSYNC_SEED": "off"}], ids=str)
def test_the_printed_commands_set_everything_up_from_nothing(bare: Testbed, settings: Mapping[str, str]) -> None:
    """An admin runs it repeatedly; the set-up is sufficient and minimal."""
    admin = {**bare.env, **LISTENS, **settings}
    if bare.kube.api.find("/apis/external-secrets.io") is None:
        ended = run(bare, "-o", "json", env=admin)
        lines = {line["check"]: line for line in json.loads(ended.stdout)["checks"]}
        assert lines["crds"]["mark"] == "failed"
        assert "install external-secrets" in lines["crds"]["fix"]
        assert lines["stores"]["found"] == "needs crds"
        assert "# external-secrets is missing" in run(bare, "--print-setup", env=admin).stdout
    with_stores(bare, "shop", "web")
    printed = run(bare, "--print-setup", env=admin)
    assert (printed.returncode, printed.stderr) == (0, "")
    for _ in range(2):
        done = sh(bare, printed.stdout, bare.env)
        assert done.returncode == 0, done.stderr
    own = as_vaultsync(bare, {"VAULT_TOKEN": kept_in(bare, "vaultsync-vault-token")["token"], **settings})
    all_is_well(bare, own)
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        for name in ("vaultsync", "vaultsync-cluster"):
            bare.kube.delete(RBAC, kind, name)
    for name in ("shop", "web", NAMESPACE):
        bare.kube.delete(RBAC, "RoleBinding", "vaultsync", name)
    assert "failed" in {line["mark"] for line in json.loads(run(bare, "-o", "json", env=own).stdout)["checks"]}


def test_without_settings_every_command_is_printed(bare: Testbed) -> None:
    printed = run(bare, "--print-setup", env={})
    assert (printed.returncode, printed.stderr) == (0, "")
    done = sh(bare, printed.stdout, bare.env)
    assert done.returncode == 0, done.stderr
    assert "VAULT_ADDR" not in printed.stdout


# -- from nothing, with each auth method


class FromNothing:
    """An auth method without any set-up: not enabled, no policy, no role, no Secret."""

    def __init__(self, testbed: Testbed, folder: Path, method: str, mount: str, *, in_files: bool = False) -> None:
        self.testbed = testbed
        self.method, self.mount = method, mount
        self.files = {name: folder / name for name in ("jwt", "role-id", "secret-id")} if in_files else {}
        self.jwt = folder / "jwt"
        root = testbed.vault_root.api
        for path in (f"/v1/sys/auth/{mount}", "/v1/sys/policies/acl/vaultsync"):
            root.request("DELETE", path)
        testbed.kube.delete("v1", "Secret", "vaultsync-vault-approle", NAMESPACE)
        self.role = f"/v1/auth/{mount}/role/" + ("vaultsync" if method == "approle" else "seeder")

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the login, with placeholders for missing values."""
        given = {"VAULTSYNC_VAULT_AUTH": self.method, "VAULTSYNC_VAULT_AUTH_MOUNT": self.mount}
        if self.method != "approle":
            return given | {"VAULTSYNC_VAULT_ROLE": "seeder", "VAULTSYNC_VAULT_JWT_FILE": str(self.jwt)}
        if self.files:
            names = {"VAULTSYNC_VAULT_ROLE_ID_FILE": "role-id", "VAULTSYNC_VAULT_SECRET_ID_FILE": "secret-id"}
            return given | {variable: str(self.files[name]) for variable, name in names.items()}
        kept = self.testbed.kube.secret_values("vaultsync-vault-approle", NAMESPACE) or {}
        ids = {"VAULTSYNC_VAULT_ROLE_ID": "role-id", "VAULTSYNC_VAULT_SECRET_ID": "secret-id"}
        return given | {variable: kept.get(name, "not-yet") for variable, name in ids.items()}

    def mint(self) -> None:
        """Requests the token from Kubernetes, as the kubelet does in the pod of deploy/base."""
        self.jwt.write_text(self.testbed.kube.token_for("vaultsync", NAMESPACE, 600, ["vault"]))

    def configure(self) -> None:
        """The parts that only an operator knows: the reviewer or the signer of the tokens."""
        known = {"kubernetes": reviewer, "jwt": signers}.get(self.method)
        if known:
            self.testbed.vault_root.api.request("POST", f"/v1/auth/{self.mount}/config", known(self.testbed))

    def state(self) -> list[object]:
        """Everything that the commands change."""
        api = self.testbed.vault_root.api
        paths = (f"/v1/auth/{self.mount}/config", self.role, f"{self.role}/role-id", f"{self.role}/secret-id?list=true")
        found: list[object] = [found and found["data"] for found in map(api.find, paths)]
        found.append(api.request("GET", "/v1/sys/policies/acl/vaultsync")["data"]["policy"])
        found.append(api.request("GET", "/v1/sys/auth")["data"])
        kept = [file.read_text() for file in self.files.values() if file.exists()]
        return [*found, kept, self.testbed.kube.secret_values("vaultsync-vault-approle", NAMESPACE)]

    def run(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the commands as an admin of both; Vault does not run in a pod here. The output has no secrets."""
        server = self.testbed.kube_apiserver
        own = f"kubernetes_host={server.address} kubernetes_ca_cert=@{server.ca} disable_local_ca_jwt=true"
        script = script.replace("kubernetes_host=https://kubernetes.default.svc", own)
        if self.testbed.options.is_openbao:
            script = re.sub(r"\bvault (auth|policy|read|write) ", r"bao \1 ", script)
        done = sh(self.testbed, script, {**self.testbed.env, **env})
        secret = {text for name, text in self.settings.items() if name.endswith("_ID")} - {"not-yet"}
        secret |= {file.read_text() for file in self.files.values() if file.exists()}
        assert not [text for text in secret if text in done.stdout + done.stderr]
        return done


def nearly_an_admin(testbed: Testbed) -> str:
    """A token with all rights except to list the auth methods."""
    everything = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
    testbed.vault_root.policy("nearly", f'{everything}\npath "sys/auth" {{ capabilities = ["deny"] }}')
    return testbed.vault_root.token(["nearly"])


@pytest.mark.parametrize(
    ("method", "mount", "in_files"),
    [
        ("kubernetes", "kubernetes", False),
        ("kubernetes", "team/cluster-a", False),
        ("approle", "approle", False),
        ("approle", "team/approle", True),
        ("jwt", "jwt", False),
    ],
)
def test_the_printed_commands_set_up_the_login_from_nothing(
    bare: Testbed, tmp_path: Path, method: str, mount: str, in_files: bool
) -> None:
    """A second run changes nothing: neither an operator's changes, nor if Vault refuses to answer."""
    with_stores(bare, "shop")
    way = FromNothing(bare, tmp_path, method, mount, in_files=in_files)
    admin = {**bare.env, **LISTENS, "VAULT_TOKEN": ""}
    ended = run(bare, "-o", "json", env=admin | way.settings)
    [login] = [line for line in json.loads(ended.stdout)["checks"] if line["check"] == "login"]
    assert (ended.returncode, login["mark"]) == (1, "failed")
    assert "vaultsync check --print-setup" in login["fix"]

    printed = run(bare, "--print-setup", env=admin | way.settings)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "vault token create" not in printed.stdout
    done = way.run(printed.stdout)
    assert done.returncode == 0, done.stderr
    way.mint()
    way.configure()
    all_is_well(bare, as_vaultsync(bare, way.settings))

    before = way.state()
    assert way.run(printed.stdout).returncode == 0
    assert way.state() == before
    refused = way.run(printed.stdout, VAULT_TOKEN=nearly_an_admin(bare))
    assert (refused.returncode != 0, "Error listing enabled authentications" in refused.stderr) == (True, True)
    assert way.state() == before
    all_is_well(bare, as_vaultsync(bare, way.settings))


def test_the_token_is_written_to_the_file_of_the_settings(bare: Testbed, tmp_path: Path) -> None:
    with_stores(bare, "shop")
    file = tmp_path / "token"
    admin = {**bare.env, **LISTENS, "VAULT_TOKEN": "", "VAULT_TOKEN_FILE": str(file)}
    [login] = [
        line for line in json.loads(run(bare, "-o", "json", env=admin).stdout)["checks"] if line["check"] == "login"
    ]
    assert (login["mark"], "VAULT_TOKEN " in login["fix"]) == ("failed", False)
    assert login["fix"].startswith("write a token there, such as of vault token create ")
    done = sh(bare, run(bare, "--print-setup", env=admin).stdout, bare.env)
    assert done.returncode == 0, done.stderr
    assert file.read_text() not in done.stdout + done.stderr
    assert file.stat().st_mode & 0o077 == 0
    all_is_well(bare, as_vaultsync(bare, {"VAULT_TOKEN_FILE": str(file)}))


def test_a_secret_id_that_the_role_no_longer_knows_is_replaced(bare: Testbed, tmp_path: Path) -> None:
    with_stores(bare, "shop")
    way = FromNothing(bare, tmp_path, "approle", "approle")
    admin = {**bare.env, **LISTENS, "VAULT_TOKEN": ""}
    printed = run(bare, "--print-setup", env=admin | way.settings).stdout
    assert way.run(printed).returncode == 0
    lost = way.settings
    secret_id = {"secret_id": lost["VAULTSYNC_VAULT_SECRET_ID"]}
    bare.vault_root.api.request("POST", f"{way.role}/secret-id/destroy", secret_id)
    ended = run(bare, "-o", "json", env=as_vaultsync(bare, lost))
    [login] = [line for line in json.loads(ended.stdout)["checks"] if line["check"] == "login"]
    assert (login["mark"], "role ID" in login["fix"]) == ("failed", True)
    done = way.run(run(bare, "--print-setup", env=as_vaultsync(bare, lost)).stdout)
    assert done.returncode == 0, done.stderr
    all_is_well(bare, as_vaultsync(bare, way.settings))
