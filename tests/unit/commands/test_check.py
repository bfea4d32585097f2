"""core/check, core/rights and core/setup: what each finding is called, and that nothing drifts from what is shipped.

Real findings are in tests/integration/test_check.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.unit.build import V1, V2, path, run
from tests.unit.servers import answer, http_server
from tests.unit.vault.test_client import with_client
from vaultsync.cli import main
from vaultsync.commands import output as tables
from vaultsync.commands.check import report as check
from vaultsync.commands.check.audit_devices import AuditDevice
from vaultsync.commands.check.rbac import LEASE, RIGHTS, Question, Right, leading, questions, rights
from vaultsync.commands.check.report import AuditFile, Hearing, Line, Mark, Name, Stream
from vaultsync.commands.check.setup import OWN, Account, Missing, script
from vaultsync.commands.vault_policy import Asked, asked, policy, stand_ins
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.core.errors import VaultDenied, VaultUnavailable
from vaultsync.core.paths import Mount
from vaultsync.core.seed_paths import DEFAULT, SeedPaths
from vaultsync.vault.api import Health, Token
from vaultsync.vault.auth_methods import Credential, KubernetesMethod
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.transport import VaultAccess

DEPLOY = Path(__file__).parents[3] / "deploy"
HERE = "http://vault.test:8200"
FIX = "vaultsync policy | vault policy write vaultsync -"
GOOD = Token(("default", "vaultsync"), 3600.0, True, 86400.0, 0.0, True, 0)
AWAY = Stream(connected=False, refused=True, reason="Vault returned 404")
THERE = Stream(connected=True)

Rules = set[tuple[str, str, str]]


def shipped(file: str, kind: str) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / file).read_text())
    return [one for one in documents if one["kind"] == kind]


def granted(rules: list[dict[str, Any]]) -> Rules:
    """Group, resource and verb of each."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(listed: tuple[Right, ...]) -> Rules:
    return {(right.group, right.resource, verb) for right in listed for verb in right.verbs}


LEADING = leading(LEASE, labels=True)
ODD_DEVICE = AuditDevice("it's $(id)", "socket", {"address": "`id` id"}, '"; id')


def by_name(rules: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """The resource and verb of each rule, with the name that limits it after a slash."""
    return {
        (f"{resource}{name}", verb)
        for rule in rules
        for resource in rule["resources"]
        for name in [f"/{name}" for name in rule.get("resourceNames", ())] or [""]
        for verb in rule["verbs"]
    }


# -- rights


def test_the_rights_are_those_of_the_shipped_cluster_role() -> None:
    [role] = shipped("base/clusterrole.yaml", "ClusterRole")
    assert used(RIGHTS) == granted(role["rules"])
    assert len(used(RIGHTS)) == sum(len(right.verbs) for right in RIGHTS)


def test_the_rights_outside_of_namespaces_are_those_of_the_namespaced_role() -> None:
    [role] = shipped("namespaced/cluster.yaml", "ClusterRole")
    assert used(tuple(right for right in RIGHTS if not right.in_namespaces)) == granted(role["rules"])


def test_the_rights_in_the_own_namespace_are_those_of_the_shipped_role() -> None:
    [role] = shipped("base/role.yaml", "Role")
    assert {(right.label, verb) for right in LEADING for verb in right.verbs} == by_name(role["rules"])
    assert {(right.group, right.resource, verb) for right in LEADING for verb in right.verbs} == granted(role["rules"])
    assert {right.namespace for right in LEADING} == {role["metadata"]["namespace"]}


def test_only_who_leads_by_a_lease_has_use_for_them() -> None:
    assert leading("", labels=True) == ()
    assert [right.label for right in leading("a/b", labels=False)] == ["leases", "leases/b"]
    assert [right.label for right in leading("a/b", labels=True)] == ["leases", "leases/b", "pods"]
    assert {right.namespace for right in leading("a/b", labels=True)} == {"a"}


def test_they_are_asked_about_by_name_in_their_namespace_alone() -> None:
    for watched in ((), ("shop", "web")):
        found = [question for right in leading("a/b", labels=True) for question in questions(right, watched)]
        assert found[0] == Question("coordination.k8s.io", "leases", "create", "a")
        assert found[1] == Question("coordination.k8s.io", "leases", "get", "a", "b")
        assert found[-1] == Question("", "pods", "patch", "a")
        assert len(found) == 6


def test_less_is_used_in_a_dry_run_and_without_the_condition() -> None:
    assert rights(writes=True, takes_condition=True) == RIGHTS
    assert used(RIGHTS) - used(rights(writes=True, takes_condition=False)) == {
        ("external-secrets.io", "externalsecrets/status", "patch")
    }
    dry = rights(writes=False, takes_condition=True)
    assert {verb for right in dry for verb in right.verbs} == {"list", "watch"}
    assert used(dry) == {one for one in used(RIGHTS) if one[2] in ("list", "watch")}


def test_each_namespace_is_asked_about_by_name() -> None:
    by_resource = {right.resource: questions(right, ("shop", "web")) for right in RIGHTS}
    assert by_resource["events"][:2] == [
        Question("", "events", "create", "shop"),
        Question("", "events", "create", "web"),
    ]
    assert by_resource["namespaces"][0] == Question("", "namespaces", "list", "", "shop")
    assert by_resource["clustersecretstores"][0] == Question("external-secrets.io", "clustersecretstores", "list")
    assert all(question.namespace == "" for right in RIGHTS for question in questions(right, ()))


# -- what is printed to set up


def manifests(text: str) -> list[dict[str, Any]]:
    """Those in the script."""
    return list(yaml.safe_load_all(text.split("<<'EOF'\n")[1].split("EOF\n", maxsplit=1)[0]))


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in found if one["kind"] == kind]


def test_the_printed_manifests_are_those_of_deploy_base() -> None:
    found = manifests(script(Missing(rights=(*RIGHTS, *LEADING))))
    for kind, file in {
        "ClusterRoleBinding": "clusterrolebinding",
        "ServiceAccount": "serviceaccount",
        "RoleBinding": "rolebinding",
    }.items():
        assert of_kind(found, kind) == shipped(f"base/{file}.yaml", kind)
    [role], [shipped_role] = of_kind(found, "ClusterRole"), shipped("base/clusterrole.yaml", "ClusterRole")
    assert role["metadata"] == shipped_role["metadata"]
    assert granted(role["rules"]) == granted(shipped_role["rules"])
    [role], [shipped_role] = of_kind(found, "Role"), shipped("base/role.yaml", "Role")
    assert role["metadata"] == shipped_role["metadata"]
    assert by_name(role["rules"]) == by_name(shipped_role["rules"])
    assert granted(role["rules"]) == granted(shipped_role["rules"])
    assert [one["metadata"]["name"] for one in of_kind(found, "Namespace")] == ["vaultsync"]


def test_the_printed_manifests_for_namespaces_are_those_of_deploy_namespaced() -> None:
    found = manifests(script(Missing(rights=RIGHTS, namespaces=("team-a",))))
    assert of_kind(found, "RoleBinding") == shipped("namespaced/rolebinding.yaml", "RoleBinding")
    whole, outside = of_kind(found, "ClusterRole")
    [role] = shipped("namespaced/cluster.yaml", "ClusterRole")
    assert granted(whole["rules"]) == used(RIGHTS)
    assert outside["metadata"] == role["metadata"]
    assert granted(outside["rules"]) == granted(role["rules"])
    names = [rule["resourceNames"] for rule in (*outside["rules"], *role["rules"]) if "resourceNames" in rule]
    assert names == [["team-a"], ["team-a"]]


def test_a_watched_namespace_that_is_its_own_has_two_bindings() -> None:
    found = manifests(script(Missing(rights=(*RIGHTS, *LEADING), namespaces=("team-a", "vaultsync"))))
    bound = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["roleRef"]["kind"]
        for one in of_kind(found, "RoleBinding")
    }
    assert bound == {
        ("team-a", "vaultsync"): "ClusterRole",
        ("vaultsync", "vaultsync"): "Role",
        ("vaultsync", "vaultsync-watched"): "ClusterRole",
    }


def test_what_is_there_is_not_printed() -> None:
    assert script(Missing()).endswith("# Nothing is missing.\n")
    text = script(Missing(login=True, policy_name="vaultsync-2"))
    assert "policy write" not in text
    assert "kubectl apply -f" not in text
    assert "-policy=vaultsync-2 " in text


@pytest.mark.parametrize(
    "missing",
    [
        Missing(),
        Missing(audit=f"{ODD_DEVICE.enable(None)} # it's", devices=(ODD_DEVICE.again(),), seeded="shop", crds=True),
        Missing(
            rights=(*RIGHTS, *LEADING),
            account=Account("x", "y"),
            namespaces=("shop", "web"),
            policy=policy(SeedPaths.parse(["*/it's/$(id)/`id`/{namespace}/**"]), [Mount("a b'c/", 2)], seeds=True),
            policy_name="vaultsync-'$(id)",
            login=True,
            address='https://vault/$(id)`id`"}x',
            vault_namespace="team $a",
        ),
        Missing(login=True, way=AuthConfig(Auth.KUBERNETES, "it's/$(id)", "`id`'"), policy_name="$(id)'"),
        Missing(login=True, way=AuthConfig(Auth.APPROLE, 'it"s/$(id)')),
        Missing(login=True, way=AuthConfig(Auth.APPROLE, role_id_file="it's $(id)", secret_id_file="`id`")),
        Missing(login=True, way=AuthConfig(Auth.JWT, "`id`", jwt_file="$(id)")),
        Missing(is_other=True, policy="x", way=AuthConfig(Auth.JWT, "`id`", jwt_file="$(id)")),
    ],
    ids=["nothing", "comments", "all", "kubernetes", "approle", "files", "jwt", "others' role"],
)
def test_a_shell_takes_it_and_nothing_in_it_is_run(missing: Missing, tmp_path: Path) -> None:
    """`kubectl` and `vault` stand in for real ones: they show what they are given."""
    for name in ("kubectl", "vault"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "$VAULT_ADDR|$VAULT_NAMESPACE|$*" >&2; cat >/dev/null; echo made\n')
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    file = tmp_path / "setup.sh"  # what these read of stdin must not be the rest of it
    file.write_text(script(missing))
    done = subprocess.run(["sh", file], env=env, text=True, capture_output=True, check=True, cwd=tmp_path)
    assert "uid=" not in done.stdout + done.stderr
    if missing.login and not missing.way.issues:
        calls = set(done.stderr.splitlines())
        place = f"{missing.address}|{missing.vault_namespace}|"
        assert f"{place}policy write {missing.policy_name} -" in calls
        assert f"{place}token create -orphan -policy={missing.policy_name} -period=24h -field=token" in calls


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("system:serviceaccount:vaultsync:vaultsync", OWN),
        ("system:serviceaccount:a:b", Account("a", "b")),
        ("admin", None),
        ("system:node:a", None),
        ("x-system:serviceaccount:a:b", None),
        ("", None),
    ],
)
def test_accounts(user: str, account: Account | None) -> None:
    assert Account.of(user) == account


# -- capabilities


def test_what_is_asked_for_is_what_the_policy_grants() -> None:
    found = {one.path: one for one in asked(V2, "dev-1/db", creates=True, seeds=True, streams=True)}
    writes = {"create", "update", "patch", "subscribe"}
    assert found["secret/data/dev-1/db"] == Asked("secret/data/dev-1/db", frozenset(writes), frozenset(writes))
    assert found["secret/subkeys/dev-1/db"].needed == {"read"}
    assert found["secret/metadata/dev-1/db"].needed == {"patch", "subscribe"}
    assert found["secret/metadata/dev-1/"].needed == {"list"}
    assert len(found) == 4
    old = {one.path: one.needed for one in asked(V1, "a", creates=True, seeds=True, streams=False)}
    assert old == {"kv1/a": {"create"}, "kv1/": {"list"}}


def test_what_is_only_read_needs_less_but_may_have_more() -> None:
    found = {one.path: one for one in asked(V2, "a", creates=False, seeds=True, streams=False)}
    data = found["secret/data/a"]
    assert not data.needed
    assert data.most == {"create", "update", "patch", "subscribe"}
    off = {one.path: one for one in asked(V2, "a", creates=False, seeds=False, streams=False)}
    assert off["secret/data/a"].most == {"subscribe"}
    assert off["secret/metadata/a"].most == {"list", "subscribe"}


@pytest.mark.parametrize(
    ("globs", "found"),
    [
        (DEFAULT, {"vaultsync-check": True}),
        (["*/apps/{namespace}/**"], {"apps/vaultsync-check/vaultsync-check": True}),
        (["*/apps/db-*"], {"apps/db-vaultsync-check": True}),
        (["other/apps/x"], {"vaultsync-check": False}),
        (["team:*/x/y"], {"vaultsync-check": False}),
    ],
)
def test_stand_ins(globs: list[str], found: dict[str, bool]) -> None:
    assert stand_ins(SeedPaths.parse(globs), V2, "") == found


# -- lines


def test_every_check_is_not_asked_after_a_wrong_setting() -> None:
    lines = check.wrong_settings([("VAULT_ADDR", "is not set"), ("", "VAULTSYNC_AUDIT_TLS_KEY needs …")])
    assert [line.of for line in lines if line.mark is Mark.FAILED] == ["VAULT_ADDR", ""]
    assert [line.check for line in lines if line.mark is Mark.NOT_ASKED] == [*Name][1:]


KINDS = ("externalsecrets", "secretstores")
ALL = frozenset(KINDS)


@pytest.mark.parametrize(
    ("served", "mark", "found"),
    [
        ({"v1": ALL, "v1beta1": ALL}, Mark.OK, "external-secrets.io/v1 (served: v1, v1beta1)"),
        ({"v1alpha1": frozenset(), "v1beta1": ALL}, Mark.OK, "external-secrets.io/v1beta1 (served: v1alpha1, v1beta1)"),
        ({"v1alpha1": frozenset()}, Mark.FAILED, "external-secrets.io is not served but in v1alpha1"),
        ({}, Mark.FAILED, "external-secrets.io is not served"),
        ({"v1": frozenset({"externalsecrets"})}, Mark.FAILED, "external-secrets.io/v1 has no secretstores"),
    ],
)
def test_crds(served: Mapping[str, frozenset[str]], mark: Mark, found: str) -> None:
    line = check.crds(served, ("v1", "v1beta1"), KINDS)
    assert (line.mark, line.found, bool(line.fix)) == (mark, found, mark is Mark.FAILED)


EVENTS = RIGHTS[-1]


@pytest.mark.parametrize(
    ("user", "by_namespace", "words"),
    [
        ("", False, "kubectl apply -k . in your overlay of deploy/base, or"),
        (check.SERVICE_ACCOUNT, True, "kubectl apply -k . in your overlay of deploy/namespaced"),
        ("system:serviceaccount:a:b", False, "--print-setup` prints, or as system:serviceaccount:vaultsync:vaultsync"),
    ],
)
def test_permissions(user: str, by_namespace: bool, words: str) -> None:
    assert check.permission(EVENTS, [], user, by_namespace=by_namespace) == Line(
        Name.PERMISSION, Mark.OK, "create, patch", of="events"
    )
    everywhere = check.permission(EVENTS, [Question("", "events", "patch")], user, by_namespace=by_namespace)
    assert (everywhere.mark, everywhere.found) == (Mark.FAILED, "may not patch")
    assert words in everywhere.fix
    many = [Question("", "events", verb, f"ns-{number}") for verb in EVENTS.verbs for number in range(9)]
    told = check.permission(EVENTS, many, user, by_namespace=True).found
    assert told == "may not create, patch in ns-0, ns-1, ns-2 and 6 more"


@pytest.mark.parametrize(
    ("health", "mark", "words"),
    [
        (Health(True, False, False, "1.15.1"), Mark.OK, f"1.15.1 at {HERE}, unsealed, active"),
        (Health(True, False, True, "1.15.1"), Mark.OK, "standby"),
        (Health(True, True, True, "1.15.1"), Mark.FAILED, "is sealed"),
        (Health(False, True, True, "1.15.1"), Mark.FAILED, "is not initialised"),
    ],
)
def test_vault(health: Health, mark: Mark, words: str) -> None:
    line = check.vault(HERE, health)
    assert (line.mark, words in line.found) == (mark, True)


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({}, Mark.OK, "policies default, vaultsync; it ends in 1h, and vaultsync renews it"),
        ({"ttl": 0.0, "renewable": False, "period": 0.0}, Mark.OK, "it does not end"),
        ({"policies": ("root",), "ttl": 0.0}, Mark.FAILED, "a root token"),
        ({"renewable": False}, Mark.WARNING, "ends in 1h and can't be renewed"),
        ({"period": 0.0}, Mark.WARNING, "can't be renewed for ever"),
        ({"max_ttl": 7200.0}, Mark.WARNING, "explicit_max_ttl"),
        ({"orphan": False}, Mark.WARNING, "ends with the token that made it"),
        ({"uses": 5, "orphan": False}, Mark.WARNING, "ends after 5 more requests, and ends with"),
    ],
)
def test_login(changes: dict[str, Any], mark: Mark, words: str) -> None:
    line = check.login(replace(GOOD, **changes), AuthConfig())
    assert (line.mark, bool(line.fix)) == (mark, mark is not Mark.OK)
    assert words in line.found


WAYS = (
    AuthConfig(Auth.KUBERNETES, role="seeder"),
    AuthConfig(Auth.APPROLE, "team/approle"),
    AuthConfig(Auth.JWT, role="seeder", jwt_file="/var/jwt"),
)
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.auth.value)


@each_way
def test_a_token_that_is_issued_again_and_again_may_end(way: AuthConfig) -> None:
    for changes in ({"renewable": False}, {"period": 0.0}, {"max_ttl": 7200.0}, {"orphan": False}):
        line = check.login(replace(GOOD, **changes), way)
        assert (line.mark, line.fix) == (Mark.OK, "")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (AuthConfig(), "VAULT_TOKEN a token of vault token create -orphan -policy=vaultsync -period=24h"),
        (AuthConfig(token_file="/var/a b"), "in '/var/a b' a token of vault token create"),
        (WAYS[0], "vault write auth/kubernetes/role/seeder token_policies=vaultsync"),
        (WAYS[1], "vault write auth/team/approle/role/vaultsync token_policies=vaultsync"),
        (WAYS[2], "vault write auth/jwt/role/seeder token_policies=vaultsync"),
    ],
)
def test_what_gives_another_token_fits_the_way(way: AuthConfig, words: str) -> None:
    root = check.login(replace(GOOD, policies=("root",)), way)
    assert (root.mark, words in root.fix) == (Mark.FAILED, True)
    assert words in check.mend_policy([V2], replace(GOOD, policies=("admin",)), way, streams=True)
    if not way.issues:
        assert words in check.login(replace(GOOD, renewable=False), way).fix
        assert words in check.no_login("Vault returned 403", way).fix
    assert way.token_file == "" or "VAULT_TOKEN" not in root.fix


@each_way
def test_who_is_not_let_in_is_told_by_which_way(way: AuthConfig) -> None:
    for line in (
        check.no_credential("no such file", way),
        check.no_login("Vault returned 403", way),
        check.no_look_up("Vault returned 403", way),
    ):
        assert line.mark is Mark.FAILED
        assert check.SETUP in line.fix
        assert "VAULT_TOKEN" not in line.fix
        assert ("VAULTSYNC_VAULT_JWT_FILE" in line.fix) <= (way.auth is not Auth.APPROLE)
    assert way.at in check.no_login("Vault returned 403", way).fix
    assert way.role_at in check.no_look_up("Vault returned 403", way).fix


def test_a_token_file_that_can_not_be_read_is_to_be_written() -> None:
    line = check.no_credential("/var/token can't be read: No such file", AuthConfig(token_file="/var/token"))
    assert line.fix.startswith("write a token there, such as of vault token create")


@pytest.mark.parametrize(
    ("policies", "name"),
    [
        (("default", "vaultsync"), "vaultsync"),
        (("team-vaultsync",), "team-vaultsync"),
        (("admin",), ""),
        (("vaultsync", "vaultsync-2"), ""),
        (("root",), ""),
    ],
)
def test_no_policy_is_overwritten_that_is_not_vaultsyncs(policies: tuple[str, ...], name: str) -> None:
    token = replace(GOOD, policies=policies)
    assert token.policy == name
    fix = check.mend_policy([V2, V1], token, AuthConfig(), streams=False)
    assert fix.startswith("VAULTSYNC_SOURCE=poll vaultsync policy --mount secret --mount kv1=v1 | vault policy write ")
    assert fix.split("write ")[1].startswith(f"{name or 'vaultsync'} -")
    assert ("vault token create" in fix) == (not name)


def test_policies() -> None:
    wanted = [
        Asked(f"secret/data/{number}", frozenset({"create"}), frozenset({"create", "update"})) for number in range(6)
    ]

    def told(listed: set[str]) -> Line:
        return check.policy("secret/", wanted, {one.path: frozenset(listed) for one in wanted}, FIX, 6, 9)

    assert told({"create"}) == Line(
        Name.POLICY, Mark.OK, "all that is needed, and no more (asked for 6 of 9 paths in use)", of="secret/"
    )
    assert told({"create", "update"}).mark is Mark.OK
    less, more = told({"update", "read"}), told({"create", "sudo", "read"})
    assert (less.mark, less.fix) == (Mark.FAILED, FIX)
    assert less.found == (
        "may not create on secret/data/0, create on secret/data/1, create on secret/data/2 and on 3 more"
    )
    assert more.mark is Mark.WARNING
    assert more.found.startswith("all that is needed, but it may also read, sudo on secret/data/0, ")


@pytest.mark.parametrize(
    ("version", "offers", "subscribe"),
    [
        ("1.12.9", False, False),
        ("1.13.0", True, False),
        ("1.14.1", True, False),
        ("1.15.1", True, True),
        ("1.16.0", False, False),
        ("1.16.0+ent", True, True),
        ("1.21.2+ent.hsm", True, True),
        ("2.7.2", False, False),
        ("", False, False),
        ("banana", False, False),
    ],
)
def test_versions_with_an_event_stream(version: str, offers: bool, subscribe: bool) -> None:
    assert (check.offers_stream(version), check.knows_subscribe(version)) == (offers, subscribe)


READ, SILENT, GONE = AuditFile(grew=True), AuditFile(), AuditFile(problem="No such file")


@pytest.mark.parametrize(
    ("wanted", "listen", "file", "stream", "version", "mark", "first", "fix"),
    [
        ("poll", "", None, AWAY, "2.7.2", Mark.OK, "the poll, every 1m, as VAULTSYNC_SOURCE is poll", ""),
        ("auto", ":1", None, THERE, "1.15.1", Mark.OK, "the event stream", ""),
        ("auto", "", READ, THERE, "1.15.1", Mark.OK, "the event stream", ""),
        ("auto", "", None, THERE, "1.15.1", Mark.WARNING, "the event stream", "set VAULTSYNC_AUDIT_LISTEN"),
        ("auto", "", GONE, THERE, "1.15.1", Mark.WARNING, "the event stream", "let /audit be read"),
        ("auto", ":1", None, AWAY, "2.7.2", Mark.OK, "an audit device that writes to :1", ""),
        ("auto", "", READ, AWAY, "2.7.2", Mark.OK, "the audit file /audit", ""),
        ("auto", "", SILENT, AWAY, "2.7.2", Mark.WARNING, "the poll, every 1m", "vault audit list"),
        ("auto", "", None, AWAY, "2.7.2", Mark.WARNING, "the poll, every 1m", "set VAULTSYNC_AUDIT_LISTEN"),
        ("auto", ":1", None, AWAY, "1.15.1", Mark.WARNING, "an audit device", FIX),
        ("auto", "", None, AWAY, "1.15.1", Mark.WARNING, "the poll, every 1m", FIX),
        ("auto", "", None, replace(AWAY, refused=False), "1.15.1", Mark.WARNING, "the poll", "let a websocket"),
        ("events", "", None, THERE, "1.15.1", Mark.WARNING, "the event stream", "set VAULTSYNC_AUDIT_LISTEN"),
        ("events", ":1", None, AWAY, "1.15.1", Mark.FAILED, "no event stream: Vault returned 404", FIX),
        (
            "events",
            ":1",
            None,
            AWAY,
            "2.7.2",
            Mark.FAILED,
            "Vault 2.7.2 has no event stream",
            "set VAULTSYNC_SOURCE=auto",
        ),
        ("audit", ":1", None, AWAY, "1.15.1", Mark.OK, "an audit device", ""),
        ("audit", "", READ, AWAY, "1.15.1", Mark.OK, "the audit file /audit, as VAULTSYNC_SOURCE is audit", ""),
        ("audit", "", SILENT, AWAY, "1.15.1", Mark.WARNING, "the audit file /audit, in which", "vault audit list"),
        ("audit", "", GONE, AWAY, "1.15.1", Mark.FAILED, "the audit file /audit can't be read", "let /audit be read"),
    ],
)
def test_sources(
    wanted: str,
    listen: str,
    file: AuditFile | None,
    stream: Stream,
    version: str,
    mark: Mark,
    first: str,
    fix: str,
) -> None:
    hearing = Hearing(wanted, listen, "/audit" if file else "", 60.0)
    line = check.source(hearing, stream, file or AuditFile(), version, FIX)
    assert line.mark is mark
    assert line.found.startswith(first)
    assert line.fix.startswith(fix) if fix else not line.fix


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("http://vault:8200", "http://vault.vault:8200", True),
        ("https://vault.vault.svc.cluster.local", "http://vault.vault:8200", True),
        ("http://127.0.0.1:8200", "http://localhost:8201", True),
        ("https://VAULT.example.com./x", "https://vault.example.com", True),
        ("https://vault.example.com", "https://vault.example.org", False),
        ("http://10.0.0.1:8200", "http://10.0.0.2:8200", False),
        ("http://[", "http://vault", False),
        ("vault", "http://vault", False),
        ("", "", False),
    ],
)
def test_addresses_that_look_like_each_other(one: str, other: str, alike: bool) -> None:
    assert check.resembles(one, other) is alike
    assert check.resembles(other, one) is alike


@pytest.mark.parametrize(
    ("in_all", "others", "mark", "words"),
    [
        (2, {}, Mark.OK, "2 in this Vault"),
        (0, {}, Mark.WARNING, "there is no store of Vault"),
        (1, {"SecretStore a/b": "http://else"}, Mark.OK, "1 in this Vault, 1 in another: SecretStore a/b"),
        (0, {"SecretStore a/b": "http://else"}, Mark.FAILED, "0 in this Vault, 1 in another"),
        (1, {"SecretStore a/b": "http://vault"}, Mark.WARNING, "1 in what may be this Vault by another address"),
        (0, {"SecretStore a/b": "http://vault"}, Mark.FAILED, "1 in what may be this Vault by another address"),
    ],
)
def test_stores(in_all: int, others: dict[str, str], mark: Mark, words: str) -> None:
    line = check.stores([HERE, "http://known"], in_all, others)
    assert line.mark is mark
    assert words in line.found
    if others and mark is not Mark.OK:
        assert line.fix.endswith(f"VAULTSYNC_STORE_SERVERS=http://known,{others['SecretStore a/b']}")


def test_stores_of_thousands_are_a_few_words() -> None:
    others = {f"SecretStore a/{number}": f"http://vault:{number}/{'x' * 5000}" for number in range(1000)}
    line = check.stores([HERE], 1, others)
    assert len(line.found + line.fix) < 3000
    assert "and 997 more" in line.found


def test_the_first_blocked_external_secret() -> None:
    line = check.external_secrets(9, 5, [("a/b", "x" * 1000), ("a/c", "y")], "")
    assert (line.mark, line.fix) == (Mark.FAILED, "vaultsync explain a/b, and of all: vaultsync plan")
    assert line.found.startswith("a/b is blocked (and 1 more): xxx")
    assert len(line.found) < 400
    assert check.external_secrets(9, 5, [("a/b", "x")], "").fix == "vaultsync explain a/b"
    assert check.external_secrets(1, 0, [], "shop").fix == "kubectl annotate namespace shop vaultsync.io/seed=true"
    assert check.external_secrets(1, 0, [], "").mark is Mark.OK


# -- what is printed


def test_a_line_can_not_break_the_table() -> None:
    text = tables.check_table([Line(Name.STORES, Mark.WARNING, "a\nb\x1b[31m", "c\td")])
    assert text == "warning   stores   a\\nb\\x1b[31m. To do: c\\td\n\n0 ok, 0 failed, 1 warning, 0 not asked\n"


def test_json_has_the_documented_shape() -> None:
    lines = [Line(Name.POLICY, Mark.NOT_ASKED, "needs login", of="mounts"), Line(Name.VAULT, Mark.FAILED, "a", "b")]
    assert json.loads(tables.check_json(lines)) == {
        "checks": [
            {"check": "policy", "of": "mounts", "mark": "not asked", "found": "needs login", "fix": None},
            {"check": "vault", "of": None, "mark": "failed", "found": "a", "fix": "b"},
        ],
        "summary": {"ok": 0, "failed": 1, "warning": 0, "not_asked": 1},
    }


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VAULT", "KUBE")):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("nothing_set")
def test_wrong_settings_are_lines_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = printed.out.splitlines()
    assert [row.split()[:3] for row in rows[:2]] == [
        ["failed", "settings", name] for name in ("VAULT_ADDR", "VAULT_TOKEN")
    ]
    assert main(["check", "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["summary"]["failed"] == 2


@pytest.mark.usefixtures("nothing_set")
@pytest.mark.parametrize(("name", "value"), [("VAULT_ADDR", "vault"), ("VAULTSYNC_AUDIT_TLS_KEY", "k")])
def test_wrong_settings_print_no_setup(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["check", "--print-setup"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert name in printed.err


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ("", "vault token create"),
        ("token", "vault token create"),
        ("kubernetes", "auth/kubernetes/role/vaultsync"),
        ("approle", "auth/approle/role/vaultsync"),
        ("jwt", "auth/jwt/role/vaultsync"),
    ],
)
def test_without_settings_the_way_that_is_set_is_set_up(auth: str, words: str) -> None:
    """In a process of its own, which ends without a word to pytest."""
    env = {"PATH": os.environ["PATH"], "VAULTSYNC_VAULT_AUTH": auth}
    command = [sys.executable, "-m", "vaultsync", "check", "--print-setup"]
    done = subprocess.run(command, env=env, cwd=DEPLOY.parent, text=True, capture_output=True, check=True)
    assert words in done.stdout
    assert "not-asked" not in done.stdout
    assert "get service vaultsync-audit" in done.stdout
    assert ("vault token create" in done.stdout) == (auth in ("", "token"))


@pytest.mark.parametrize("arguments", [["--print-setup", "-o", "json"], ["everything"], ["-o", "xml"]])
def test_wrong_arguments_are_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", *arguments])
    assert caught.value.code == 2
    assert "usage: vaultsync check" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_set")
def test_a_glob_for_none_of_the_mounts_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAULTSYNC_SEED_PATHS", "other/apps/**")
    assert main(["check", "--print-setup"]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "name its mount" in printed.err


# -- Vault's answers

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


def responding(status: int, document: object) -> Respond:
    async def respond(request: web.Request) -> web.StreamResponse:
        await request.read()
        return answer(status, document)

    return respond


@pytest.mark.parametrize(
    ("status", "sealed", "standby"), [(200, False, False), (429, False, True), (473, False, True), (503, True, True)]
)
def test_health_is_told_by_any_status(status: int, sealed: bool, standby: bool) -> None:
    told = {"initialized": True, "sealed": sealed, "standby": standby, "version": "1.15.1"}

    async def test(client: VaultClient) -> None:
        assert await client.health() == Health(True, sealed, standby, "1.15.1")

    with_client(responding(status, told), test)


def test_health_is_told_to_who_has_not_logged_in_yet() -> None:
    told = {"initialized": True, "sealed": False, "standby": False, "version": "1.15.1"}

    async def main() -> None:
        async with http_server(responding(200, told)) as address:
            method = KubernetesMethod("vaultsync", Credential(file="/nowhere"))
            client = VaultClient(Login(VaultAccess(address, "", 5.0), method))
            try:
                assert (await client.health()).version == "1.15.1"
            finally:
                await client.close()

    run(main())


@pytest.mark.parametrize("document", [{}, [], {"initialized": "yes"}, {"errors": ["x"]}])
def test_what_is_not_vault_has_no_health(document: object) -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultUnavailable, match="is not Vault"):
            await client.health()

    with_client(responding(200, document), test)


def test_capabilities_without_those_that_are_denied() -> None:
    async def test(client: VaultClient) -> None:
        found = await client.capabilities(["a", "b", "c"], "")
        assert found == {"a": {"read", "list"}, "b": set(), "c": set()}

    with_client(responding(200, {"data": {"a": ["read", "list"], "b": ["deny"]}}), test)


def test_capabilities_may_be_refused() -> None:
    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultDenied):
            await client.capabilities(["a"], "")

    with_client(responding(403, {"errors": ["permission denied"]}), test)


def test_a_mount_that_may_not_be_asked_for_is_guessed() -> None:
    async def test(client: VaultClient) -> None:
        assert await client.mount(path("team/kv/data/a/b"), 2) == Mount("team/kv/", 2)

    with_client(responding(403, {"errors": ["preflight capability check returned 403"]}), test)
