"""One listing of Kubernetes, put into an index: for the commands that ask once, and watch nothing."""

from vaultsync.controller.index import Index
from vaultsync.core.external_secret import ExternalSecret, Namespace, Store


class Listing:
    """A kube.informer_manager.EventHandler that fills an index.

    Args:
        index: to be filled.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def external_secret_changed(self, external_secret: ExternalSecret) -> None:
        """It is listed."""
        self._index.put(external_secret)

    def external_secret_removed(self, external_secret: ExternalSecret) -> None:
        """It is gone."""
        self._index.remove(external_secret.name)

    def store_changed(self, store: Store) -> None:
        """It is listed."""
        self._index.put_store(store)

    def store_removed(self, store: Store) -> None:
        """It is gone."""
        self._index.remove_store(store.name)

    def namespace_changed(self, namespace: Namespace) -> None:
        """It is listed."""
        self._index.put_namespace(namespace)

    def namespace_removed(self, namespace: Namespace) -> None:
        """It is gone."""
        self._index.remove_namespace(namespace.name)

    def kube_is_back(self) -> None:
        """A listing that fails is not tried again."""
