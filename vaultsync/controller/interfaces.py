"""What the controller requires of Vault, Kubernetes and the metrics, so that it imports neither vault/ nor kube/."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from prometheus_client import Counter, Histogram
from pydantic import SecretStr

from vaultsync.core.annotations import EventReason
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, Store, StoreName
from vaultsync.core.paths import FindPrefix, VaultPath
from vaultsync.core.vault_state import SecretState


class VaultReader(Protocol):
    """Requests that change nothing; vault.client.VaultClient documents them."""

    async def look(self, path: VaultPath, kv: int) -> SecretState: ...
    async def find(self, prefix: FindPrefix) -> set[VaultPath]: ...


class Vault(VaultReader, Protocol):
    """All requests to Vault; vault.client.VaultClient documents them."""

    async def create(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...
    async def rotate(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...
    async def mark(self, path: VaultPath, custom_metadata: Mapping[str, str | None]) -> None: ...
    async def password(self, policy: str, namespace: str) -> SecretStr: ...
    async def is_clustered(self) -> bool: ...
    def clock(self) -> datetime: ...


class CurrentObjects(Protocol):
    """Reads objects past the informers; kube.current_objects.CurrentObjects documents and implements it."""

    async def external_secret(self, known: ExternalSecret) -> ExternalSecret | None: ...
    async def store(self, name: StoreName, api_version: str) -> Store | None: ...


class ExternalSecretPatcher(Protocol):
    """Patches ExternalSecrets; kube.external_secrets.ExternalSecretWriter implements it."""

    async def write(
        self, external_secret: ExternalSecret, annotations: Mapping[str, str], report: CreatedCondition | None
    ) -> None: ...


class EventSink(Protocol):
    """Records Kubernetes Events; kube.events.EventRecorder implements it."""

    def record(self, external_secret: ExternalSecret, reason: EventReason, message: str) -> None: ...


class ControllerMetrics(Protocol):
    """A part of runtime.metrics.Metrics, which declares and documents them."""

    reconciles: Counter
    resyncs: Counter
    writes: Mapping[EventReason, Counter]
    new_paths: Counter
    new_paths_put_off: Counter
    force_syncs: Counter
    refusals: Counter
    event_to_force_sync: Histogram
    seed_to_ready: Histogram
