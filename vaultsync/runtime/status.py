"""What the parts say of themselves, gathered for ops: figures for /metrics, a line each for /readyz. Changes nothing.

The parts count in plain attributes and know nothing of either.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from vaultsync.config.change_source import ChangeSource
from vaultsync.controller.controller import Controller
from vaultsync.controller.index import Index
from vaultsync.controller.path_state import Ledger
from vaultsync.core.annotations import Result
from vaultsync.kube.informer_manager import RESOURCES, InformerManager
from vaultsync.runtime.health import Part
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.audit import Audit, Delivery
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.source_selector import SourceSelector
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
    ledger: Ledger
    controller: Controller
    vault: VaultClient
    login: Login
    stream: EventStream
    audit: Audit
    sources: SourceSelector
    watches: InformerManager | None = None
    unserved: str = LISTING
    is_leading: Callable[[], bool] = lambda: True

    def report(self, metrics: Metrics) -> None:
        """Set the gauges that show the state of these parts."""
        controller, ledger, current = self.controller, self.ledger, self.sources.current
        metrics.leading.set(self.is_leading())
        metrics.external_secrets.set(len(self.index.names()))
        metrics.paths.set(len(self.index.paths()))
        metrics.queue_depth.set(controller.backlog())
        metrics.queue_oldest.set(controller.oldest())
        metrics.queue_failing.set(controller.failing())
        metrics.seed_to_ready_oldest.set(max(0.0, time.monotonic() - ledger.awaited_since()))
        for reason, number in ledger.blocked().items():
            metrics.blocked_external_secrets.labels(reason).set(number)
        for source in (ChangeSource.EVENTS, ChangeSource.AUDIT, ChangeSource.POLL):
            metrics.source.labels(source.value).set(source is current)
        metrics.stream_connected.set(self.stream.is_connected)
        metrics.audit_configured.set(self.audit.is_configured)
        metrics.audit_connected.set(self.audit.is_connected)
        metrics.vault_reachable.set(not self._vault_trouble())
        metrics.vault_token_expiry.timestamp = self.login.ends_at
        for resource, lost in self._lost().items():
            metrics.watches_lost.labels(resource).set(len(lost))

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
        if self.audit.is_configured:
            yield self._audit()

    def _source(self) -> Part:
        current = self.sources.current
        if current is None:
            return Part("source", "not chosen yet", is_well=False)
        heard = {ChangeSource.EVENTS: self.stream.is_connected, ChangeSource.AUDIT: self.audit.is_connected}.get(
            current, True
        )
        return Part("source", current.value if heard else f"{current.value}, which is not connected", is_well=heard)

    def _audit(self) -> Part:
        """The audit device, which is needed beside the stream too: that tells of deletions to root tokens alone."""
        delivery = self.audit.delivery
        is_silent = delivery is Delivery.SILENT
        late = "; deletions are noticed late" if is_silent and self.sources.current is ChangeSource.EVENTS else ""
        return Part("audit", f"{delivery.value}{late}", is_well=not is_silent)

    def _vault_trouble(self) -> str:
        """Why Vault does not answer, "" if it does. At rest there are no requests, and the stream alone tells."""
        if self.stream.is_connected:
            return ""
        return self.vault.outage or ("no answer" if self.stream.is_unanswered else "")

    def _lost(self) -> dict[str, list[Result]]:
        return self.watches.trouble() if self.watches else {resource: [] for resource in RESOURCES}


def in_words(result: Result) -> str:
    """Why a list or watch is not up; quotes nobody, as strangers read it."""
    return REFUSED if result is Result.REFUSED else UNANSWERED
