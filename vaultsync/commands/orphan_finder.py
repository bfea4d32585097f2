"""Finds and deletes the paths that vaultsync created and no ExternalSecret reads any more, for `vaultsync orphans`.

An operator runs it with a token of their own; the controller never deletes. A path that may be read counts as read.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from vaultsync.commands.snapshot import IndexBuilder, for_each
from vaultsync.controller.entry import Entry
from vaultsync.controller.index import Index
from vaultsync.core.errors import OF_ONE_PATH, VaultDenied
from vaultsync.core.external_secret import FindRef, RemoteRef, Store
from vaultsync.core.ownership import MANAGER
from vaultsync.core.paths import FindPrefix, Mount, VaultPath, find_prefix, logical, metadata_owner, secret_path
from vaultsync.core.vault_state import SecretState
from vaultsync.vault.client import VaultClient

MAX_WALKED: Final = 100_000
"""Maximum secrets of one mount that are listed."""
READ: Final = "an ExternalSecret reads it now"
CHANGED: Final = "it has changed since it was listed"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A path whose latest version vaultsync alone has written, and that no ExternalSecret reads.

    Attributes:
        where: its path as in Vault's UI, without the Vault namespace.
        made: when the oldest of its values was generated.
        external_secret: the one that it was created for.
    """

    path: VaultPath
    where: str
    version: int
    written: datetime | None
    made: datetime
    external_secret: str
    properties: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrphanReport:
    """The result of one walk through Vault.

    Attributes:
        orphans: sorted by path.
        uncertain: for each path that may be read, the reason why it is left out.
        refused: Vault's refusals.
    """

    orphans: tuple[Orphan, ...]
    uncertain: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


_Place: TypeAlias = tuple[str, Mount]
"""A mount, and a Vault namespace that contains it."""


class OrphanFinder(IndexBuilder):
    """Receives every ExternalSecret of the cluster, then walks Vault. Only `delete` writes to it.

    Args:
        namespace: the token's Vault namespace, which is walked besides those of the stores.

    Attributes:
        cluster: paths that another cluster owns are left out.
    """

    def __init__(self, index: Index, vault: VaultClient, namespace: str) -> None:
        super().__init__(index)
        self._vault = vault
        self.cluster = ""
        self._namespaces = {namespace}
        self._refused: list[str] = []

    def store_changed(self, store: Store) -> None:
        """Add a listed store, and its Vault namespace."""
        super().store_changed(store)
        if self._index.is_ours(store):
            self._namespaces.add(store.vault_namespace)

    async def find(self) -> OrphanReport:
        """Walk every KV v2 mount, and read the state of the paths that no ExternalSecret reads.

        Raises:
            VaultDenied: Vault lists no KV v2 mount for the token.
            ExceptionGroup: of VaultsyncErrors but refusals, which the report has.
        """
        places, readers = await self._prepare()
        unread = [path for paths in await for_each(places, self._walk) for path in paths if not readers.read(path)]
        found = [orphan for orphan in await for_each(unread, self._look) if orphan is not None]
        doubts = {orphan.path: readers.doubt(orphan.path) for orphan in found}
        sure = sorted((orphan for orphan in found if not doubts[orphan.path]), key=lambda orphan: orphan.path)
        return OrphanReport(tuple(sure), tuple(sorted(filter(None, doubts.values()))), tuple(self._refused))

    async def delete(self, orphans: Sequence[Orphan]) -> AsyncGenerator[tuple[Orphan, str], None]:
        """Soft-delete the orphans of an earlier finder that have not changed, one after the other.

        Yields:
            Each orphan, with the reason why it was not deleted, "" if it is deleted.

        Raises:
            VaultsyncError: Vault does not answer; the other orphans are not deleted.
        """
        _, readers = await self._prepare()
        for orphan in orphans:
            why = READ if readers.read(orphan.path) else readers.doubt(orphan.path)
            yield orphan, why or await self._delete(orphan)

    async def _prepare(self) -> tuple[list[_Place], "_Readers"]:
        """List every mount once, and index the readers."""
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
                places.setdefault(accessor, (namespace, mount))
        if not places:
            raise VaultDenied(self._refused[0] if self._refused else "Vault shows this token no KV v2 mount")
        found = list(places.values())
        return found, _Readers(self._index, found, is_flat=is_flat)

    async def _walk(self, place: _Place) -> set[VaultPath]:
        namespace, mount = place
        try:
            return await self._vault.find(FindPrefix(namespace, f"{mount.path}data/", 2), MAX_WALKED)
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
        """The path as an orphan, None if another client has written a part of it."""
        made = state.ownership
        if made is None or made.cluster != self.cluster or state.managed_by not in ("", MANAGER):
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
            if self._orphan(orphan.path, await self._vault.look(orphan.path, 2)) != orphan:
                return CHANGED
            try:
                await self._vault.delete_version(orphan.path, orphan.version)
            except VaultDenied as error:
                return f"{error}, where your token needs `update`"
        except OF_ONE_PATH as error:
            return str(error)
        return ""


class _Readers:
    """The paths that ExternalSecrets read, or may read; a `find` by its prefix, which ends with a slash.

    Args:
        places: the mounts that a reference to an unknown store may read.
        is_flat: whether Vault ignores Vault namespaces, as the Community edition does.
    """

    def __init__(self, index: Index, places: Sequence[_Place], *, is_flat: bool) -> None:
        self._index = index
        self._mounts = sorted({mount.path.rstrip("/") for _, mount in places})
        self._is_flat = is_flat
        self._read = {self._spelled(path.namespace, path.path): "" for path in index.paths()}
        self._read |= {self._spelled(prefix.namespace, prefix.prefix): "" for prefix in index.prefixes()}
        self._doubted: dict[str, str] = {}
        for name in sorted(index.names()):
            if (entry := index.entry(name)) is not None:
                self._doubt(entry)

    def read(self, path: VaultPath) -> bool:
        """Whether an ExternalSecret reads it, by name or by a `find`."""
        return _look_up(self._read, self._spelled(path.namespace, path.path)) is not None

    def doubt(self, path: VaultPath) -> str:
        """The ExternalSecret that may read it, and why that is uncertain; "" for none."""
        return _look_up(self._doubted, path.path) or _look_up(self._doubted, str(path)) or ""

    def _spelled(self, namespace: str, path: str) -> str:
        # one text: a store names the Vault namespace in its own field, or at the beginning of its path
        return f"{namespace}/{path}" if namespace and not self._is_flat else path

    def _doubt(self, entry: Entry) -> None:
        everything: tuple[RemoteRef | FindRef, ...] = (*entry.object.refs, *entry.object.finds)
        for one in everything:
            if problem := self._index.store_problem(one.store, entry.object.name.namespace):
                for spelled in self._possible(one, self._index.store(one.store)):
                    self._doubted.setdefault(spelled, f"{entry.object.name} may read it: {problem}")

    def _possible(self, one: RemoteRef | FindRef, store: Store | None) -> set[str]:
        """The paths that a reference may read whose store is unknown or unusable."""
        if store is not None and store.server is None:
            return set()
        if store is not None:
            paths = _resolved(one, store.path, store.kv)
            return {spelled for path in paths for spelled in (path, f"{store.vault_namespace}/{path}")}
        ways = [(path, kv) for path in (None, *self._mounts) for kv in (1, 2)]
        return {path for way in ways for path in _resolved(one, *way)}


def _resolved(one: RemoteRef | FindRef, store_path: str | None, kv: int) -> Iterable[str]:
    """The path or prefix that the reference reads through a store with this path and KV version."""
    if isinstance(one, FindRef):
        found = find_prefix(store_path, kv, one.path, tags=one.tags)
    else:
        found = (metadata_owner if one.metadata else secret_path)(store_path, kv, one.key)
    return () if found is None else (found,)


def _look_up(known: Mapping[str, str], path: str) -> str | None:
    """The value of the path, or of the first folder above it that has one."""
    folders = (path[: at + 1] for at, char in enumerate(path) if char == "/")
    return next((known[one] for one in (path, *folders) if one in known), None)
