"""What people ask for in ExternalSecrets, read as external-secrets and the manual say. Pure.

It shares nothing with vaultsync.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SEED = "vaultsync.io/seed"
GENERATE = "vaultsync.io/generate"
DENIED = "denied"
"""The folder in each namespace's part of Vault that Vault's policy keeps vaultsync from writing in."""

Item = Mapping[str, Any]
Values = Mapping[str, str]


class Spot(NamedTuple):
    """Where a secret is: its mount, and its path in there."""

    mount: str
    path: str

    def __str__(self) -> str:
        return f"{self.mount}/{self.path}"


class Reference(NamedTuple):
    """One entry of an ExternalSecret.

    Attributes:
        property: "" for all of them.
        key: in the Secret; "" for the properties' own names.
    """

    spot: Spot
    property: str
    key: str


class Name(NamedTuple):
    """Of an object in a namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def name_of(item: Item) -> Name:
    return Name(item["metadata"]["namespace"], item["metadata"]["name"])


def references(item: Item, mounts: Mapping[str, str]) -> list[Reference]:
    """What an ExternalSecret reads; nothing where its store is not there.

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
    """What an ExternalSecret takes all of, with its folders; arguments as for `references`."""
    mount = mounts.get(item["spec"]["secretStoreRef"]["name"])
    finds = [entry["find"] for entry in item["spec"].get("dataFrom") or () if "find" in entry]
    return [Spot(mount, find["path"]) for find in finds] if mount is not None else []


def asks(item: Item, *, seeds: bool) -> bool:
    """Whether an ExternalSecret, or else its namespace, says that what is missing is to be made."""
    said = _annotations(item).get(SEED)
    return seeds if said is None else said == "true"


def refuses(item: Item) -> bool:
    """Whether nothing is to be made for it, even where something else is made at its paths."""
    said = _annotations(item).get(SEED)
    return said is not None and said != "true"


def wanted_properties(item: Item, reference: Reference) -> frozenset[str]:
    """The properties that an entry wants made."""
    if reference.property:
        return frozenset({reference.property})
    return frozenset(json.loads(_annotations(item).get(GENERATE, "{}")))


def may_have(namespace: str, spot: Spot) -> bool:
    """Whether VAULTSYNC_SEED_PATHS lets the namespace have something made there, as it is by default."""
    return spot.path == namespace or spot.path.startswith(f"{namespace}/")


def is_denied(spot: Spot) -> bool:
    """Whether Vault's policy refuses what VAULTSYNC_SEED_PATHS allows."""
    return f"/{DENIED}/" in spot.path


def missing(item: Item, found: Iterable[Reference], vault: Mapping[Spot, Values | None]) -> Iterator[str]:
    """What an ExternalSecret that asks lacks in Vault and may have, in words."""
    for reference in found:
        if not may_have(name_of(item).namespace, reference.spot) or is_denied(reference.spot):
            continue
        there = vault.get(reference.spot)
        lacks = sorted(wanted_properties(item, reference) - (there or {}).keys())
        if reference.spot.mount == "kv1" and there is not None:
            continue  # what an existing path of KV v1 lacks nobody can know without reading it
        if lacks:
            yield f"{name_of(item)}: {reference.spot} lacks {', '.join(lacks)} in Vault"


def expected(found: Iterable[Reference], vault: Mapping[Spot, Values | None]) -> dict[str, str] | None:
    """What external-secrets puts into the Secret; None where it can't, as something is missing."""
    made: dict[str, str] = {}
    for reference in found:
        there = vault.get(reference.spot)
        if there is None or (reference.property and reference.property not in there):
            return None
        made |= {reference.key: there[reference.property]} if reference.property else there
    return made or None


def gathered(taken: Iterable[Spot], vault: Mapping[Spot, Values | None]) -> dict[str, str] | None:
    """What external-secrets puts into the Secret of folders: each path's values as JSON; None where there is none."""
    made = {
        spot.path.replace("/", "_"): json.dumps(dict(values), sort_keys=True, separators=(",", ":"))
        for folder in taken
        for spot, values in vault.items()
        if values and spot.mount == folder.mount and spot.path.startswith(f"{folder.path}/")
    }
    return made or None


@dataclass
class Model:
    """What people have sent so far, whether or not anybody answered.

    Attributes:
        permitted: by place in Vault, the properties that vaultsync may ever have made there.
        read: the same of those who neither ask nor refuse: what they read is made with what another one asks for.
        named: every place that anybody has ever read.
        secrets: what nobody may see: values that people wrote in Vault, and what vaultsync logs in with.
        versions: by place, the versions that Vault said were a person's.
    """

    permitted: defaultdict[Spot, set[str]] = field(default_factory=lambda: defaultdict(set))
    read: defaultdict[Spot, set[str]] = field(default_factory=lambda: defaultdict(set))
    named: set[Spot] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    versions: defaultdict[Spot, set[int]] = field(default_factory=lambda: defaultdict(set))

    def sent(self, item: Item, found: Collection[Reference], *, seeds: bool) -> None:
        """An ExternalSecret is about to be created or changed to this.

        Args:
            item: it.
            found: its references.
            seeds: whether its namespace asks for values.
        """
        self.named |= {reference.spot for reference in found}
        if refuses(item):
            return
        for reference in found:
            if may_have(name_of(item).namespace, reference.spot):
                by_spot = self.permitted if asks(item, seeds=seeds) else self.read
                by_spot[reference.spot] |= wanted_properties(item, reference)

    def may_be_written(self) -> dict[Spot, set[str]]:
        """By place, the properties that vaultsync may have written: only where somebody has asked for one."""
        return {spot: properties | self.read[spot] for spot, properties in self.permitted.items()}


def _annotations(item: Item) -> Mapping[str, str]:
    return item.get("metadata", {}).get("annotations") or {}
