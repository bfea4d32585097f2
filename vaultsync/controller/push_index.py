"""The index from a Vault path to the PushSecrets that write it. Holds nothing of Vault's content."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator

from vaultsync.core.external_secret import ObjectName, Store, StoreName, selects
from vaultsync.core.paths import VaultPath, secret_path
from vaultsync.core.push_secret import PushSecret


class PushIndex:
    """PushSecrets by the paths that they write.

    The paths are resolved when they are needed after a change, as PushSecrets are few and stores change rarely.

    Args:
        stores: every store.
        usable: the store of that name if it is in this Vault and open to a Kubernetes namespace, else None.
    """

    def __init__(
        self, stores: Callable[[], Collection[Store]], usable: Callable[[StoreName, str], Store | None]
    ) -> None:
        self._stores = stores
        self._usable = usable
        self._pushes: dict[ObjectName, PushSecret] = {}
        self._by_path: dict[VaultPath, dict[ObjectName, bool]] | None = None

    def put(self, push: PushSecret) -> set[VaultPath]:
        """Add or update a PushSecret; returns the paths that it writes or wrote, if that has changed."""
        old = self._pushes.get(push.name)
        if old == push:
            return set()
        self._pushes[push.name] = push
        self.resolve_again()
        return self._paths(push) | (self._paths(old) if old else set())

    def remove(self, name: ObjectName) -> set[VaultPath]:
        """Remove a PushSecret; returns the paths that it wrote."""
        old = self._pushes.pop(name, None)
        self.resolve_again()
        return self._paths(old) if old else set()

    def resolve_again(self) -> None:
        """The stores or the namespaces have changed."""
        self._by_path = None

    def writer(self, path: VaultPath, namespace: str) -> ObjectName | None:
        """The PushSecret to which the path belongs, for readers of a Kubernetes namespace; None if there is none.

        Anybody can write a PushSecret with another tenant's path. So one of another namespace counts only if
        external-secrets reports that it has written the path.
        """
        if not self._pushes:
            return None
        if self._by_path is None:
            self._by_path = defaultdict(dict)
            for push in self._pushes.values():
                for key, written in self._written(push):
                    self._by_path[written][push.name] = key in push.pushed
        writers = self._by_path.get(path, {})
        return min((name for name, pushed in writers.items() if pushed or name.namespace == namespace), default=None)

    def _paths(self, push: PushSecret) -> set[VaultPath]:
        return {path for _, path in self._written(push)}

    def _written(self, push: PushSecret) -> Iterator[tuple[str, VaultPath]]:
        if push.is_ending:
            return
        for name in (*push.stores, *self._selected(push)):
            store = self._usable(name, push.name.namespace)
            if store is not None:
                for key in push.keys:
                    yield key, VaultPath(store.vault_namespace, secret_path(store.path, store.kv, key))

    def _selected(self, push: PushSecret) -> Iterator[StoreName]:
        for kind, selector in push.selectors:
            for store in self._stores():
                is_near = store.name.kind == "ClusterSecretStore" or store.name.namespace == push.name.namespace
                if store.name.kind == kind and is_near and selects(selector, store.labels):
                    yield store.name
