"""Which paths vaultsync made and no ExternalSecret reads any more, and their deletion: the room of `vaultsync orphans`.

An operator runs it, with a token of their own; nothing here is the controller's. Where it can't be known whether a path
is read, it counts as read.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from vaultsync.commands.snapshot import Listing
from vaultsync.controller.index import Entry, Index
from vaultsync.core.errors import OF_ONE_PATH, VaultDenied
from vaultsync.core.external_secret import FindRef, RemoteRef, Store
from vaultsync.core.ownership import MANAGER
from vaultsync.core.paths import FindPrefix, Mount, VaultPath, find_prefix, logical, metadata_owner, secret_path
from vaultsync.core.vault_state import SecretState

MAX_WALKED: Final = 100_000
"""Secrets of one mount that are looked at."""
READ: Final = "an ExternalSecret reads it by now"
CHANGED: Final = "it has changed since it was listed"


class Vault(Protocol):
    """What is asked of Vault; vault.client.VaultClient documents it."""

    async def look(self, path: VaultPath, kv: int) -> SecretState:
        """What is at the path."""

    async def find(self, prefix: FindPrefix, limit: int) -> set[VaultPath]:
        """Every secret under the prefix, up to a limit."""

    async def mounts(self, namespace: str) -> Mapping[str, Mount]:
        """The KV v2 mounts, by accessor."""

    async def delete_version(self, path: VaultPath, version: int) -> None:
        """Soft-delete one version."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One path of which the latest version is vaultsync's alone, and that no ExternalSecret reads.

    Attributes:
        path: by its API path.
        where: as people write it, without the Vault namespace.
        written: when its latest version was.
        made: when the oldest of its values was.
        external_secret: for whom it was made.
    """

    path: VaultPath
    where: str
    version: int
    written: datetime | None
    made: datetime
    external_secret: str
    properties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """All of one walk.

    Attributes:
        orphans: by path.
        doubted: why a path is left out that would be an orphan otherwise, for each such path.
        refused: Vault's answers where it did not let look.
    """

    orphans: tuple[Orphan, ...]
    doubted: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


class _Place(NamedTuple):
    """A mount, and a Vault namespace in which it is seen."""

    namespace: str
    mount: Mount


class Orphans(Listing):
    """Takes in what is listed (a kube.informer_manager.EventHandler), then walks Vault.

    Args:
        index: to be filled with every ExternalSecret of the cluster.
        vault: is only looked at, but by `delete`.
        cluster: VAULTSYNC_CLUSTER; what has another one's mark is none of this cluster's.
        namespace: the token's Vault namespace, which is walked beside those that stores name.
    """

    def __init__(self, index: Index, vault: Vault, cluster: str, namespace: str) -> None:
        super().__init__(index)
        self._vault = vault
        self._cluster = cluster
        self._namespaces = {namespace}
        self._refused: list[str] = []

    def store_changed(self, store: Store) -> None:
        """It is listed."""
        super().store_changed(store)
        if self._index.is_ours(store):
            self._namespaces.add(store.vault_namespace)

    async def find(self) -> Found:
        """Walk every KV v2 mount, and look at what is not read.

        Raises:
            VaultDenied: Vault shows the token no KV v2 mount at all.
            ExceptionGroup: of VaultsyncErrors other than refusals, which are told.
        """
        places, readers = await self._look_around()
        async with asyncio.TaskGroup() as tasks:
            walks = [tasks.create_task(self._walk(place)) for place in places]
        unread = [path for walk in walks for path in walk.result() if not readers.read(path)]
        async with asyncio.TaskGroup() as tasks:
            looks = [tasks.create_task(self._look(path)) for path in unread]
        found = [orphan for look in looks if (orphan := look.result()) is not None]
        doubts = {orphan.path: readers.doubt(orphan.path) for orphan in found}
        sure = sorted((orphan for orphan in found if not doubts[orphan.path]), key=lambda orphan: orphan.path)
        return Found(tuple(sure), tuple(sorted(filter(None, doubts.values()))), tuple(self._refused))

    async def delete(self, orphans: Sequence[Orphan]) -> AsyncGenerator[tuple[Orphan, str], None]:
        """Soft-delete those that still are what they were, one after the other.

        Args:
            orphans: found by an earlier listing than this one's.

        Yields:
            Each, with the reason why it was left alone, "" if it is deleted.

        Raises:
            VaultsyncError: Vault does not answer; the rest is left alone.
        """
        _, readers = await self._look_around()
        for orphan in orphans:
            why = READ if readers.read(orphan.path) else readers.doubt(orphan.path)
            yield orphan, why or await self._delete(orphan)

    async def _look_around(self) -> tuple[list[_Place], "_Readers"]:
        """Every mount once, and who reads in them."""
        places: dict[str, _Place] = {}
        is_flat = False
        for namespace in sorted(self._namespaces):
            try:
                mounts = await self._vault.mounts(namespace)
            except OF_ONE_PATH as error:
                self._refused.append(str(error))
                continue
            for accessor, mount in mounts.items():
                is_flat = is_flat or accessor in places
                places.setdefault(accessor, _Place(namespace, mount))
        if not places:
            raise VaultDenied(self._refused[0] if self._refused else "Vault shows this token no KV v2 mount")
        found = list(places.values())
        return found, _Readers(self._index, found, is_flat=is_flat)

    async def _walk(self, place: _Place) -> set[VaultPath]:
        try:
            return await self._vault.find(FindPrefix(place.namespace, f"{place.mount.path}data/", 2), MAX_WALKED)
        except OF_ONE_PATH as error:
            self._refused.append(str(error))
            return set()

    async def _look(self, path: VaultPath) -> Orphan | None:
        try:
            return self._orphan(path, await self._vault.look(path, 2))
        except OF_ONE_PATH as error:
            self._refused.append(str(error))
            return None

    def _orphan(self, path: VaultPath, state: SecretState) -> Orphan | None:
        """What is at the path, if all of it is vaultsync's."""
        made = state.ownership
        if made is None or made.cluster != self._cluster or state.managed_by not in ("", MANAGER):
            return None
        if not state.owned or state.owned != frozenset(state.subkeys or ()):
            return None
        return Orphan(
            path=path,
            where=logical(state.mount, path.path),
            version=state.version,
            written=state.written,
            made=made.made,
            external_secret=made.external_secret,
            properties=tuple(sorted(state.owned)),
        )

    async def _delete(self, orphan: Orphan) -> str:
        try:
            now = self._orphan(orphan.path, await self._vault.look(orphan.path, 2))
        except OF_ONE_PATH as error:
            return str(error)
        if now != orphan:
            return CHANGED
        try:
            await self._vault.delete_version(orphan.path, orphan.version)
        except VaultDenied as error:
            return f"{error}, where your token needs `update`"
        except OF_ONE_PATH as error:
            return str(error)
        return ""


class _Readers:
    """Who reads what, by the path as it is spelled; of a listing by its prefix, which ends with a slash.

    Args:
        index: of every ExternalSecret.
        places: where an entry may read whose store is not there.
        is_flat: Vault does not know Vault namespaces (Community), whatever stores say.
    """

    def __init__(self, index: Index, places: Sequence[_Place], *, is_flat: bool) -> None:
        self._index = index
        self._mounts = sorted({place.mount.path.rstrip("/") for place in places})
        self._is_flat = is_flat
        self._read = {self._spelled(path.namespace, path.path): "" for path in index.paths()}
        self._read |= {self._spelled(prefix.namespace, prefix.prefix): "" for prefix in index.prefixes()}
        self._doubted: dict[str, str] = {}
        for name in sorted(index.names()):
            entry = index.entry(name)
            if entry is not None:
                self._doubt(entry)

    def read(self, path: VaultPath) -> bool:
        """Whether an ExternalSecret reads it, by name or in a listing."""
        return _look_up(self._read, self._spelled(path.namespace, path.path)) is not None

    def doubt(self, path: VaultPath) -> str:
        """Which ExternalSecret may read it, and why that is not known; "": none."""
        return _look_up(self._doubted, path.path) or _look_up(self._doubted, str(path)) or ""

    def _spelled(self, namespace: str, path: str) -> str:
        # in one: a store may name a Vault namespace apart or at the beginning of its path
        return f"{namespace}/{path}" if namespace and not self._is_flat else path

    def _doubt(self, entry: Entry) -> None:
        everything: tuple[RemoteRef | FindRef, ...] = (*entry.object.refs, *entry.object.finds)
        for one in everything:
            problem = self._index.store_problem(one.store, entry.object)
            if problem:
                for spelled in self._possible(one, self._index.store(one.store)):
                    self._doubted.setdefault(spelled, f"{entry.object.name} may read it: {problem}")

    def _possible(self, one: RemoteRef | FindRef, store: Store | None) -> set[str]:
        """What an entry may read whose store can't be used."""
        if store is not None and store.server is None:
            return set()
        if store is not None:
            paths = _resolved(one, store.path, store.kv)
            return {spelled for path in paths for spelled in (path, f"{store.vault_namespace}/{path}")}
        ways = [(path, kv) for path in (None, *self._mounts) for kv in (1, 2)]
        return {path for way in ways for path in _resolved(one, *way)}


def _resolved(one: RemoteRef | FindRef, store_path: str | None, kv: int) -> Iterable[str]:
    """What the entry reads through such a store."""
    if isinstance(one, FindRef):
        found = find_prefix(store_path, kv, one.path, tags=one.tags)
    else:
        found = (metadata_owner if one.metadata else secret_path)(store_path, kv, one.key)
    return () if found is None else (found,)


def _look_up(known: Mapping[str, str], path: str) -> str | None:
    """What is known of the path or of a folder above it: a look-up for each."""
    folders = (path[: at + 1] for at, char in enumerate(path) if char == "/")
    return next((known[one] for one in (path, *folders) if one in known), None)
