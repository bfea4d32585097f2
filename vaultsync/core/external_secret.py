"""The Kubernetes objects that vaultsync watches, cut down to the fields it needs. From untrusted JSON, never raising.

What the CRD's schema promises is not relied on: a field of an unexpected type counts as not set.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from vaultsync.core import annotations
from vaultsync.core.paths import clean_namespace
from vaultsync.generation.encoding import Encoding

Json: TypeAlias = Mapping[str, Any]
"""A JSON object as the API server sent it."""

_ENCODINGS = {"Base64": Encoding.BASE64, "Base64URL": Encoding.BASE64URL, "Auto": Encoding.BASE64}

MAX_VERSIONS_BYTES = 64 * 1024
"""Of the annotation annotations.VERSIONS; the API server takes 256 KiB of annotations in all."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """An ExternalSecret's namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class StoreName:
    """A SecretStore (with its namespace) or a ClusterSecretStore (namespace "")."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class RemoteRef:
    """One entry that reads one secret: spec.data[i].remoteRef, or spec.dataFrom[i].extract (`whole`).

    Attributes:
        encoding: what external-secrets decodes the value from (decodingStrategy; Auto tries Base64 first).
    """

    field: str
    store: StoreName
    key: str
    property: str
    version: str
    metadata: bool
    whole: bool
    encoding: Encoding = Encoding.NONE


@dataclass(frozen=True, slots=True)
class FindRef:
    """One spec.dataFrom[i].find."""

    field: str
    store: StoreName
    path: str | None
    tags: bool = False


@dataclass(frozen=True, slots=True)
class CreatedCondition:
    """What is said about an ExternalSecret, as the condition `Created` or as annotations."""

    ok: bool
    reason: str
    message: str

    @property
    def is_withdrawal(self) -> bool:
        """Whether it only takes back what was said."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class ExternalSecret:
    """An ExternalSecret as far as vaultsync cares.

    Attributes:
        refreshed: the later of creation and external-secrets' last refresh: older values were read by it.
        ignores_force_sync: it is synced already, and its refreshPolicy is CreatedOnce or its interval 0.
        annotations: only those of annotations.READ_ANNOTATIONS.
        versions: the content of the annotation annotations.VERSIONS.
        conditions: status.conditions as they are.
        ready: what external-secrets says of it, None where it has said nothing yet.
        synced_version: status.syncedResourceVersion, another one after each refresh that a change has caused.
        created_condition: the condition `Created`, or the annotations in its place; None if it has neither.
    """

    name: ObjectName
    uid: str
    resource_version: str
    api_version: str
    created: datetime | None
    refreshed: datetime | None
    ignores_force_sync: bool
    annotations: Mapping[str, str]
    versions: Mapping[str, str]
    refs: tuple[RemoteRef, ...]
    finds: tuple[FindRef, ...]
    conditions: tuple[Json, ...]
    ready: bool | None
    synced_version: str
    created_condition: CreatedCondition | None


@dataclass(frozen=True, slots=True)
class StoreCondition:
    """One of a ClusterSecretStore's spec.conditions: the namespaces that may use it.

    Attributes:
        selector: a label selector as it stands, None where there is none.
    """

    namespaces: tuple[str, ...]
    patterns: tuple[str, ...]
    selector: Json | None


@dataclass(frozen=True, slots=True)
class Store:
    """A SecretStore or ClusterSecretStore; `server` is None where its provider is not Vault.

    Attributes:
        changed: when somebody last changed its spec, None if that is not known. It tells no two stores apart.
    """

    name: StoreName
    server: str | None
    path: str | None
    kv: int
    vault_namespace: str
    conditions: tuple[StoreCondition, ...] = ()
    changed: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Kubernetes namespace, and what its annotation says of seeding (None: nothing)."""

    name: str
    seed: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def parse_namespace(document: Json) -> Namespace:
    """A Namespace as the API server sent it."""
    metadata = _object(document, "metadata")
    seed = _object(metadata, "annotations").get(annotations.SEED)
    labels = {key: value for key, value in _object(metadata, "labels").items() if isinstance(value, str)}
    return Namespace(_text(metadata, "name"), seed if isinstance(seed, str) else None, labels)


def parse_store(document: Json) -> Store:
    """A SecretStore or ClusterSecretStore as the API server sent it."""
    metadata = _object(document, "metadata")
    kind = _text(document, "kind") or "SecretStore"
    vault = _object(_object(_object(document, "spec"), "provider"), "vault")
    path = vault.get("path")
    return Store(
        name=StoreName(kind, _text(metadata, "namespace"), _text(metadata, "name")),
        server=_text(vault, "server") or None,
        path=path if isinstance(path, str) else None,
        kv=1 if vault.get("version") == "v1" else 2,
        vault_namespace=clean_namespace(_text(vault, "namespace")),
        conditions=tuple(
            StoreCondition(
                namespaces=_texts(condition, "namespaces"),
                patterns=_texts(condition, "namespaceRegexes"),
                selector=_object(condition, "namespaceSelector") if condition.get("namespaceSelector") else None,
            )
            for condition in _list(_object(document, "spec"), "conditions")
        ),
        changed=max(_spec_changes(metadata), default=None),
    )


def _spec_changes(metadata: Json) -> Iterator[datetime]:
    """When each manager last changed what it has set of the spec.

    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    for entry in _list(metadata, "managedFields"):
        if "f:spec" in _object(entry, "fieldsV1") and (time := _time(entry, "time")) is not None:
            yield time


def is_open_to(store: Store, namespace: Namespace) -> bool:
    """Whether external-secrets lets the namespace use the store: any one of its conditions is enough."""
    if store.name.kind != "ClusterSecretStore" or not store.conditions:
        return True
    return any(
        namespace.name in condition.namespaces
        or any(_matches(pattern, namespace.name) for pattern in condition.patterns)
        or (condition.selector is not None and _selects(condition.selector, namespace.labels))
        for condition in store.conditions
    )


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors."""
    if any(labels.get(key) != value for key, value in _object(selector, "matchLabels").items()):
        return False
    for expression in _list(selector, "matchExpressions"):
        key, values = _text(expression, "key"), _texts(expression, "values")
        fits = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not fits.get(_text(expression, "operator"), False):
            return False
    return True


def parse_external_secret(document: Json) -> ExternalSecret:
    """An ExternalSecret as the API server sent it."""
    metadata, spec, status = (_object(document, part) for part in ("metadata", "spec", "status"))
    name = ObjectName(_text(metadata, "namespace"), _text(metadata, "name"))
    given = {
        key: value
        for key, value in _object(metadata, "annotations").items()
        if key in annotations.READ_ANNOTATIONS and isinstance(value, str)
    }
    created, refreshed = _time(metadata, "creationTimestamp"), _time(status, "refreshTime")
    conditions = _list(status, "conditions")
    own = next((condition for condition in conditions if condition.get("type") == annotations.CONDITION_TYPE), None)
    # on its way out (a finalizer may keep it for long) it reads nothing any more
    refs, finds = ((), ()) if metadata.get("deletionTimestamp") else _entries(name.namespace, spec)
    return ExternalSecret(
        name=name,
        uid=_text(metadata, "uid"),
        resource_version=_text(metadata, "resourceVersion"),
        api_version=_text(document, "apiVersion") or f"{annotations.GROUP}/v1",
        created=created,
        refreshed=max((time for time in (created, refreshed) if time), default=None),
        ignores_force_sync=_ignores_force_sync(spec, status),
        annotations=given,
        versions=_versions(given.get(annotations.VERSIONS)),
        refs=refs,
        finds=finds,
        conditions=tuple(conditions),
        ready=next((one.get("status") == "True" for one in conditions if one.get("type") == "Ready"), None),
        synced_version=_text(status, "syncedResourceVersion"),
        created_condition=_report(given, own),
    )


def _entries(namespace: str, spec: Json) -> tuple[tuple[RemoteRef, ...], tuple[FindRef, ...]]:
    default = _object(spec, "secretStoreRef")
    refs: list[RemoteRef] = []
    finds: list[FindRef] = []
    for i, entry in enumerate(_list(spec, "data")):
        store = _store_of(namespace, entry, default)
        if store and isinstance(entry.get("remoteRef"), Mapping):
            refs.append(_remote_ref(f"spec.data[{i}].remoteRef", store, _object(entry, "remoteRef"), whole=False))
    for i, entry in enumerate(_list(spec, "dataFrom")):
        store = _store_of(namespace, entry, default)
        if store and isinstance(entry.get("find"), Mapping):  # external-secrets looks for it first
            path = _object(entry, "find").get("path")
            tags = isinstance(_object(entry, "find").get("tags"), Mapping)
            finds.append(FindRef(f"spec.dataFrom[{i}].find", store, path if isinstance(path, str) else None, tags))
        elif store and isinstance(entry.get("extract"), Mapping):
            refs.append(_remote_ref(f"spec.dataFrom[{i}].extract", store, _object(entry, "extract"), whole=True))
    return tuple(refs), tuple(finds)


def _remote_ref(field: str, store: StoreName, ref: Json, *, whole: bool) -> RemoteRef:
    return RemoteRef(
        field=field,
        store=store,
        key=_text(ref, "key"),
        property=_text(ref, "property"),
        version=_text(ref, "version"),
        metadata=ref.get("metadataPolicy") == "Fetch",
        whole=whole,
        encoding=_ENCODINGS.get(_text(ref, "decodingStrategy"), Encoding.NONE),
    )


def _store_of(namespace: str, entry: Json, default: Json) -> StoreName | None:
    """The entry's own store where it names one (sourceRef.storeRef), else the ExternalSecret's; None: a generator."""
    source = _object(entry, "sourceRef")
    if isinstance(source.get("generatorRef"), Mapping):
        return None
    # one that is there counts, even without a name: external-secrets then finds no store
    ref = _object(source, "storeRef") if isinstance(source.get("storeRef"), Mapping) else default
    if not _text(ref, "name"):
        return None
    if ref.get("kind") == "ClusterSecretStore":
        return StoreName("ClusterSecretStore", "", _text(ref, "name"))
    return StoreName("SecretStore", namespace, _text(ref, "name"))


def _ignores_force_sync(spec: Json, status: Json) -> bool:
    """external-secrets' shouldRefresh: CreatedOnce, or Periodic with interval 0, do nothing once synced."""
    if not _text(status, "syncedResourceVersion"):
        return False
    policy = _text(spec, "refreshPolicy") or "Periodic"
    if policy == "CreatedOnce":
        return _time(status, "refreshTime") is not None
    interval = _text(spec, "refreshInterval")
    never = interval.startswith("-") or (bool(interval) and not interval.strip("0hmsnuµ."))
    return policy == "Periodic" and never


def _report(given: Mapping[str, str], condition: Json | None) -> CreatedCondition | None:
    if condition is not None:
        return CreatedCondition(
            condition.get("status") == "True", _text(condition, "reason"), _text(condition, "message")
        )
    status, _, reason = given.get(annotations.CREATED, "").partition(" ")
    return CreatedCondition(status == "True", reason, given.get(annotations.MESSAGE, "")) if reason else None


def _versions(annotation: str | None) -> Mapping[str, str]:
    if not annotation or len(annotation) > MAX_VERSIONS_BYTES:
        return {}
    try:
        document = json.loads(annotation)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(value, str)}


def _time(document: Json, field: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(_text(document, field))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _object(document: Json, field: str) -> Json:
    value = document.get(field)
    return value if isinstance(value, Mapping) else {}


def _list(document: Json, field: str) -> list[Json]:
    value = document.get(field)
    return [entry if isinstance(entry, Mapping) else {} for entry in value] if isinstance(value, list) else []


def _texts(document: Json, field: str) -> tuple[str, ...]:
    value = document.get(field)
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()


def _text(document: Json, field: str) -> str:
    value = document.get(field)
    return value if isinstance(value, str) else ""
