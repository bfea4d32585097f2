"""Vault on one machine, Kubernetes and vaultsync on another, and a cable between them: each machine is a namespace.

A healthy file audit device is always enabled, so that only the device under test can slow Vault down.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.testbed import build, pins
from tests.testbed.identity import Identity, create_identity, printed_policy, shipped_policy
from tests.testbed.kube import Kube
from tests.testbed.load import Clients
from tests.testbed.netns import Cable, Namespace
from tests.testbed.processes import Process, watchdog
from tests.testbed.servers import Etcd, KubeApiServer, OpenBao, Vault
from tests.testbed.testbed import apply_crds, prepare_vault
from tests.testbed.vault import VaultRoot
from tests.testbed.vaultsync import VaultsyncProcess

FLOOD = Path(__file__).with_name("flood.py")
KINDS = ("vault", "openbao")
DEVICE = "vaultsync"


class TwoMachines:
    """Both machines; `with TwoMachines() as machines`.

    Attributes:
        cable: from Vault's machine (near) to vaultsync's (far).
    """

    def __init__(self) -> None:
        programs = (pins.ETCD, pins.KUBERNETES, pins.EXTERNAL_SECRETS, pins.VAULT, pins.OPENBAO)
        self.binaries = build.ensure(programs)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TwoMachines:
        with contextlib.ExitStack() as stack:
            self.work = Path(tempfile.mkdtemp(prefix="vaultsync-machines-"))
            watchdog.remove_at_death(self.work)
            stack.callback(shutil.rmtree, self.work, ignore_errors=True)
            near, far = stack.enter_context(Namespace()), stack.enter_context(Namespace())
            self.cable = Cable(near, far)
            etcd = Etcd(self.work, self.binaries["etcd"])
            self.kube_apiserver = KubeApiServer(self.work, self.binaries["kube-apiserver"], etcd)
            for server in (etcd, self.kube_apiserver):
                stack.callback(server.stop)
                far.run(server.start)
            far.run(lambda: apply_crds(Kube(self.kube_apiserver.api)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def vault(self, kind: str) -> Iterator[WatchedVault]:
        """A separate Vault (or OpenBao) on the near machine, with a file audit device."""
        server = {"vault": Vault, "openbao": OpenBao}[kind]
        vault = server(self.work, self.binaries["bao" if kind == "openbao" else "vault"])
        vault.host = self.cable.near_address
        try:
            self.cable.near.run(vault.start)
            yield WatchedVault(self, vault)
        finally:
            vault.stop()


class WatchedVault:
    """A Vault on the near machine, and its clients on the far one.

    Attributes:
        log: the file of its file audit device.
    """

    def __init__(self, machines: TwoMachines, vault: Vault) -> None:
        self.machines = machines
        self.cable = machines.cable
        self.vault = vault
        self.root = VaultRoot(vault.api)
        self.log = vault.work / "audit.log"
        self.cable.near.run(self._prepare)
        self._identity: Identity = self.cable.far.run(self._create_identity)

    def clients(self, number: int, patience: float = 5.0) -> Clients:
        """Clients on Vault's own machine."""
        return Clients(self.cable.near, self.vault, number, patience)

    @contextlib.contextmanager
    def device(self, address: str, options: Mapping[str, str]) -> Iterator[None]:
        """Enables a socket audit device in the `with` block."""
        self.cable.near.run(partial(self.root.audit, DEVICE, "socket", address=address, **options))
        try:
            yield
        finally:
            self.cable.near.run(partial(self.root.unaudit, DEVICE))

    def vaultsync(self, transport: str) -> VaultsyncProcess:
        """A vaultsync on the far machine, not started yet, that listens for Vault there; see `start`."""
        process = VaultsyncProcess(self._identity, self.machines.work, f"vaultsync-{self.vault.name}")
        address = self.address_of(process)
        listen = address if transport == "tcp" else f"{transport}:{address}"
        process.env = {**(process.env or {}), "VAULTSYNC_AUDIT_LISTEN": listen}
        return process

    def address_of(self, process: VaultsyncProcess) -> str:
        """The address on which it listens for Vault's audit device."""
        return f"{self.cable.far_address}:{process.audit_port}"

    def start(self, process: VaultsyncProcess) -> None:
        """Starts it, and waits until it listens."""
        self.cable.far.run(process.start)
        self.cable.far.run(process.wait_until_ready)

    @contextlib.contextmanager
    def flood(self, process: VaultsyncProcess, transport: str, seconds: float) -> Iterator[Process]:
        """Sends vaultsync more audit entries than it can process in the `with` block, for a limited time."""
        arguments = [transport, *self.address_of(process).split(":"), str(self.log), str(seconds)]
        flood = Process(
            "flood", [sys.executable, "-I", "-S", str(FLOOD), *arguments], log=self.machines.work / "logs" / "flood.log"
        )
        self.cable.near.run(flood.start)
        try:
            yield flood
        finally:
            flood.stop()

    @contextlib.contextmanager
    def second_file(self) -> Iterator[None]:
        """Enables a second file audit device in the `with` block, which has the minimum cost of a device."""
        self.cable.near.run(partial(self.root.audit, DEVICE, "file", file_path="/dev/null"))
        try:
            yield
        finally:
            self.cable.near.run(partial(self.root.unaudit, DEVICE))

    @contextlib.contextmanager
    def without_file(self) -> Iterator[None]:
        """Disables the file audit device in the `with` block."""
        self.cable.near.run(partial(self.root.unaudit, "file"))
        try:
            yield
        finally:
            self.cable.near.run(self._enable_file)

    def _prepare(self) -> None:
        prepare_vault(self.root)
        self._enable_file()

    def _enable_file(self) -> None:
        self.root.audit("file", "file", file_path=str(self.log))

    def _create_identity(self) -> Identity:
        policy = printed_policy() if isinstance(self.vault, OpenBao) else shipped_policy()
        return create_identity(self.machines.kube_apiserver, self.vault, self.machines.work, policy=policy)
