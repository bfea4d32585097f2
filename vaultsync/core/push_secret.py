"""PushSecrets of external-secrets, which write values of Kubernetes to Vault, reduced to where they write. Pure.

The JSON is untrusted; the parser never raises. See https://external-secrets.io/latest/api/pushsecret/.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vaultsync.core.external_secret import Json, ObjectName, StoreName
from vaultsync.core.untrusted import mapping, mappings, text


@dataclass(frozen=True, slots=True)
class PushSecret:
    """A PushSecret: it writes the keys through the named stores and through those that a label selector matches.

    Attributes:
        selectors: each with the kind of the stores.
        pushed: the keys that it has written, by its status.
        is_ending: it is being deleted.
    """

    name: ObjectName
    stores: tuple[StoreName, ...]
    selectors: tuple[tuple[str, Json], ...]
    keys: tuple[str, ...]
    pushed: frozenset[str] = frozenset()
    is_ending: bool = False


def parse_push_secret(document: Json) -> PushSecret:
    """Parse a PushSecret."""
    metadata, spec = mapping(document.get("metadata")), mapping(document.get("spec"))
    name = ObjectName(text(metadata.get("namespace")), text(metadata.get("name")))
    stores: list[StoreName] = []
    selectors: list[tuple[str, Json]] = []
    for ref in mappings(spec.get("secretStoreRefs")):
        kind = text(ref.get("kind")) or "SecretStore"
        if store := text(ref.get("name")):
            stores.append(StoreName(kind, name.namespace if kind == "SecretStore" else "", store))
        elif isinstance(ref.get("labelSelector"), dict):
            selectors.append((kind, mapping(ref.get("labelSelector"))))
    synced = mapping(mapping(document.get("status")).get("syncedPushSecrets"))
    pushed = (key for store in synced.values() for key in _keys(mapping(store).values()))
    is_ending = bool(metadata.get("deletionTimestamp"))
    keys = tuple(_keys(mappings(spec.get("data"))))
    return PushSecret(name, tuple(stores), tuple(selectors), keys, frozenset(pushed), is_ending)


def _keys(entries: Iterable[object]) -> Iterator[str]:
    """The remote keys of entries as in spec.data."""
    for entry in entries:
        if key := text(mapping(mapping(mapping(entry).get("match")).get("remoteRef")).get("remoteKey")):
            yield key
