"""What the parts say of themselves, gathered for ops: figures for /metrics, a line each for /readyz. Changes nothing.

The parts count in plain attributes and know nothing of either.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vaultsync import __version__
from vaultsync.controller.controller import Controller
from vaultsync.controller.external_secret_reconciler import ExternalSecretReconciler
from vaultsync.controller.index import Index
from vaultsync.controller.path_reconciler import PathReconciler
from vaultsync.controller.seed_budget import SeedBudget
from vaultsync.controller.sync_state import SyncStates
from vaultsync.core.annotations import EventReason, Result
from vaultsync.kube.client import KubeClient
from vaultsync.kube.informer_manager import RESOURCES, InformerManager
from vaultsync.runtime.health import Part
from vaultsync.runtime.metrics import Figures
from vaultsync.vault.audit import Audit
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.source_selector import Source, Sources
from vaultsync.vault.stream import EventStream

WATCHED: Final = "watched"
LISTING: Final = "not listed yet"
UNANSWERED: Final = "no answer from the API server; the log says more"
REFUSED: Final = "the API server refuses; the log says what"


@dataclass(slots=True, kw_only=True)
class Status:
    """All of one vaultsync's parts, to be asked.

    Attributes:
        watches: None until external-secrets' resources are served.
        unserved: what holds that up.
        is_leading: whether this replica is the one that works.
    """

    index: Index
    syncs: SyncStates
    budget: SeedBudget
    reconciler: PathReconciler
    syncer: ExternalSecretReconciler
    controller: Controller
    vault: VaultClient
    login: Login
    kube: KubeClient
    stream: EventStream
    audit: Audit
    sources: Sources
    watches: InformerManager | None = None
    unserved: str = LISTING
    is_leading: Callable[[], bool] = lambda: True

    def figures(self) -> Figures:
        """What there is to tell Prometheus."""
        last_events = {Source.EVENTS.value: self.stream.last_event, Source.AUDIT.value: self.audit.last_event}
        return Figures(
            version=__version__,
            leading=self.is_leading(),
            passes=self.controller.passes,
            queue_depth=self.controller.backlog(),
            queue_oldest=self.controller.oldest(),
            queue_failing=self.controller.failing(),
            seeds=self.reconciler.made[EventReason.SEEDED],
            recreations=self.reconciler.made[EventReason.RECREATED],
            rotations=self.reconciler.made[EventReason.ROTATED],
            force_syncs=self.syncer.force_syncs,
            heard_to_synced=self.syncer.heard_to_synced,
            made_to_ready=self.syncer.made_to_ready,
            awaited=max(0.0, time.monotonic() - self.syncs.awaited_since()),
            refusals=self.syncer.refusals,
            blocked=self.syncs.blocked(),
            new_paths=self.budget.taken,
            new_paths_put_off=self.budget.refused,
            resyncs=self.controller.resyncs,
            external_secrets=len(self.index.names()),
            paths=len(self.index.paths()),
            stream_connected=self.stream.is_connected,
            stream_deaf=self.stream.deaf,
            audit_connected=self.audit.is_connected,
            audit_lost=self.audit.lost,
            canaries=self.audit.canary.results,
            sources={one.value: one is self.sources.current for one in Source if one is not Source.AUTO},
            events={Source.EVENTS.value: self.stream.events, Source.AUDIT.value: self.audit.events},
            last_events={source: at for source, at in last_events.items() if at is not None},
            events_not_understood=self.stream.not_understood,
            vault_reachable=not self._vault_trouble(),
            token_ends_at=self.login.ends_at,
            watches_lost={resource: len(lost) for resource, lost in self._lost().items()},
            vault_requests=self.vault.requests.counts(),
            kube_requests=self.kube.requests.counts(),
        )

    def parts(self) -> Iterator[Part]:
        """How each part is; only the first lists are waited for (see runtime.health). A standby asks Vault nothing."""
        yield Part("role", "leading" if self.is_leading() else "standby", is_well=True)
        if self.watches is None:
            yield Part("kubernetes", self.unserved, is_well=False, is_needed=True)
        else:
            for resource, is_listed in self.watches.ready().items():
                lost = self._lost()[resource]
                says = in_words(lost[0]) if lost else WATCHED if is_listed else LISTING
                yield Part(resource, says, is_well=is_listed and not lost, is_needed=not is_listed)
        if not self.is_leading():
            return
        trouble = self._vault_trouble()
        yield Part("vault", f"{trouble}; waiting for it" if trouble else "answers", is_well=not trouble)
        yield self._source()

    def _source(self) -> Part:
        current = self.sources.current
        if current is None:
            return Part("source", "not chosen yet", is_well=False)
        heard = {Source.EVENTS: self.stream.is_connected, Source.AUDIT: self.audit.is_connected}.get(current, True)
        return Part("source", current.value if heard else f"{current.value}, which is not connected", is_well=heard)

    def _vault_trouble(self) -> str:
        """Why Vault does not answer, "" if it does. At rest there are no requests, and the stream alone tells."""
        if self.stream.is_connected:
            return ""
        return self.vault.trouble or ("no answer" if self.stream.is_unanswered else "")

    def _lost(self) -> dict[str, list[Result]]:
        return self.watches.trouble() if self.watches else {resource: [] for resource in RESOURCES}


def in_words(result: Result) -> str:
    """Why a list or watch is not up; quotes nobody, as strangers read it."""
    return REFUSED if result is Result.REFUSED else UNANSWERED
