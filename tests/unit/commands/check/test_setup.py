"""The set-up script: its manifests are those of deploy/, and a shell executes nothing that it quotes."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.commands.check.manifests import LEADING, by_name, granted, shipped, used
from vaultsync.commands.check.audit_devices import AuditDevice
from vaultsync.commands.check.rbac import RBAC_RULES, ServiceAccount
from vaultsync.commands.check.setup import SetupPlan, script
from vaultsync.commands.policy import policy
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.core.paths import Mount
from vaultsync.core.seed_paths import SeedPaths

ODD_DEVICE = AuditDevice("it's $(id)", "socket", {"address": "`id` id"}, '"; id')


def manifests(text: str) -> list[dict[str, Any]]:
    """Those in the script."""
    return list(yaml.safe_load_all(text.split("<<'EOF'\n")[1].split("EOF\n", maxsplit=1)[0]))


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in found if one["kind"] == kind]


def test_the_printed_manifests_are_those_of_deploy_base() -> None:
    found = manifests(script(SetupPlan(rules=(*RBAC_RULES, *LEADING))))
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
    found = manifests(script(SetupPlan(rules=RBAC_RULES, namespaces=("team-a",))))
    assert of_kind(found, "RoleBinding") == shipped("namespaced/rolebinding.yaml", "RoleBinding")
    whole, outside = of_kind(found, "ClusterRole")
    [role] = shipped("namespaced/cluster.yaml", "ClusterRole")
    assert granted(whole["rules"]) == used(RBAC_RULES)
    assert outside["metadata"] == role["metadata"]
    assert granted(outside["rules"]) == granted(role["rules"])
    names = [rule["resourceNames"] for rule in (*outside["rules"], *role["rules"]) if "resourceNames" in rule]
    assert names == [["team-a"], ["kube-system"]] * 2


def test_a_watched_namespace_that_is_its_own_has_two_bindings() -> None:
    found = manifests(script(SetupPlan(rules=(*RBAC_RULES, *LEADING), namespaces=("team-a", "vaultsync"))))
    bound = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["roleRef"]["kind"]
        for one in of_kind(found, "RoleBinding")
    }
    assert bound == {
        ("team-a", "vaultsync"): "ClusterRole",
        ("vaultsync", "vaultsync"): "Role",
        ("vaultsync", "vaultsync-watched"): "ClusterRole",
    }


def test_the_script_omits_what_exists() -> None:
    assert script(SetupPlan()).endswith("# Nothing is missing.\n")
    text = script(SetupPlan(login=True, policy_name="vaultsync-2"))
    assert "policy write" not in text
    assert "kubectl apply -f" not in text
    assert "-policy=vaultsync-2 " in text


@pytest.mark.parametrize(
    "plan",
    [
        SetupPlan(),
        SetupPlan(
            audit=f"{ODD_DEVICE.enable(None)} # it's",
            device_fixes=(ODD_DEVICE.replace(),),
            namespace_to_seed="shop",
            crds=True,
        ),
        SetupPlan(
            rules=(*RBAC_RULES, *LEADING),
            account=ServiceAccount("x", "y"),
            namespaces=("shop", "web"),
            policy=policy(SeedPaths.parse(["*/it's/$(id)/`id`/{namespace}/**"]), [Mount("a b'c/", 2)], seeds=True),
            policy_name="vaultsync-'$(id)",
            login=True,
            address='https://vault/$(id)`id`"}x',
            vault_namespace="team $a",
        ),
        SetupPlan(login=True, auth=AuthConfig(Auth.KUBERNETES, "it's/$(id)", "`id`'"), policy_name="$(id)'"),
        SetupPlan(login=True, auth=AuthConfig(Auth.APPROLE, 'it"s/$(id)')),
        SetupPlan(login=True, auth=AuthConfig(Auth.APPROLE, role_id_file="it's $(id)", secret_id_file="`id`")),
        SetupPlan(login=True, auth=AuthConfig(Auth.JWT, "`id`", jwt_file="$(id)")),
        SetupPlan(grants_by_role=True, policy="x", auth=AuthConfig(Auth.JWT, "`id`", jwt_file="$(id)")),
    ],
    ids=["nothing", "comments", "all", "kubernetes", "approle", "files", "jwt", "others' role"],
)
def test_a_shell_takes_it_and_nothing_in_it_is_run(plan: SetupPlan, tmp_path: Path) -> None:
    """`kubectl` and `vault` stand in for real ones: they show what they are given."""
    for name in ("kubectl", "vault"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "$VAULT_ADDR|$VAULT_NAMESPACE|$*" >&2; cat >/dev/null; echo made\n')
        program.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    file = tmp_path / "setup.sh"  # what these read of stdin must not be the rest of it
    file.write_text(script(plan))
    done = subprocess.run(["sh", file], env=env, text=True, capture_output=True, check=True, cwd=tmp_path)
    assert "uid=" not in done.stdout + done.stderr
    if plan.login and not plan.auth.issues:
        calls = set(done.stderr.splitlines())
        place = f"{plan.address}|{plan.vault_namespace}|"
        assert f"{place}policy write {plan.policy_name} -" in calls
        assert f"{place}token create -orphan -policy={plan.policy_name} -period=24h -field=token" in calls
