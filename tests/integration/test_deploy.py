"""The shipped files besides the code: manifests and Vault policy, on real servers; Dockerfile; lock files."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from itertools import count
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from websockets.sync.client import connect

import vaultsync as package
from tests.manual import DOCS
from tests.manual import objects as manual_objects
from tests.testbed.api import Api, ApiError, Json
from tests.testbed.identity import NAMESPACE, PROJECT, SERVICE_ACCOUNT
from tests.testbed.kube import MERGE_PATCH
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed, wait_for
from vaultsync.config.settings import Settings, variable
from vaultsync.core.annotations import LEADER_LABEL

BASE = PROJECT / "deploy" / "base"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
ESO = "external-secrets.io"
PATIENCE = 60.0
LEAST_PRIVILEGE = (DOCS / "least-privilege.md").read_text()


class Kubectl:
    """The real kubectl, as admin of the testbed."""

    def __init__(self, testbed: Testbed) -> None:
        self._binary = testbed.binaries["kubectl"]
        self._env = {"KUBECONFIG": str(testbed.kubeconfig), "HOME": str(testbed.work), "PATH": "/usr/bin:/bin"}

    def __call__(self, *arguments: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self._binary), *map(str, arguments)]
        return subprocess.run(
            command, input=given or "", env=self._env, text=True, capture_output=True, timeout=60, check=False
        )

    def quietly(self, *arguments: str | Path, given: str | None = None) -> str:
        """The output of a command that succeeds without errors and warnings."""
        result = self(*arguments, given=given)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout


@pytest.fixture(scope="module")
def kubectl(testbed: Testbed) -> Kubectl:
    return Kubectl(testbed)


@pytest.fixture(scope="module")
def manifests(kubectl: Kubectl) -> list[Json]:
    """Applies the base as a user does."""
    return list(yaml.safe_load_all(kubectl.quietly("kustomize", BASE)))


@pytest.fixture(scope="module")
def applied_namespace(kubectl: Kubectl, manifests: list[Json]) -> str:
    """The shipped namespace: dry runs in it need it."""
    namespace = one(manifests, "Namespace")
    kubectl.quietly("apply", "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(namespace))
    return str(namespace["metadata"]["name"])


def one(manifests: list[Json], kind: str) -> Json:
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_of(manifests: list[Json]) -> Json:
    """The Pod that the Deployment's controller would create."""
    template = one(manifests, "Deployment")["spec"]["template"]
    metadata = {**template["metadata"], "name": "vaultsync-test", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}


def container_of(manifests: list[Json]) -> Json:
    [container] = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    found: Json = container
    return found


class TestManifests:
    def test_api_server_accepts_them_all_without_a_warning(
        self, kubectl: Kubectl, manifests: list[Json], applied_namespace: str
    ) -> None:
        given = yaml.safe_dump_all(manifests)
        taken = kubectl.quietly(
            "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-", given=given
        )
        assert len(taken.splitlines()) == len(manifests)

    @pytest.mark.parametrize("left_out", ["allowPrivilegeEscalation", "capabilities"])
    def test_pod_security_standard_is_enforced_in_the_namespace(
        self, kubectl: Kubectl, manifests: list[Json], applied_namespace: str, left_out: str
    ) -> None:
        pod = pod_of(manifests)
        container = pod["spec"]["containers"][0]
        context = {name: value for name, value in container["securityContext"].items() if name != left_out}
        lax = {**pod, "spec": {**pod["spec"], "containers": [{**container, "securityContext": context}]}}
        refused = kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(lax))
        assert "violates PodSecurity" in refused.stderr

    def test_every_variable_is_a_setting_and_together_they_make_a_configuration(
        self, manifests: list[Json], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = self.environment(manifests)
        known = {variable(name) for name in Settings.model_fields}
        assert {name for name in given if name.startswith(("VAULT", "KUBE"))} <= known
        for name in known:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        settings = Settings()
        ports = {port["name"]: port["containerPort"] for port in container_of(manifests)["ports"]}
        assert settings.health_listen.endswith(f":{ports['health']}")
        assert settings.audit_listen.endswith(f":{ports['audit']}")

    def test_the_service_selects_the_pod_that_the_leader_labels(self, manifests: list[Json]) -> None:
        """Only the leader sets that label: it is in no template and in no other selector."""
        selector = one(manifests, "Service")["spec"]["selector"]
        spec = one(manifests, "Deployment")["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert selector.items() <= {**labels, LEADER_LABEL: "true"}.items()
        assert selector[LEADER_LABEL] == "true"
        assert LEADER_LABEL not in {**labels, **spec["selector"]["matchLabels"]}
        [name] = [item for item in container_of(manifests)["env"] if item["name"] == "VAULTSYNC_POD_NAME"]
        assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"

    def test_the_audit_port_is_udp_everywhere(self, manifests: list[Json]) -> None:
        [port] = one(manifests, "Service")["spec"]["ports"]
        [audit] = [one for one in container_of(manifests)["ports"] if one["name"] == port["targetPort"]]
        assert (port["protocol"], audit["protocol"]) == ("UDP", "UDP")
        assert self.environment(manifests)["VAULTSYNC_AUDIT_LISTEN"] == f"udp:0.0.0.0:{audit['containerPort']}"

    def test_services_add_no_variables_that_look_like_settings(self, manifests: list[Json]) -> None:
        assert one(manifests, "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False

    def test_one_replica_is_always_available(self, manifests: list[Json]) -> None:
        spec = one(manifests, "Deployment")["spec"]
        assert spec["replicas"] == 2
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        budget = one(manifests, "PodDisruptionBudget")["spec"]
        assert budget["maxUnavailable"] == 1
        for selector in (budget["selector"], *(term["labelSelector"] for term in self.apart(spec))):
            assert selector["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()

    @staticmethod
    def apart(spec: Json) -> list[Json]:
        """The constraints that spread the replicas over nodes and zones."""
        anti = spec["template"]["spec"]["affinity"]["podAntiAffinity"]
        terms = [one["podAffinityTerm"] for one in anti["preferredDuringSchedulingIgnoredDuringExecution"]]
        assert {term["topologyKey"] for term in terms} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        return terms

    @staticmethod
    def environment(manifests: list[Json]) -> dict[str, str]:
        """The container's variables as the kubelet makes them, with some text in place of a Secret's."""
        container = container_of(manifests)
        config = one(manifests, "ConfigMap")
        assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
        pod = {"metadata.namespace": NAMESPACE, "metadata.name": "vaultsync-0"}
        own: dict[str, str] = {}
        for item in container["env"]:
            field = item.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            value = pod[field] if field else item.get("value", "from-a-secret")
            own[item["name"]] = re.sub(r"\$\((\w+)\)", lambda found: own[found.group(1)], value)
        return {**config["data"], **own}


class TestRbac:
    def test_account_has_exactly_the_rights_that_vaultsync_uses(self, testbed: Testbed, place: Place) -> None:
        testbed.kube.create(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": place.namespace}}
        )
        everyone = self.rights(testbed, testbed.kube.token_for("nobody", place.namespace), place.namespace)
        own = self.rights(testbed, testbed.identity.kubernetes_token, place.namespace)
        assert own - everyone == {
            (ESO, "externalsecrets", "list"),
            (ESO, "externalsecrets", "watch"),
            (ESO, "externalsecrets", "patch"),
            (ESO, "externalsecrets/status", "patch"),
            (ESO, "secretstores", "list"),
            (ESO, "secretstores", "watch"),
            (ESO, "clustersecretstores", "list"),
            (ESO, "clustersecretstores", "watch"),
            (ESO, "pushsecrets", "list"),
            (ESO, "pushsecrets", "watch"),
            ("", "namespaces", "list"),
            ("", "namespaces", "watch"),
            ("", "namespaces/kube-system", "get"),
            ("", "events", "create"),
            ("", "events", "patch"),
        }

    def test_account_has_these_rights_in_its_own_namespace_only(self, testbed: Testbed, place: Place) -> None:
        assert testbed.identity
        other = self.rights(testbed, testbed.identity.kubernetes_token, place.namespace)
        own = self.rights(testbed, testbed.identity.kubernetes_token, NAMESPACE)
        lease = "coordination.k8s.io"
        assert own - other == {
            (lease, "leases", "create"),
            *((lease, "leases/vaultsync", verb) for verb in ("get", "list", "watch", "patch")),
            ("", "pods", "patch"),
        }

    def test_the_documented_admission_policy_allows_only_the_leaders_label(
        self, testbed: Testbed, kubectl: Kubectl, manifests: list[Json]
    ) -> None:
        assert testbed.identity
        objects = [text for text in manual_objects(LEAST_PRIVILEGE) if "admissionregistration" in text]
        metadata = {"name": "policed", "namespace": NAMESPACE, "labels": {"app": "vaultsync"}}
        testbed.kube.create({**pod_of(manifests), "metadata": metadata})
        server = testbed.kube_apiserver
        own = Api(server.address, {"Authorization": f"Bearer {testbed.identity.kubernetes_token}"}, server.ca)

        def status(change: Json, api: Api = own) -> int:
            try:
                path = f"/api/v1/namespaces/{NAMESPACE}/pods/policed"
                api.request("PATCH", path, change, content_type=MERGE_PATCH)
            except ApiError as error:
                return error.status if "vaultsync may only set the label" in error.body else 0
            return 200

        deadline: Json = {"spec": {"activeDeadlineSeconds": 600}}
        others: list[Json] = [
            {"metadata": {"labels": {"app": "another"}}},
            {"metadata": {"labels": {"app": None}}},
            {"metadata": {"labels": {"more": "x"}}},
            {"metadata": {"labels": {LEADER_LABEL: "true", "more": "x"}}},
            {"metadata": {"annotations": {"more": "x"}}},
            {"metadata": {"finalizers": ["example.com/never"]}},
        ]
        try:
            for text in objects:
                kubectl.quietly("apply", "-f", "-", given=text)
            numbers = count()  # a no-op change is accepted
            wait_for(
                lambda: status({"metadata": {"annotations": {"number": str(next(numbers))}}}) == 422,
                PATIENCE,
                "the policy is enforced",
            )
            assert status(deadline) == 422
            assert [status(change) for change in others] == [422] * len(others)
            assert status({"metadata": {"labels": {LEADER_LABEL: "true"}}}) == 200
            assert status({"metadata": {"labels": {LEADER_LABEL: None}}}) == 200
            assert status(deadline, testbed.kube.api) == 200
        finally:
            for text in objects:
                kubectl("delete", "-f", "-", given=text)
            testbed.kube.delete("v1", "Pod", "policed", NAMESPACE)

    @pytest.mark.parametrize(
        ("verb", "resource"),
        [
            ("get", "secrets"),
            ("list", "secrets"),
            ("watch", "secrets"),
            ("create", "secrets"),
            ("create", f"externalsecrets.{ESO}"),
            ("update", f"externalsecrets.{ESO}"),
            ("delete", f"externalsecrets.{ESO}"),
            ("patch", f"secretstores.{ESO}"),
            ("patch", f"clustersecretstores.{ESO}"),
            ("patch", "namespaces"),
            ("get", "pods"),
            ("patch", "pods"),
            ("get", "leases.coordination.k8s.io"),
            ("patch", "leases.coordination.k8s.io"),
            ("create", "endpointslices.discovery.k8s.io"),
            ("patch", "endpointslices.discovery.k8s.io"),
            ("create", "pods"),
            ("create", "serviceaccounts/token"),
            ("get", "configmaps"),
            ("impersonate", "users"),
            ("escalate", "clusterroles"),
        ],
    )
    def test_account_must_not(self, testbed: Testbed, kubectl: Kubectl, verb: str, resource: str) -> None:
        assert testbed.identity  # creates and binds the account
        name, _, subresource = resource.partition("/")
        more = [f"--subresource={subresource}"] if subresource else []
        answer = kubectl("auth", "can-i", verb, name, *more, f"--as={ACCOUNT}", "--namespace=default")
        assert answer.stdout.strip() == "no"

    @staticmethod
    def rights(testbed: Testbed, token: str, namespace: str) -> set[tuple[str, str, str]]:
        """All rights of a token in a namespace, as the API server lists them; a name after a slash limits one."""
        api = Api(testbed.kube_apiserver.address, {"Authorization": f"Bearer {token}"}, testbed.kube_apiserver.ca)
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        status = api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)["status"]
        assert not status["incomplete"]
        return {
            (group, resource + name, verb)
            for rule in status["resourceRules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in [f"/{name}" for name in rule.get("resourceNames") or ()] or [""]
            for verb in rule["verbs"]
        }


SECRET = {"data": {"password": "a person's"}}


class TestVaultPolicy:
    """Each test has its own paths, and the token has only the shipped policy."""

    @pytest.fixture
    def vault(self, testbed: Testbed) -> Api:
        return Api(testbed.vault.address, {"X-Vault-Token": testbed.identity.vault_token})

    @pytest.mark.parametrize("mount", ["secret", "team/kv"])
    @pytest.mark.parametrize(
        ("method", "kind", "body"),
        [
            ("GET", "data", None),
            ("GET", "metadata", None),
            ("POST", "metadata", {"custom_metadata": {"owner": "me"}}),
            ("DELETE", "data", None),
            ("POST", "delete", {"versions": [1]}),
            ("POST", "undelete", {"versions": [1]}),
            ("POST", "destroy", {"versions": [1]}),
            ("DELETE", "metadata", None),
        ],
    )
    def test_refuses_on_kv_v2(
        self, vault: Api, place: Place, mount: str, method: str, kind: str, body: Json | None
    ) -> None:
        place.put("postgres", mount, password="a person's")
        assert status_of(vault, method, f"/v1/{mount}/{kind}/{place.path('postgres')}", body) == 403
        assert place.read("postgres", mount) == {"password": "a person's"}

    @pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", {"password": "another"}), ("DELETE", None)])
    def test_refuses_on_an_existing_kv_v1_path(self, vault: Api, place: Place, method: str, body: Json | None) -> None:
        place.put("postgres", "kv1", password="a person's")
        assert status_of(vault, method, f"/v1/kv1/{place.path('postgres')}", body) == 403
        assert place.read("postgres", "kv1") == {"password": "a person's"}

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "sys/mounts", None),
            ("GET", "sys/policies/acl/vaultsync", None),
            ("PUT", "sys/policies/acl/vaultsync", {"policy": 'path "*" { capabilities = ["sudo"] }'}),
            ("POST", "auth/token/create", {}),
            ("POST", "cubbyhole/x", {"a": "b"}),
            ("GET", "secret/config", None),
        ],
    )
    def test_refuses_elsewhere(self, vault: Api, method: str, path: str, body: Json | None) -> None:
        assert status_of(vault, method, f"/v1/{path}", body) == 403

    @pytest.mark.parametrize("mount", ["secret", "team/kv"])
    def test_lets_a_missing_value_be_created_and_a_key_added(self, vault: Api, place: Place, mount: str) -> None:
        path = f"/v1/{mount}/data/{place.path('postgres')}"
        assert status_of(vault, "POST", path, {"options": {"cas": 0}, "data": {"password": "seeded"}}) == 200
        # a second writer that has read the same version
        assert status_of(vault, "POST", path, {"options": {"cas": 0}, "data": {"password": "late"}}) == 400
        added = {"options": {"cas": 1}, "data": {"user": "seeded"}}
        assert status_of(vault, "PATCH", path, added, content_type=MERGE_PATCH) == 200
        assert place.read("postgres", mount) == {"password": "seeded", "user": "seeded"}

    def test_lets_a_deleted_value_be_created_again(self, vault: Api, place: Place) -> None:
        place.put("postgres", password="a person's")
        place.vault.delete(place.path("postgres"))
        path = f"/v1/secret/data/{place.path('postgres')}"
        assert status_of(vault, "POST", path, {"options": {"cas": 1}, "data": {"password": "seeded"}}) == 200
        assert place.read("postgres") == {"password": "seeded"}

    def test_lets_a_missing_value_be_created_on_kv_v1(self, vault: Api, place: Place) -> None:
        assert status_of(vault, "POST", f"/v1/kv1/{place.path('postgres')}", {"password": "seeded"}) == 200
        assert place.read("postgres", "kv1") == {"password": "seeded"}

    def test_lets_names_be_listed_without_values(self, vault: Api, place: Place) -> None:
        place.put("postgres", password="a person's")
        found = vault.request("GET", f"/v1/secret/subkeys/{place.path('postgres')}")
        assert found["data"]["subkeys"] == {"password": None}
        assert "a person's" not in json.dumps(found)
        listed = vault.request("LIST", f"/v1/secret/metadata/{place.path('')}")
        assert listed["data"]["keys"] == ["postgres"]

    def test_lets_the_mount_of_a_path_be_found(self, vault: Api, place: Place) -> None:
        found = vault.request("GET", f"/v1/sys/internal/ui/mounts/team/kv/{place.path('postgres')}")
        assert (found["data"]["path"], found["data"]["options"]) == ("team/kv/", {"version": "2"})

    @pytest.mark.parametrize(("method", "path"), [("GET", "lookup-self"), ("POST", "renew-self")])
    def test_lets_the_token_be_kept_alive(self, vault: Api, method: str, path: str) -> None:
        assert status_of(vault, method, f"/v1/auth/token/{path}") == 200

    @pytest.mark.parametrize("mount", ["secret", "team/kv", "kv1"])
    def test_lets_events_of_its_mounts_arrive(self, testbed: Testbed, place: Place, mount: str) -> None:
        address = testbed.vault.address.replace("http", "ws", 1) + "/v1/sys/events/subscribe/kv*?json=true"
        headers = {"X-Vault-Token": testbed.identity.vault_token}
        with connect(address, additional_headers=headers) as stream:
            place.put("postgres", mount, password="a person's")
            event = json.loads(stream.recv(timeout=10))["data"]["event"]
        assert event["metadata"]["path"].endswith(place.path("postgres"))


def status_of(api: Api, method: str, path: str, body: Json | None = None, **more: str) -> int:
    """The status of an answer; every success counts as 200."""
    try:
        api.request(method, path, body, **more)
    except ApiError as error:
        return error.status
    return 200


DOCKERFILE = (PROJECT / "Dockerfile").read_text()
Stages = list[list[tuple[str, str]]]


@pytest.fixture(scope="module")
def stages() -> Stages:
    """The Dockerfile's instructions, by stage."""
    text = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    found: Stages = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if word:
            found[-1].append((word, rest))
    return found


class TestDockerfile:
    def test_every_stage_uses_the_same_pinned_base(self, stages: Stages) -> None:
        [base] = {stage[0][1].split()[0] for stage in stages}
        assert len(stages) > 1
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", base)
        assert f'base.name="docker.io/library/{base.partition("@")[0]}"' in DOCKERFILE

    def test_it_runs_as_the_deployments_non_root_user(self, stages: Stages, manifests: list[Json]) -> None:
        context = one(manifests, "Deployment")["spec"]["template"]["spec"]["securityContext"]
        users = [rest for word, rest in stages[-1] if word == "USER"]
        assert users == [f"{context['runAsUser']}:{context['runAsGroup']}"]
        assert context["runAsUser"] > 0

    def test_final_stage_needs_no_shell(self, stages: Stages) -> None:
        words = dict(stages[-1])
        assert "RUN" not in words
        assert json.loads(words["ENTRYPOINT"]) == ["vaultsync"]
        assert json.loads(words["CMD"]) == ["run"]

    def test_every_installed_package_is_locked(self, stages: Stages) -> None:
        runs = [rest for stage in stages for word, rest in stage if word == "RUN"]
        installs = [command for run in runs for command in run.split("&&") if "pip install" in command]
        assert len(installs) == 3
        assert all(re.search("--require-hashes|--no-index --no-deps", command) for command in installs)

    def test_copied_files_exist_and_are_not_ignored(self, stages: Stages) -> None:
        copies = [
            rest.split()[:-1] for stage in stages for word, rest in stage if word == "COPY" and "--from" not in rest
        ]
        copied = {name for names in copies for name in names}
        allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        assert copied == allowed
        assert [name for name in copied if not (PROJECT / name).exists()] == []

    def test_label_and_manifests_have_the_version(self) -> None:
        kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
        assert f'image.version="{package.__version__}"' in DOCKERFILE
        assert [image["newTag"] for image in kustomization["images"]] == [package.__version__]


def is_for_here(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


class TestLockFiles:
    @staticmethod
    def locked(name: str) -> dict[str, str]:
        """Version by package, for the packages of this platform."""
        lines = re.findall(r"^[a-z0-9-]+==[^\\\n]+", (PROJECT / name).read_text(), re.MULTILINE)
        pins = [Requirement(line) for line in lines]
        return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins if is_for_here(pin)}

    @pytest.mark.parametrize(
        ("name", "tables"),
        [
            ("requirements.lock", ["runtime"]),
            ("requirements-build.lock", ["build"]),
            ("requirements-dev.lock", ["runtime", "build", "dev"]),
        ],
    )
    def test_pins_the_requirements_of_pyproject(self, name: str, tables: list[str]) -> None:
        project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
        asked: dict[str, list[str]] = {
            "runtime": project["project"]["dependencies"],
            "build": project["build-system"]["requires"],
            "dev": project["project"]["optional-dependencies"]["dev"],
        }
        pins = self.locked(name)
        requirements = [Requirement(text) for table in tables for text in asked[table]]
        wrong = [
            str(requirement)
            for requirement in requirements
            if is_for_here(requirement)
            and not requirement.specifier.contains(pins[requirement.name.lower()], prereleases=True)
        ]
        assert wrong == [], "run `make lock`"

    def test_versions_are_the_same_in_all(self) -> None:
        dev = self.locked("requirements-dev.lock")
        for name in ("requirements.lock", "requirements-build.lock"):
            assert self.locked(name).items() <= dev.items()

    @pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock", "requirements-dev.lock"])
    def test_names_no_registry(self, name: str) -> None:
        assert not re.search(r"://|--(extra-)?index-url|--find-links", (PROJECT / name).read_text())
