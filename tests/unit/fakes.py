"""In-memory stand-ins for Vault and for the API server's write side.

Only for what real servers can't be made to do quickly and on cue: a conflict between look and write, a denied path, an
outage in the middle. What the real ones do is tested on the real ones (tests/integration).
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import SecretStr

from tests.unit.build import NOON
from vaultsync.controller.index import Index
from vaultsync.core.annotations import EventReason
from vaultsync.core.errors import ConditionNotWritten, VaultRejected, VaultsyncError, VaultUnavailable
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, ObjectName, Store, StoreName
from vaultsync.core.ownership import MANAGED_BY, parse_ownership
from vaultsync.core.paths import FindPrefix, Mount, VaultPath
from vaultsync.core.vault_state import SecretState


@dataclass
class Secret:
    """One secret: the number of its latest version, its values (None: deleted) and when it was written."""

    version: int = 0
    values: dict[str, str] | None = None
    written: datetime | None = None
    custom_metadata: dict[str, str] = field(default_factory=dict)


class FakeVault:
    """KV mounts `secret/` (v2) and `kv1/` (v1), with check-and-set as Vault does it.

    Attributes:
        now: Vault's clock.
        errors: raised by the next requests for a path, first to last.
        down: raised by every request while set.
        before_create: called between the look and the write, once.
        looks, creates, rotations, marks: how often each path was asked for.
        marks_refused: raised by every mark while set.
        request_ids: of the last create or rotation, by path.
        on_own_write: called with path, version and request ID of each create and rotation.
        clustered: whether there are standby nodes.
        cluster_questions: how often that was asked for.
    """

    def __init__(self) -> None:
        self.secrets: dict[VaultPath, Secret] = {}
        self.now = NOON
        self.errors: dict[VaultPath, list[VaultsyncError]] = {}
        self.denied_writes: dict[VaultPath, VaultsyncError] = {}
        self.down: VaultsyncError | None = None
        self.before_create: Callable[[], None] | None = None
        self.looks: dict[VaultPath, int] = defaultdict(int)
        self.creates: dict[VaultPath, int] = defaultdict(int)
        self.rotations: dict[VaultPath, int] = defaultdict(int)
        self.marks: dict[VaultPath, int] = defaultdict(int)
        self.marks_refused: VaultsyncError | None = None
        self.lost: set[VaultPath] = set()
        self.on_own_write: Callable[[VaultPath, int, str], None] = lambda *_: None
        self.request_ids: dict[VaultPath, str] = {}
        self.clustered = False
        self.cluster_questions = 0

    def write(self, path: VaultPath, **values: str) -> None:
        """A person writes a new version."""
        old = self.secrets.get(path, Secret())
        self.now += timedelta(seconds=1)
        version = old.version + 1 if _mount(path).kv == 2 else 0
        self.secrets[path] = Secret(version, dict(values), self.now, old.custom_metadata)

    def delete(self, path: VaultPath) -> None:
        """A person deletes the latest version."""
        self.secrets[path].values = None

    def wipe(self, path: VaultPath) -> None:
        """A person deletes all versions and the metadata."""
        self.secrets.pop(path, None)

    def values(self, path: VaultPath) -> dict[str, str] | None:
        """What is there."""
        return self.secrets.get(path, Secret()).values

    def clock(self) -> datetime:
        return self.now

    async def look(self, path: VaultPath, kv: int) -> SecretState:
        self.looks[path] += 1
        self._fail(path)
        return self._state(path)

    async def create(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState:
        self.creates[path] += 1
        return self._answer(path, state, values)

    async def rotate(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState:
        self.rotations[path] += 1
        return self._answer(path, state, values)

    def _answer(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState:
        if path not in self.lost:
            return self._write(path, state, values)
        error = VaultUnavailable("no answer from Vault")
        error.sent = self.now
        with suppress(VaultRejected):
            self._write(path, state, values)
        raise error

    async def mark(self, path: VaultPath, custom_metadata: Mapping[str, str | None]) -> None:
        self.marks[path] += 1
        self._fail(path)
        if self.marks_refused is not None:
            raise self.marks_refused
        kept = {**self.secrets[path].custom_metadata, **custom_metadata}
        self.secrets[path].custom_metadata = {key: value for key, value in kept.items() if value is not None}

    def _write(self, path: VaultPath, state: SecretState, values: dict[str, SecretStr]) -> SecretState:
        self._fail(path)
        if self.before_create is not None:
            once, self.before_create = self.before_create, None
            once()
        if path in self.denied_writes:
            raise self.denied_writes[path]
        now = self._state(path)
        if (now.version, now.exists) != (state.version, state.exists):
            raise VaultRejected(f"Vault returned 400: check-and-set parameter did not match on {path}")
        old = self.secrets.get(path, Secret())
        plain = {name: value.get_secret_value() for name, value in values.items()}
        self.write(path, **{**(old.values or {}), **plain})
        state = self._state(path)
        self.request_ids[path] = f"own-{path}-{self.creates[path]}-{self.rotations[path]}"
        self.on_own_write(path, state.version, self.request_ids[path] if state.mount.kv == 2 else "")
        return state

    async def is_clustered(self) -> bool:
        self.cluster_questions += 1
        return self.clustered

    async def password(self, policy: str, namespace: str) -> SecretStr:
        raise VaultRejected(f"Vault returned 404: no reason given on sys/policies/password/{policy}/generate")

    async def find(
        self, prefix: FindPrefix, limit: int = 10_000, may_list: Callable[[], Awaitable[bool]] | None = None
    ) -> set[VaultPath]:
        if self.down is not None:
            raise self.down
        if may_list is not None and not await may_list():
            return set()
        return {path for path in self.secrets if prefix.covers(path)}

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        if self.down is not None:
            raise self.down
        folder, names = path.path.rpartition("/")[0], (one.path.rpartition("/") for one in self.secrets)
        return frozenset(name for above, _, name in names if above == folder)

    async def mounts(self, namespace: str) -> dict[str, Mount]:
        if self.down is not None:
            raise self.down
        return {f"kv_{namespace}": Mount("secret/", 2)}

    async def delete_version(self, path: VaultPath, version: int) -> None:
        if path in self.denied_writes:
            raise self.denied_writes[path]
        if self.secrets[path].version == version:
            self.delete(path)

    def _fail(self, path: VaultPath) -> None:
        if self.down is not None:
            raise self.down
        if self.errors.get(path):
            raise self.errors[path].pop(0)

    def _state(self, path: VaultPath) -> SecretState:
        secret, mount = self.secrets.get(path, Secret()), _mount(path)
        exists = secret.values is not None
        if mount.kv == 1:
            return SecretState(mount, exists)
        return SecretState(
            mount,
            exists,
            secret.version,
            dict.fromkeys(secret.values or ()),
            secret.written,
            ownership=parse_ownership(secret.custom_metadata),
            managed_by=secret.custom_metadata.get(MANAGED_BY, ""),
        )


def _mount(path: VaultPath) -> Mount:
    return Mount("kv1/", 1) if path.path.startswith("kv1/") else Mount("secret/", 2)


@dataclass
class FakeWriter:
    """Notes what is written on ExternalSecrets.

    Attributes:
        errors: raised by the next writes, first to last.
        fail_report: what every write with a report fails with, once its annotations are written, as with the real one.
        during: called once in the middle of a write.
    """

    writes: list[tuple[ObjectName, dict[str, str], CreatedCondition | None]] = field(default_factory=list)
    errors: list[VaultsyncError] = field(default_factory=list)
    fail_report: VaultsyncError | None = None
    during: Callable[[], None] | None = None

    async def write(
        self, external_secret: ExternalSecret, annotations: Mapping[str, str], report: CreatedCondition | None
    ) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if self.during is not None:
            once, self.during = self.during, None
            once()
        if report is not None and self.fail_report is not None:
            if annotations:
                self.writes.append((external_secret.name, dict(annotations), None))
                raise ConditionNotWritten(str(self.fail_report))
            raise self.fail_report
        self.writes.append((external_secret.name, dict(annotations), report))

    def force_syncs(self, name: ObjectName | None = None) -> list[dict[str, str]]:
        """The annotations of each force-sync."""
        return [
            annotations for one, annotations, _ in self.writes if "force-sync" in annotations and name in (None, one)
        ]

    def reports(self) -> list[CreatedCondition]:
        """Each report."""
        return [report for _, _, report in self.writes if report is not None]


@dataclass
class FakeRecorder:
    """Notes Kubernetes Events."""

    events: list[tuple[ObjectName, EventReason, str]] = field(default_factory=list)

    def record(self, external_secret: ExternalSecret, reason: EventReason, message: str) -> None:
        self.events.append((external_secret.name, reason, message))

    def reasons(self) -> list[str]:
        """The reasons in order."""
        return [str(reason) for _, reason, _ in self.events]


class FakeObjects:
    """The objects of the API server: those of the index, unless a test has changed them since."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.changed: dict[ObjectName | StoreName, ExternalSecret | Store | None] = {}
        self.during: Callable[[], object] = lambda: None
        self.reads = 0

    async def external_secret(self, known: ExternalSecret) -> ExternalSecret | None:
        self.reads += 1
        self.during()
        found = self.changed.get(known.name, known)
        assert not isinstance(found, Store)
        return found

    async def store(self, name: StoreName, api_version: str) -> Store | None:
        self.reads += 1
        found = self.changed.get(name, self._index.store(name))
        assert not isinstance(found, ExternalSecret)
        return found
