"""The Kubernetes objects that vaultsync watches, parsed from JSON and reduced to the fields that it needs. Pure.

The JSON is untrusted, as the CRD's schema need not hold. The parsers never raise: a field of an unexpected type counts
as missing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from vaultsync.core import annotations
from vaultsync.core.paths import clean_namespace
from vaultsync.core.untrusted import mapping, mappings, parse_json, parse_time, text, text_fields, texts
from vaultsync.generation.plan import Encoding

Json: TypeAlias = Mapping[str, Any]
"""A JSON object as the API server sent it."""

_ENCODINGS = {"Base64": Encoding.BASE64, "Base64URL": Encoding.BASE64URL, "Auto": Encoding.BASE64}
"""By decodingStrategy; Auto tries Base64 first."""

MAX_VERSIONS_BYTES = 64 * 1024
"""Of the annotation annotations.VERSIONS; the API server limits all annotations to 256 KiB."""


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
    """An entry that reads one secret: spec.data[i].remoteRef, or spec.dataFrom[i].extract (`whole`)."""

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
    """The condition `Created` of an ExternalSecret, or the annotations in its place."""

    ok: bool
    reason: str
    message: str

    @property
    def is_withdrawal(self) -> bool:
        """Whether it removes the condition."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class ExternalSecret:
    """An ExternalSecret, reduced to what vaultsync needs.

    Attributes:
        refreshed: the later of its creation and its last refresh; it has read all values that are older.
        ignores_force_sync: it is synced already, and its refreshPolicy is CreatedOnce or its interval 0.
        has_read_all: external-secrets has read all that its present spec names, at its last refresh.
        retains: external-secrets leaves its Secret as it is when it finds a value missing (deletionPolicy).
        annotations: those of annotations.READ_ANNOTATIONS.
        versions: the content of the annotation annotations.VERSIONS.
        conditions: status.conditions, unchanged.
        ready: the condition `Ready` of external-secrets, None if it has none yet.
        synced_version: status.syncedResourceVersion, which changes with each refresh after a change of the object.
        created_condition: the condition `Created`, or the annotations in its place; None if it has neither.
    """

    name: ObjectName
    uid: str
    resource_version: str
    api_version: str
    created: datetime | None
    refreshed: datetime | None
    ignores_force_sync: bool
    has_read_all: bool
    retains: bool
    annotations: Mapping[str, str]
    versions: Mapping[str, str]
    refs: tuple[RemoteRef, ...]
    finds: tuple[FindRef, ...]
    conditions: tuple[Json, ...]
    ready: bool | None
    synced_version: str
    created_condition: CreatedCondition | None

    def requests_the_same(self, other: "ExternalSecret") -> bool:
        """Whether it is the same object with the same entries and annotations of its owner."""
        return (self.uid, self.refs, self.finds) == (other.uid, other.refs, other.finds) and all(
            self.annotations.get(name) == other.annotations.get(name) for name in annotations.REQUESTS
        )


@dataclass(frozen=True, slots=True)
class StoreCondition:
    """One of spec.conditions of a ClusterSecretStore: namespaces that may use it; `selector` is a label selector."""

    namespaces: tuple[str, ...]
    patterns: tuple[str, ...]
    selector: Json | None


@dataclass(frozen=True, slots=True)
class Store:
    """A SecretStore or ClusterSecretStore; `server` is None if its provider is not Vault.

    `changed` is the last change of its spec, None if unknown; it is not compared.
    """

    name: StoreName
    server: str | None
    path: str | None
    kv: int
    vault_namespace: str
    conditions: tuple[StoreCondition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    changed: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Kubernetes namespace, with those of annotations.NAMESPACE_ANNOTATIONS; `is_ending`: it is being deleted."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    is_ending: bool = False


def parse_namespace(document: Json) -> Namespace:
    """Parse a Namespace."""
    metadata = mapping(document.get("metadata"))
    present = text_fields(metadata.get("annotations"))
    return Namespace(
        text(metadata.get("name")),
        text_fields(metadata.get("labels")),
        {key: value for key, value in present.items() if key in annotations.NAMESPACE_ANNOTATIONS},
        is_ending=bool(metadata.get("deletionTimestamp")),
    )


def parse_store(document: Json) -> Store:
    """Parse a SecretStore or ClusterSecretStore."""
    metadata, spec = mapping(document.get("metadata")), mapping(document.get("spec"))
    kind = text(document.get("kind")) or "SecretStore"
    vault = text_fields(mapping(spec.get("provider")).get("vault"))
    # https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    managers = [one for one in mappings(metadata.get("managedFields")) if "f:spec" in mapping(one.get("fieldsV1"))]
    return Store(
        name=StoreName(kind, text(metadata.get("namespace")), text(metadata.get("name"))),
        server=vault.get("server") or None,
        path=vault.get("path"),
        kv=1 if vault.get("version") == "v1" else 2,
        vault_namespace=clean_namespace(vault.get("namespace", "")),
        conditions=tuple(
            StoreCondition(
                namespaces=texts(condition.get("namespaces")),
                patterns=texts(condition.get("namespaceRegexes")),
                selector=mapping(condition.get("namespaceSelector")) if condition.get("namespaceSelector") else None,
            )
            for condition in mappings(spec.get("conditions"))
        ),
        labels=text_fields(metadata.get("labels")),
        changed=max((time for one in managers if (time := parse_time(one.get("time"), UTC))), default=None),
    )


def is_open_to(store: Store, namespace: Namespace) -> bool:
    """Whether external-secrets allows the namespace to use the store: one matching condition is enough."""
    if store.name.kind != "ClusterSecretStore" or not store.conditions:
        return True
    return any(
        namespace.name in condition.namespaces
        or any(_matches(pattern, namespace.name) for pattern in condition.patterns)
        or (condition.selector is not None and selects(condition.selector, namespace.labels))
        for condition in store.conditions
    )


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches labels.

    https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors.
    """
    if any(labels.get(key) != value for key, value in mapping(selector.get("matchLabels")).items()):
        return False
    for expression in mappings(selector.get("matchExpressions")):
        key, values = text(expression.get("key")), texts(expression.get("values"))
        fits = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not fits.get(text(expression.get("operator")), False):
            return False
    return True


def parse_external_secret(document: Json) -> ExternalSecret:
    """Parse an ExternalSecret."""
    metadata, spec, status = (mapping(document.get(part)) for part in ("metadata", "spec", "status"))
    name = ObjectName(text(metadata.get("namespace")), text(metadata.get("name")))
    present = text_fields(metadata.get("annotations"))
    given = {key: value for key, value in present.items() if key in annotations.READ_ANNOTATIONS}
    versions = given.get(annotations.VERSIONS, "")
    created, refreshed = parse_time(metadata.get("creationTimestamp"), UTC), parse_time(status.get("refreshTime"), UTC)
    conditions = mappings(status.get("conditions"))
    own = next((condition for condition in conditions if condition.get("type") == annotations.CONDITION_TYPE), None)
    # external-secrets does not read for an object being deleted, however long a finalizer delays that
    refs, finds = ((), ()) if metadata.get("deletionTimestamp") else _entries(name.namespace, spec)
    return ExternalSecret(
        name=name,
        uid=text(metadata.get("uid")),
        resource_version=text(metadata.get("resourceVersion")),
        api_version=text(document.get("apiVersion")) or f"{annotations.GROUP}/v1",
        created=created,
        refreshed=max((time for time in (created, refreshed) if time), default=None),
        ignores_force_sync=_ignores_force_sync(spec, status, refreshed),
        has_read_all=_has_read_all(metadata, spec, status),
        retains=_retains(spec),
        annotations=given,
        versions=text_fields(parse_json(versions)) if len(versions) <= MAX_VERSIONS_BYTES else {},
        refs=refs,
        finds=finds,
        conditions=tuple(conditions),
        ready=next((one.get("status") == "True" for one in conditions if one.get("type") == "Ready"), None),
        synced_version=text(status.get("syncedResourceVersion")),
        created_condition=_report(given, own),
    )


def _entries(namespace: str, spec: Json) -> tuple[tuple[RemoteRef, ...], tuple[FindRef, ...]]:
    default = mapping(spec.get("secretStoreRef"))
    refs: list[RemoteRef] = []
    finds: list[FindRef] = []
    for i, entry in enumerate(mappings(spec.get("data"))):
        store, ref = _store_of(namespace, entry, default), entry.get("remoteRef")
        if store and isinstance(ref, dict):
            refs.append(_remote_ref(f"spec.data[{i}].remoteRef", store, ref, whole=False))
    for i, entry in enumerate(mappings(spec.get("dataFrom"))):
        store, find, ref = _store_of(namespace, entry, default), entry.get("find"), entry.get("extract")
        if store and isinstance(find, dict):  # external-secrets evaluates it first
            tags = isinstance(find.get("tags"), dict)
            finds.append(FindRef(f"spec.dataFrom[{i}].find", store, text_fields(find).get("path"), tags))
        elif store and isinstance(ref, dict):
            refs.append(_remote_ref(f"spec.dataFrom[{i}].extract", store, ref, whole=True))
    return tuple(refs), tuple(finds)


def _remote_ref(field: str, store: StoreName, ref: Json, *, whole: bool) -> RemoteRef:
    return RemoteRef(
        field=field,
        store=store,
        key=text(ref.get("key")),
        property=text(ref.get("property")),
        version=text(ref.get("version")),
        metadata=ref.get("metadataPolicy") == "Fetch",
        whole=whole,
        encoding=_ENCODINGS.get(text(ref.get("decodingStrategy")), Encoding.NONE),
    )


def _store_of(namespace: str, entry: Json, default: Json) -> StoreName | None:
    """The store of the entry (sourceRef.storeRef), else of the ExternalSecret; None for a generator."""
    source = mapping(entry.get("sourceRef"))
    # a storeRef without a name counts too: external-secrets then finds no store
    ref = source["storeRef"] if isinstance(source.get("storeRef"), dict) else default
    name = text(ref.get("name"))
    if isinstance(source.get("generatorRef"), dict) or not name:
        return None
    if ref.get("kind") == "ClusterSecretStore":
        return StoreName("ClusterSecretStore", "", name)
    return StoreName("SecretStore", namespace, name)


def _ignores_force_sync(spec: Json, status: Json, refreshed: datetime | None) -> bool:
    """As shouldRefresh of external-secrets: CreatedOnce, and Periodic with interval 0, refresh until synced."""
    if not text(status.get("syncedResourceVersion")):
        return False
    policy = text(spec.get("refreshPolicy")) or "Periodic"
    if policy == "CreatedOnce":
        return refreshed is not None
    interval = text(spec.get("refreshInterval"))
    never = interval.startswith("-") or (bool(interval) and not interval.strip("0hmsnuµ."))
    return policy == "Periodic" and never


def _has_read_all(metadata: Json, spec: Json, status: Json) -> bool:
    """By status.syncedResourceVersion, which external-secrets sets on success, and which begins with the generation.

    With a deletionPolicy other than Retain, it counts as success that a secret is missing.
    """
    if not _retains(spec):
        return False
    generation, synced = metadata.get("generation"), text(status.get("syncedResourceVersion"))
    return isinstance(generation, int) and synced.partition("-")[0] == str(generation)


def _retains(spec: Json) -> bool:
    return (text(mapping(spec.get("target")).get("deletionPolicy")) or "Retain") == "Retain"


def _report(given: Mapping[str, str], condition: Json | None) -> CreatedCondition | None:
    if condition is not None:
        ok, reason = condition.get("status") == "True", text(condition.get("reason"))
        return CreatedCondition(ok, reason, text(condition.get("message")))
    status, _, reason = given.get(annotations.CREATED, "").partition(" ")
    return CreatedCondition(status == "True", reason, given.get(annotations.MESSAGE, "")) if reason else None
