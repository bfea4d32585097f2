"""The whole testbed as a context manager: starts the servers in parallel, connects them, and stops them again."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from urllib3.exceptions import HTTPError

from tests.testbed import build, pins
from tests.testbed.api import Api, ApiError, Json
from tests.testbed.errors import ServerError
from tests.testbed.identity import Identity, create_identity, create_vault_token, printed_policy, shipped_policy
from tests.testbed.kube import Kube
from tests.testbed.processes import watchdog
from tests.testbed.servers import ROOT_TOKEN, Eso, Etcd, KubeApiServer, OpenBao, Server, Vault
from tests.testbed.vault import VaultRoot

T = TypeVar("T")

ESO_POLICY = "eso"
ESO_TOKEN = "testbed-eso"
ESO_RULES = """
path "+/data/*" { capabilities = ["read"] }
path "+/+/data/*" { capabilities = ["read"] }
path "+/metadata/*" { capabilities = ["read", "list"] }
path "+/+/metadata/*" { capabilities = ["read", "list"] }
path "kv1/*" { capabilities = ["read", "list"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
"""

Vaults = Literal["1.15", "1.21", "openbao"]
"""Vault of these releases, or OpenBao instead."""
VAULTS: dict[str, build.Program] = {"1.15": pins.VAULT, "1.21": pins.TODAYS_VAULT, "openbao": pins.OPENBAO}
MOUNTS = {"secret": "2", "kv1": "1", "team/kv": "2"}  # the last, for a mount whose path has a slash


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the testbed."""

    eso: bool = True
    openbao: bool = False  # beside Vault
    vault: Vaults = "1.15"
    vault_storage: Literal["memory", "file", "raft"] = "memory"
    vault_nodes: int = 1  # more than one: a cluster, with the storage raft
    eso_concurrent: int = 1
    eso_store_requeue: str = "5s"
    eso_extra: tuple[str, ...] = field(default=())
    vault_extra: tuple[str, ...] = field(default=())
    audited: str = ""  # the user whose requests the API server logs
    keep: bool = False  # keep the work folder with its logs after the end

    def programs(self) -> list[build.Program]:
        wanted: list[build.Program] = [pins.ETCD, pins.KUBERNETES, VAULTS[self.vault]]
        if self.eso:
            wanted.append(pins.EXTERNAL_SECRETS)
        if self.openbao:
            wanted.append(pins.OPENBAO)
        return wanted

    @property
    def is_openbao(self) -> bool:
        """Whether it is OpenBao instead of Vault."""
        return self.vault == "openbao"


class Testbed:
    """The started servers; use `with Testbed() as testbed`."""

    __test__ = False  # otherwise pytest collects it

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.binaries = build.ensure(self.options.programs())
        self.work = Path(tempfile.mkdtemp(prefix="vaultsync-testbed-"))
        if not self.options.keep:
            watchdog.remove_at_death(self.work)
        self.etcd = Etcd(self.work, self.binaries["etcd"])
        self.kube_apiserver = KubeApiServer(self.work, self.binaries["kube-apiserver"], self.etcd, self.options.audited)
        self.vault = self._make_vault()
        self.standbys = [self._make_vault(number) for number in range(2, self.options.vault_nodes + 1)]
        self.openbao = OpenBao(self.work, self.binaries["bao"]) if self.options.openbao else None
        self.eso = self._make_eso() if self.options.eso else None
        self.kubeconfig = self.work / "admin.kubeconfig"
        self._stack = ExitStack()
        self._listeners: dict[str, str] = {}

    def _make_vault(self, number: int = 1) -> Vault:
        options = self.options
        kind, name = (OpenBao, "bao") if options.is_openbao else (Vault, "vault")
        leader = self.vault if number > 1 else None
        return kind(self.work, self.binaries[name], options.vault_storage, options.vault_extra, leader, number)

    def _make_eso(self) -> Eso:
        return Eso(
            self.work,
            self.binaries["external-secrets"],
            self.work / "admin.kubeconfig",
            concurrent=self.options.eso_concurrent,
            store_requeue=self.options.eso_store_requeue,
            extra=self.options.eso_extra,
        )

    @cached_property
    def kube(self) -> Kube:
        """Kubernetes, as admin."""
        return Kube(self.kube_apiserver.api)

    @property
    def vault_root(self) -> VaultRoot:
        """Vault, as root; in a cluster the active node."""
        active = next((node for node in self.standbys if node.is_active), self.vault)
        return VaultRoot(active.api)

    @cached_property
    def identity(self) -> Identity:
        """The identity of vaultsync, created once; see identity.py."""
        return create_identity(self.kube_apiserver, self.vault, self.work, policy=self.vault_policy)

    @cached_property
    def vault_policy(self) -> str:
        """The policy of deploy/; for OpenBao the output of `vaultsync policy`, as it has no event stream."""
        return printed_policy() if self.options.is_openbao else shipped_policy()

    @property
    def servers(self) -> list[Server]:
        """The servers in the order in which they are stopped."""
        every = (self.eso, self.kube_apiserver, self.etcd, *self.standbys, self.vault, self.openbao)
        return [server for server in every if server is not None]

    @property
    def env(self) -> dict[str, str]:
        """How to point kubectl and vault (or bao) at the testbed, as admin and root."""
        bao = {"BAO_ADDR": self.vault.address, "BAO_TOKEN": ROOT_TOKEN} if self.options.is_openbao else {}
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "VAULT_ADDR": self.vault.address,
            "VAULT_TOKEN": ROOT_TOKEN,
            **bao,
        }

    @property
    def cli(self) -> Path:
        """The CLI of the running Vault: `vault`, or `bao`."""
        return self.binaries["bao" if self.options.is_openbao else "vault"]

    def __enter__(self) -> Testbed:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        side_by_side(self._start_kubernetes, self._start_vault, self._start_openbao)

    def stop(self) -> None:
        side_by_side(*(server.stop for server in self.servers))
        if not self.options.keep:
            shutil.rmtree(self.work, ignore_errors=True)

    def prepare_vault(self) -> None:
        """Creates mounts, policies and tokens; the same tokens again after a restart that emptied Vault."""
        prepare_vault(self.vault_root)
        for name, address in self._listeners.items():
            self._audit(name, address)
        if "identity" in self.__dict__:
            create_vault_token(self.vault_root, self.vault_policy)

    def audit_to(self, name: str, address: str) -> None:
        """Enables an audit device to a listening vaultsync, as an operator sets it up.

        Also enables a second device, so that Vault continues while vaultsync is down.

        Args:
            name: of the device.
            address: udp:HOST:PORT, or HOST:PORT for TCP.
        """
        self._listeners[name] = address
        self._audit(name, address)

    def no_audit_to(self, name: str) -> None:
        """Disables the audit device."""
        if self._listeners.pop(name, None):
            self.vault_root.unaudit(name)

    def _audit(self, name: str, address: str) -> None:
        self.vault_root.audit("file", "file", file_path=str(self.work / "logs" / "audit.log"))
        socket_type = "udp" if address.startswith("udp:") else "tcp"
        self.vault_root.audit(name, "socket", address=address.removeprefix("udp:"), socket_type=socket_type)

    def restart_vault_empty(self) -> None:
        """Restarts Vault without its data; its address, and new mounts and tokens with the old names, are restored."""
        if self.standbys:
            raise ServerError("the other nodes of a cluster would keep the data")
        self.vault.stop()
        self.vault.remove_data()
        self.vault.start()
        self.prepare_vault()

    def _start_kubernetes(self) -> None:
        self.etcd.start()
        self.kube_apiserver.start()
        self.kube_apiserver.kubeconfig(self.kubeconfig)
        if self.eso:
            apply_crds(self.kube)
            self.eso.start()

    def _start_vault(self) -> None:
        self.vault.start()
        for standby in self.standbys:
            standby.start()
        if self.standbys:
            wait_for(self._can_all_lead, 60, "every node has a vote")
        self.prepare_vault()

    def _can_all_lead(self) -> bool:
        api, raft = Api(self.vault_root.api.address, self.vault.api.headers, timeout=3), "/v1/sys/storage/raft"
        try:
            api.request("POST", f"{raft}/autopilot/configuration", {"server_stabilization_time": "1s"})
            servers = api.request("GET", f"{raft}/configuration")["data"]["config"]["servers"]
        except (ApiError, HTTPError):  # during an election
            return False
        return len(servers) > len(self.standbys) and all(server["voter"] for server in servers)

    def _start_openbao(self) -> None:
        if self.openbao:
            self.openbao.start()
            prepare_vault(VaultRoot(self.openbao.api))


def prepare_vault(root: VaultRoot) -> None:
    """Sets up what every Vault of the testbed has: the mounts, and a read-only token for ESO."""
    for path, version in MOUNTS.items():
        root.mount(path, options={"version": version})
    root.policy(ESO_POLICY, ESO_RULES)
    root.token([ESO_POLICY], ESO_TOKEN)


def apply_crds(kube: Kube) -> None:
    """Applies ESO's CRDs and waits until the API server serves them; without conversion webhooks."""
    documents = build.documents_of(pins.EXTERNAL_SECRETS, "crds")
    for document in documents:
        document["spec"].pop("conversion", None)
    _apply_crds(kube, documents)


def apply_monitoring_crds(kube: Kube) -> None:
    """Applies the CRDs of Prometheus' operator that the chart uses, and waits until they are served."""
    program = pins.PROMETHEUS_OPERATOR
    build.ensure([program])
    _apply_crds(kube, [crd for name in program.data for crd in build.documents_of(program, name)])


def _apply_crds(kube: Kube, documents: Sequence[Json]) -> None:
    side_by_side(*(partial(kube.apply, document) for document in documents), workers=4)
    for path in map(_served_at, documents):
        wait_for(partial(kube.api.answers, path), 30, f"{path} is served")


def _served_at(crd: Json) -> str:
    spec = crd["spec"]
    version = next(version["name"] for version in spec["versions"] if version["served"])
    return f"/apis/{spec['group']}/{version}/{spec['names']['plural']}?limit=1"


def wait_for(probe: Callable[[], T | None], timeout: float, what: str, poll: float = 0.02) -> T:
    """Waits until the probe returns a true value, and returns it."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(poll)
    return found


def side_by_side(*tasks: Callable[[], object], workers: int | None = None) -> None:
    """Runs all tasks in parallel, waits for all, and raises the first error."""
    if not tasks:
        return
    with ThreadPoolExecutor(max_workers=workers or len(tasks)) as pool:
        for future in [pool.submit(task) for task in tasks]:
            future.result()
