"""Installs vaultsync on new servers, lets it heal, and uninstalls it, by the commands of the manual alone.

Each way to install is one test on new servers. Commands and objects are taken from README.md and docs/install.md,
literally except for the replacements in `here`. tests/testbed/pod.py starts the pods.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.test_healing import another
from tests.manual import DOCS, adapted, commands, objects, run, section
from tests.testbed import pins
from tests.testbed.api import ApiError, Json
from tests.testbed.identity import DEPLOY, NAMESPACE
from tests.testbed.place import Place
from tests.testbed.pod import Pod, Pods
from tests.testbed.testbed import Testbed, apply_monitoring_crds, wait_for

PATIENCE = 60.0

INSTALL = section("Install")
IN_VAULT, IN_KUBERNETES, TELL_OF_CHANGES, ASK = commands(INSTALL)
BY_TOKEN, OUTSIDE = commands(section("Log in to Vault"))
BY_HELM = commands(section("Install with Helm"))
[HELM_VALUES] = objects(section("Install with Helm"))
[EXAMPLE] = objects(section("Which value"))
INSTALL_PAGE = (DOCS / "install.md").read_text()
[OVERLAY] = objects(section("Your overlay", INSTALL_PAGE))
UNINSTALL, UNINSTALL_HELM = commands(section("Uninstall", INSTALL_PAGE))
UNAUDIT, DELETE, FORGET_POLICY, FORGET_ROLE = UNINSTALL.splitlines()
[CHECK] = re.findall(r"`kubectl -n vaultsync exec deploy/vaultsync -- vaultsync (\w+)`, which reports", INSTALL)


def here(testbed: Testbed, folder: Path, pods: Pods) -> dict[str, str]:
    """The differences between this environment and the manual."""
    server = testbed.kube_apiserver
    own = "kubernetes_host=https://kubernetes.default.svc"
    return {
        # addresses of Vault, of the API server, and of the Service, whose name does not resolve here
        "https://vault.example:8200": testbed.vault.address,
        "http://vault.vault:8200": testbed.vault.address,
        "https://kubernetes.example:6443": server.address,
        # the address of the Service is not routed here
        "spec.clusterIP}'):8220": f"spec.clusterIP}}' | grep -qE '^[0-9.]+$' && echo 127.0.0.1):{pods.audit_port}",
        # Vault does not run in a pod and needs the files of one as arguments; a folder for its log
        own: f"kubernetes_host={server.address} kubernetes_ca_cert=@ca.crt",
        "/vault/logs/audit.log": str(folder / "audit.log"),
        # no controller empties and removes namespaces here
        "delete -k .": "delete --wait=false -k .",
        "delete namespace": "delete --wait=false namespace",
    }


class Operator:
    """An operator who follows the manual, in a folder of the machine that administers Kubernetes and Vault."""

    def __init__(self, testbed: Testbed, folder: Path) -> None:
        self.testbed = testbed
        self.folder = folder
        self.pods = Pods(testbed)
        self._here = here(testbed, folder, self.pods)
        shutil.copytree(DEPLOY, folder / "deploy")
        (folder / "ca.crt").write_text(testbed.kube_apiserver.ca.read_text())

    def does(self, command: str) -> None:
        run(
            self.testbed,
            adapted(command, self._here),
            self.folder,
            programs=[pins.HELM] if command in (*BY_HELM, UNINSTALL_HELM) else [],
        )

    def writes(self, name: str, text: str) -> None:
        (self.folder / name).write_text(adapted(text, self._here))


@pytest.fixture
def testbed() -> Iterator[Testbed]:
    """Overrides the session's: new servers for each test, without any trace of vaultsync."""
    with Testbed() as made:
        assert of_vaultsync(made) == set()
        yield made


@pytest.fixture
def place(testbed: Testbed) -> Iterator[Place]:
    """Overrides that of other tests: a team's namespace with the manual's name and a SecretStore."""
    with Place(testbed, "dev-1") as made:
        yield made


@pytest.fixture
def operator(testbed: Testbed, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Operator]:
    made = Operator(testbed, tmp_path)
    yield made
    made.pods.stop()
    for pod in made.pods.all:
        request.node.add_report_section("teardown", f"vaultsync {pod.name}", pod.process.output())


def of_vaultsync(testbed: Testbed) -> set[str]:
    """Every object called vaultsync in Kubernetes and Vault, and every token with its policy."""
    vault = testbed.vault_root.api
    auth = vault.find("/v1/auth/kubernetes/role?list=true")
    found = {
        *objects_in(testbed),
        *(f"policy {name}" for name in vault.request("GET", "/v1/sys/policies/acl?list=true")["data"]["keys"]),
        *(f"audit device {name}" for name in vault.request("GET", "/v1/sys/audit")["data"]),
        *(f"role {name}" for name in (auth["data"]["keys"] if auth else ())),
        *(f"token with {policies}" for policies in tokens_in(testbed)),
    }
    return {name for name in found if "vaultsync" in name}


def objects_in(testbed: Testbed) -> Iterator[str]:
    """Every object of every kind, except the contents of deleted namespaces: no controller removes them here."""
    api = testbed.kube.api
    deleted = {item["metadata"]["name"] for item in testbed.kube.items("v1", "Namespace") if is_deleted(item)}
    groups = [group["preferredVersion"]["groupVersion"] for group in api.request("GET", "/apis")["groups"]]
    for base in ("/api/v1", *(f"/apis/{group}" for group in groups)):
        for resource in api.request("GET", base)["resources"]:
            if "list" in resource["verbs"] and resource["name"] != "events":
                for item in api.request("GET", f"{base}/{resource['name']}")["items"]:
                    namespace = item["metadata"].get("namespace", "")
                    if namespace not in deleted and not is_deleted(item):
                        yield f"{resource['name']} {namespace}/{item['metadata']['name']}"


def is_deleted(item: Json) -> bool:
    return "deletionTimestamp" in item["metadata"]


def tokens_in(testbed: Testbed) -> Iterator[list[str]]:
    """The policies of each valid token."""
    vault = testbed.vault_root.api
    for accessor in vault.request("GET", "/v1/auth/token/accessors?list=true")["data"]["keys"]:
        yield vault.request("POST", "/v1/auth/token/lookup-accessor", {"accessor": accessor})["data"]["policies"]


def starts(operator: Operator) -> Pod:
    """Starts one more pod; it is ready when the Deployment's probe succeeds."""
    pod = operator.pods.make()
    pod.process.start()
    pod.process.wait_until(lambda: pod.passes("readinessProbe"), PATIENCE)
    assert pod.passes("livenessProbe")
    return pod


def leads(operator: Operator, pod: Pod) -> None:
    """Waits until this pod leads, and the Service points at it."""
    pod.process.wait_until(lambda: pod.process.health.text("/readyz").startswith("ok\n[+] role: leading\n"), PATIENCE)
    wait_for(lambda: operator.pods.led_to() == [pod.name], PATIENCE, "the Service points at it")


def heals(place: Place) -> None:
    """Deletes a value in Vault and waits for a new one in Kubernetes."""
    before = place.wait_for_secret("database")
    place.vault.delete(place.path("database"))
    after = place.wait_for(lambda: another(place, "database", before), PATIENCE, "it is healed")
    assert after.keys() == before.keys()


def works(operator: Operator, place: Place, first: Pod) -> None:
    """Tests the features that the README promises: seed, heal, check, and the standby."""
    leads(operator, first)
    operator.does(TELL_OF_CHANGES)
    operator.does(ASK)
    place.kube.create(yaml.safe_load(EXAMPLE))
    place.wait_for(lambda: place.ready("database") == ("True", "SecretSynced"), PATIENCE, "external-secrets is done")
    heals(place)
    check = first.command(CHECK)
    check.start()
    assert check.wait(PATIENCE) == 0, check.output()
    second = starts(operator)
    assert second.process.health.text("/readyz").startswith("ok\n[+] role: standby\n")
    assert first.process.stop() == 0
    leads(operator, second)
    heals(place)


def uninstalls(operator: Operator, place: Place, uninstall: str = DELETE, forget: str = FORGET_ROLE) -> None:
    """Uninstalling by the manual removes everything of vaultsync and keeps every value."""
    value = place.wait_for_secret("database")
    for step in (UNAUDIT, uninstall):
        operator.does(step)
    operator.pods.stop()
    for step in (FORGET_POLICY, forget):
        operator.does(step)
    assert of_vaultsync(operator.testbed) == set()
    assert place.secret("database") == value
    assert set((place.read("database") or {}).values()) == set(value.values())


def refuses_others(testbed: Testbed) -> None:
    """The role is for vaultsync's ServiceAccount alone."""
    jwt = testbed.kube.token_for("vault-reviewer", "kube-system", 600, ["vault"])
    with pytest.raises(ApiError) as refused:
        testbed.vault_root.api.request("POST", "/v1/auth/kubernetes/login", {"role": "vaultsync", "jwt": jwt})
    assert refused.value.status == 403


def test_by_kustomize(operator: Operator, place: Place) -> None:
    operator.writes("kustomization.yaml", OVERLAY)
    for step in (IN_VAULT, OUTSIDE, IN_KUBERNETES):
        operator.does(step)
    pod = starts(operator)
    assert pod.container["image"] == "registry.example/vaultsync:0.1.0"
    works(operator, place, pod)
    refuses_others(place.testbed)
    uninstalls(operator, place)


def test_by_kustomize_with_a_token(operator: Operator, place: Place) -> None:
    """A token instead of the role that step 1 creates after the policy."""
    operator.writes("kustomization.yaml", OVERLAY.replace("deploy/base", "deploy/token"))
    operator.does(IN_VAULT.splitlines()[0])
    operator.does(BY_TOKEN)
    works(operator, place, starts(operator))
    token = place.kube.secret_values("vaultsync-vault-token", NAMESPACE)
    assert token is not None
    uninstalls(operator, place, forget=f"vault token revoke {token['token']}")


def test_by_helm(operator: Operator, place: Place) -> None:
    """Helm instead of step 2, on a cluster with the Prometheus operator."""
    apply_monitoring_crds(place.kube)
    operator.writes("values.yaml", HELM_VALUES)
    for step in (IN_VAULT, OUTSIDE, *BY_HELM):
        operator.does(step)
    pod = starts(operator)
    assert pod.container["image"].startswith("REGISTRY/vaultsync:")
    works(operator, place, pod)
    kinds = ("networkpolicies", "servicemonitors", "prometheusrules")
    assert {f"{kind} vaultsync/vaultsync" for kind in kinds} <= of_vaultsync(place.testbed)
    assert "configmaps vaultsync/vaultsync-dashboard" in of_vaultsync(place.testbed)
    uninstalls(operator, place, UNINSTALL_HELM)
