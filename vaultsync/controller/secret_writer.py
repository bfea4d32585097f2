"""Generates values, writes them to Vault, and confirms writes whose response was lost.

Nothing about ExternalSecrets or their reports enters; path_reconciler has that.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from loguru import logger
from pydantic import SecretStr

from vaultsync.controller.evaluate import VaultReader
from vaultsync.controller.metrics import ControllerMetrics
from vaultsync.controller.ownership_writer import OwnershipWriter, PendingOwnership
from vaultsync.controller.unconfirmed_write import LATE, UnconfirmedWrite, Verdict
from vaultsync.core.annotations import EventReason
from vaultsync.core.decide import Seed
from vaultsync.core.errors import VaultDenied, VaultFailure, VaultRejected, WriteConflict
from vaultsync.core.ownership import MAX_ROTATION_IDS, Ownership, render_ownership
from vaultsync.core.paths import VaultPath, logical
from vaultsync.core.reader import Reader
from vaultsync.core.rotate import Rotation, next_ownership
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.generate import encode, generate
from vaultsync.generation.plan import PropertyPlan
from vaultsync.generation.rules import KeyPairRule, PasswordPolicyRule

DONE = {EventReason.SEEDED: "created", EventReason.RECREATED: "re-created", EventReason.ROTATED: "rotated"}


class VaultWriter(VaultReader, Protocol):
    """Requests of one pass; vault.client.VaultClient implements it."""

    async def create(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...

    async def rotate(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState: ...

    async def password(self, policy: str, namespace: str) -> SecretStr: ...

    def clock(self) -> datetime: ...

    async def is_clustered(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class AppliedWrite:
    """A write that Vault has applied.

    Attributes:
        after: the state that it created.
        work: the decision that it carries out.
        readers: the ExternalSecrets that asked for it.
    """

    after: SecretState
    work: Seed | Rotation
    readers: tuple[Reader, ...]

    def message(self, path: VaultPath) -> str:
        """The report to the owners of the ExternalSecrets."""
        number = f" version {self.after.version}" if self.after.version else ""
        why = f" ({self.work.why})" if isinstance(self.work, Rotation) else ""
        where = logical(self.after.mount, path.path)
        return f"{DONE[self.work.reason]} {where}{number} with {', '.join(self.work.properties)}{why}"


class SecretWriter:
    """Carries out seeds and rotations.

    Args:
        ownership: records in Vault what vaultsync wrote.
        cluster: the name of this cluster, for the ownership metadata.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        vault: VaultWriter,
        ownership: OwnershipWriter,
        metrics: ControllerMetrics,
        cluster: str,
        clock: Callable[[], float],
    ) -> None:
        self._vault = vault
        self._ownership = ownership
        self._metrics = metrics
        self._cluster = cluster
        self._clock = clock
        self._unconfirmed: dict[VaultPath, UnconfirmedWrite] = {}

    async def write(
        self, path: VaultPath, before: SecretState, work: Seed | Rotation, readers: tuple[Reader, ...]
    ) -> AppliedWrite:
        """Write a seed or a rotation.

        Args:
            path: the secret.
            before: the state that `work` was decided on.
            work: the decision.
            readers: the ExternalSecrets that asked for it.

        Raises:
            WriteConflict: the path has changed since it was read.
            VaultsyncError: Vault did not answer, or refused.
        """
        started = self._clock()
        values = await self._values(path, work.plan)
        write = self._vault.rotate if isinstance(work, Rotation) else self._vault.create
        try:
            after = await write(path, before, values)
        except VaultFailure as error:
            self._record_unconfirmed(path, before, work, readers, values.keys(), error)
            raise
        except (VaultDenied, VaultRejected) as error:
            await self._raise_conflict(path, before, error)
            raise
        self._unconfirmed.pop(path, None)
        duration = round((self._clock() - started) * 1000, 1)
        return self._finish(path, before, AppliedWrite(after, work, readers), duration_ms=duration)

    def confirm(self, path: VaultPath, state: SecretState) -> AppliedWrite | None:
        """The earlier write whose response was lost, if the state shows that Vault has applied it."""
        write = self._unconfirmed.get(path)
        verdict = write.verdict(state, self._vault.clock()) if write else Verdict.PENDING
        if write is None or verdict is Verdict.PENDING:
            return None
        del self._unconfirmed[path]
        if verdict is Verdict.NOT_OWN:
            logger.debug("a write without a response is not confirmed", path=str(path), version=state.version)
            return None
        applied = AppliedWrite(state, write.work, write.readers)
        return self._finish(path, write.before, applied, confirmed="by a read, as the response was lost")

    def forget(self, path: VaultPath) -> None:
        """No ExternalSecret reads the path any more."""
        self._unconfirmed.pop(path, None)

    async def _values(self, path: VaultPath, plan: Mapping[str, PropertyPlan]) -> dict[str, SecretStr]:
        rules = {name: one.rule for name, one in plan.items()}
        fetched = {
            name: await self._vault.password(rule.name, path.namespace)
            for name, rule in rules.items()
            if isinstance(rule, PasswordPolicyRule)
        }
        if any(isinstance(rule, KeyPairRule) for rule in rules.values()):  # too slow for the loop
            made = await asyncio.to_thread(generate, rules, fetched)
        else:
            made = generate(rules, fetched)
        return {name: encode(value, plan[name].encoding) for name, value in made.items()}

    def _record_unconfirmed(
        self,
        path: VaultPath,
        before: SecretState,
        work: Seed | Rotation,
        readers: tuple[Reader, ...],
        written: Iterable[str],
        error: VaultFailure,
    ) -> None:
        """Remember a write that Vault may have applied, so that a later read can confirm it. KV v1 shows too little."""
        if error.sent is None or before.mount.kv == 1:
            return
        subkeys = {**((before.subkeys or {}) if before.exists else {}), **dict.fromkeys(written)}
        write = UnconfirmedWrite(before, work, readers, subkeys, error.sent, self._vault.clock() + LATE)
        self._unconfirmed[path] = write.after(self._unconfirmed.get(path))

    async def _raise_conflict(self, path: VaultPath, before: SecretState, error: VaultDenied | VaultRejected) -> None:
        """Vault has refused a write: that is a conflict if the path has changed. The state tells, not the message.

        Raises:
            WriteConflict: it has.
        """
        now = await self._vault.look(path, before.mount.kv)
        if (now.version, now.exists) != (before.version, before.exists):
            raise WriteConflict(f"{path} was written by somebody else") from error

    def _finish(self, path: VaultPath, before: SecretState, applied: AppliedWrite, **how: object) -> AppliedWrite:
        """Count the write, log it, and have its ownership recorded in Vault."""
        work, after = applied.work, applied.after
        self._metrics.writes[work.reason].inc()
        if after.written is not None:  # KV v1 has no metadata
            self._record_ownership(path, before, applied, after.written)
        logger.info(
            "rotated" if isinstance(work, Rotation) else "seeded",
            **log_fields(path, after, work, applied.readers, version=after.version),
            **how,
        )
        return applied

    def _record_ownership(self, path: VaultPath, before: SecretState, applied: AppliedWrite, written: datetime) -> None:
        after, readers = applied.after, applied.readers
        made = Ownership(
            version=after.fingerprint(metadata=False),
            made=max(written, datetime.now(UTC)),  # a clock that is behind would cause a rotation at once
            properties=frozenset(applied.work.properties),
            external_secret=str(readers[0].name),
            cluster=self._cluster,
            rotation_ids=tuple(reader.rotation.request_id for reader in readers if reader.rotation.request_id)[
                :MAX_ROTATION_IDS
            ],
        )
        is_rotation = isinstance(applied.work, Rotation)
        ownership = next_ownership(before, made, rotated=is_rotation)
        pending = PendingOwnership(ownership, render_ownership(ownership, after.managed_by))
        self._ownership.add(path, pending, at_once=is_rotation)


def log_fields(
    path: VaultPath, state: SecretState, work: Seed | Rotation, readers: Iterable[Reader], **done: object
) -> dict[str, object]:
    """The fields of a log line about a seed or rotation."""
    return {
        "path": logical(state.mount, path.path),
        "properties": work.properties,
        **done,
        "reason": str(work.reason),
        "external_secrets": [str(reader.name) for reader in readers][:10],
    }
