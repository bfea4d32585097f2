"""Generates values, writes them to Vault, and confirms writes whose response was lost.

Nothing about ExternalSecrets or their reports enters; path_reconciler has that.

Vault may have applied a request without a response. The policy does not let vaultsync read values, so it compares what
it has in memory: check-and-set lets a write succeed only on the version that it was based on, so the write can only be
the next version, with the key names that it would leave, at a time at which the request was under way. A version that
differs in any of this, and any later version, is another client's, and vaultsync never overwrites it.

One case remains: a person writes the same path with the same key names on the same version, while Vault does not
respond, and before the request of vaultsync arrives, which Vault then rejects. Vaultsync takes that value for its own,
and replaces it when a rotation is due; KV v2 keeps the former version. Vault 1.15 and OpenBao name the writer of a
version only to an audit device, so vaultsync can't rule this out without reading values. It keeps the window short for
that reason: no unconfirmed write outlives the process or a term of leadership.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from loguru import logger
from pydantic import SecretStr

from vaultsync.controller.interfaces import ControllerMetrics, Vault
from vaultsync.controller.ownership_writer import OwnershipWriter, PendingOwnership
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

CLOCK_SKEW: Final = timedelta(seconds=1.5)
"""Between Vault's clock and what vaultsync knows of it."""
LATE: Final = timedelta(seconds=15)
"""Vault applies a request within this time after vaultsync has given up, for example a Vault that was frozen."""
DONE = {EventReason.SEEDED: "created", EventReason.RECREATED: "re-created", EventReason.ROTATED: "rotated"}


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a path: the state that it is based on, the decision, and the ExternalSecrets that requested it."""

    path: VaultPath
    before: SecretState
    work: Seed | Rotation
    readers: tuple[Reader, ...]

    def log_fields(self, state: SecretState, **done: object) -> dict[str, object]:
        """The fields of its log line."""
        return {
            "path": logical(state.mount, self.path.path),
            "properties": self.work.properties,
            **done,
            "reason": str(self.work.reason),
            "external_secrets": [str(reader.name) for reader in self.readers][:10],
        }


class Verdict(Enum):
    """What a read shows about an unconfirmed write."""

    OWN = "Vault has applied it, and it is the latest version"
    PENDING = "Vault has not applied it yet, and may do so"
    NOT_OWN = "Vault never applied it, or another client has written since"


@dataclass(frozen=True, slots=True)
class UnconfirmedWrite:
    """A write in KV v2 that Vault may have applied.

    Attributes:
        subkeys: the key names that the path has after it.
        sent: when vaultsync sent the request, by Vault's clock.
        until: when Vault applies it at the latest, by Vault's clock.
    """

    write: Write
    subkeys: Mapping[str, Any]
    sent: datetime
    until: datetime

    def verdict(self, state: SecretState, now: datetime) -> Verdict:
        """What a read shows, `now` by Vault's clock."""
        before = self.write.before
        if (state.version, state.written, state.exists) == (before.version, before.written, before.exists):
            return Verdict.PENDING if now <= self.until + CLOCK_SKEW else Verdict.NOT_OWN
        is_own = (
            state.exists
            and state.version == before.version + 1
            and state.subkeys == self.subkeys
            and state.written is not None
            and self.sent - CLOCK_SKEW <= state.written <= self.until + CLOCK_SKEW
        )
        return Verdict.OWN if is_own else Verdict.NOT_OWN

    def after(self, earlier: "UnconfirmedWrite | None") -> "UnconfirmedWrite":
        """The write as a repetition of an earlier one: check-and-set lets Vault apply only one of them."""
        if earlier is None or earlier.subkeys != self.subkeys:
            return self
        is_repetition = earlier.write.before.version == self.write.before.version
        return replace(self, sent=min(earlier.sent, self.sent)) if is_repetition else self


@dataclass(frozen=True, slots=True)
class AppliedWrite:
    """A write that Vault has applied, and the state that it created."""

    write: Write
    after: SecretState

    @property
    def message(self) -> str:
        """The report to the owners of the ExternalSecrets."""
        work, after = self.write.work, self.after
        number = f" version {after.version}" if after.version else ""
        why = f" ({work.why})" if isinstance(work, Rotation) else ""
        where = logical(after.mount, self.write.path.path)
        return f"{DONE[work.reason]} {where}{number} with {', '.join(work.properties)}{why}"


class SecretWriter:
    """Carries out seeds and rotations.

    Args:
        cluster: the name of this cluster, for the ownership metadata.
    """

    def __init__(self, vault: Vault, ownership: OwnershipWriter, metrics: ControllerMetrics) -> None:
        self._vault = vault
        self._ownership = ownership
        self._metrics = metrics
        self.cluster = ""
        self._unconfirmed: dict[VaultPath, UnconfirmedWrite] = {}

    async def write(self, write: Write) -> AppliedWrite:
        """Generate the values, and write them.

        Raises:
            WriteConflict: the path has changed since it was read.
            VaultsyncError: Vault did not answer, or refused.
        """
        started = time.monotonic()
        values = await self._values(write.path, write.work.plan)
        request = self._vault.rotate if isinstance(write.work, Rotation) else self._vault.create
        try:
            after = await request(write.path, write.before, values)
        except VaultFailure as error:
            self._record_unconfirmed(write, values.keys(), error)
            raise
        except (VaultDenied, VaultRejected) as error:
            await self._raise_conflict(write, error)
            raise
        self._unconfirmed.pop(write.path, None)
        return self._finish(AppliedWrite(write, after), duration_ms=round((time.monotonic() - started) * 1000, 1))

    def confirm(self, path: VaultPath, state: SecretState) -> AppliedWrite | None:
        """The earlier write whose response was lost, if the state shows that Vault has applied it."""
        unconfirmed = self._unconfirmed.get(path)
        verdict = unconfirmed.verdict(state, self._vault.clock()) if unconfirmed else Verdict.PENDING
        if unconfirmed is None or verdict is Verdict.PENDING:
            return None
        del self._unconfirmed[path]
        if verdict is Verdict.NOT_OWN:
            logger.debug("a write without a response is not confirmed", path=str(path), version=state.version)
            return None
        return self._finish(AppliedWrite(unconfirmed.write, state), confirmed="by a read, as the response was lost")

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

    def _record_unconfirmed(self, write: Write, written: Iterable[str], error: VaultFailure) -> None:
        """Remember a write that Vault may have applied, so that a later read can confirm it. KV v1 shows too little."""
        before = write.before
        if error.sent is None or before.mount.kv == 1:
            return
        subkeys = {**((before.subkeys or {}) if before.exists else {}), **dict.fromkeys(written)}
        unconfirmed = UnconfirmedWrite(write, subkeys, error.sent, self._vault.clock() + LATE)
        self._unconfirmed[write.path] = unconfirmed.after(self._unconfirmed.get(write.path))

    async def _raise_conflict(self, write: Write, error: VaultDenied | VaultRejected) -> None:
        """A refused write is a conflict if the path has changed. The state shows it, not the message."""
        path, before = write.path, write.before
        now = await self._vault.look(path, before.mount.kv)
        if (now.version, now.exists) != (before.version, before.exists):
            raise WriteConflict(f"{path} was written by another client") from error

    def _finish(self, applied: AppliedWrite, **how: object) -> AppliedWrite:
        """Count the write, log it, and record its ownership in Vault."""
        write, after = applied.write, applied.after
        self._metrics.writes[write.work.reason].inc()
        if after.written is not None:  # KV v1 has no metadata
            self._record_ownership(write, after, after.written)
        logger.info(
            "rotated" if isinstance(write.work, Rotation) else "seeded",
            **write.log_fields(after, version=after.version),
            **how,
        )
        return applied

    def _record_ownership(self, write: Write, after: SecretState, written: datetime) -> None:
        ids = (reader.rotation.request_id for reader in write.readers if reader.rotation.request_id)
        made = Ownership(
            version=after.fingerprint(metadata=False),
            made=max(written, datetime.now(UTC)),  # a clock that is behind would cause a rotation at once
            properties=frozenset(write.work.properties),
            external_secret=str(write.readers[0].name),
            cluster=self.cluster,
            rotation_ids=tuple(ids)[:MAX_ROTATION_IDS],
        )
        is_rotation = isinstance(write.work, Rotation)
        ownership = next_ownership(write.before, made, rotated=is_rotation)
        pending = PendingOwnership(ownership, render_ownership(ownership, after.managed_by))
        self._ownership.add(write.path, pending, at_once=is_rotation)
