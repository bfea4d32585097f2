"""The dry-run planner of `explain` and `plan`: what each ExternalSecret reads, and what `run` would do about it.

It decides by the code of the controller, writes nothing, and assumes a vaultsync that starts now: no state of a running
one, and no count of VAULTSYNC_SEED_BUDGET.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from vaultsync.commands.help_text import describe_value
from vaultsync.commands.snapshot import (
    IndexBuilder,
    connector,
    for_each,
    kube_session,
    list_once,
    recorded_mounts,
    vault_session,
)
from vaultsync.config.settings import Settings
from vaultsync.controller.entry import Entry
from vaultsync.controller.evaluate import Evaluation, PathEvaluator, empty_listing
from vaultsync.controller.external_secret_reconciler import accepts_force_sync
from vaultsync.controller.heal_limit import MountName, limit_of, refusal_text
from vaultsync.controller.index import Index
from vaultsync.controller.interfaces import VaultReader
from vaultsync.controller.path_state import PathStates
from vaultsync.controller.sync_state import SyncState
from vaultsync.core import annotations
from vaultsync.core.annotation_parser import SeedChoice, SeedMode
from vaultsync.core.annotations import EventReason
from vaultsync.core.errors import OF_ONE_PATH
from vaultsync.core.external_secret import FindRef, ObjectName, RemoteRef
from vaultsync.core.healing import is_approved
from vaultsync.core.paths import FindPrefix, VaultPath, logical
from vaultsync.core.reader import Reference
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import Presence, SecretState, presence
from vaultsync.runtime import factory

CHANGED = "changed in Vault since external-secrets' last refresh"


class Action(StrEnum):
    """What vaultsync would do about one reference."""

    NOTHING = "nothing"
    SEED = "seed"
    """Create the first version of the path, or the next one if the latest is deleted."""
    ADD = "add"
    """Add the property to the live version."""
    ROTATE = "rotate"
    """Write a new value as the next version."""
    FORCE_SYNC = "force-sync"


@dataclass(frozen=True, slots=True)
class ReferenceStatus:
    """One reference of an ExternalSecret, and what Vault has there.

    Attributes:
        field: its place in the ExternalSecret, such as `spec.data[0].remoteRef`.
        store: the store's kind and name.
        path: as in Vault's UI; as in Vault's API if Vault refused to name the mount; "" if it is not in this Vault.
        version: the latest, also if it is deleted; 0: none. KV v1 has no versions.
        presence: whether external-secrets finds the value; None: not known.
        made_by: who wrote the value, according to the ownership metadata; "" if that does not say.
        why: the reason of the action, also of none.
        problems: what prevents its creation, as in the Event.
    """

    field: str
    store: str
    key: str
    path: str = ""
    vault_namespace: str = ""
    property: str = ""
    version: int = 0
    written: datetime | None = None
    presence: Presence | None = None
    made_by: str = ""
    action: Action = Action.NOTHING
    why: str = ""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """One ExternalSecret: whether it is seeded and why, and the error in its annotations, "" for none."""

    name: ObjectName
    choice: SeedChoice
    why: str
    problem: str
    references: tuple[ReferenceStatus, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The number of actions.

    Attributes:
        seed, add, rotate: paths.
        force_sync: ExternalSecrets, without those that refresh because a path is seeded.
        problems: ExternalSecrets with at least one problem.
        unseen: references that Vault refused to read.
    """

    external_secrets: int
    seed: int
    add: int
    rotate: int
    force_sync: int
    problems: int
    unseen: int

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.seed or self.add or self.rotate or self.force_sync)


class DryRunPlanner(IndexBuilder):
    """Receives the listed objects, then reads Vault.

    Attributes:
        uuids: those of the mounts that a running vaultsync knows, see kube.mount_record.
    """

    def __init__(
        self,
        index: Index,
        vault: VaultReader,
        seed_paths: SeedPaths,
        mode: SeedMode,
        heal_limit: int | None = None,
    ) -> None:
        super().__init__(index)
        self._heal_limit = heal_limit
        self.uuids: Mapping[str, str] = {}
        self._paths = PathStates()
        self._vault = vault
        self._evaluator = PathEvaluator(index, self._paths, vault, seed_paths)
        self._mode = mode
        self._seen: dict[VaultPath, Evaluation] = {}
        self._found: dict[FindPrefix, set[VaultPath]] = {}
        self._refused: dict[VaultPath | FindPrefix, str] = {}

    async def explain(self, only: ObjectName | None = None) -> list[Explanation]:
        """Read each referenced path once, and explain each ExternalSecret, by name; none if `only` does not exist.

        Args:
            only: explain this one alone; the result still depends on the other readers of its paths.

        Raises:
            ExceptionGroup: of VaultsyncErrors but refusals, which become problems of their references.
        """
        chosen = sorted(self._index.names()) if only is None else [only]
        entries = [entry for name in chosen if (entry := self._index.entry(name)) is not None]
        await for_each({prefix for entry in entries for prefix in entry.prefixes}, self._list)
        named = {path for entry in entries for path in entry.references}
        await for_each(named.union(*self._found.values()), self._look)
        await self._hold_losses()
        return [self._explanation(entry) for entry in entries]

    async def _list(self, prefix: FindPrefix) -> None:
        try:
            self._found[prefix] = self._paths.record_listing(prefix, await self._vault.find(prefix))
        except OF_ONE_PATH as error:
            self._refused[prefix] = str(error)

    async def _look(self, path: VaultPath) -> None:
        try:
            readers = self._index.readers(path)
            state = await self._evaluator.read(path, readers)
        except OF_ONE_PATH as error:
            self._paths.record_unreadable(path)
            self._refused[path] = str(error)
        else:
            is_replaced = self._is_replaced(path, state)
            self._seen[path] = self._evaluator.evaluate(path, state, readers, is_replaced=is_replaced)
            self._paths.observe(path, state)

    async def _hold_losses(self) -> None:
        """Decide again about the lost paths of each mount that has more of them than VAULTSYNC_HEAL_LIMIT allows."""
        if self._heal_limit == 0:
            return
        for mount in {self._mount(path) for path in self._lost()}:
            paths = self._index.paths_in(*mount)
            await for_each([path for path in paths if path not in self._seen], self._look)
            lost = [path for path in self._lost() if self._mount(path) == mount]
            live = [path for path in paths if path in self._seen and self._seen[path].state.exists]
            is_replaced = any(self._is_replaced(path, self._seen[path].state) for path in lost)
            if not is_replaced and len(lost) <= limit_of(self._heal_limit, len(live) + len(lost)):
                continue
            for path in lost:
                seen, readers = self._seen[path], self._index.readers(path)
                text = "" if is_approved(seen.allowed, datetime.now(UTC)) else refusal_text(mount, len(lost))
                now = self._evaluator.evaluate(path, seen.state, readers, text, is_replaced=is_replaced)
                self._seen[path] = now

    def _lost(self) -> list[VaultPath]:
        """The lost paths that would be created again."""
        return [path for path, seen in self._seen.items() if seen.is_lost]

    def _is_replaced(self, path: VaultPath, state: SecretState) -> bool:
        """Whether another mount is in the place of the one that had live values."""
        return MountName(path.namespace, state.mount.path).is_replaced(state.mount.uuid, self.uuids)

    def _mount(self, path: VaultPath) -> MountName:
        return MountName(path.namespace, self._seen[path].state.mount.path)

    def _explanation(self, entry: Entry) -> Explanation:
        choice, problem = self._index.choice(entry)
        why = problem or self._why(entry, choice)
        # KV v1 has no versions: each start refreshes once, which is not a change
        durable = [reading for reading in self._paths.readings(entry) if reading.durable]
        due = SyncState(entry.object.uid).pending_changes(entry.object.versions, durable)
        resolved = {one.field: one for group in entry.references.values() for one in group}
        statuses = [self._reference(entry, ref, resolved.get(ref.field), why, due) for ref in entry.object.refs]
        statuses += [self._find(entry, find, due) for find in entry.object.finds]
        return Explanation(entry.object.name, choice, why, problem, tuple(statuses))

    def _why(self, entry: Entry, choice: SeedChoice) -> str:
        if choice is SeedChoice.WANTED:
            return "requested"
        if choice is SeedChoice.NOT_ASKED:
            return f'not requested: no {annotations.SEED}: "true" on it or its Namespace'
        if self._index.namespace(entry.object.name.namespace) is None:
            return "its Namespace is not known"
        return "VAULTSYNC_SEED is off" if self._mode is SeedMode.OFF else f'opted out: {annotations.SEED}: "false"'

    def _reference(
        self, entry: Entry, ref: RemoteRef, reference: Reference | None, why: str, due: Mapping[str, str]
    ) -> ReferenceStatus:
        status = partial(ReferenceStatus, ref.field, str(ref.store), ref.key, property=ref.property)
        if reference is None:
            problem = self._index.store_problem(ref.store, entry.object.name.namespace)
            return status(problems=(problem or "external-secrets refuses such an entry",))
        path = reference.path
        seen = self._seen.get(path)
        if seen is None:
            return status(path=path.path, vault_namespace=path.namespace, problems=(self._refused[path],))
        own = [one for one in seen.decision.problems if one.reader == entry.object.name]
        shown = [one for one in own if one.field in (ref.field, "")]
        there = _presence(seen.state, reference)
        action, reason = _seed_or_rotation(entry, reference, seen)
        if action is Action.NOTHING:
            reason = _reason(there, reference, seen, "" if shown else why)
            action, reason = _force_sync(entry, reason, changed=str(path) in due)
        return status(
            path=logical(seen.state.mount, path.path),
            vault_namespace=path.namespace,
            version=seen.state.version,
            written=seen.state.written,
            presence=there,
            made_by=_made_by(seen.state, reference),
            action=action,
            why=reason,
            problems=tuple(dict.fromkeys(one.message for one in shown)),
        )

    def _find(self, entry: Entry, find: FindRef, due: Mapping[str, str]) -> ReferenceStatus:
        prefix = self._index.prefix(find, entry.object)
        status = partial(ReferenceStatus, find.field, str(find.store), find.path or "")
        if prefix is None:
            problem = self._index.store_problem(find.store, entry.object.name.namespace)
            return status(problems=(problem or "external-secrets refuses such a find",))
        status = partial(status, path=f"{prefix.prefix}*", vault_namespace=prefix.namespace)
        if prefix not in self._found:
            return status(problems=(self._refused[prefix],))
        count = len(self._found[prefix])
        wanted = self._index.choice(entry)[0] is SeedChoice.WANTED
        action, why = _force_sync(entry, f"lists {count}, and takes those that match", changed=str(prefix) in due)
        return status(
            presence=Presence.PRESENT if count else Presence.MISSING,
            action=action,
            why=why,
            problems=(empty_listing(prefix),) if wanted and not count else (),
        )


async def dry_run(settings: Settings, only: ObjectName | None = None) -> list[Explanation]:
    """List Kubernetes once, read the referenced paths in Vault, and explain as DryRunPlanner. Writes nothing."""
    async with vault_session(settings) as (vault, login):
        await login.log_in()
        index = factory.create_index(settings)
        planner = DryRunPlanner(index, vault, settings.seedable_paths, settings.seed, settings.heal_limit)
        async with kube_session(connector(settings)) as kube:
            await list_once(kube, planner, settings.selection)
            planner.uuids = await recorded_mounts(settings, kube)
        return await planner.explain(only)


def summarise(explained: Sequence[Explanation]) -> Summary:
    """Count the actions; a path with several readers counts once."""
    statuses = [status for one in explained for status in one.references]
    paths = {action: {(one.vault_namespace, one.path) for one in statuses if one.action is action} for action in Action}
    return Summary(
        external_secrets=len(explained),
        seed=len(paths[Action.SEED]),
        add=len(paths[Action.ADD]),
        rotate=len(paths[Action.ROTATE]),
        force_sync=sum(any(found.action is Action.FORCE_SYNC for found in one.references) for one in explained),
        problems=sum(bool(one.problem) or any(found.problems for found in one.references) for one in explained),
        unseen=sum(bool(one.path) and one.presence is None for one in statuses),
    )


def _presence(state: SecretState, reference: Reference) -> Presence:
    if not state.exists:
        return Presence.MISSING
    return Presence.UNKNOWN if reference.metadata else presence(state.subkeys, reference.property)


def _seed_or_rotation(entry: Entry, reference: Reference, seen: Evaluation) -> tuple[Action, str]:
    """The seed or rotation of a referenced path and the generated value; whichever ExternalSecret requests it."""
    seed, rotation = seen.decision.seed, seen.decision.rotation
    if rotation is not None and not reference.metadata:
        concerned = reference.property in rotation.plan or not reference.property
        return (Action.ROTATE, rotation.why) if concerned else (Action.NOTHING, "")
    if seed is None or reference.metadata or (reference.property and reference.property not in seed.plan):
        return Action.NOTHING, ""
    if reference.property:
        made = describe_value(seed.plan[reference.property])
    else:
        made = "; ".join(f"{name}: {describe_value(seed.plan[name])}" for name in seed.properties)
    again = ", re-created" if seed.reason is EventReason.RECREATED else ""
    readers = [reader.name for reader in seen.allowed]
    requested = "" if entry.object.name in readers else f", requested by {', '.join(map(str, readers[:3]))}"
    return Action.ADD if seed.patch else Action.SEED, made + again + requested


def _made_by(state: SecretState, reference: Reference) -> str:
    """Who wrote the value, according to the ownership metadata."""
    if not state.exists or state.mount.kv == 1 or reference.metadata:
        return ""
    there = frozenset(state.subkeys or ())
    read = there & {reference.property} if reference.property else there
    if state.ownership is None or not read & state.owned:
        return "another client" if read else ""
    return f"vaultsync for {state.ownership.external_secret}" + ("" if read <= state.owned else ", in part")


def _reason(there: Presence, reference: Reference, seen: Evaluation, why: str) -> str:
    """Why nothing is created."""
    state = seen.state
    if there is Presence.PRESENT and seen.decision.due is not None and reference.property in (*state.owned, ""):
        return f"exists; rotation is due on {seen.decision.due:%Y-%m-%d}"
    if there is Presence.PRESENT:
        return "exists"
    if reference.metadata:
        return "vaultsync does not create custom metadata"
    if there is Presence.MISSING:
        return why
    return "exists; KV v1 does not show its properties" if state.mount.kv == 1 else "exists; the value may have it"


def _force_sync(entry: Entry, reason: str, *, changed: bool) -> tuple[Action, str]:
    if not changed:
        return Action.NOTHING, reason
    if accepts_force_sync(entry.object):
        return Action.FORCE_SYNC, CHANGED
    ignored = "its refreshPolicy or refreshInterval ignores it" if entry.object.ignores_force_sync else "opted out"
    return Action.NOTHING, f"{reason}; {CHANGED}, but no force-sync: {ignored}"
