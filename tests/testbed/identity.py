"""The identity vaultsync has in tests: exactly the RBAC and the Vault policy that deploy/ ships.

A right that is missing there is missing in every test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.testbed.errors import MissingToolError
from tests.testbed.kube import Kube
from tests.testbed.servers import KubeApiServer, Vault
from tests.testbed.vault import VaultRoot

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
NAMESPACE = "vaultsync"
SERVICE_ACCOUNT = "vaultsync"
POLICY = "vaultsync"
TOKEN = "testbed-vaultsync"  # the same after a restart of Vault without data, as if restored

RBAC_KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


@dataclass(frozen=True, slots=True)
class Identity:
    """The credentials of vaultsync's process."""

    kubeconfig: Path
    kubernetes_token: str
    vault_address: str
    vault_token: str

    @property
    def env(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig), "VAULT_ADDR": self.vault_address, "VAULT_TOKEN": self.vault_token}


def create_identity(
    server: KubeApiServer, vault: Vault, work: Path, deploy: Path = DEPLOY, policy: str | None = None
) -> Identity:
    """Applies what deploy/ ships, and logs vaultsync in with a ServiceAccount token and a Vault token bound to it."""
    kube = Kube(server.api)
    apply_rbac(kube, deploy / "base")
    token = kube.token_for(SERVICE_ACCOUNT, NAMESPACE)
    kubeconfig = server.kubeconfig(work / "vaultsync.kubeconfig", token, NAMESPACE)
    root = VaultRoot(vault.api)
    return Identity(kubeconfig, token, vault.address, create_vault_token(root, policy or shipped_policy(deploy)))


def create_vault_token(root: VaultRoot, policy: str) -> str:
    """Writes the policy and creates a token with only this policy, without Vault's default policy."""
    root.policy(POLICY, policy)
    return root.token([POLICY], TOKEN)


def shipped_policy(deploy: Path = DEPLOY) -> str:
    return _read(deploy / "vault" / "policy.hcl")


def printed_policy() -> str:
    """The output of `vaultsync policy` for the testbed's mounts without an event stream."""
    mounts = ("--mount", "secret", "--mount", "team/kv", "--mount", "kv1=v1")
    command = [sys.executable, "-m", "vaultsync", "policy", *mounts]
    environment = {**os.environ, "VAULTSYNC_SOURCE": "poll"}
    done = subprocess.run(command, check=True, cwd=PROJECT, env=environment, capture_output=True, text=True)
    return done.stdout


def apply_rbac(kube: Kube, base: Path) -> None:
    """Applies the namespace and every RBAC object among the manifests of deploy/base."""
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    items = rbac_objects(base)
    if not items:
        raise MissingToolError(
            f"{base} has no {', '.join(RBAC_KINDS)}: the testbed starts vaultsync with the rights it ships"
        )
    for item in items:
        kube.apply(item)


def rbac_objects(base: Path) -> list[dict[str, Any]]:
    """The RBAC objects of a folder of manifests, with vaultsync's namespace."""
    found = []
    for file in sorted(base.glob("*.yaml")):
        for item in yaml.safe_load_all(file.read_text()):
            if item and item.get("kind") in RBAC_KINDS:
                if not item["kind"].startswith("Cluster"):
                    item["metadata"].setdefault("namespace", NAMESPACE)
                found.append(item)
    return found


def _read(path: Path) -> str:
    if not path.exists():
        raise MissingToolError(f"{path} is missing: the testbed gives vaultsync the Vault policy it ships")
    return path.read_text()
