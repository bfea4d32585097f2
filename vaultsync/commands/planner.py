"""What each ExternalSecret reads, what Vault has there, and what vaultsync would do: asked once, for `explain`, `plan`.

Listens to a listing in the controller's place, and decides by the controller's own code. Writes nothing, and judges
as a vaultsync that starts now: without the memory of one that runs, and without counting VAULTSYNC_SEED_BUDGET.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from vaultsync.commands.help_text import in_words
from vaultsync.commands.snapshot import Listing, list_once, vault_session
from vaultsync.config.settings import Settings
from vaultsync.controller.evaluate import Evaluation, PathEvaluator, VaultReader, empty_listing
from vaultsync.controller.external_secret_reconciler import accepts_force_sync
from vaultsync.controller.index import Entry, Index
from vaultsync.controller.path_state import Ledger, news
from vaultsync.core import annotations
from vaultsync.core.annotations import EventReason
from vaultsync.core.decide import Reference, SeedChoice, SeedMode
from vaultsync.core.errors import OF_ONE_PATH
from vaultsync.core.external_secret import FindRef, ObjectName, RemoteRef
from vaultsync.core.paths import FindPrefix, VaultPath, logical
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.core.vault_state import Presence, SecretState, presence
from vaultsync.runtime import factory

K = TypeVar("K")

CHANGED = "changed in Vault since external-secrets' last refresh"


class Action(StrEnum):
    """What vaultsync would do about one thing that is read."""

    NOTHING = "nothing"
    SEED = "seed"
    """Create the path's first version, or the next one where the latest is deleted."""
    ADD = "add"
    """Add the property to the live version."""
    ROTATE = "rotate"
    """Give it a new value in a next version."""
    FORCE_SYNC = "force-sync"


@dataclass(frozen=True, slots=True)
class Finding:
    """One entry of an ExternalSecret.

    Attributes:
        field: where it stands, such as `spec.data[0].remoteRef`.
        store: as external-secrets resolves it.
        key: as it is written.
        path: what it reads, as people write it, or as the API does where Vault refused to name the mount; "" where
            nothing of this Vault.
        version: the latest one, deleted or not; 0: none. KV v1 has none.
        written: when it was.
        presence: whether external-secrets would find it; None: not looked at.
        made_by: whose the value is, as far as the path's mark tells; "" where there is none, or nothing tells.
        why: the reason of the action, or of none.
        problems: what keeps it from being created, in the words that its owner is told.
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
class Explained:
    """One ExternalSecret.

    Attributes:
        choice: whether it is seeded.
        why: the reason of that.
        problem: what is wrong with its annotations, "" if nothing.
    """

    name: ObjectName
    choice: SeedChoice
    why: str
    problem: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """How much there is to do.

    Attributes:
        seed, add, rotate: paths.
        force_sync: ExternalSecrets, without those that follow on a seeded path.
        problems: ExternalSecrets with at least one.
        unseen: entries for which Vault refused a look.
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


class Survey(Listing):
    """Takes in what is listed, then looks at Vault.

    Args:
        index: to be filled.
        vault: is only looked at.
        seed_paths: where a namespace may have something created.
        mode: the index's.
    """

    def __init__(self, index: Index, vault: VaultReader, seed_paths: SeedPaths, mode: SeedMode) -> None:
        super().__init__(index)
        self._ledger = Ledger()
        self._vault = vault
        self._evaluator = PathEvaluator(index, self._ledger, vault, seed_paths)
        self._mode = mode
        self._seen: dict[VaultPath, Evaluation] = {}
        self._found: dict[FindPrefix, set[VaultPath]] = {}
        self._refused: dict[VaultPath | FindPrefix, str] = {}

    # -- the look

    async def explain(self, only: ObjectName | None = None) -> list[Explained]:
        """Look at all that is read, each path once.

        Args:
            only: of this ExternalSecret alone; what it is given depends on the others all the same.

        Returns:
            Each ExternalSecret, by name; none if `only` is not there.

        Raises:
            ExceptionGroup: of VaultsyncErrors other than refusals, which stand at what they are for.
        """
        chosen = sorted(self._index.names()) if only is None else [only]
        entries = [entry for name in chosen if (entry := self._index.entry(name)) is not None]
        await _each({prefix for entry in entries for prefix in entry.prefixes}, self._list)
        named = {path for entry in entries for path in entry.references}
        await _each(named.union(*self._found.values()), self._look)
        return [self._explained(entry) for entry in entries]

    async def _list(self, prefix: FindPrefix) -> None:
        try:
            self._found[prefix] = self._ledger.listed(prefix, await self._vault.find(prefix))
        except OF_ONE_PATH as error:
            self._refused[prefix] = str(error)

    async def _look(self, path: VaultPath) -> None:
        try:
            self._seen[path] = await self._evaluator.path(path, self._index.readers(path))
        except OF_ONE_PATH as error:
            self._ledger.unreadable(path)
            self._refused[path] = str(error)
        else:
            self._ledger.observe(path, self._seen[path].state)

    # -- the words

    def _explained(self, entry: Entry) -> Explained:
        choice, problem = self._index.choice(entry)
        why = problem or self._why(entry, choice)
        # KV v1 tells no versions: every start refreshes once, which is no news
        told = [reading for reading in self._ledger.readings(entry) if reading.told]
        due = news(self._ledger.synced(entry.object), entry.object.versions, told)
        resolved = {one.field: one for group in entry.references.values() for one in group}
        findings = [self._entry(entry, ref, resolved.get(ref.field), why, due) for ref in entry.object.refs]
        findings += [self._listing(entry, find, due) for find in entry.object.finds]
        return Explained(entry.object.name, choice, why, problem, tuple(findings))

    def _why(self, entry: Entry, choice: SeedChoice) -> str:
        if choice is SeedChoice.WANTED:
            return "asked for"
        if choice is SeedChoice.NOT_ASKED:
            return f'not asked for: no {annotations.SEED}: "true" on it or its Namespace'
        if self._index.namespace(entry.object.name.namespace) is None:
            return "its Namespace is not known"
        return "VAULTSYNC_SEED is off" if self._mode is SeedMode.OFF else f'opted out: {annotations.SEED}: "false"'

    def _entry(
        self, entry: Entry, ref: RemoteRef, reference: Reference | None, why: str, due: Mapping[str, str]
    ) -> Finding:
        if reference is None:
            problem = self._index.store_problem(ref.store, entry.object) or "external-secrets refuses such an entry"
            return Finding(ref.field, str(ref.store), ref.key, property=ref.property, problems=(problem,))
        path = reference.path
        seen = self._seen.get(path)
        if seen is None:
            return Finding(
                ref.field,
                str(ref.store),
                ref.key,
                path.path,
                path.namespace,
                ref.property,
                problems=(self._refused[path],),
            )
        own = [one for one in seen.decision.problems if one.reader == entry.object.name]
        told = [one for one in own if one.field in (ref.field, "")]
        there = _presence(seen.state, reference)
        action, reason = _to_make(entry, reference, seen)
        if action is Action.NOTHING:
            reason = _reason(there, reference, seen, "" if told else why)
            action, reason = _news(entry, reason, changed=str(path) in due)
        return Finding(
            ref.field,
            str(ref.store),
            ref.key,
            logical(seen.state.mount, path.path),
            path.namespace,
            ref.property,
            seen.state.version,
            seen.state.written,
            there,
            _made_by(seen.state, reference),
            action,
            reason,
            tuple(dict.fromkeys(one.message for one in told)),
        )

    def _listing(self, entry: Entry, find: FindRef, due: Mapping[str, str]) -> Finding:
        prefix = self._index.prefix(find, entry.object)
        store, key = str(find.store), find.path or ""
        if prefix is None:
            problem = self._index.store_problem(find.store, entry.object) or "external-secrets refuses such a find"
            return Finding(find.field, store, key, problems=(problem,))
        path = f"{prefix.prefix}*"
        if prefix not in self._found:
            return Finding(find.field, store, key, path, prefix.namespace, problems=(self._refused[prefix],))
        count = len(self._found[prefix])
        wanted = self._index.choice(entry)[0] is SeedChoice.WANTED
        action, why = _news(entry, f"finds {count} of which it takes what fits", changed=str(prefix) in due)
        return Finding(
            find.field,
            store,
            key,
            path,
            prefix.namespace,
            presence=Presence.PRESENT if count else Presence.MISSING,
            action=action,
            why=why,
            problems=(empty_listing(prefix),) if wanted and not count else (),
        )


async def survey(settings: Settings, only: ObjectName | None = None) -> list[Explained]:
    """List everything once, look at what it reads in Vault, and explain what `run` would do. Writes nothing.

    Args:
        settings: those of `run`.
        only: explain this ExternalSecret alone.

    Returns:
        Each ExternalSecret, by name; none if `only` is not there.

    Raises:
        NoKubeConfig: there is no Kubernetes configuration.
        SnapshotFailed: a request failed.
    """
    async with vault_session(settings) as vault:
        planner = Survey(factory.create_index(settings), vault, settings.seedable_paths, settings.seed)
        async with list_once(settings, planner, settings.selection):
            return await planner.explain(only)


def summarise(explained: Sequence[Explained]) -> Summary:
    """How much there is to do for them all; a path that several read counts once."""
    paths: dict[Action, set[tuple[str, str]]] = {action: set() for action in Action}
    for one in explained:
        for finding in one.findings:
            paths[finding.action].add((finding.vault_namespace, finding.path))
    return Summary(
        external_secrets=len(explained),
        seed=len(paths[Action.SEED]),
        add=len(paths[Action.ADD]),
        rotate=len(paths[Action.ROTATE]),
        force_sync=sum(any(found.action is Action.FORCE_SYNC for found in one.findings) for one in explained),
        problems=sum(bool(one.problem) or any(found.problems for found in one.findings) for one in explained),
        unseen=sum(bool(found.path) and found.presence is None for one in explained for found in one.findings),
    )


def _presence(state: SecretState, reference: Reference) -> Presence:
    if not state.exists:
        return Presence.MISSING
    return Presence.UNKNOWN if reference.metadata else presence(state.subkeys, reference.property)


def _to_make(entry: Entry, reference: Reference, seen: Evaluation) -> tuple[Action, str]:
    """What is made of what the entry reads, by whoever's wish, and how."""
    seed, rotation = seen.decision.seed, seen.decision.rotation
    if rotation is not None and not reference.metadata:
        concerned = reference.property in rotation.wishes or not reference.property
        return (Action.ROTATE, rotation.why) if concerned else (Action.NOTHING, "")
    if seed is None or reference.metadata:
        return Action.NOTHING, ""
    if reference.property and reference.property not in seed.wishes:
        return Action.NOTHING, ""
    if reference.property:
        made = in_words(seed.wishes[reference.property])
    else:
        made = "; ".join(f"{name}: {in_words(seed.wishes[name])}" for name in seed.properties)
    asking = [str(reader.name) for reader in seen.allowed if reader.name != entry.object.name]
    own = any(reader.name == entry.object.name for reader in seen.allowed)
    again = ", as it was there before" if seed.reason is EventReason.RECREATED else ""
    asked = "" if own else f", asked for by {', '.join(asking[:3])}"
    return Action.ADD if seed.patch else Action.SEED, made + again + asked


def _made_by(state: SecretState, reference: Reference) -> str:
    """Whose the value is, where Vault tells."""
    if not state.exists or state.mount.kv == 1 or reference.metadata:
        return ""
    there = frozenset(state.subkeys or ())
    read = there & {reference.property} if reference.property else there
    if state.mark is None or not read & state.own:
        return "somebody else" if read else ""
    return f"vaultsync for {state.mark.external_secret}" + ("" if read <= state.own else ", in part")


def _reason(there: Presence, reference: Reference, seen: Evaluation, why: str) -> str:
    """Why nothing is made."""
    state = seen.state
    if there is Presence.PRESENT and seen.decision.due is not None and reference.property in (*state.own, ""):
        return f"exists; is made anew on {seen.decision.due:%Y-%m-%d}"
    if there is Presence.PRESENT:
        return "exists"
    if reference.metadata:
        return "its custom metadata is its owner's to write"
    if there is Presence.MISSING:
        return why
    return "exists; KV v1 does not tell its properties" if state.mount.kv == 1 else "exists; may be in its value"


def _news(entry: Entry, reason: str, *, changed: bool) -> tuple[Action, str]:
    if not changed:
        return Action.NOTHING, reason
    if accepts_force_sync(entry.object):
        return Action.FORCE_SYNC, CHANGED
    deaf = "its refreshPolicy or refreshInterval ignores it" if entry.object.deaf else "opted out"
    return Action.NOTHING, f"{reason}; {CHANGED}, but no force-sync: {deaf}"


async def _each(keys: Iterable[K], work: Callable[[K], Coroutine[Any, Any, None]]) -> None:
    """Work on every key at once; vault.client bounds its requests itself."""
    async with asyncio.TaskGroup() as tasks:
        for key in keys:
            tasks.create_task(work(key))
