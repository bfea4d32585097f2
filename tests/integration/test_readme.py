"""The README is true: its install commands work as written, its tables hold every setting and annotation, no more."""

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import PROJECT
from tests.testbed.testbed import Testbed
from vaultsync.core import names
from vaultsync.settings import Settings, variable

README = (PROJECT / "README.md").read_text()
MAKE_TARGETS = {"demo", "test", "test-unit", "lint", "bench"}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(text: str) -> list[str]:
    return [textwrap.dedent(block).strip() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]


def first_column(text: str, heading: str) -> set[str]:
    table = text.split(f"| {heading} |")[1].split("\n\n", maxsplit=1)[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_setting_is_in_the_table() -> None:
    assert first_column(section("Settings"), "variable") == {variable(name) for name in Settings.model_fields}


def test_every_annotation_is_in_the_table() -> None:
    told = {name.split(":")[0] for name in first_column(section("Settings"), "annotation")}
    assert told == {*names.READ_ANNOTATIONS, names.FORCE_SYNC}


def test_the_make_targets_that_it_names_exist() -> None:
    named = set(re.findall(r"make ([a-z-]+)", section("See it")))
    assert named == MAKE_TARGETS
    phony = re.search(r"^\.PHONY:(.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert named <= set(phony.group(1).split())


@pytest.fixture
def namespace(testbed: Testbed) -> Iterator[str]:
    """The one that the README's last step names."""
    testbed.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dev-1"}})
    yield "dev-1"
    testbed.kube.delete("v1", "Namespace", "dev-1")


def outside_of_a_pod(testbed: Testbed) -> dict[str, str]:
    """What Vault's kubernetes auth method must be told besides where it can't find it in its own pod."""
    own = "kubernetes_host=https://kubernetes.default.svc"
    server = testbed.kube_apiserver
    return {own: f"kubernetes_host={server.address} kubernetes_ca_cert=@{server.ca} disable_local_ca_jwt=true"}


def test_the_install_commands_work(
    testbed: Testbed, vaultsync: VaultsyncFactory, namespace: str, tmp_path: Path
) -> None:
    """Literally, but for what is not here: Vault's log folder, the Service's name, and the pod that Vault is in."""
    process = vaultsync(audit=False)
    process.wait_until_listening()
    here = {
        "/vault/logs/audit.log": str(tmp_path / "audit.log"),
        "vaultsync-audit.vaultsync:8220": f"127.0.0.1:{process.audit_port}",
        **outside_of_a_pod(testbed),
    }
    path = os.pathsep.join(str(testbed.binaries[name].parent) for name in ("vault", "kubectl"))
    env = {**os.environ, **testbed.env, "PATH": path + os.pathsep + os.environ["PATH"]}
    blocks = commands(section("Install"))
    assert len(blocks) == 4
    testbed.vault_root.unaudit("file")
    testbed.vault_root.unaudit("vaultsync")
    try:
        for block in blocks:
            command = re.sub("|".join(map(re.escape, here)), lambda match: here[match.group()], block)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=PROJECT,
                check=False,
                env=env,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        annotated = testbed.kube.get("v1", "Namespace", namespace)
        assert annotated is not None
        assert annotated["metadata"]["annotations"][names.SEED] == "true"
        assert testbed.kube.get("apps/v1", "Deployment", "vaultsync", "vaultsync")
        assert set(testbed.vault_root.api.request("GET", "/v1/sys/audit")["data"]) >= {"file/", "vaultsync/"}
    finally:
        testbed.vault_root.unaudit("vaultsync")
        testbed.vault_root.unaudit("file")
        testbed.kube.delete("apps/v1", "Deployment", "vaultsync", "vaultsync")
        testbed.vault_root.api.request("DELETE", "/v1/sys/auth/kubernetes")
