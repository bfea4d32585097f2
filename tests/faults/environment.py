"""The real servers, a faulty line between each two, and what operators have requested of them.

Operators connect to the servers directly; vaultsync, external-secrets and Vault's audit device use proxies.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from urllib3.exceptions import HTTPError

from tests.faults.copies import WATCH_SECONDS, Copies
from tests.faults.history import Log, Mounts, Request
from tests.faults.model import (
    DENIED,
    NOT_SECRET,
    Approval,
    Item,
    Losses,
    Model,
    Name,
    Reference,
    Spot,
    Values,
    folders,
    good_values,
    name_of,
    references,
)
from tests.testbed.api import Api, ApiError, Json
from tests.testbed.identity import NAMESPACE, POLICY
from tests.testbed.kube import EXTERNAL_SECRETS, Kube, path_of
from tests.testbed.place import TOKEN_SECRET
from tests.testbed.processes import free_port
from tests.testbed.proxy import Proxy
from tests.testbed.servers import Eso, kubeconfig_text
from tests.testbed.testbed import ESO_TOKEN, Options, Testbed, wait_for
from tests.testbed.vault import VaultRoot
from tests.testbed.vaultsync import VaultsyncProcess

T = TypeVar("T")

MOUNTS = Mounts(v2=("secret", "team/kv"), v1=("kv1",))
STORES = {"vault": "secret", "team": "team/kv", "old": "kv1"}
"""The stores of each namespace, with their mounts."""
MOST_EVER = 500
"""Maximum number of namespaces, named f-1 and so on; no other test uses such names."""
PUSH_SECRETS = "external-secrets.io/v1alpha1"
OWNED = (
    (EXTERNAL_SECRETS, "ExternalSecret"),
    (EXTERNAL_SECRETS, "SecretStore"),
    (PUSH_SECRETS, "PushSecret"),
    ("v1", "Secret"),
)
"""The kinds that are deleted with their namespace."""
HEAL_LIMIT = 1
"""Lost paths of a mount that vaultsync may create again; as an episode has few paths in each mount."""
TOKEN_SECONDS = 16
"""Lifetime of vaultsync's tokens: renewed at half of that, when a revocation is detected."""
IN_CLEAR = {"audit_non_hmac_request_keys": ["cas", "versions"]}
"""For each mount of KV v2: Vault's log hashes numbers too."""
POLL_SECONDS = 2
READERS = 8
START_SECONDS = 60.0
PEOPLES_SECONDS = 5.0
"""Operators' request timeout."""
HURRY = ("--client-qps=1000", "--client-burst=1000")
"""By default external-secrets limits itself to 50 requests a second, which would be the bottleneck."""


class Away(Exception):
    """A server does not answer an operator, or refuses the request."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How vaultsync runs: one without a Lease, or several replicas with one; and its source of changes."""

    replicas: int
    source: str

    def __str__(self) -> str:
        return f"{self.replicas} of vaultsync, with the source {self.source}"


MODES = (Mode(1, "auto"), Mode(2, "auto"), Mode(1, "poll"), Mode(2, "audit"))


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines that may be faulty, by their two ends."""

    vault: Proxy
    kube: Proxy
    eso: Proxy
    audit: Proxy


@dataclass(frozen=True, slots=True)
class Picture:
    """The observed state of everything that operators have requested.

    Attributes:
        vault: the live values, None where there are none.
        items: the ExternalSecrets.
        secrets: their Secrets.
    """

    vault: Mapping[Spot, Values | None]
    items: Mapping[Name, Json]
    secrets: Mapping[Name, Values]


class Environment:
    """The whole environment; created by `start_environment()`.

    Attributes:
        model: all requests of operators so far.
        namespaces: those that should exist, and whether their annotation requests seeding.
        items: the ExternalSecrets that should exist, as they were last sent.
        mounts: of the stores that should exist, by namespace and store.
        losses: what operators have done in this episode that may leave paths without a value.
        pushes: the store and the path of each PushSecret that should exist.
        copies: the Secrets over time.
        rewinds: the numbers of the lines in Vault's log before which an older storage was restored.
        unsure: objects that the API server may not have accepted.
        replicas: the current vaultsync processes.
        numbers: counters by name, so that no name is used twice.
    """

    def __init__(self, testbed: Testbed, lines: Lines, audit_port: int) -> None:
        self.testbed = testbed
        self.lines = lines
        self.model = Model()
        self.namespaces: dict[str, bool] = {}
        self.items: dict[Name, Item] = {}
        self.mounts: dict[Name, str] = {}
        self.losses = Losses()
        self.rewinds: list[int] = []
        self._snapshot = testbed.work / "snapshot"
        self.pushes: dict[Name, tuple[Name, str]] = {}
        self.unsure: set[Name] = set()
        self.replicas: list[VaultsyncProcess] = []
        self.mode = MODES[0]
        self.numbers: Counter[str] = Counter()
        self._logs: dict[Path, int] = {}
        self._audit, self._audit_log = Log(POLICY), testbed.work / "logs" / "audit.log"
        server, ca = testbed.kube_apiserver.api, testbed.kube_apiserver.ca
        self.kube = Kube(Api(server.address, server.headers, ca, PEOPLES_SECONDS))
        self.vault = VaultRoot(Api(testbed.vault.address, testbed.vault.api.headers, timeout=PEOPLES_SECONDS))
        self.copies = Copies(Api(server.address, server.headers, ca, 2 * WATCH_SECONDS))
        self._prepare_vault()
        self._settings = self._prepare_vaultsync(audit_port)

    def requests(self) -> list[Request]:
        """All requests to Vault so far, by its own audit log."""
        return self._audit.follow(self._audit_log)

    @property
    def eso(self) -> Eso:
        assert self.testbed.eso is not None
        return self.testbed.eso

    def number(self, what: str) -> int:
        """The next unused number for this name."""
        self.numbers[what] += 1
        return self.numbers[what]

    # -- setting up

    def _prepare_vault(self) -> None:
        self.vault.audit("file", "file", file_path=str(self._audit_log))
        self.testbed.vault.restart()  # before it, sys/audit-hash has another salt than the log
        assert self.testbed.identity  # creates the rights
        self.allow()
        for mount in MOUNTS.v2:
            self.vault.api.request("POST", f"/v1/{mount}/config", {"max_versions": 10_000})
            self.vault.api.request("POST", f"/v1/sys/mounts/{mount}/tune", IN_CLEAR)
        self.vault.api.request("POST", "/v1/sys/auth/approle", {"type": "approle"})
        role = {"token_policies": [POLICY], "token_ttl": f"{TOKEN_SECONDS}s", "token_no_default_policy": True}
        self.vault.api.request("POST", "/v1/auth/approle/role/vaultsync", role)

    def _prepare_vaultsync(self, audit_port: int) -> dict[str, str]:
        kubeconfig = self.testbed.work / "faults.kubeconfig"
        address, token = f"https://127.0.0.1:{self.lines.kube.port}", self.testbed.identity.kubernetes_token
        kubeconfig.write_text(kubeconfig_text(address, self.testbed.kube_apiserver.ca, token, NAMESPACE))
        role = self.vault.api.request("GET", "/v1/auth/approle/role/vaultsync/role-id")["data"]["role_id"]
        secret = self.vault.api.request("POST", "/v1/auth/approle/role/vaultsync/secret-id")["data"]["secret_id"]
        self.model.secrets |= {secret, token}
        return {
            "KUBECONFIG": str(kubeconfig),
            "VAULT_ADDR": f"http://127.0.0.1:{self.lines.vault.port}",
            "VAULT_TOKEN": "",
            "VAULTSYNC_STORE_SERVERS": f"http://127.0.0.1:{self.lines.eso.port}",
            "VAULTSYNC_VAULT_AUTH": "approle",
            "VAULTSYNC_VAULT_ROLE_ID": role,
            "VAULTSYNC_VAULT_SECRET_ID": secret,
            "VAULTSYNC_SEED_BUDGET": "0",
            "VAULTSYNC_HEAL_LIMIT": str(HEAL_LIMIT),
            "VAULTSYNC_AUDIT_LISTEN": f"127.0.0.1:{audit_port}",
            "VAULTSYNC_POLL_INTERVAL": f"{POLL_SECONDS}s",
            "VAULTSYNC_VAULT_TIMEOUT": "3s",
            "VAULTSYNC_KUBE_TIMEOUT": "3s",
            "VAULTSYNC_LOG_LEVEL": "DEBUG",
        }

    def allow(self, but: str = "") -> None:
        """Sets vaultsync's policy, with additional rules that deny."""
        denied = "".join(denial(f"f-{number}") for number in range(MOST_EVER))
        self.vault.policy(POLICY, self.testbed.vault_policy + denied + but)

    # -- vaultsync

    def start_vaultsync(self, mode: Mode) -> None:
        """Stops the running replicas, and starts those of the mode."""
        self.stop_vaultsync()
        self.mode = mode
        if mode.replicas == 1:  # it has no Lease: what an earlier one has recorded about the mounts would grow old
            self.testbed.kube.delete("coordination.k8s.io/v1", "Lease", "vaultsync", NAMESPACE)
        for number in range(mode.replicas):
            process = self._replica(number)
            self.replicas.append(process)
            self._logs[process.log] = 0
            process.start()
        wait_for(self.leader, START_SECONDS, "a vaultsync leads")
        self.wait_until_ready()
        if mode.source == "poll":
            self.testbed.no_audit_to("faults")
        else:
            self.testbed.audit_to("faults", f"127.0.0.1:{self.lines.audit.port}")

    def _replica(self, number: int) -> VaultsyncProcess:
        tasks = self.testbed.work / f"tasks-{self.number('replica')}.json"
        settings = {**self._settings, "VAULTSYNC_SOURCE": self.mode.source, "FAULTS_TASKS": str(tasks)}
        if self.mode.replicas > 1:
            settings["VAULTSYNC_LEASE"] = f"{NAMESPACE}/vaultsync"
        process = VaultsyncProcess(self.testbed.identity, self.testbed.work, f"vaultsync-{number}", settings)
        process.command = [sys.executable, "-m", "tests.faults.watched", "run"]
        return process

    def wait_until_ready(self) -> None:
        """Waits until every replica is ready.

        Raises:
            ServerError: a replica has exited.
        """
        for process in self.replicas:
            process.wait_until_ready(START_SECONDS)

    def stop_vaultsync(self) -> None:
        """Stops every replica."""
        for process in self.replicas:
            process.stop()
        self.replicas = []

    def terms(self) -> list[float]:
        """When the current replicas began to lead, as Unix times: each time they count recreated paths anew."""
        begins = "this process leads" if self.mode.replicas > 1 else "watching Kubernetes"
        lines = [line for process in self.replicas for line in process.log.read_text(errors="replace").splitlines()]
        return sorted(datetime.fromisoformat(json.loads(line)["time"]).timestamp() for line in lines if begins in line)

    def audit_hash(self, value: str) -> str:
        """The value as it is in Vault's audit log."""
        path = "/v1/sys/audit-hash/file"
        return str(self.testbed.vault_root.api.request("POST", path, {"input": value})["data"]["hash"])

    def leader(self) -> VaultsyncProcess | None:
        """The leading replica, if any."""
        return next((process for process in self.replicas if leads(process)), None)

    def tasks(self, process: VaultsyncProcess) -> Counter[str]:
        """The tasks of its event loop, counted by their coroutine."""
        assert process.env is not None
        file = Path(process.env["FAULTS_TASKS"])
        file.unlink(missing_ok=True)
        os.kill(process.pid, signal.SIGUSR2)
        process.wait_until(file.exists, START_SECONDS, "writing its tasks")
        return Counter(json.loads(file.read_text()))

    def news(self) -> str:
        """The log output of all replicas since the last call."""
        return "".join(self._rest_of(log) for log in sorted(self._logs))

    def _rest_of(self, log: Path) -> str:
        with log.open("rb") as file:
            file.seek(self._logs[log])
            text = file.read()
            self._logs[log] = file.tell()
        return text.decode(errors="replace")

    # -- operators' requests to Kubernetes

    def add_namespace(self, name: str, *, seeds: bool) -> None:
        """Creates a namespace with its stores."""
        self.namespaces[name] = seeds
        self.mounts |= {Name(name, store): mount for store, mount in STORES.items()}
        with _answered():
            self._apply_namespace(name)

    def _apply_namespace(self, name: str) -> None:
        annotations = {"vaultsync.io/seed": "true"} if self.namespaces[name] else {}
        if name in self.losses.approved:
            annotations["vaultsync.io/heal-lost"] = self.losses.approved[name]
        self.kube.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "annotations": annotations}}
        )
        metadata = {"name": TOKEN_SECRET, "namespace": name}
        token = {"token": ESO_TOKEN}
        self.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": token})
        for store in STORES:
            if Name(name, store) in self.mounts:
                self.kube.apply(self._store(Name(name, store)))

    def _store(self, name: Name) -> Json:
        mount = self.mounts[name]
        vault = {
            "server": f"http://127.0.0.1:{self.lines.eso.port}",
            "path": mount,
            "version": "v1" if mount in MOUNTS.v1 else "v2",
            "auth": {"tokenSecretRef": {"name": TOKEN_SECRET, "key": "token"}},
        }
        metadata = {"name": name.name, "namespace": name.namespace}
        spec = {"provider": {"vault": vault}}
        return {"apiVersion": EXTERNAL_SECRETS, "kind": "SecretStore", "metadata": metadata, "spec": spec}

    def remove_namespace(self, name: str) -> None:
        """Deletes a namespace and its objects, as Kubernetes' controllers do."""
        self._expect_no(name)
        with _answered():
            self._delete_namespace(name)

    def end_namespace(self, name: str) -> None:
        """Begins to delete a namespace: it and its objects stay until Kubernetes' controllers finish that."""
        self.losses.ending[name] = {
            one.spot
            for item in self.items.values()
            if name_of(item).namespace == name
            for one in self.references(item)
            if one.spot.path.startswith(f"{name}/")
        }
        self._expect_no(name)
        with _answered():
            self._begin_deletion(name)

    def finish_namespaces(self) -> None:
        """The namespaces that are being deleted end, with their objects."""
        for name in list(self.losses.ending):
            self._delete_namespace(name)
            del self.losses.ending[name]

    def _expect_no(self, namespace: str) -> None:
        del self.namespaces[namespace]
        for owned in (self.items, self.mounts, self.pushes):
            for one in [one for one in owned if one.namespace == namespace]:
                del owned[one]
        self.unsure = {one for one in self.unsure if one.namespace != namespace}

    def _delete_namespace(self, name: str) -> None:
        for api_version, kind in OWNED:
            self.kube.delete_all(api_version, kind, name)
        self._begin_deletion(name)
        item = self.kube.get("v1", "Namespace", name)
        if item is not None:
            path = path_of("v1", "Namespace", name) + "/finalize"
            self.kube.api.request("PUT", path, {**item, "spec": {"finalizers": []}})

    def _begin_deletion(self, name: str) -> None:
        item = self.kube.get("v1", "Namespace", name)
        if item is not None and "deletionTimestamp" not in item["metadata"]:
            self.kube.delete("v1", "Namespace", name)

    def missing_stores(self) -> list[Name]:
        """The stores that operators have deleted."""
        all_of_them = {Name(namespace, store) for namespace in self.namespaces for store in STORES}
        return sorted(all_of_them - self.mounts.keys())

    def set_store(self, name: Name, mount: str | None) -> None:
        """Changes the mount of a store, or deletes the store."""
        if mount is None:
            del self.mounts[name]
        else:
            self.mounts[name] = mount
            for item in self.items.values():
                self._note(item)
        with _answered():
            if mount is None:
                self.kube.delete(EXTERNAL_SECRETS, "SecretStore", name.name, name.namespace)
            else:
                self.kube.apply(self._store(name))

    def send(self, item: Item) -> None:
        """Creates or changes an ExternalSecret."""
        name = name_of(item)
        self.items[name] = item
        self.unsure.add(name)
        self._note(item)
        with _answered():
            self.kube.apply(item)
        self.unsure.discard(name)

    def _note(self, item: Item) -> None:
        self.model.sent(item, self.references(item), seeds=self.namespaces[name_of(item).namespace])

    def remove(self, name: Name) -> None:
        """Deletes an ExternalSecret; and its Secret, as Kubernetes' controllers do."""
        del self.items[name]
        self.unsure.add(name)
        with _answered():
            self.kube.delete(EXTERNAL_SECRETS, "ExternalSecret", name.name, name.namespace)
            self.kube.delete("v1", "Secret", name.name, name.namespace)
        self.unsure.discard(name)

    def push(self, name: Name, store: Name, path: str) -> None:
        """Creates a PushSecret of a path. It may not write there, but vaultsync leaves the path to it."""
        self.pushes[name] = store, path
        with _answered():
            self._apply_push(name)

    def pushed(self) -> set[Spot]:
        """The paths of the PushSecrets, by the stores that should exist."""
        return {Spot(self.mounts[store], path) for store, path in self.pushes.values() if store in self.mounts}

    def _apply_push(self, name: Name) -> None:
        store, path = self.pushes[name]
        match = {"secretKey": "token", "remoteRef": {"remoteKey": path, "property": "pushed"}}
        spec = {
            "refreshInterval": "1h",
            "secretStoreRefs": [{"name": store.name, "kind": "SecretStore"}],
            "selector": {"secret": {"name": TOKEN_SECRET}},
            "data": [{"match": match}],
        }
        metadata = {"name": name.name, "namespace": name.namespace}
        self.kube.apply({"apiVersion": PUSH_SECRETS, "kind": "PushSecret", "metadata": metadata, "spec": spec})

    def remove_push(self, name: Name) -> None:
        """Deletes a PushSecret."""
        del self.pushes[name]
        with _answered():
            self.kube.delete(PUSH_SECRETS, "PushSecret", name.name, name.namespace)

    def approve(self, namespaces: Iterable[str]) -> None:
        """Approves that lost values of these namespaces are created again."""
        now = datetime.now(UTC)
        for name in namespaces:
            self.losses.approvals.append(Approval(name, now.timestamp()))
            self.losses.approved[name] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
            with _answered():
                self._apply_namespace(name)

    def make_sure(self) -> None:
        """Sends uncertain requests again, as a pipeline does."""
        for item in self.kube.items("v1", "Namespace"):
            name = item["metadata"]["name"]
            if name.startswith("f-") and name not in self.namespaces:
                (self._begin_deletion if name in self.losses.ending else self._delete_namespace)(name)
        mounted = self.testbed.vault_root.api.request("GET", "/v1/sys/mounts")["data"]
        for mount in sorted(self.losses.mounts):
            if f"{mount}/" not in mounted:
                self.enable_mount(mount)
        for name in self.namespaces:
            self._apply_namespace(name)
            self._make_sure_of_pushes(name)
        for store in self.missing_stores():
            self.kube.delete(EXTERNAL_SECRETS, "SecretStore", store.name, store.namespace)
        for one in sorted(self.unsure):
            if one in self.items:
                self.kube.apply(self.items[one])
            else:
                self.kube.delete(EXTERNAL_SECRETS, "ExternalSecret", one.name, one.namespace)
                self.kube.delete("v1", "Secret", one.name, one.namespace)
        self.unsure.clear()

    def _make_sure_of_pushes(self, namespace: str) -> None:
        for item in self.kube.items(PUSH_SECRETS, "PushSecret", namespace):
            name = name_of(item)
            if name not in self.pushes:
                self.kube.delete(PUSH_SECRETS, "PushSecret", name.name, namespace)
        for name in self.pushes:
            if name.namespace == namespace:
                self._apply_push(name)

    # -- operators' requests to Vault

    def write(self, spot: Spot, values: Values) -> None:
        """`vault kv put`."""
        self.model.secrets |= {values[key] for key in values.keys() - NOT_SECRET}
        with _answered():
            answer = self.vault.put(spot.path, spot.mount, **values)
        if spot.mount in MOUNTS.v2:
            self.model.versions[spot].add(answer["data"]["version"])

    def patch(self, spot: Spot, values: Values) -> None:
        """`vault kv patch`."""
        self.model.secrets |= set(values.values())
        with _answered():
            answer = self.vault.api.request(
                "PATCH",
                f"/v1/{spot.mount}/data/{spot.path}",
                {"data": values},
                content_type="application/merge-patch+json",
            )
        self.model.versions[spot].add(answer["data"]["version"])

    def replace_mount(self, mount: str) -> None:
        """`vault secrets disable`, then `enable`."""
        self.disable_mount(mount)
        self.enable_mount(mount)

    def disable_mount(self, mount: str) -> None:
        """`vault secrets disable`; waits for the answer however long it takes."""
        self.losses.mounts.add(mount)
        self.testbed.vault_root.api.request("DELETE", f"/v1/sys/mounts/{mount}")

    def enable_mount(self, mount: str) -> None:
        """`vault secrets enable`."""
        vault = self.testbed.vault_root
        kind: Json = {"type": "kv", "options": {"version": "1" if mount in MOUNTS.v1 else "2"}}
        vault.api.request(
            "POST", f"/v1/sys/mounts/{mount}", kind | ({} if mount in MOUNTS.v1 else {"config": IN_CLEAR})
        )
        if mount in MOUNTS.v2:
            vault.mount(mount, options={"version": "2"})  # waits until it takes requests
            vault.api.request("POST", f"/v1/{mount}/config", {"max_versions": 10_000})

    def take_snapshot(self) -> None:
        """Copies Vault's storage; Vault is down for a moment."""
        self.testbed.vault.save(self._snapshot)

    def load_snapshot(self) -> None:
        """Starts Vault with the copy: all that was written since then is lost."""
        self.losses.mounts |= {*MOUNTS.v2, *MOUNTS.v1}
        self.testbed.vault.load(self._snapshot)
        self.requests()
        self.rewinds.append(self._audit.lines)

    def expire(self, spot: Spot, lifetime: str, values: Values) -> None:
        """Writes a value that expires."""
        self.losses.expiring.add(spot)
        with _answered():
            self._set_lifetime(spot, lifetime)
        self.write(spot, values)

    def keep(self, spot: Spot, values: Values) -> None:
        """Writes a value that does not expire, where values did."""
        self._set_lifetime(spot, "0s")
        self.write(spot, values)

    def _set_lifetime(self, spot: Spot, lifetime: str) -> None:
        self.vault.api.request("POST", f"/v1/{spot.mount}/metadata/{spot.path}", {"delete_version_after": lifetime})

    def restore(self) -> int:
        """Writes the values of the Secrets where Vault has none; returns the number of paths."""
        restored = set()
        for name, item in sorted(self.items.items()):
            secret = self.kube.secret_values(name.name, name.namespace) or {}
            for spot, values in good_values(self.references(item), secret).items():
                if self.vault.get(spot.path, spot.mount) is None:
                    self.write(spot, values)
                    restored.add(spot)
        return len(restored)

    def try_to(self, what: Callable[[], T]) -> T:
        """Another operation of an operator.

        Raises:
            Away: the operation failed.
        """
        with _answered():
            return what()

    def forget_losses(self) -> None:
        """Ends what operators allowed for the present losses."""
        self.losses = Losses()
        for name in self.namespaces:
            self._apply_namespace(name)
        self.copies.forget(time.time())

    # -- reading

    def references(self, item: Item) -> list[Reference]:
        """The references of an ExternalSecret, by the stores that should exist."""
        return references(item, self._mounts_of(item))

    def folders(self, item: Item) -> list[Spot]:
        """The folders that an ExternalSecret reads as a whole."""
        return folders(item, self._mounts_of(item))

    def _mounts_of(self, item: Item) -> dict[str, str]:
        namespace = name_of(item).namespace
        return {one.name: mount for one, mount in self.mounts.items() if one.namespace == namespace}

    def spots(self) -> list[Spot]:
        """All paths that are read."""
        return sorted({one.spot for item in self.items.values() for one in self.references(item)})

    def picture(self) -> Picture:
        """Reads the current state from the servers."""
        spots = sorted(self.model.named)
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda spot: self.vault.get(spot.path, spot.mount), spots)
            vault = {spot: values or None for spot, values in zip(spots, found, strict=True)}
        items = {
            name_of(item): item
            for name in self.namespaces
            for item in self.kube.items(EXTERNAL_SECRETS, "ExternalSecret", name)
        }
        with ThreadPoolExecutor(READERS) as pool:
            read = pool.map(lambda name: self.kube.secret_values(name.name, name.namespace), items)
            secrets = {name: values for name, values in zip(items, read, strict=True) if values is not None}
        return Picture(vault, items, secrets)


def denial(namespace: str) -> str:
    """A Vault rule for DENIED. With `+` for the namespace the rule for the mount would take precedence."""
    return f'path "secret/data/{namespace}/{DENIED}/*" {{ capabilities = ["deny"] }}\n'


def leads(process: VaultsyncProcess) -> bool:
    """Whether the process reports that it leads; one without a Lease always leads."""
    try:
        text = process.health.text("/readyz") if process.alive else ""
    except (HTTPError, OSError):
        return False
    return text.startswith("ok\n") and "role: standby" not in text


@contextmanager
def start_environment() -> Iterator[Environment]:
    """Starts the servers and lines, without faults and without vaultsync."""
    with ExitStack() as stack:
        options = Options(vault_storage="file", eso_concurrent=4, eso_store_requeue="1s", eso_extra=HURRY)
        testbed = stack.enter_context(Testbed(options))
        audit_port = free_port()
        ports = (testbed.vault.port, testbed.kube_apiserver.port, testbed.vault.port, audit_port)
        made = Environment(testbed, Lines(*(stack.enter_context(Proxy(port)) for port in ports)), audit_port)
        stack.callback(made.stop_vaultsync)
        made.copies.start()
        stack.callback(made.copies.stop)
        yield made


@contextmanager
def _answered() -> Iterator[None]:
    """Raises Away if a request is not answered or is refused."""
    try:
        yield
    except HTTPError as error:
        raise Away("no answer") from error
    except ApiError as error:
        raise Away(f"refused with {error.status}") from error
