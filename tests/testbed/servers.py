"""The servers of the testbed, on loopback unless a `host` is given.

Each has one port for its whole life, so that it can be stopped, killed and started again for the same clients.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tests.testbed.api import Api, ApiError
from tests.testbed.processes import Process, free_port

ROOT_TOKEN = "root"
ADMIN_TOKEN = "testbed-admin"

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Server:
    """Base class of all servers: a process, an address, and a readiness probe."""

    name = "server"
    start_timeout = 30.0
    stop_timeout = 10.0
    host = "127.0.0.1"

    def __init__(self, work: Path) -> None:
        self.work = work / self.name
        self.work.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = work / "logs" / f"{self.name}.log"
        self.process = Process(self.name, [], log=self.log)

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str] | None:
        """The process's environment; None is this process's own."""
        return None

    def is_ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        self.process = Process(self.name, self.command(), log=self.log, env=self.environment(), cwd=self.work)
        self.process.start()
        self.process.wait_until(self.is_ready, self.start_timeout)

    def stop(self) -> None:
        self.process.stop(self.stop_timeout)

    def kill(self) -> None:
        self.process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()


class Etcd(Server):
    """The API server's store; without fsync, because its data do not outlive a test run."""

    name = "etcd"

    def __init__(self, work: Path, binary: Path) -> None:
        super().__init__(work)
        self._binary = binary
        self._peer_port = free_port()

    def command(self) -> list[str]:
        peer = f"http://127.0.0.1:{self._peer_port}"
        return [
            str(self._binary),
            f"--data-dir={self.work / 'data'}",
            f"--listen-client-urls={self.address}",
            f"--advertise-client-urls={self.address}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def is_ready(self) -> bool:
        return Api(self.address).answers("/health")


class KubeApiServer(Server):
    """kube-apiserver with RBAC. Without controller-manager: no garbage collection, and namespaces are not emptied.

    Args:
        audited: the user whose requests are logged; none by default.
    """

    name = "kube-apiserver"
    start_timeout = 60.0
    stop_timeout = 5.0  # then SIGKILL: it would wait a minute for watches to end

    def __init__(self, work: Path, binary: Path, etcd: Etcd, audited: str = "") -> None:
        super().__init__(work)
        self._binary = binary
        self._etcd = etcd
        self._audited = audited
        self.tokens = self.work / "tokens.csv"
        self.tokens.write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        self.key = self.work / "service-account.key"
        self.key.write_text(ec_private_key())

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The self-signed certificate with its chain."""
        return self.work / "certs" / "apiserver.crt"

    @property
    def api(self) -> Api:
        return Api(self.address, {"Authorization": f"Bearer {ADMIN_TOKEN}"}, self.ca)

    def command(self) -> list[str]:
        issuer = "https://kubernetes.default.svc"
        return [
            str(self._binary),
            f"--etcd-servers={self._etcd.address}",
            f"--cert-dir={self.ca.parent}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--token-auth-file={self.tokens}",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={issuer}",
            f"--service-account-key-file={self.key}",
            f"--service-account-signing-key-file={self.key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount",
            "--profiling=false",
            *self._audit(),
        ]

    @property
    def audit_log(self) -> Path:
        """A JSON document for each answered request of the audited user."""
        return self.work / "audit.log"

    def _audit(self) -> list[str]:
        if not self._audited:
            return []
        rule = {"level": "Metadata", "users": [self._audited], "omitStages": ["RequestReceived", "ResponseStarted"]}
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule, {"level": "None"}]}
        file = self.work / "audit-policy.json"
        file.write_text(json.dumps(policy))
        return [f"--audit-policy-file={file}", f"--audit-log-path={self.audit_log}"]

    def is_ready(self) -> bool:
        return self.ca.exists() and self.api.answers("/readyz")

    def kubeconfig(self, path: Path, token: str = ADMIN_TOKEN, namespace: str = "default") -> Path:
        """Writes a kubeconfig for a token."""
        path.write_text(kubeconfig_text(self.address, self.ca, token, namespace))
        path.chmod(0o600)
        return path


class Vault(Server):
    """Vault: in memory (a restart empties it), or with storage (it keeps its data and is unsealed at each start).

    Args:
        leader: the node whose raft cluster it joins at its first start, as its node of this `number`.
    """

    name = "vault"

    def __init__(
        self,
        work: Path,
        binary: Path,
        storage: Literal["memory", "file", "raft"] = "memory",
        extra: Sequence[str] = (),
        leader: Vault | None = None,
        number: int = 1,
    ) -> None:
        if leader is not None:
            self.name = f"{leader.name}-{number}"
        super().__init__(work)
        self.leader = leader
        self.binary = binary
        self.storage = storage
        self.extra = list(extra)
        self._cluster_port = free_port()
        self._unseal_key: str | None = None

    @property
    def api(self) -> Api:
        return Api(self.address, {"X-Vault-Token": ROOT_TOKEN})

    def command(self) -> list[str]:
        if self.storage == "memory":
            dev = ["-dev", f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address={self.host}:{self.port}"]
            return [str(self.binary), "server", *dev, "-dev-no-store-token", *self.extra]
        config = self.work / "config.json"
        config.write_text(json.dumps(self._config(), indent=2))
        return [str(self.binary), "server", f"-config={config}", *self.extra]

    def environment(self) -> dict[str, str]:
        # VAULT_… variables of the user would change a server started by the same binary.
        return {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "BAO_"))}

    def is_ready(self) -> bool:
        if self.storage == "memory":
            return Api(self.address).answers("/v1/sys/health") and self.api.find("/v1/sys/mounts/secret") is not None
        return Api(self.address).answers("/v1/sys/health", 200, 501, 503)

    def start(self) -> None:
        super().start()
        if self.storage != "memory":
            self._unseal()

    def remove_data(self) -> None:
        """Removes what a stopped Vault has stored: at its next start it is initialised, with another key."""
        shutil.rmtree(self.work / "data", ignore_errors=True)
        self._unseal_key = None

    def seal(self) -> None:
        """Seals it like an operator; unseal() unseals it again."""
        self.api.request("PUT", "/v1/sys/seal")

    def unseal(self) -> None:
        self._unseal()

    def save(self, copy: Path) -> None:
        """Copies its storage, and is stopped meanwhile."""
        self._replace(copy, self._data)

    def load(self, copy: Path) -> None:
        """Starts again with a copy of its storage."""
        self._replace(self._data, copy)

    def _replace(self, target: Path, source: Path) -> None:
        self.stop()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        self.start()

    @property
    def _data(self) -> Path:
        return self.work / "data"

    def _config(self) -> dict[str, object]:
        data = self._data
        data.mkdir(exist_ok=True)
        cluster = f"127.0.0.1:{self._cluster_port}"
        storage: dict[str, object] = {"file": {"path": str(data)}}
        if self.storage == "raft":
            storage = {"raft": {"path": str(data), "node_id": self.name, "performance_multiplier": 2}}
        return {
            "storage": storage,
            "listener": {"tcp": {"address": f"127.0.0.1:{self.port}", "cluster_address": cluster, "tls_disable": True}},
            "api_addr": self.address,
            "cluster_addr": f"http://{cluster}",
            "disable_mlock": True,
            "ui": False,
        }

    def _unseal(self) -> None:
        api = Api(self.address)
        first_token = None
        if self.leader is not None:
            self._join(api, self.leader)
        elif not api.request("GET", "/v1/sys/init")["initialized"]:
            made = api.request("PUT", "/v1/sys/init", {"secret_shares": 1, "secret_threshold": 1})
            self._unseal_key, first_token = made["keys_base64"][0], made["root_token"]
        self.process.wait_until(lambda: self._takes_key(api), self.start_timeout, "unsealed by its key")
        health = "/v1/sys/health" if self.leader is None else "/v1/sys/health?standbyok=true"
        self.process.wait_until(lambda: api.answers(health), self.start_timeout, "unsealed")
        if first_token:
            self._make_like_dev(Api(self.address, {"X-Vault-Token": first_token}))

    def _takes_key(self, api: Api) -> bool:
        """Whether the key has unsealed it; a node that joins a cluster first answers 500."""
        try:
            return not api.request("PUT", "/v1/sys/unseal", {"key": self._unseal_key})["sealed"]
        except ApiError as error:
            if error.status != 500:
                raise
            return False

    def _join(self, api: Api, leader: Vault) -> None:
        if self._unseal_key is None:
            api.request("POST", "/v1/sys/storage/raft/join", {"leader_api_addr": leader.address})
            self._unseal_key = leader._unseal_key

    @property
    def is_active(self) -> bool:
        """Whether it is the active node of its cluster."""
        return Api(self.address).answers("/v1/sys/health")

    @staticmethod
    def _make_like_dev(api: Api) -> None:
        """Creates the root token and first mount of dev mode, so that callers need no distinction."""
        api.request("POST", "/v1/auth/token/create", {"id": ROOT_TOKEN, "policies": ["root"], "no_parent": True})
        api.request("POST", "/v1/sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})


class OpenBao(Vault):
    """OpenBao instead of Vault: the same API, no event stream."""

    name = "openbao"

    def command(self) -> list[str]:
        config = self.work / "audit.json"
        # otherwise audit devices must be in the configuration, before vaultsync listens
        config.write_text(json.dumps({"unsafe_allow_api_audit_creation": True}))
        return [*super().command(), f"-config={config}"]


class Eso(Server):
    """external-secrets: only its controller, without webhook and certificate controller."""

    name = "external-secrets"

    def __init__(
        self,
        work: Path,
        binary: Path,
        kubeconfig: Path,
        *,
        concurrent: int = 1,
        store_requeue: str = "5s",
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(work)
        self._binary = binary
        self._kubeconfig = kubeconfig
        self._live_port = free_port()
        self.concurrent = concurrent
        self.store_requeue = store_requeue
        self.extra = list(extra)

    def command(self) -> list[str]:
        return [
            str(self._binary),
            f"--metrics-addr=127.0.0.1:{self.port}",
            f"--live-addr=127.0.0.1:{self._live_port}",
            f"--concurrent={self.concurrent}",
            f"--store-requeue-interval={self.store_requeue}",
            "--enable-leader-election=false",
            *self.extra,
        ]

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VAULT_")}
        return {**clean, "KUBECONFIG": str(self._kubeconfig)}

    def is_ready(self) -> bool:
        """Whether its workers run: the live endpoint answers long before its caches have synced."""
        if not Api(f"http://127.0.0.1:{self._live_port}").answers("/healthz"):
            return False
        return all(
            f'"controller":"{name}"' in self._started_workers()
            for name in ("externalsecret", "secretstore", "pushsecret")
        )

    def _started_workers(self) -> str:
        return "\n".join(line for line in self.process.output().splitlines() if "Starting workers" in line)


def kubeconfig_text(address: str, ca: Path, token: str, namespace: str) -> str:
    """A kubeconfig as JSON, which is YAML too."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": {"server": address, "certificate-authority": str(ca)}}],
            "users": [{"name": "testbed", "user": {"token": token}}],
            "contexts": [
                {"name": "testbed", "context": {"cluster": "testbed", "user": "testbed", "namespace": namespace}}
            ],
        },
        indent=2,
    )


def ec_private_key() -> str:
    """A new P-256 key in PEM, for signing ServiceAccount tokens.

    The standard library creates no keys, but an EC private key (RFC 5915) is a number in a few fixed bytes: sequence,
    version 1, the number, the curve's name. The public half may be omitted, and the API server computes it.
    """
    number = (1 + secrets.randbelow(P256_ORDER - 1)).to_bytes(32, "big")
    body = bytes.fromhex("0201010420") + number + bytes.fromhex("a00a06082a8648ce3d030107")
    der = b"\x30" + bytes([len(body)]) + body
    text = base64.b64encode(der).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN EC PRIVATE KEY-----", *lines, "-----END EC PRIVATE KEY-----", ""])
