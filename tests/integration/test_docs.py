"""Every command of docs/ (and of a section of the README) works as written, in its order, and every object is accepted.

Literally, except for the namespace dev-1 and a pod to exec into, which are missing here. Installing and uninstalling is
tested in tests/e2e.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.test_healing import another
from tests.manual import DOCS, LOGS, adapted, commands, objects, run, section
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.identity import POLICY, PROJECT
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed

ELSEWHERE = ("disaster-recovery", "runbook")  # test_losses and test_monitoring have their commands
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.stem not in ELSEWHERE]
TEXTS = {
    "check and preview": section("Check and preview"),
    **{page.stem: page.read_text().split("## Uninstall")[0] for page in PAGES},
}
NAMESPACE = "dev-1"
HERE = {
    "kubectl -n vaultsync exec deploy/vaultsync -- ": "",
    LOGS: 'cat "$LOG"',
}
NEEDS_A_POD = re.compile(r"kubectl -n vaultsync (exec|logs)\b")
"""Without pods `kubectl logs` with a selector finds nothing and succeeds: these commands must be replaced."""


@pytest.fixture
def shop(place: Place) -> Iterator[Place]:
    """A place with the README's ExternalSecret; what the commands change in Vault is restored."""
    (example,) = re.findall(r"```yaml\n(apiVersion.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    place.kube.create(yaml.safe_load(example.replace(NAMESPACE, place.name)))
    yield place
    place.vault.api.request("POST", "/v1/secret/config", {"cas_required": False})
    place.vault.policy(POLICY, place.testbed.vault_policy)


@pytest.fixture
def env(testbed: Testbed, vaultsync: VaultsyncFactory, shop: Place) -> dict[str, str]:
    """The environment of the commands, with a vaultsync that has seeded the missing values."""
    process = vaultsync()
    shop.wait_for_secret("database")
    shop.wait_until_healthy("database")
    own = testbed.identity.vault_token  # of vaultsync, not of root
    return {"VAULTSYNC_NAMESPACES": shop.name, "LOG": str(process.log), "OWN_TOKEN": own}


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if commands(text)])
def test_the_commands_work(page: str, shop: Place, env: dict[str, str]) -> None:
    before = shop.secret("database")
    assert before is not None
    for block in commands(TEXTS[page]):
        command = adapted(block, {NAMESPACE: shop.name, **HERE})
        command = re.sub("^vaultsync ", 'VAULT_TOKEN="$OWN_TOKEN" vaultsync ', command, flags=re.MULTILINE)
        assert not NEEDS_A_POD.search(command), command
        assert run(shop.testbed, command, env=env).strip(), command
    if page == "rotation":
        found = shop.wait_for(lambda: another(shop, "database", before), what="a new value")
        assert found.keys() == before.keys()


MANIFESTS = {
    name: found
    for name, text in TEXTS.items()
    if (found := [one for one in objects(text) if "kind" in yaml.safe_load(one)])  # else chart values
}


@pytest.mark.parametrize("page", MANIFESTS)
def test_the_objects_are_accepted(page: str, testbed: Testbed, tmp_path: Path) -> None:
    assert testbed.identity  # creates the namespace vaultsync
    shutil.copytree(PROJECT / "deploy", tmp_path / "deploy")
    for text in MANIFESTS[page]:
        is_overlay = yaml.safe_load(text)["kind"] == "Kustomization"
        (tmp_path / "kustomization.yaml").write_text(text)
        apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server"]
        done = subprocess.run(
            [testbed.binaries["kubectl"], *apply, *(["-k", tmp_path] if is_overlay else ["-f", "-"])],
            input=text,
            env={**os.environ, **testbed.env},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "serverside-applied" in done.stdout
