"""The index from a Vault path to the ExternalSecrets that read it, as the informers last saw them.

It holds nothing of Vault's content. Every method that changes it returns the keys that need a pass because of that.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from vaultsync.controller.entry import (
    Entry,
    Key,
    api_path,
    changed_keys,
    parse_annotations,
    resolve_reference,
    stores_of,
)
from vaultsync.controller.push_index import PushIndex
from vaultsync.core.annotation_parser import (
    HEALS,
    AnnotationError,
    HealSpec,
    SeedChoice,
    SeedMode,
    parse_heal,
    seed_choice,
)
from vaultsync.core.decide import NO_DEFAULTS, Defaults
from vaultsync.core.external_secret import (
    ExternalSecret,
    FindRef,
    Namespace,
    ObjectName,
    Store,
    StoreName,
    is_open_to,
)
from vaultsync.core.paths import FindPrefix, VaultPath, find_prefix
from vaultsync.core.reader import Reader, Reference

K = TypeVar("K")


class Index:
    """ExternalSecrets, stores and namespaces, linked by the paths that they read.

    Args:
        servers: the addresses of this Vault in stores, normalised by `server_identity`.
        mode: which ExternalSecrets vaultsync seeds.
        defaults: the cluster-wide generation rules and rotation age.

    Attributes:
        pushes: the PushSecrets.
    """

    def __init__(self, servers: frozenset[str], mode: SeedMode, defaults: Defaults = NO_DEFAULTS) -> None:
        self._servers = servers
        self.defaults = defaults
        self._mode = mode
        self._stores: dict[StoreName, Store] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._entries: dict[ObjectName, Entry] = {}
        self._by_path: dict[VaultPath, set[ObjectName]] = defaultdict(set)
        self._by_prefix: dict[FindPrefix, set[ObjectName]] = defaultdict(set)
        self._by_store: dict[StoreName, set[ObjectName]] = defaultdict(set)
        self._by_namespace: dict[str, set[ObjectName]] = defaultdict(set)
        self.pushes = PushIndex(self.stores, self._usable_store)

    # -- look-ups

    def entry(self, name: ObjectName) -> Entry | None:
        """The ExternalSecret of that name, None if there is none."""
        return self._entries.get(name)

    def entries(self, names: Iterable[ObjectName]) -> list[Entry]:
        """The ExternalSecrets of those names that exist."""
        return [self._entries[name] for name in names if name in self._entries]

    def names(self) -> Collection[ObjectName]:
        """Every ExternalSecret."""
        return self._entries.keys()

    def paths(self) -> Collection[VaultPath]:
        """Every path that an ExternalSecret names."""
        return self._by_path.keys()

    def paths_in(self, namespace: str, mount: str) -> list[VaultPath]:
        """The paths that ExternalSecrets name in a mount, which ends with a slash, of a Vault namespace."""
        return [path for path in self._by_path if path.namespace == namespace and path.path.startswith(mount)]

    def paths_with_kv(self) -> list[tuple[VaultPath, int]]:
        """Every path that an ExternalSecret names, each with the KV version that a reader's store specifies."""
        readers = ((path, self._entries[next(iter(names))]) for path, names in self._by_path.items())
        return [(path, entry.references[path][0].kv) for path, entry in readers]

    def prefixes(self) -> list[FindPrefix]:
        """Every prefix that an ExternalSecret lists."""
        return list(self._by_prefix)

    def prefixes_of(self, path: VaultPath) -> list[FindPrefix]:
        """The listings that contain the path: one look-up per folder above it."""
        if not self._by_prefix:
            return []
        parts = path.path.split("/")
        above = ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts))]
        candidates = (FindPrefix(path.namespace, prefix, kv) for prefix in above for kv in (1, 2))
        return [candidate for candidate in candidates if candidate in self._by_prefix]

    def reader_names(self, key: VaultPath | FindPrefix) -> set[ObjectName]:
        """The ExternalSecrets that list the prefix, or read the path, by name or in a listing."""
        if isinstance(key, FindPrefix):
            return set(self._by_prefix.get(key, ()))
        return set(self._by_path.get(key, ())).union(*(self._by_prefix[prefix] for prefix in self.prefixes_of(key)))

    def knows(self, path: VaultPath) -> bool:
        """Whether any ExternalSecret reads the path."""
        return path in self._by_path or bool(self.prefixes_of(path))

    def readers(self, path: VaultPath) -> list[Reader]:
        """The ExternalSecrets that name the path, oldest first."""
        entries = self.entries(self._by_path.get(path, ()))
        entries.sort(key=lambda entry: (str(entry.object.created or ""), entry.object.name))
        return [
            Reader(
                entry.object.name,
                self.choice(entry)[0],
                entry.references[path],
                entry.rules,
                entry.rotation,
                self._heal(entry)[0],
                entry.has_read,
            )
            for entry in entries
        ]

    def reads_metadata(self, path: VaultPath) -> bool:
        """Whether any ExternalSecret reads the path's custom metadata, or may select by it."""
        entries = self.entries(self._by_path.get(path, ()))
        named = any(reference.metadata for entry in entries for reference in entry.references[path])
        return named or bool(self.prefixes_of(path))

    def choice(self, entry: Entry) -> tuple[SeedChoice, str]:
        """Whether vaultsync seeds an ExternalSecret, and the error in its annotations, see decide.seed_choice."""
        namespace = self.namespace(entry.object.name.namespace)
        choice, problem = seed_choice(entry.object, namespace, self._mode)
        if choice is not SeedChoice.WANTED:
            return choice, problem
        problem = "; ".join(filter(None, (entry.problem, self._heal(entry)[1])))
        return (SeedChoice.REFUSED, problem) if problem else (choice, "")  # don't guess the intent

    def _heal(self, entry: Entry) -> tuple[HealSpec, str]:
        """The content of its annotations about healing, and the error in them."""
        namespace = self.namespace(entry.object.name.namespace)
        try:
            return (parse_heal(entry.object, namespace) if namespace is not None else HEALS), ""
        except AnnotationError as error:
            return HEALS, str(error)

    def namespace(self, name: str) -> Namespace | None:
        """The Kubernetes namespace of that name, None before the informer has it."""
        return self._namespaces.get(name)

    def stores(self) -> Collection[Store]:
        """Every store."""
        return self._stores.values()

    def store(self, name: StoreName) -> Store | None:
        """The store of that name, None if there is none."""
        return self._stores.get(name)

    def is_ours(self, store: Store) -> bool:
        """Whether the store's server is this Vault."""
        return store.server is not None and server_identity(store.server) in self._servers

    def store_problem(self, name: StoreName, namespace: str) -> str:
        """Why a Kubernetes namespace can't use the store, "" if the store is in this Vault and open to it."""
        store = self._stores.get(name)
        if store is None:
            return f"there is no {name}"
        if store.server is None:
            return f"{name} is not of Vault"
        if not self.is_ours(store):
            return f"{name} is in another Vault, {store.server} (VAULTSYNC_STORE_SERVERS lists further addresses)"
        user = self._namespaces.get(namespace) or Namespace(namespace)
        return "" if is_open_to(store, user) else f"{name} is not open to namespace {namespace}"

    def prefix(self, find: FindRef, external_secret: ExternalSecret) -> FindPrefix | None:
        """The listing of a find, None if its store is not usable or external-secrets rejects it."""
        store = self._usable_store(find.store, external_secret.name.namespace)
        if store is None or (prefix := find_prefix(store.path, store.kv, find.path, tags=find.tags)) is None:
            return None
        return FindPrefix(store.vault_namespace, prefix, store.kv)

    # -- changes

    def put(self, external_secret: ExternalSecret) -> set[Key]:
        """Add or update an ExternalSecret; returns its new references, or all of them if its annotations changed."""
        old = self._entries.get(external_secret.name)
        if old is None or (old.object.refs, old.object.finds) != (external_secret.refs, external_secret.finds):
            return changed_keys(old, self._replace(old, external_secret))
        entry = self._entries[external_secret.name] = replace(old, object=external_secret)
        if old.requests != entry.requests:
            entry.rules, entry.rotation, entry.problem = parse_annotations(external_secret, self.defaults.rules)
        return changed_keys(old, entry)

    def remove(self, name: ObjectName) -> set[Key]:
        """Remove an ExternalSecret; returns its references too, as perhaps no other one reads them."""
        if (entry := self._entries.get(name)) is None:
            return set()
        self._unlink(entry)
        return {name, *entry.references, *entry.prefixes}

    def put_store(self, store: Store) -> set[Key]:
        """Add or update a store, and resolve its ExternalSecrets again."""
        if self._stores.get(store.name) == store:
            return set()
        self._stores[store.name] = store
        self.pushes.resolve_again()
        return self._resolve_again(self._by_store.get(store.name, ()))

    def remove_store(self, name: StoreName) -> set[Key]:
        """Remove a store, and resolve its ExternalSecrets again."""
        if self._stores.pop(name, None) is None:
            return set()
        self.pushes.resolve_again()
        return self._resolve_again(self._by_store.get(name, ()))

    def put_namespace(self, namespace: Namespace) -> set[Key]:
        """Add or update a namespace; a change affects each ExternalSecret in it."""
        old = self._namespaces.get(namespace.name)
        self._namespaces[namespace.name] = namespace
        if old == namespace:
            return set()
        self.pushes.resolve_again()
        inside = tuple(self._by_namespace.get(namespace.name, ()))
        keys = self._resolve_again(inside)  # a ClusterSecretStore's conditions may select its labels
        for name in inside:
            keys |= self._entries[name].references.keys() | {name}
        return keys

    def remove_namespace(self, name: str) -> None:
        """Remove a namespace."""
        self._namespaces.pop(name, None)

    # -- inner

    def _resolve_again(self, names: Iterable[ObjectName]) -> set[Key]:
        keys: set[Key] = set()
        for old in self.entries(names):
            keys |= changed_keys(old, self._replace(old, old.object))
        return keys

    def _replace(self, old: Entry | None, external_secret: ExternalSecret) -> Entry:
        entry = self._resolve(external_secret)
        if old is not None:
            self._unlink(old)
        self._link(entry)
        return entry

    def _resolve(self, external_secret: ExternalSecret) -> Entry:
        references: dict[VaultPath, list[Reference]] = defaultdict(list)
        for ref in external_secret.refs:
            store = self._usable_store(ref.store, external_secret.name.namespace)
            if store is not None and (path := api_path(store, ref)) is not None:
                references[VaultPath(store.vault_namespace, path)].append(resolve_reference(store, ref, path))
        resolved = {path: tuple(group) for path, group in references.items()}
        prefixes = {prefix for find in external_secret.finds if (prefix := self.prefix(find, external_secret))}
        stores = map(self._stores.get, stores_of(external_secret))
        changed = max((store.changed for store in stores if store and store.changed), default=None)
        annotated = parse_annotations(external_secret, self.defaults.rules)
        return Entry(external_secret, resolved, frozenset(prefixes), changed, *annotated)

    def _usable_store(self, name: StoreName, namespace: str) -> Store | None:
        """The store, if it is in this Vault and open to the Kubernetes namespace."""
        return None if self.store_problem(name, namespace) else self._stores[name]

    def _link(self, entry: Entry) -> None:
        name = entry.object.name
        self._entries[name] = entry
        _add(self._by_path, entry.references, name)
        _add(self._by_prefix, entry.prefixes, name)
        _add(self._by_store, stores_of(entry.object), name)
        _add(self._by_namespace, (name.namespace,), name)

    def _unlink(self, entry: Entry) -> None:
        name = entry.object.name
        self._entries.pop(name, None)
        _discard(self._by_path, entry.references, name)
        _discard(self._by_prefix, entry.prefixes, name)
        _discard(self._by_store, stores_of(entry.object), name)
        _discard(self._by_namespace, (name.namespace,), name)


def _add(links: dict[K, set[ObjectName]], keys: Iterable[K], name: ObjectName) -> None:
    for key in keys:
        links[key].add(name)


def _discard(links: dict[K, set[ObjectName]], keys: Iterable[K], name: ObjectName) -> None:
    for key in keys:
        links[key].discard(name)
        if not links[key]:
            del links[key]


def server_identity(address: str) -> str:
    """An address for comparison: lower-case scheme and host, explicit port, no trailing slash."""
    try:
        url = urlsplit(address.strip())
        port = url.port or {"http": 80, "https": 443}.get(url.scheme.lower(), 0)
    except ValueError:
        return address
    return f"{url.scheme.lower()}://{(url.hostname or '').lower()}:{port}{url.path.rstrip('/')}"
