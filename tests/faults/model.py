"""What ExternalSecrets request, as external-secrets and the manual define it. Pure.

It shares no code with vaultsync.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SEED = "vaultsync.io/seed"
GENERATE = "vaultsync.io/generate"
NOT_SECRET = {"name"}
"""The property with the fixed value of a rule."""
DENIED = "denied"
"""The folder in each namespace's part of Vault in which Vault's policy denies writes of vaultsync."""

Item = Mapping[str, Any]
Values = Mapping[str, str]


class Spot(NamedTuple):
    """The location of a secret: its mount, and its path in the mount."""

    mount: str
    path: str

    def __str__(self) -> str:
        return f"{self.mount}/{self.path}"


class Reference(NamedTuple):
    """One entry of an ExternalSecret.

    Attributes:
        property: "" for all properties.
        key: in the Secret; "" for the properties' own names.
    """

    spot: Spot
    property: str
    key: str


class Name(NamedTuple):
    """The name of an object in a namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def name_of(item: Item) -> Name:
    return Name(item["metadata"]["namespace"], item["metadata"]["name"])


def references(item: Item, mounts: Mapping[str, str]) -> list[Reference]:
    """The references of an ExternalSecret; empty if its store does not exist.

    Args:
        item: the ExternalSecret.
        mounts: by the names of its namespace's stores.
    """
    spec = item["spec"]
    mount = mounts.get(spec["secretStoreRef"]["name"])
    if mount is None:
        return []
    single = [
        Reference(Spot(mount, entry["remoteRef"]["key"]), entry["remoteRef"].get("property", ""), entry["secretKey"])
        for entry in spec.get("data") or ()
    ]
    extracts = [entry["extract"] for entry in spec.get("dataFrom") or () if "extract" in entry]
    return [Reference(Spot(mount, extract["key"]), "", "") for extract in extracts] + single


def folders(item: Item, mounts: Mapping[str, str]) -> list[Spot]:
    """The folders that an ExternalSecret reads as a whole; arguments as for `references`."""
    mount = mounts.get(item["spec"]["secretStoreRef"]["name"])
    finds = [entry["find"] for entry in item["spec"].get("dataFrom") or () if "find" in entry]
    return [Spot(mount, find["path"]) for find in finds] if mount is not None else []


def asks(item: Item, *, seeds: bool) -> bool:
    """Whether an ExternalSecret, or else its namespace, requests seeding."""
    said = _annotations(item).get(SEED)
    return seeds if said is None else said == "true"


def refuses(item: Item) -> bool:
    """Whether it refuses seeding, even if another ExternalSecret's values are created at its paths."""
    said = _annotations(item).get(SEED)
    return said is not None and said != "true"


def wanted_properties(item: Item, reference: Reference) -> frozenset[str]:
    """The properties that an entry requests."""
    if reference.property:
        return frozenset({reference.property})
    return frozenset(json.loads(_annotations(item).get(GENERATE, "{}")))


def may_have(namespace: str, spot: Spot) -> bool:
    """Whether VAULTSYNC_SEED_PATHS allows the namespace to be seeded there, by its default."""
    return spot.path == namespace or spot.path.startswith(f"{namespace}/")


def is_denied(spot: Spot) -> bool:
    """Whether Vault's policy refuses what VAULTSYNC_SEED_PATHS allows."""
    return f"/{DENIED}/" in spot.path


def missing(item: Item, found: Iterable[Reference], vault: Mapping[Spot, Values | None]) -> Iterator[str]:
    """Describes the values that an ExternalSecret requests, may have, and that are missing in Vault."""
    for reference in found:
        if not may_have(name_of(item).namespace, reference.spot) or is_denied(reference.spot):
            continue
        there = vault.get(reference.spot)
        lacks = sorted(wanted_properties(item, reference) - (there or {}).keys())
        if reference.spot.mount == "kv1" and there is not None:
            continue  # missing properties of an existing KV v1 path are unknown without reading it
        if lacks:
            yield f"{name_of(item)}: {reference.spot} lacks {', '.join(lacks)} in Vault"


def expected(found: Iterable[Reference], vault: Mapping[Spot, Values | None]) -> dict[str, str] | None:
    """The Secret that external-secrets writes; None if a value is missing."""
    made: dict[str, str] = {}
    for reference in found:
        there = vault.get(reference.spot)
        if there is None or (reference.property and reference.property not in there):
            return None
        made |= {reference.key: there[reference.property]} if reference.property else there
    return made or None


def gathered(taken: Iterable[Spot], vault: Mapping[Spot, Values | None]) -> dict[str, str] | None:
    """The Secret of folders that external-secrets writes: each path's values as JSON; None if there is none."""
    made = {
        spot.path.replace("/", "_"): json.dumps(dict(values), sort_keys=True, separators=(",", ":"))
        for folder in taken
        for spot, values in vault.items()
        if values and spot.mount == folder.mount and spot.path.startswith(f"{folder.path}/")
    }
    return made or None


def good_values(found: Iterable[Reference], secret: Values) -> dict[Spot, dict[str, str]]:
    """The values for Vault that a Secret holds, by path."""
    made: defaultdict[Spot, dict[str, str]] = defaultdict(dict)
    single = {one.key for one in found if one.property}
    for one in found:
        if one.property and one.key in secret:
            made[one.spot][one.property] = secret[one.key]
        elif not one.property:
            made[one.spot] |= {key: value for key, value in secret.items() if key not in single}
    return {spot: values for spot, values in made.items() if values}


class Approval(NamedTuple):
    """A person's approval that lost values of a namespace are created again.

    Attributes:
        since: Unix time.
    """

    namespace: str
    since: float


@dataclass
class Losses:
    """What operators have done in an episode that may leave paths without a value until a person helps.

    Attributes:
        mounts: those that were disabled.
        expiring: paths whose values expire.
        ending: namespaces that are being deleted, with the paths that were read there.
        approved: by namespace, the value of its annotation.
        approvals: all of them.
    """

    mounts: set[str] = field(default_factory=set)
    expiring: set[Spot] = field(default_factory=set)
    ending: dict[str, set[Spot]] = field(default_factory=dict)
    approved: dict[str, str] = field(default_factory=dict)
    approvals: list[Approval] = field(default_factory=list)


@dataclass
class Model:
    """The requests that operators have sent so far, whether or not they were answered.

    Attributes:
        permitted: by path, the properties that vaultsync may have created there at any time.
        read: the same for readers that neither request nor refuse seeding: created together with another's request.
        named: every path that was ever read.
        secrets: values that must never appear: operators' values in Vault, and vaultsync's credentials.
        versions: by path, the versions that operators wrote, as Vault reported them.
    """

    permitted: defaultdict[Spot, set[str]] = field(default_factory=lambda: defaultdict(set))
    read: defaultdict[Spot, set[str]] = field(default_factory=lambda: defaultdict(set))
    named: set[Spot] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    versions: defaultdict[Spot, set[int]] = field(default_factory=lambda: defaultdict(set))

    def sent(self, item: Item, found: Collection[Reference], *, seeds: bool) -> None:
        """Records that an ExternalSecret is about to be created or changed to this.

        Args:
            item: the ExternalSecret.
            found: its references.
            seeds: whether its namespace requests seeding.
        """
        self.named |= {reference.spot for reference in found}
        if refuses(item):
            return
        for reference in found:
            if may_have(name_of(item).namespace, reference.spot):
                by_spot = self.permitted if asks(item, seeds=seeds) else self.read
                by_spot[reference.spot] |= wanted_properties(item, reference)

    def may_be_written(self) -> dict[Spot, set[str]]:
        """By path, the properties that vaultsync may have written: only paths for which seeding was requested."""
        return {spot: properties | self.read[spot] for spot, properties in self.permitted.items()}


def _annotations(item: Item) -> Mapping[str, str]:
    return item.get("metadata", {}).get("annotations") or {}
