"""Replaces Deployment controller, kubelet and Service: runs the pods of a Deployment as local processes.

Each is a Pod that the API server has created from the Deployment's template (defaults, admission). Its process has the
variables and files of its container only. Only listening ports and folders differ from a pod.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from tests.testbed.api import Json
from tests.testbed.processes import free_port
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
SERVICE_ACCOUNT_SECONDS = 3607
"""The kubelet's token request: https://kubernetes.io/docs/concepts/security/service-accounts/."""


class Pods:
    """The pods of a Deployment of vaultsync.

    Args:
        testbed: the servers.
        name, namespace: of the Deployment.

    Attributes:
        audit_port: the port of the Service for audit entries: only the leader listens on it.
        all: the pods so far.
    """

    def __init__(self, testbed: Testbed, name: str = "vaultsync", namespace: str = "vaultsync") -> None:
        self.testbed = testbed
        self.kube = testbed.kube
        self.name = name
        self.namespace = namespace
        self.audit_port = free_port()
        self.all: list[Pod] = []

    def make(self) -> Pod:
        """Creates one more pod, not started."""
        deployment = self.kube.get("apps/v1", "Deployment", self.name, self.namespace)
        assert deployment is not None
        template = deployment["spec"]["template"]
        metadata = {**template["metadata"], "name": f"{self.name}-{len(self.all)}", "namespace": self.namespace}
        wanted = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": metadata}
        self.all.append(Pod(self, self.kube.create(wanted)))
        return self.all[-1]

    def led_to(self) -> list[str]:
        """The names of the pods behind the Service of the audit port."""
        service = self.kube.get("v1", "Service", f"{self.name}-audit", self.namespace)
        assert service is not None
        selector = service["spec"]["selector"].items()
        pods = self.kube.items("v1", "Pod", self.namespace)
        return [pod["metadata"]["name"] for pod in pods if selector <= pod["metadata"]["labels"].items()]

    def stop(self) -> None:
        for pod in self.all:
            pod.process.stop()
            self.kube.delete("v1", "Pod", pod.name, self.namespace)


class Pod:
    """One pod of the Deployment.

    Attributes:
        process: the container's.
    """

    def __init__(self, pods: Pods, admitted: Json) -> None:
        self._pods = pods
        self._admitted = admitted
        self._spec: Json = admitted["spec"]
        [self.container] = self._spec["containers"]
        self._root = Path(mkdtemp(prefix=f"{pods.name}-", dir=pods.testbed.work))
        self._ports = {
            port["name"]: pods.audit_port if port["name"] == "audit" else free_port()
            for port in self.container["ports"]
        }
        self._mount()
        self.process = self.command(*self.container["args"])

    @property
    def name(self) -> str:
        return str(self._admitted["metadata"]["name"])

    @property
    def env(self) -> dict[str, str]:
        """The container's variables, with the ports and folders of this machine."""
        found = self._variables()
        for port in self.container["ports"]:
            name = f"VAULTSYNC_{port['name'].upper()}_LISTEN"
            transport = "udp:" if port["protocol"] == "UDP" else ""
            assert found[name] == f"{transport}0.0.0.0:{port['containerPort']}"
            found[name] = f"{transport}127.0.0.1:{self._ports[port['name']]}"
        for mount in self.container["volumeMounts"]:
            found = {
                name: value.replace(mount["mountPath"], self._here(mount["mountPath"])) for name, value in found.items()
            }
        server = self._pods.testbed.kube_apiserver
        return {**found, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}

    def command(self, *arguments: str) -> VaultsyncProcess:
        """Vaultsync in the container, as `kubectl exec` starts it; not started."""
        made = VaultsyncProcess(None, self._pods.testbed.work, self._root.name, self.env, arguments)
        made.command = [sys.executable, "-m", "tests.testbed.inside", self._here(SERVICE_ACCOUNT), *arguments]
        made.health_port, made.audit_port = self._ports["health"], self._ports["audit"]
        return made

    def passes(self, probe: str) -> bool:
        """Whether it answers a probe of the container's, such as `readinessProbe`."""
        asked = self.container[probe]["httpGet"]
        assert asked["port"] == "health"
        return self.process.health.answers(asked["path"])

    def _here(self, path: str) -> str:
        return f"{self._root}{path}"

    # -- its files

    def _mount(self) -> None:
        volumes = {volume["name"]: volume for volume in self._spec.get("volumes", ())}
        for mount in self.container["volumeMounts"]:
            self._write(mount["mountPath"], self._files(volumes[mount["name"]]))
        if self._spec["automountServiceAccountToken"]:  # set by the admission plug-in ServiceAccount
            token = self._token(expirationSeconds=SERVICE_ACCOUNT_SECONDS)
            ca = self._pods.testbed.kube_apiserver.ca.read_text()
            self._write(SERVICE_ACCOUNT, {"token": token, "ca.crt": ca, "namespace": self._pods.namespace})

    def _write(self, path: str, files: Mapping[str, str]) -> None:
        folder = Path(self._here(path))
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)

    def _files(self, volume: Json) -> dict[str, str]:
        """The files of a volume, of the kinds that deploy/ uses."""
        if "projected" in volume:
            [source] = [source["serviceAccountToken"] for source in volume["projected"]["sources"]]
            return {source["path"]: self._token(source["expirationSeconds"], source["audience"])}
        values = self._secret(volume["secret"]["secretName"])
        items = volume["secret"].get("items") or [{"key": name, "path": name} for name in values]
        return {item["path"]: values[item["key"]] for item in items}

    def _token(self, expirationSeconds: int, *audiences: str) -> str:  # noqa: N803 — the API's name
        account = self._spec["serviceAccountName"]
        return self._pods.kube.token_for(account, self._pods.namespace, expirationSeconds, audiences)

    # -- its variables

    def _variables(self) -> dict[str, str]:
        """Resolved as the API documents it: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/."""
        found: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            found |= self._config(source["configMapRef"]["name"])
        for item in self.container["env"]:
            value = self._field(item["valueFrom"]["fieldRef"]["fieldPath"]) if "valueFrom" in item else item["value"]
            found[item["name"]] = re.sub(r"\$\((\w+)\)", partial(_expanded, found), value)
        return found

    def _field(self, path: str) -> str:
        value = self._admitted
        for name in path.split("."):
            value = value[name]
        return str(value)

    def _config(self, name: str) -> dict[str, str]:
        found = self._pods.kube.get("v1", "ConfigMap", name, self._pods.namespace)
        assert found is not None
        return dict(found["data"])

    def _secret(self, name: str) -> dict[str, str]:
        found = self._pods.kube.secret_values(name, self._pods.namespace)
        assert found is not None
        return found


def _expanded(known: Mapping[str, str], match: re.Match[str]) -> str:
    return known.get(match.group(1), match.group())
