"""The Helm chart: rendered by the real helm, accepted by a real API server, and working.

On its own testbed, as the release has the same name as deploy/base.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.chart import CHART, MONITORING, OWN, SCHEMA, SECRETS
from tests.integration.test_deploy import BASE, Kubectl, one
from tests.integration.test_healing import SEED, another
from tests.manual import DOCS, run, section
from tests.manual import objects as manual_objects
from tests.testbed import build, pins
from tests.testbed.api import Api, Json
from tests.testbed.identity import DEPLOY, NAMESPACE, POLICY, shipped_policy
from tests.testbed.place import Place
from tests.testbed.pod import Pods
from tests.testbed.testbed import Testbed, apply_monitoring_crds, wait_for
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.config.settings import Settings, variable
from vaultsync.core.annotations import LEADER_LABEL

PATIENCE = 60.0
RELEASE = "vaultsync"
AUDIT_ENABLE = re.compile(r"vault audit enable -path=(\S+ socket \S+ \S+)")
APPLY = ("apply", "--server-side", "--force-conflicts", "-f", "-")
RBAC = "rbac.authorization.k8s.io/v1"

NAMESPACED: Json = {"namespaces": ["team-a", "team-b"]}

SETTINGS: Json = {
    "KUBECONFIG": "/etc/vaultsync/kubeconfig",
    "VAULTSYNC_AUDIT_ALLOW": "10.0.0.0/8,::1",
    "VAULTSYNC_AUDIT_FILE": "/vault/logs/audit.log",
    "VAULTSYNC_CANARY_INTERVAL": "10m",
    "VAULTSYNC_CLUSTER": "west",
    "VAULTSYNC_DRY_RUN": True,
    "VAULTSYNC_GENERATE": 'password: {format: password, length: 40}\n"*": {format: hex}\n',
    "VAULTSYNC_KUBE_TIMEOUT": "30s",
    "VAULTSYNC_LOG_FORMAT": "text",
    "VAULTSYNC_LOG_LEVEL": "DEBUG",
    "VAULTSYNC_NAMESPACE_SELECTOR": "vaultsync=on,env!=prod",
    "VAULTSYNC_POLL_INTERVAL": "2m",
    "VAULTSYNC_POLL_RATE": 10_000,
    "VAULTSYNC_RESYNC": "1h30m",
    "VAULTSYNC_ROTATE_AFTER": "30d",
    "VAULTSYNC_SEED": "off",
    "VAULTSYNC_HEAL_LIMIT": 3,
    "VAULTSYNC_SEED_BUDGET": 1_000_000,
    "VAULTSYNC_SEED_PATHS": "*/apps/{namespace}/**",
    "VAULTSYNC_SELECTOR": "tier in (web,api)",
    "VAULTSYNC_SOURCE": "audit",
    "VAULTSYNC_STORE_SERVERS": "https://vault:8200,https://vault.vault.svc:8200",
    "VAULTSYNC_VAULT_TIMEOUT": 15,
    "VAULT_TLS_SERVER_NAME": "vault",
}

FULL: Json = {
    "nameOverride": "sync",
    "fullnameOverride": "sync",
    "replicas": 3,
    "image": {
        "repository": "images.example:5000/vaultsync",
        "tag": "9",
        "digest": f"sha256:{'0a' * 32}",
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "registry"}],
    },
    "vault": {
        "address": "https://vault.example",
        "namespace": "ops",
        "ca": {"configMap": "vault-ca", "key": "ca.pem"},
        "clientTlsSecret": "client-tls",
        "auth": {
            "method": "approle",
            "mount": "ops/approle",
            "role": "sync",
            "serviceAccountToken": {"audience": "https://vault.example", "expirationSeconds": 7200},
            "approle": {"secret": "login", "roleIdKey": "id", "secretIdKey": "secret"},
            "token": {"secret": "login", "key": "t"},
            "file": "/vault/secrets/token",
        },
    },
    **NAMESPACED,
    "settings": SETTINGS,
    "audit": {
        "listen": "tcp:[::]:9220",
        "tlsSecret": "audit-tls",
        "service": {
            "type": "LoadBalancer",
            "annotations": {"example.com/internal": "true"},
            "loadBalancerSourceRanges": ["10.1.2.0/28", "fd00:1::/64"],
            "externalTrafficPolicy": "Local",
        },
    },
    "health": {"listen": "[::]:9080"},
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "interval": "15s",
        "scrapeTimeout": "5s",
    },
    "prometheusRule": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbookPrefix": "https://git.example/vaultsync/",
    },
    "grafanaDashboard": {
        "enabled": True,
        "labels": {"grafana_dashboard": "yes"},
        "annotations": {"grafana_folder": "Secrets"},
    },
    "networkPolicy": {
        "enabled": True,
        "vault": {"peers": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "port": 443},
        "prometheus": {"peers": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]},
        "apiServer": {"peers": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [6443]},
        "dns": {"peers": [{"ipBlock": {"cidr": "169.254.20.10/32"}}], "port": 5353},
    },
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
    "serviceAccount": {"name": "sync-account", "annotations": {"example.com/role": "sync"}},
    "podAnnotations": {"example.com/scrape": "true"},
    "podLabels": {"team": "ops"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "ops", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "ops", "operator": "Exists"}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "1Gi"}},
    "podSecurityContext": {"runAsUser": 1000, "fsGroup": 1000},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "extraVolumes": [{"name": "vault-logs", "persistentVolumeClaim": {"claimName": "vault-logs"}}],
    "extraVolumeMounts": [{"name": "vault-logs", "mountPath": "/vault/logs", "readOnly": True}],
}
"""Every value, different from its default."""

CLUSTER_SCOPED = {"namespaces", "clustersecretstores"}
INSTANCE = "app.kubernetes.io/instance"
CIRCUMSTANCES = {"managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "status", "clusterIP"}
CIRCUMSTANCES |= {"clusterIPs", "helm.sh/chart", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", INSTANCE}
POD_NAME = "vaultsync-0"

METHODS = ("kubernetes", "jwt", "approle", "token")
VALUES = {"default": {}, "namespaced": NAMESPACED, "full": FULL}


class Helm:
    """The real helm, as admin of the testbed."""

    def __init__(self, testbed: Testbed, binary: Path) -> None:
        self.binary = binary
        self._values = testbed.work / "values.json"
        self._env = {"KUBECONFIG": str(testbed.kubeconfig), "HOME": str(testbed.work), "PATH": "/usr/bin:/bin"}

    def __call__(self, *arguments: str | Path, values: Json | None = None) -> subprocess.CompletedProcess[str]:
        self._values.write_text(json.dumps(values or {}))
        more = [] if values is None else ["--values", self._values]
        command = [str(part) for part in (self.binary, *arguments, *more)]
        return subprocess.run(command, env=self._env, text=True, capture_output=True, timeout=60, check=False)

    def quietly(self, *arguments: str | Path, values: Json | None = None) -> str:
        """The output of a command that succeeds without errors and warnings."""
        result = self(*arguments, values=values)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def render(self, values: Json | None = None, chart: Path = CHART) -> list[Json]:
        """The objects of a release in vaultsync's namespace."""
        text = self.quietly("template", RELEASE, chart, f"--namespace={NAMESPACE}", values=values or {})
        return [item for item in yaml.safe_load_all(text) if item]

    def refusal(self, values: Json) -> str:
        """The error message for values that it rejects."""
        result = self("template", RELEASE, CHART, values=values)
        assert result.returncode != 0, values
        return result.stderr


@pytest.fixture(scope="module")
def testbed(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """Overrides the session's; with the namespaces of the values, and the Prometheus operator's CRDs."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        build.ensure([pins.HELM, pins.PROMETHEUS_OPERATOR])  # with the progress on the terminal
    with Testbed() as made:
        apply_monitoring_crds(made.kube)
        made.kube.apply(yaml.safe_load((BASE / "namespace.yaml").read_text()))
        for name in NAMESPACED["namespaces"]:
            made.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield made


@pytest.fixture(scope="module")
def kubectl(testbed: Testbed) -> Kubectl:
    return Kubectl(testbed)


@pytest.fixture(scope="module")
def helm(testbed: Testbed) -> Helm:
    return Helm(testbed, build.ensure([pins.HELM])["helm"])


def of_kind(manifests: list[Json], kind: str) -> list[Json]:
    return [item for item in manifests if item["kind"] == kind]


def pod_of(manifests: list[Json]) -> Json:
    """The Pod that the Deployment's controller would create."""
    template = one(manifests, "Deployment")["spec"]["template"]
    metadata = {**template["metadata"], "name": "vaultsync-test", "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}


def container_of(manifests: list[Json]) -> Json:
    [container] = pod_of(manifests)["spec"]["containers"]
    found: Json = container
    return found


def environment_of(manifests: list[Json]) -> dict[str, str]:
    """The container's variables, with some text in place of a Secret's, and some name of the Pod."""
    return {
        item["name"]: item.get("value", POD_NAME if "fieldRef" in item.get("valueFrom", ()) else "from-a-secret")
        for item in container_of(manifests)["env"]
    }


def ports_of(manifests: list[Json]) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container_of(manifests)["ports"]}


def by(method: str) -> Json:
    """FULL with another auth method."""
    vault = FULL["vault"]
    return {**FULL, "vault": {**vault, "auth": {**vault["auth"], "method": method}}}


def rights_of(manifests: list[Json]) -> set[tuple[str, ...]]:
    """Every single right of the account: where (a namespace, or "" for the cluster), resource, verb.

    Without rights to cluster-scoped resources in a namespace's binding, which have no effect.
    """
    roles = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item for item in manifests}
    found: set[tuple[str, ...]] = set()
    for binding in [*of_kind(manifests, "ClusterRoleBinding"), *of_kind(manifests, "RoleBinding")]:
        where, reference = binding["metadata"].get("namespace"), binding["roleRef"]
        role = roles[reference["kind"], where if reference["kind"] == "Role" else None, reference["name"]]
        assert [(it["kind"], it["name"], it["namespace"]) for it in binding["subjects"]] == [
            ("ServiceAccount", "vaultsync", NAMESPACE)
        ]
        found |= {
            (where or "", group, resource, name, verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", [""])
            for verb in rule["verbs"]
            if not (where and resource in CLUSTER_SCOPED)
        }
    return found


def substance(kubectl: Kubectl, manifests: list[Json]) -> Json:
    """The objects with the API server's defaults, without metadata about their origin."""
    text = kubectl.quietly(*APPLY, "--dry-run=server", "--output=json", given=yaml.safe_dump_all(manifests))
    items = json.loads(text)["items"]
    config = {name: value for item in of_kind(items, "ConfigMap") for name, value in item["data"].items()}
    for item in of_kind(items, "Deployment"):
        [container] = item["spec"]["template"]["spec"]["containers"]
        container.pop("envFrom", None)
        given = {variable["name"]: variable for variable in container["env"]}
        given |= {name: {"name": name, "value": value} for name, value in config.items()}
        if given.pop("POD_NAMESPACE", None):
            given["VAULTSYNC_LEASE"]["value"] = given["VAULTSYNC_LEASE"]["value"].replace("$(POD_NAMESPACE)", NAMESPACE)
        container["env"] = given
    objects = {
        f"{item['kind']} {item['metadata']['name']}": stripped(item)
        for item in items
        if item["kind"] not in ("Namespace", "ConfigMap") and not item["apiVersion"].startswith("rbac.")
    }
    return {**objects, "rights": rights_of(manifests)}


def stripped(item: Any) -> Any:  # noqa: ANN401
    if isinstance(item, list):
        return [stripped(inner) for inner in item]
    if not isinstance(item, dict):
        return item
    return {name: stripped(inner) for name, inner in item.items() if name not in CIRCUMSTANCES}


def properties(schema: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all leaf values in the schema."""
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            yield from properties(inner, (*path, name))
        else:
            yield (*path, name)


def at(paths: Iterable[tuple[str, ...]], value: object) -> Json:
    """Values with this one at each of the paths."""
    found: Json = {}
    for *folders, name in paths:
        inner = found
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return found


def pointer(path: Iterable[str]) -> str:
    return "".join(f"/{name}" for name in path)


KNOWN = list(properties(json.loads(SCHEMA.read_text())))
DEFAULTS: Json = yaml.safe_load((CHART / "values.yaml").read_text())
PLACEHOLDERS = {("global",), ("enabled",)}
"""The values of a parent chart."""


class TestValues:
    def test_settings_with_a_default_are_those_of_the_schema(self) -> None:
        assert {path for path in KNOWN if self.default(path) is not None} == {
            path
            for path in KNOWN
            if path not in PLACEHOLDERS and path[0] != "settings" and path != ("resources", "claims")
        }

    def test_each_value_of_another_type_is_refused_by_its_name(self, helm: Helm) -> None:
        """A list of a number has the wrong type for every setting and list element."""
        refusal = helm.refusal(at(KNOWN, [1.5]))
        assert [path for path in KNOWN if f"at '{pointer(path)}" not in refusal] == []

    def test_an_unknown_name_is_refused_everywhere(self, helm: Helm) -> None:
        folders = {path[:-1] for path in KNOWN}
        refusal = helm.refusal(at([(*folder, "typo") for folder in folders], "x"))
        expected = "at '{}': additional properties 'typo' not allowed"
        assert [folder for folder in folders if expected.format(pointer(folder)) not in refusal] == []

    def test_a_default_cannot_be_removed(self, helm: Helm) -> None:
        """In Helm null removes a default; without its peers, a NetworkPolicy would allow every client."""
        paths = [path for path in KNOWN if path[0] not in ("global", "enabled", "settings", "resources")]
        lines = helm.refusal(at(paths, None)).splitlines()
        missing = {re.findall("'([^']*)'", line)[0]: line for line in lines if "missing propert" in line}
        assert [path for path in paths if f"'{path[-1]}'" not in missing.get(pointer(path[:-1]), "")] == []

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"settings": {"VAULTSYNC_SEDE": "all"}}, "'VAULTSYNC_SEDE'"),
            ({"settings": {"VAULT_TOKEN": "s.token"}}, "'VAULT_TOKEN'"),
            ({"settings": {"VAULT_ADDR": "http://vault:8200"}}, "'VAULT_ADDR'"),
            ({"settings": {"VAULTSYNC_SEED": "some"}}, "/settings/VAULTSYNC_SEED': value must be one of"),
            ({"settings": {"VAULTSYNC_SEED": False}}, "/settings/VAULTSYNC_SEED': value must be one of"),
            ({"settings": {"VAULTSYNC_SEED_BUDGET": 1_000_001}}, "/settings/VAULTSYNC_SEED_BUDGET': maximum"),
            ({"settings": {"VAULTSYNC_RESYNC": "1h30"}}, "/settings/VAULTSYNC_RESYNC'"),
            ({"settings": {"VAULTSYNC_RESYNC": 9}}, "/settings/VAULTSYNC_RESYNC': minimum"),
            ({"vault": {"auth": {"token": {"value": "s.token"}}}}, "at '/vault/auth/token'"),
            ({"vault": {"auth": {"method": "userpass"}}}, "at '/vault/auth/method'"),
            ({"vault": {"auth": {"role": ""}}}, "vault.auth.role: the method kubernetes needs it"),
            ({"settings": {"VAULTSYNC_VAULT_SECRET_ID": "s.token"}}, "'VAULTSYNC_VAULT_SECRET_ID'"),
            ({"vault": {"address": "vault:8200"}}, "at '/vault/address'"),
            ({"vault": {"ca": {"configMap": "a", "secret": "b"}}}, "vault.ca: name a ConfigMap or a Secret, not both"),
            ({"image": {"digest": "sha256:0"}}, "at '/image/digest'"),
            ({"image": {"pullSecrets": ["registry"]}}, "at '/image/pullSecrets/0'"),
            ({"namespaces": ["Team"]}, "at '/namespaces/0'"),
            ({"namespaces": ["team-a", "team-a"]}, "at '/namespaces'"),
            ({"audit": {"listen": ":port"}}, "at '/audit/listen'"),
            ({"audit": {"tlsSecret": "audit-tls"}}, "audit.tlsSecret: there is no TLS over UDP"),
            ({"audit": {"service": {"externalTrafficPolicy": "local"}}}, "at '/audit/service/externalTrafficPolicy'"),
            (
                {"audit": {"service": {"externalTrafficPolicy": "Local"}}},
                "audit.service.externalTrafficPolicy: a Service of the type ClusterIP has none",
            ),
            (
                {"audit": {"service": {"loadBalancerSourceRanges": ["10.1.2.3"]}}},
                "at '/audit/service/loadBalancerSourceRanges/0'",
            ),
            (
                {"audit": {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.1.2.3/32"]}}},
                "audit.service.loadBalancerSourceRanges: only a Service of the type LoadBalancer has them",
            ),
            ({"health": {"listen": ""}}, "at '/health/listen'"),
            ({"networkPolicy": {"vault": {"peers": []}}}, "at '/networkPolicy/vault/peers'"),
            ({"networkPolicy": {"vault": {"peers": [{}]}}}, "at '/networkPolicy/vault/peers/0'"),
            ({"networkPolicy": {"prometheus": {"peers": [{"podSelecter": {}}]}}}, "'podSelecter'"),
            ({"podDisruptionBudget": {"maxUnavailable": 0}}, "at '/podDisruptionBudget/maxUnavailable'"),
            ({"serviceMonitor": {"interval": "15"}}, "at '/serviceMonitor/interval'"),
        ],
    )
    def test_an_invalid_value_is_refused_by_its_name(self, helm: Helm, values: Json, words: str) -> None:
        refusal = helm.refusal(values)
        assert words in refusal
        assert "s.token" not in refusal

    def test_every_setting_of_another_type_is_refused_by_its_name(self, helm: Helm) -> None:
        refusal = helm.refusal({"settings": {name: ["x"] for name in SETTINGS}})
        assert [name for name in SETTINGS if f"at '/settings/{name}'" not in refusal] == []

    @pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
    def test_lint_passes(self, helm: Helm, values: Json) -> None:
        assert "0 chart(s) failed" in helm.quietly("lint", "--strict", CHART, values=values)

    def test_it_can_be_a_dependency_of_another_chart(self, helm: Helm, tmp_path: Path) -> None:
        """The parent chart passes `global`, and optionally `enabled` to omit it."""
        dependency = {"name": "vaultsync", "version": "*", "condition": "vaultsync.enabled"}
        chart = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
        (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(chart))
        shutil.copytree(CHART, tmp_path / "charts" / "vaultsync")
        given = {"enabled": True, "settings": {"VAULTSYNC_SEED": "all"}}
        values = {"global": {"region": "west"}, "vaultsync": given}
        assert environment_of(helm.render(values, tmp_path))["VAULTSYNC_SEED"] == "all"
        assert helm.render({"vaultsync": {"enabled": False}}, tmp_path) == []

    @staticmethod
    def default(path: tuple[str, ...]) -> object:
        value: Any = DEFAULTS
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value


class TestRendering:
    @pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
    def test_api_server_accepts_it_without_a_warning(self, kubectl: Kubectl, helm: Helm, values: Json) -> None:
        manifests = helm.render(values)
        given = yaml.safe_dump_all(manifests)
        assert len(kubectl.quietly(*APPLY, "--dry-run=server", given=given).splitlines()) == len(manifests)
        kubectl.quietly(*APPLY, given=given)
        kubectl.quietly("delete", "--wait=false", "-f", "-", given=given)

    def test_by_default_it_equals_deploy_base(self, kubectl: Kubectl, helm: Helm) -> None:
        shipped = substance(kubectl, list(yaml.safe_load_all(kubectl.quietly("kustomize", BASE))))
        rendered = substance(kubectl, helm.render())
        assert rendered.keys() == shipped.keys()
        for name, item in shipped.items():
            assert rendered[name] == item, name

    def test_namespaced_the_rights_are_those_of_deploy_namespaced(self, kubectl: Kubectl, helm: Helm) -> None:
        kustomized = list(yaml.safe_load_all(kubectl.quietly("kustomize", DEPLOY / "namespaced")))
        assert rights_of(helm.render({"namespaces": ["team-a"]})) == rights_of(kustomized)

    @pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
    def test_pod_is_admitted_by_the_restricted_pod_security_standard(
        self, kubectl: Kubectl, helm: Helm, values: Json
    ) -> None:
        pod = json.dumps(pod_of(helm.render(values)))
        assert "vaultsync-test" in kubectl.quietly("create", "--dry-run=server", "-f", "-", given=pod)

    @pytest.mark.parametrize(
        "values",
        [
            {"podSecurityContext": {"runAsNonRoot": False}},
            {"podSecurityContext": {"runAsUser": 0}},
            {"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}},
            {"extraVolumes": [{"name": "host", "hostPath": {"path": "/vault/logs"}}]},
        ],
    )
    def test_pod_security_standard_is_enforced_on_changed_values(
        self, kubectl: Kubectl, helm: Helm, values: Json
    ) -> None:
        pod = json.dumps(pod_of(helm.render(values)))
        assert "violates PodSecurity" in kubectl("create", "--dry-run=server", "-f", "-", given=pod).stderr

    def test_openshift_may_choose_the_user(self, helm: Helm) -> None:
        manifests = helm.render({"podSecurityContext": {"runAsUser": None, "runAsGroup": None}})
        assert pod_of(manifests)["spec"]["securityContext"].keys() == {"runAsNonRoot", "seccompProfile"}

    def test_every_setting_arrives(self, helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
        """The settings as vaultsync reads them, for each auth method."""
        known = {variable(name) for name in Settings.model_fields}
        assert SETTINGS.keys() | OWN.keys() == known - SECRETS
        arrived: set[str] = set()
        for method in METHODS:
            given = environment_of(helm.render(by(method)))
            arrived |= given.keys()
            for name in known:
                monkeypatch.delenv(name, raising=False)
            for name, value in given.items():
                if name not in ("VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"):  # files in the pod
                    monkeypatch.setenv(name, value)
            settings = Settings()
            assert (settings.vault_auth.value, settings.vault_addr) == (method, "https://vault.example")
            assert settings.vault_auth_mount == ("" if method == "token" else "ops/approle")
            assert settings.namespaces == ("team-a", "team-b")
            assert (settings.seed_budget, settings.poll_rate) == (1_000_000, 10_000)
            assert (settings.resync, settings.vault_timeout, settings.dry_run) == (5400, 15, True)
            assert [name for name, _ in settings.generate.written] == ["*", "password"]
        assert known - SECRETS <= arrived

    @pytest.mark.parametrize("method", ["kubernetes", "jwt", "token"])
    def test_a_file_mounted_by_the_user_replaces_its_own(self, helm: Helm, method: str) -> None:
        auth = {"method": method, "file": "/vault/secrets/token"}
        manifests = helm.render({"vault": {"auth": auth}})
        assert "/vault/secrets/token" in environment_of(manifests).values()
        assert "volumes" not in pod_of(manifests)["spec"]

    def test_an_approle_without_a_secret_id_mounts_none(self, helm: Helm) -> None:
        manifests = helm.render({"vault": {"auth": {"method": "approle", "approle": {"secretIdKey": ""}}}})
        [volume] = pod_of(manifests)["spec"]["volumes"]
        assert [item["path"] for item in volume["secret"]["items"]] == ["role-id"]
        assert "VAULTSYNC_VAULT_SECRET_ID_FILE" not in environment_of(manifests)

    def test_pods_are_spread_from_each_other(self, helm: Helm) -> None:
        manifests = helm.render(FULL)
        [constraint] = pod_of(manifests)["spec"]["topologySpreadConstraints"]
        assert constraint["labelSelector"] == one(manifests, "Deployment")["spec"]["selector"]

    def test_files_are_mounted_at_the_paths_of_the_settings(self, helm: Helm) -> None:
        manifests = helm.render(FULL)
        given, pod = environment_of(manifests), pod_of(manifests)["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container_of(manifests)["volumeMounts"]}
        assert mounted[str(Path(given["VAULT_CACERT"]).parent)]["configMap"]["name"] == "vault-ca"
        for name in ("VAULTSYNC_AUDIT_TLS_CERT", "VAULTSYNC_AUDIT_TLS_KEY"):
            assert mounted[str(Path(given[name]).parent)]["secret"]["secretName"] == "audit-tls"
        for name in ("VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"):
            assert mounted[str(Path(given[name]).parent)]["secret"]["secretName"] == "client-tls"
        for name in ("VAULTSYNC_VAULT_ROLE_ID_FILE", "VAULTSYNC_VAULT_SECRET_ID_FILE"):
            assert mounted[str(Path(given[name]).parent)]["secret"]["secretName"] == "login"
        assert "persistentVolumeClaim" in mounted[str(Path(given["VAULTSYNC_AUDIT_FILE"]).parent)]
        assert volumes.keys() == {"vault-login", "vault-ca", "vault-client", "audit-tls", "vault-logs"}

    def test_the_ca_may_be_in_a_secret(self, helm: Helm) -> None:
        volumes = pod_of(helm.render({"vault": {"ca": {"secret": "vault-tls"}}}))["spec"]["volumes"]
        assert {"name": "vault-ca", "secret": {"secretName": "vault-tls"}} in volumes

    def test_the_image_is_named_by_its_digest_else_its_tag(self, helm: Helm) -> None:
        full, tagged = helm.render(FULL), helm.render({"image": {"tag": "edge"}})
        assert container_of(full)["image"] == f"images.example:5000/vaultsync@sha256:{'0a' * 32}"
        assert container_of(tagged)["image"] == "vaultsync:edge"

    def test_vaultsyncs_own_namespace_may_be_watched_too(self, helm: Helm) -> None:
        roles = of_kind(helm.render({"namespaces": [NAMESPACE]}), "Role")
        names = [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in roles]
        assert len(set(names)) == len(names) == 2

    def test_releases_share_no_object_names(self, helm: Helm) -> None:
        ours, theirs = (
            {
                (item["kind"], item["metadata"]["name"])
                for item in yaml.safe_load_all(
                    helm.quietly(
                        "template",
                        name,
                        CHART,
                        values={**FULL, "nameOverride": "", "fullnameOverride": "", "serviceAccount": {"name": ""}},
                    )
                )
            }
            for name in ("vaultsync-west", "east")
        )
        assert len(ours) == len(theirs)
        assert not ours & theirs


class TestNetwork:
    def test_only_vault_reaches_the_audit_port_and_prometheus_the_health_port(self, helm: Helm) -> None:
        manifests = helm.render({"networkPolicy": {"enabled": True}})
        spec, ports = one(manifests, "NetworkPolicy")["spec"], ports_of(manifests)
        assert spec["podSelector"]["matchLabels"].items() <= pod_of(manifests)["metadata"]["labels"].items()
        assert [(rule["from"], rule["ports"]) for rule in spec["ingress"]] == [
            (in_namespace("vault"), [{"port": ports["audit"], "protocol": "UDP"}]),
            (in_namespace("monitoring"), [{"port": ports["health"]}]),
        ]

    def test_it_reaches_only_dns_the_api_server_and_vault(self, helm: Helm) -> None:
        spec = one(helm.render({"networkPolicy": {"enabled": True}}), "NetworkPolicy")["spec"]
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        assert [(rule.get("to"), [port["port"] for port in rule["ports"]]) for rule in spec["egress"]] == [
            (in_namespace("kube-system"), [53, 53]),
            (None, [443, 6443]),
            (in_namespace("vault"), [8200]),
        ]

    @pytest.mark.parametrize("listen", ["", "unix:/run/vaultsync/audit"])
    def test_without_an_audit_port_no_client_reaches_one(self, helm: Helm, listen: str) -> None:
        values = {"audit": {"listen": listen}, "networkPolicy": {"enabled": True, "prometheus": {"peers": []}}}
        manifests = helm.render(values)
        assert one(manifests, "NetworkPolicy")["spec"].get("ingress") is None
        assert of_kind(manifests, "Service") == []
        assert ports_of(manifests).keys() == {"health"}

    @pytest.mark.parametrize("values", [{}, FULL], ids=["default", "full"])
    def test_services_point_at_the_ports_that_vaultsync_listens_on(self, helm: Helm, values: Json) -> None:
        manifests = helm.render({**values, "serviceMonitor": {"enabled": True}})
        given, ports = environment_of(manifests), ports_of(manifests)
        assert given["VAULTSYNC_AUDIT_LISTEN"].endswith(f":{ports['audit']}")
        assert given["VAULTSYNC_HEALTH_LISTEN"].endswith(f":{ports['health']}")
        led: dict[str, int] = {}
        labels = {**pod_of(manifests)["metadata"]["labels"], LEADER_LABEL: "true"}
        for service in of_kind(manifests, "Service"):
            assert service["spec"]["selector"].items() <= labels.items()
            led |= {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}
        assert led == ports

    @pytest.mark.parametrize(
        ("listen", "protocol"),
        [("udp:0.0.0.0:8220", "UDP"), ("udp:[::]:9220", "UDP"), ("tcp:0.0.0.0:8220", "TCP"), ("0.0.0.0:8220", "TCP")],
    )
    def test_the_protocol_is_that_of_the_listener_everywhere(self, helm: Helm, listen: str, protocol: str) -> None:
        manifests = helm.render({"audit": {"listen": listen}, "networkPolicy": {"enabled": True}})
        [port] = one(manifests, "Service")["spec"]["ports"]
        [audit] = [one for one in container_of(manifests)["ports"] if one["name"] == port["targetPort"]]
        [allowed] = one(manifests, "NetworkPolicy")["spec"]["ingress"][0]["ports"]
        assert {port["protocol"], audit["protocol"], allowed["protocol"]} == {protocol}
        assert {port["port"], audit["containerPort"], allowed["port"]} == {int(listen.rpartition(":")[2])}

    def test_only_the_leader_is_selected_and_only_where_it_may_label_itself(self, helm: Helm) -> None:
        for values in ({}, FULL):
            manifests = helm.render(values)
            selectors = [service["spec"]["selector"] for service in of_kind(manifests, "Service")]
            assert [selector[LEADER_LABEL] for selector in selectors if LEADER_LABEL in selector] == ["true"]
            spec = one(manifests, "Deployment")["spec"]
            assert LEADER_LABEL not in {**spec["template"]["metadata"]["labels"], **spec["selector"]["matchLabels"]}
            assert self.may_label(manifests)
            assert environment_of(manifests)["VAULTSYNC_POD_NAME"] == POD_NAME
        without = helm.render({"audit": {"listen": ""}})
        assert not self.may_label(without)
        assert "VAULTSYNC_POD_NAME" not in environment_of(without)

    @staticmethod
    def may_label(manifests: list[Json]) -> bool:
        rules = [rule for role in of_kind(manifests, "Role") for rule in role["rules"]]
        return {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]} in rules

    def test_a_vault_outside_the_cluster_reaches_it_as_documented(self, helm: Helm, kubectl: Kubectl) -> None:
        """Through a private load balancer that keeps Vault's source address and allows no other client."""
        [text] = manual_objects(section("The audit device", (DOCS / "install.md").read_text()))
        manifests = helm.render(yaml.safe_load(text))
        given = json.dumps(one(manifests, "Service"))
        taken = json.loads(kubectl.quietly(*APPLY, "--dry-run=server", "--output=json", given=given))
        [annotation] = taken["metadata"]["annotations"].items()
        assert annotation == ("service.beta.kubernetes.io/aws-load-balancer-scheme", "internal")
        assert taken["spec"]["type"] == "LoadBalancer"
        assert taken["spec"]["loadBalancerSourceRanges"] == ["10.1.2.0/28"]
        assert taken["spec"]["externalTrafficPolicy"] == "Local"
        assert [port["protocol"] for port in taken["spec"]["ports"]] == ["UDP"]
        assert environment_of(manifests)["VAULTSYNC_AUDIT_ALLOW"] == "10.1.2.0/28"
        [peer] = one(manifests, "NetworkPolicy")["spec"]["ingress"][0]["from"]
        assert peer == {"ipBlock": {"cidr": "10.1.2.0/28"}}

    def test_service_monitor_finds_the_service(self, helm: Helm) -> None:
        manifests = helm.render({"serviceMonitor": {"enabled": True}})
        monitor = one(manifests, "ServiceMonitor")["spec"]
        [service] = [
            item
            for item in of_kind(manifests, "Service")
            if monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
        ]
        [endpoint] = monitor["endpoints"]
        assert [(port["name"], port["targetPort"]) for port in service["spec"]["ports"]] == [
            (endpoint["port"], "health")
        ]


class TestMonitoring:
    def test_the_alerts_equal_deploy_monitoring_with_a_configurable_runbook(self, helm: Helm, kubectl: Kubectl) -> None:
        shipped = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
        values: Json = {"prometheusRule": {"enabled": True}}
        assert self.taken(kubectl, helm.render(values), "PrometheusRule")["spec"] == shipped
        for rule in shipped["groups"][0]["rules"]:
            rule["annotations"]["runbook_url"] = "https://git.example/" + rule["annotations"]["runbook_url"]
        values["prometheusRule"]["runbookPrefix"] = "https://git.example/"
        assert one(helm.render(values), "PrometheusRule")["spec"] == shipped

    def test_the_dashboard_equals_deploy_monitoring_and_has_grafanas_sidecar_label(
        self, helm: Helm, kubectl: Kubectl
    ) -> None:
        taken = self.taken(kubectl, helm.render({"grafanaDashboard": {"enabled": True}}), "ConfigMap")
        assert taken["data"] == {f"{RELEASE}.json": (MONITORING / "grafana-dashboard.json").read_text()}
        assert taken["metadata"]["labels"]["grafana_dashboard"] == "1"

    @staticmethod
    def taken(kubectl: Kubectl, manifests: list[Json], kind: str) -> Json:
        """The only object of a kind, as stored by the API server."""
        given = json.dumps(one(manifests, kind))
        found: Json = json.loads(kubectl.quietly(*APPLY, "--dry-run=server", "--output=json", given=given))
        return found


def in_namespace(name: str) -> list[Json]:
    return [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}]


class Release:
    """A release in the cluster, and its pods."""

    def __init__(self, testbed: Testbed, helm: Helm) -> None:
        self.testbed = testbed
        self.helm = helm
        self.method = METHODS[0]
        self.pods = Pods(testbed, RELEASE, NAMESPACE)

    def __call__(self, verb: str, **values: object) -> str:
        """`helm install` or `upgrade`; returns helm's output."""
        vault = {"address": self.testbed.vault.address, "auth": {"method": self.method}}
        return self.helm.quietly(verb, RELEASE, CHART, f"--namespace={NAMESPACE}", values={"vault": vault, **values})

    def install(self, **values: object) -> VaultsyncProcess:
        """`helm install`, and the commands for the login from its notes; the policy exists."""
        notes = re.sub(r"(\\|\|)\n\s+", lambda match: match.group(1).rstrip("\\"), self("install", **values))
        for line in map(str.strip, notes.splitlines()):
            if line.startswith(("vault write auth/", "vault token create ")):
                run(self.testbed, line)
        if self.method == "approle":
            self._make_approle_secret()
        return self.pods.make().process

    def _make_approle_secret(self) -> None:
        api, path = self.testbed.vault_root.api, "/v1/auth/approle/role/vaultsync"
        ids = {
            "role-id": api.request("GET", f"{path}/role-id")["data"]["role_id"],
            "secret-id": api.request("POST", f"{path}/secret-id", {})["data"]["secret_id"],
        }
        self.testbed.kube.apply(secret("vaultsync-vault-approle", ids))

    def audits(self) -> None:
        """Enables the audit device once the Service selects the pod."""
        name = self.pods.all[-1].name
        wait_for(lambda: self.pods.led_to() == [name], PATIENCE, f"the Service selects {name}")
        self.testbed.audit_to("release", f"udp:127.0.0.1:{self.pods.audit_port}")

    def uninstall(self) -> None:
        self.pods.stop()
        self.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--ignore-not-found")
        for name in ("vaultsync-vault-token", "vaultsync-vault-approle"):
            self.testbed.kube.delete("v1", "Secret", name, NAMESPACE)

    @property
    def deployment(self) -> Json:
        found = self.testbed.kube.get("apps/v1", "Deployment", RELEASE, NAMESPACE)
        assert found is not None
        return found


def secret(name: str, values: dict[str, str]) -> Json:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


@pytest.fixture(scope="module")
def logins(testbed: Testbed) -> None:
    """Vault's auth methods, as they are with other applications."""
    root, server = testbed.vault_root, testbed.kube_apiserver
    root.policy(POLICY, shipped_policy())
    for method in METHODS[:-1]:
        root.api.request("POST", f"/v1/sys/auth/{method}", {"type": method})
    account = {"name": "vault", "namespace": NAMESPACE}
    testbed.kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    testbed.kube.apply(
        {
            "apiVersion": RBAC,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "vault-reviews-tokens"},
            "roleRef": {"apiGroup": RBAC.partition("/")[0], "kind": "ClusterRole", "name": "system:auth-delegator"},
            "subjects": [{"kind": "ServiceAccount", **account}],
        }
    )
    reviewer = {
        "kubernetes_host": server.address,
        "kubernetes_ca_cert": server.ca.read_text(),
        "token_reviewer_jwt": testbed.kube.token_for("vault", NAMESPACE),
        "disable_local_ca_jwt": True,
    }
    root.api.request("POST", "/v1/auth/kubernetes/config", reviewer)
    public = load_pem_private_key(server.key.read_bytes(), None).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    root.api.request("POST", "/v1/auth/jwt/config", {"jwt_validation_pubkeys": [pem]})


@pytest.fixture
def release(testbed: Testbed, helm: Helm, logins: None) -> Iterator[Release]:
    made = Release(testbed, helm)
    yield made
    made.uninstall()


class TestRelease:
    @pytest.mark.parametrize("method", METHODS)
    def test_its_process_heals_by_each_way_to_log_in(
        self, testbed: Testbed, release: Release, place: Place, method: str
    ) -> None:
        release.method = method
        process = release.install()
        process.start()
        try:
            release.audits()
            heals(place, process)
            assert process.health.text("/metrics").startswith("# HELP")
            release("upgrade", podAnnotations={"example.com/changed": "true"})
            assert release.pods.led_to() == [release.pods.all[0].name]
        finally:
            testbed.no_audit_to("release")
            process.stop()

    def test_namespaced_its_process_heals_there_with_no_rights_elsewhere(
        self, testbed: Testbed, release: Release, place: Place, elsewhere: Place
    ) -> None:
        process = release.install(namespaces=[place.namespace])
        elsewhere.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
        process.start()
        try:
            release.audits()
            heals(place, process)
            assert elsewhere.annotations("app") == SEED
            token = testbed.kube.token_for(RELEASE, NAMESPACE)
            api = Api(testbed.kube_apiserver.address, {"Authorization": f"Bearer {token}"}, testbed.kube_apiserver.ca)
            lists = "/apis/external-secrets.io/v1/namespaces/{}/externalsecrets"
            assert api.answers(lists.format(place.namespace))
            assert api.answers(lists.format(elsewhere.namespace), 403)
        finally:
            testbed.no_audit_to("release")
            process.stop()

    def test_only_a_changed_value_restarts_the_pod(self, release: Release) -> None:
        release("install")
        first = release.deployment["metadata"]["generation"]
        release("upgrade")
        assert release.deployment["metadata"]["generation"] == first
        release("upgrade", settings={"VAULTSYNC_SEED": "all"})
        assert release.deployment["metadata"]["generation"] == first + 1

    def test_from_all_namespaces_to_some_and_back(self, testbed: Testbed, release: Release) -> None:
        release("install")
        for namespaces in (["team-a", "team-b"], ["team-b"], []):
            release("upgrade", namespaces=namespaces)
            for name in NAMESPACED["namespaces"]:
                assert bool(testbed.kube.get(RBAC, "RoleBinding", RELEASE, name)) == (name in namespaces)
            role = testbed.kube.get(RBAC, "ClusterRole", RELEASE)
            assert role is not None
            resources = {resource for rule in role["rules"] for resource in rule["resources"]}
            assert ("externalsecrets" in resources) == (not namespaces)

    def test_uninstalled_it_leaves_nothing(self, testbed: Testbed, release: Release, kubectl: Kubectl) -> None:
        release("install", **FULL)
        kinds = "all,rolebindings,roles,serviceaccounts,networkpolicies,poddisruptionbudgets,servicemonitors"
        kinds += ",clusterroles,clusterrolebindings"
        ours = ("get", kinds, "--all-namespaces", "--output=name", f"--selector={INSTANCE}={RELEASE}")
        assert len(kubectl(*ours).stdout.splitlines()) >= 12
        release.uninstall()
        assert kubectl(*ours).stdout == ""

    def test_the_notes_list_the_remaining_steps(self, release: Release) -> None:
        notes = " ".join(release("install").split())
        assert "vault audit enable -path=vaultsync socket socket_type=udp write_timeout=10ms" in notes
        assert "get service vaultsync-audit -o jsonpath='{.spec.clusterIP}'):8220" in notes
        assert "networkPolicy.enabled" in notes

    def test_the_notes_print_no_device_that_sends_by_tcp_to_another_machine(self, release: Release) -> None:
        """Such a device would block Vault while vaultsync is down; nor a device to a Service without endpoints."""

        def notes_of(listen: str, tls: str = "") -> str:
            return " ".join(release("upgrade", audit={"listen": listen, "tlsSecret": tls}).split())

        release("install")
        for listen in ("tcp:0.0.0.0:9220", "0.0.0.0:9220", "tcp:[::]:9220", "tcp:192.0.2.1:9220"):
            notes = notes_of(listen)
            assert "vault audit enable" not in notes
            assert f"WARNING: audit.listen={listen} accepts entries by TCP" in notes
            assert "audit.listen=udp:0.0.0.0:9220" in notes
            notes = notes_of(listen, "audit-tls")
            assert AUDIT_ENABLE.findall(notes) == ["vaultsync socket address=127.0.0.1:PORT socket_type=tcp"]
            assert "port 9220 of the Service vaultsync-audit" in notes
        for listen in ("udp:127.0.0.1:9220", "tcp:127.0.0.1:9220", "127.8.8.8:9220", "udp:[::1]:9220"):
            notes = notes_of(listen)
            assert "vault audit enable" not in notes
            assert "Set audit.listen=udp:0.0.0.0:9220" in notes
        assert "audit device" not in notes_of("unix:/run/audit")
        [device] = AUDIT_ENABLE.findall(notes_of("udp:0.0.0.0:9220"))
        assert device.startswith("vaultsync socket socket_type=udp ")


def heals(place: Place, process: VaultsyncProcess) -> None:
    process.wait_until_ready(PATIENCE)
    place.external_secret("app", {"p": ("app", "password")}, annotations=SEED)
    first = place.wait_for_secret("app", PATIENCE)
    place.vault.delete(place.path("app"))
    place.wait_for(lambda: another(place, "app", first), PATIENCE, "it is healed")
    assert [line for line in process.output().splitlines() if "returned 403" in line] == []
