"""The reconcilers and the controller, real, over in-memory stand-ins (see fakes.py for why)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.unit.build import (
    ADDRESS,
    Anything,
    Clock,
    audit_line,
    eventually,
    external_secret,
    namespace,
    path,
    sample,
    store,
    wrote,
)
from tests.unit.fakes import FakeObjects, FakeRecorder, FakeVault, FakeWriter
from vaultsync.controller.controller import Controller
from vaultsync.controller.external_secret_reconciler import ExternalSecretReconciler
from vaultsync.controller.heal_limit import HealLimit
from vaultsync.controller.index import Index, server_identity
from vaultsync.controller.ownership_writer import OwnershipWriter
from vaultsync.controller.path_reconciler import PathReconciler, create_budget
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.sync_state import QUIET_SECONDS, SyncStates
from vaultsync.controller.vault_events import EVENT_SPACING
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.errors import (
    VaultDenied,
)
from vaultsync.core.events import VaultEvent, parse_audit_entry
from vaultsync.core.external_secret import ExternalSecret, ObjectName
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.runtime.metrics import Metrics

APP, OTHER = ObjectName("dev-1", "app"), ObjectName("dev-1", "other")
A, B, KV1 = path("secret/data/a"), path("secret/data/b"), path("kv1/a")
SEED = {"vaultsync.io/seed": "true"}
EVERYWHERE = SeedPaths.parse(("**",))
DENIED = VaultDenied("Vault returned 403: permission denied on secret/data/a")


class LoopClock(Clock):
    """The loop's time, and what it was put forward by."""

    def __call__(self) -> float:
        return self.now + asyncio.get_running_loop().time()


class Engine:
    """All of the engine, real, between a fake Vault and a fake API server."""

    def __init__(
        self, mode: SeedMode = SeedMode.ANNOTATED, seed_paths: SeedPaths = EVERYWHERE, budget: int = 0
    ) -> None:
        self.clock, self.metrics = LoopClock(), Metrics()
        self.seed_paths, self.budget = seed_paths, create_budget(budget, self.clock)
        self.vault, self.writer, self.recorder = FakeVault(), FakeWriter(), FakeRecorder()
        self.index = Index(frozenset({server_identity(ADDRESS)}), mode)
        self.paths, self.syncs = PathStates(), SyncStates()
        self.path_reconciler = self.create_path_reconciler(self.vault)
        self.es_reconciler = ExternalSecretReconciler(
            self.index, self.paths, self.syncs, self.writer, self.recorder, self.clock, self.metrics
        )
        self.controller = Controller(
            self.index,
            self.paths,
            self.syncs,
            self.path_reconciler,
            self.es_reconciler,
            resync=3600,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.heal_limit.read_soon = self.controller.read_soon
        self.vault.on_own_write = self.controller.own_write
        self.index.put_store(store())
        self.index.put_store(store("v1", path="kv1", version="v1"))
        self.index.put_namespace(namespace())

    def create_path_reconciler(self, vault: FakeVault) -> PathReconciler:
        self.ownership = OwnershipWriter(self.paths, vault)
        self.current = FakeObjects(self.index)
        self.heal_limit = HealLimit(None, lambda mount: self.index.paths_in(*mount), self.clock)
        return PathReconciler(
            self.index,
            self.paths,
            self.syncs,
            vault,
            self.seed_paths,
            self.budget,
            self.heal_limit,
            self.current,
            self.ownership,
            self.metrics,
            clock=self.clock,
        )

    def count(self, name: str, **labels: str) -> float:
        """The value of a metric, 0 if it is not exported."""
        return sample(self.metrics, name, **labels) or 0.0

    def event(self, where: str = "secret/data/a", kind: str = "kv-v2/data-write") -> None:
        """Vault reports what has just happened."""
        found = self.vault.secrets.get(path(where))
        version, time = (found.version, self.vault.now) if found else (0, None)
        self.controller.vault_changed(VaultEvent(path(where), kind, version, time))

    def audited(self, operation: str, where: str, *, written: bool = False, request_id: str = "somebody-else") -> None:
        """An audit device reports what has just happened."""
        mount = "kv1/" if where.startswith("kv1/") else "secret/"
        found = self.vault.secrets.get(path(where))
        answered = wrote(found.version) if written and found else {"response": None}
        about = {"time": self.vault.now.isoformat(), "request": {"id": request_id}, **answered}
        for event in parse_audit_entry(audit_line(operation, where, mount, **about)).events:
            self.controller.vault_changed(event)

    async def passes(self, *external_secrets: ExternalSecret) -> None:
        """A pass over every path of these, then over each of them, as the controller orders it."""
        for one in external_secrets:
            self.index.put(one)
        for one in external_secrets:
            entry = self.index.entry(one.name)
            assert entry is not None
            for where in entry.references:
                await self.path_reconciler.reconcile(where)
        for one in external_secrets:
            await self.es_reconciler.reconcile(one.name)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The controller at work."""
        task = asyncio.create_task(self.controller.work())
        try:
            yield
            assert not task.done(), "the controller has stopped"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def settled(self) -> None:
        """Nothing is queued or worked on, except for what waits longer than the second read of a path."""
        queue = self.controller._queue
        await asyncio.sleep(EVENT_SPACING)
        await eventually(lambda: not len(queue) and not queue._processing)
        await asyncio.sleep(0.005)
        await eventually(lambda: not len(queue) and not queue._processing)

    async def quiet(self) -> None:
        """After the quiet time of a burst, by our own clock."""
        self.clock.forward(QUIET_SECONDS + 0.01)
        self.controller._queue.requeue_now()
        await self.settled()


def v1_external_secret(**fields: Anything) -> ExternalSecret:
    return external_secret("a", store={"name": "v1"}, **fields)
