"""One ExternalSecret with its resolved references, and what differs between two states of it. Pure."""

from dataclasses import dataclass, field
from datetime import datetime

from vaultsync.core import annotations
from vaultsync.core.annotation_parser import NO_ROTATION, AnnotationError, RotationSpec, parse_rotation
from vaultsync.core.external_secret import ExternalSecret, ObjectName, RemoteRef, Store, StoreName
from vaultsync.core.paths import FindPrefix, VaultPath, metadata_owner, secret_path, unsafe_reason
from vaultsync.core.reader import Reference
from vaultsync.generation.rule_parser import parse_rules
from vaultsync.generation.rule_set import NO_RULES, Rules
from vaultsync.generation.rules import RuleError

Key = VaultPath | FindPrefix | ObjectName
"""A key of the work queue: a secret, a listing, or an ExternalSecret that may need a patch."""


@dataclass(slots=True)
class Entry:
    """One ExternalSecret with its resolved references.

    Attributes:
        references: its entries by the path that they read.
        prefixes: the listings of its `dataFrom.find` entries.
        stores_changed: when one of its stores was last changed, None if unknown.
        rules: its own generation rules, none if they are invalid.
        rotation: when to rotate its values, never if the annotation is invalid.
        problem: the errors in these annotations, "" for none.
    """

    object: ExternalSecret
    references: dict[VaultPath, tuple[Reference, ...]] = field(default_factory=dict)
    prefixes: frozenset[FindPrefix] = frozenset()
    stores_changed: datetime | None = None
    rules: Rules = NO_RULES
    rotation: RotationSpec = NO_ROTATION
    problem: str = ""

    @property
    def has_read(self) -> bool:
        """Whether external-secrets has read all that it names, since the last change of its stores."""
        refreshed, changed = self.object.refreshed, self.stores_changed
        is_older = changed is not None and (refreshed is None or refreshed < changed)
        return self.object.has_read_all and not is_older

    @property
    def requests(self) -> list[str | None]:
        """Its annotations that request something of vaultsync."""
        return [self.object.annotations.get(name) for name in annotations.REQUESTS]


def api_path(store: Store, ref: RemoteRef) -> str | None:
    """The API path that the entry reads, None if external-secrets rejects it."""
    return (metadata_owner if ref.metadata else secret_path)(store.path, store.kv, ref.key)


def resolve_reference(store: Store, ref: RemoteRef, path: str) -> Reference:
    """The entry with its path, and why vaultsync creates nothing there."""
    refusal = (
        unsafe_reason(ref.key)
        or (unsafe_reason(store.path, f"spec.provider.vault.path of {store.name}") if store.path else "")
        or unsafe_reason(path, "the path that store and key make up")
        or (f"version pins version {ref.version!r}, and only a next version can be created" if ref.version else "")
    )
    return Reference(
        path=VaultPath(store.vault_namespace, path),
        field=ref.field,
        property=ref.property,
        kv=store.kv,
        metadata=ref.metadata,
        whole=ref.whole,
        refusal=refusal,
        encoding=ref.encoding,
    )


def parse_annotations(external_secret: ExternalSecret, defaults: Rules) -> tuple[Rules, RotationSpec, str]:
    """Its own generation rules, when to rotate its values, and the errors in both."""
    rules, rotation, problems = NO_RULES, NO_ROTATION, list[str]()
    text = external_secret.annotations.get(annotations.GENERATE)
    try:
        if text is not None:
            parsed = parse_rules(text)
            parsed.over(defaults)
            rules = parsed
    except RuleError as error:
        problems.append(f"annotation {annotations.GENERATE} on this ExternalSecret: {error}")
    try:
        rotation = parse_rotation(external_secret.name, external_secret.annotations)
    except AnnotationError as error:
        problems.append(str(error))
    return rules, rotation, "; ".join(problems)


def changed_keys(old: Entry | None, new: Entry) -> set[Key]:
    """All keys of a new object or of one with changed annotations, else the added and the removed ones."""
    keys: set[Key] = {new.object.name}
    if old is not None and old.object.uid != new.object.uid:
        keys |= old.references.keys() | old.prefixes
    if old is None or old.object.uid != new.object.uid or old.requests != new.requests:
        return keys | new.references.keys() | new.prefixes
    changed = {path for path, references in new.references.items() if old.references.get(path) != references}
    left = old.references.keys() - new.references.keys()
    changed_keys: set[Key] = {*changed, *left, *(new.prefixes ^ old.prefixes)}
    return keys | changed_keys if changed_keys else set()


def stores_of(external_secret: ExternalSecret) -> set[StoreName]:
    """The stores that it names."""
    return {ref.store for ref in external_secret.refs} | {find.store for find in external_secret.finds}
