"""Operators' actions and faults. Each is a small function that returns a sentence about what it did.

The choice depends on the seed and on what operators know, never on responses of the servers: a seed can be replayed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tests.faults.environment import MOUNTS, STORES, Environment
from tests.faults.model import DENIED, GENERATE, SEED, Item, Name, Spot, is_denied, may_have
from tests.testbed.api import Api
from tests.testbed.kube import EXTERNAL_SECRETS
from tests.testbed.processes import Process
from tests.testbed.proxy import Fault, Proxy
from tests.testbed.servers import Server

FEWEST_NAMESPACES, MOST_NAMESPACES = 2, 4
MOST_ITEMS = 40
MOST_PUSHES = 3
PROPERTIES = ("password", "user", "token", "key")
RULES = {  # no template: it is not generated if an operator has written one of its parts
    "name": {"value": "app"},
    "password": {"format": "password", "length": 24},
    "id": {"format": "uuid"},
}

Rng = random.Random


@dataclass(frozen=True, slots=True)
class Action:
    """An action of an operator.

    Attributes:
        weight: how often, beside the others.
        needs: the servers that must answer: "kube", "vault".
        do: returns the sentence; None if the action is not possible now.
    """

    weight: float
    needs: frozenset[str]
    do: Callable[[Environment, Rng], str | None]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault that lasts until it is fixed.

    Attributes:
        what: a sentence.
        on: the affected part; a part has one fault at a time.
        stops: the servers that do not answer operators during the fault.
        fixed: the sentence for the end.
        replica: the fault needs more replicas than this.
        after: the part that must be fixed before this one.
    """

    what: str
    on: str
    start: Callable[[Environment], object]
    end: Callable[[Environment], object]
    stops: frozenset[str] = frozenset()
    fixed: str = ""
    replica: int = 0
    after: str = ""


# -- ExternalSecrets


def _item(name: Name, store: str, annotations: dict[str, str], **spec: object) -> Item:
    body = {"refreshInterval": "1h", "secretStoreRef": {"name": store, "kind": "SecretStore"}, **spec}
    metadata = {"name": name.name, "namespace": name.namespace, "annotations": annotations}
    return {"apiVersion": EXTERNAL_SECRETS, "kind": "ExternalSecret", "metadata": metadata, "spec": body}


def _data(*entries: tuple[str, str]) -> list[dict[str, object]]:
    return [
        {"secretKey": f"{wanted}{number}", "remoteRef": {"key": path, "property": wanted}}
        for number, (path, wanted) in enumerate(entries)
    ]


def _new_name(environment: Environment, rng: Rng) -> Name | None:
    if not environment.namespaces or len(environment.items) >= MOST_ITEMS:
        return None
    return Name(rng.choice(sorted(environment.namespaces)), f"es{environment.number('item')}")


def _asking(rng: Rng) -> dict[str, str]:
    return {SEED: "true"} if rng.random() < 0.7 else {}


def create_one(environment: Environment, rng: Rng) -> str | None:
    name = _new_name(environment, rng)
    if name is None:
        return None
    store = rng.choice(sorted(STORES))
    data = _data((f"{name.namespace}/{name.name}", rng.choice(PROPERTIES)))
    environment.send(_item(name, store, {SEED: "true"}, data=data))
    return f"{name} requests one property, by the store {store}"


def create_several(environment: Environment, rng: Rng) -> str | None:
    """Reads paths that other ExternalSecrets read too."""
    name = _new_name(environment, rng)
    if name is None:
        return None
    paths = [f"{name.namespace}/shared{rng.randrange(4)}" for _ in range(rng.randint(1, 3))]
    entries = [(path, wanted) for path in dict.fromkeys(paths) for wanted in rng.sample(PROPERTIES, 2)]
    annotations = _asking(rng)
    environment.send(_item(name, rng.choice(("vault", "team")), annotations, data=_data(*entries)))
    return f"{name} reads {len(entries)} shared properties{'' if annotations else ', without requesting seeding'}"


def create_whole(environment: Environment, rng: Rng) -> str | None:
    name = _new_name(environment, rng)
    if name is None:
        return None
    annotations = {SEED: "true", GENERATE: json.dumps(RULES)}
    extract = [{"extract": {"key": f"{name.namespace}/whole{rng.randrange(3)}"}}]
    environment.send(_item(name, rng.choice(("vault", "team")), annotations, dataFrom=extract))
    return f"{name} requests all of {extract[0]['extract']['key']}, by rules"


def create_finding(environment: Environment, rng: Rng) -> str | None:
    """Reads all paths that others have created."""
    name = _new_name(environment, rng)
    if name is None:
        return None
    find = [{"find": {"path": name.namespace, "name": {"regexp": ".*"}}}]
    store = rng.choice(("vault", "team"))
    environment.send(_item(name, store, {}, dataFrom=find))
    return f"{name} takes all that there is for its namespace, by the store {store}"


def create_refused(environment: Environment, rng: Rng) -> str | None:
    """Requests a path that is never created: of another namespace, with a bad annotation, or denied by Vault."""
    name = _new_name(environment, rng)
    if name is None:
        return None
    own = f"{name.namespace}/refused-{name.name}"
    path, annotation, why = rng.choice(
        [
            (f"foreign/{name.name}", "true", "in a foreign place"),
            (own, "yes", "by a bad annotation"),
            (own, "false", "and requests no seeding"),
            (f"{name.namespace}/{DENIED}/{name.name}", "true", "that Vault denies"),
        ]
    )
    environment.send(_item(name, "vault", {SEED: annotation}, data=_data((path, "password"))))
    return f"{name} reads a path {why}"


def change(environment: Environment, rng: Rng) -> str | None:
    if not environment.items:
        return None
    name = rng.choice(sorted(environment.items))
    old = environment.items[name]
    path = rng.choice((f"{name.namespace}/{name.name}", f"{name.namespace}/shared{rng.randrange(4)}"))
    metadata = old["metadata"] | {"annotations": _asking(rng)}
    store = {"secretStoreRef": {"name": rng.choice(("vault", "team")), "kind": "SecretStore"}}
    spec = {"refreshInterval": "1h", **store, "data": _data((path, rng.choice(PROPERTIES)))}
    environment.send({**old, "metadata": metadata, "spec": spec})
    return f"{name} now reads {path}{'' if metadata['annotations'] else ', without requesting seeding'}"


def delete(environment: Environment, rng: Rng) -> str | None:
    if len(environment.items) < 5:
        return None
    name = rng.choice(sorted(environment.items))
    environment.remove(name)
    return f"{name} is deleted"


# -- namespaces and stores


def add_namespace(environment: Environment, rng: Rng) -> str | None:
    if len(environment.namespaces) >= MOST_NAMESPACES:
        return None
    name, seeds = f"f-{environment.number('namespace')}", rng.random() < 0.5
    environment.add_namespace(name, seeds=seeds)
    return f"namespace {name} is created{', and requests seeding' if seeds else ''}"


def remove_namespace(environment: Environment, rng: Rng) -> str | None:
    if len(environment.namespaces) < MOST_NAMESPACES:
        return None
    name = rng.choice(sorted(environment.namespaces))
    environment.remove_namespace(name)
    return f"namespace {name} is deleted, with all in it"


def change_store(environment: Environment, rng: Rng) -> str | None:
    stores = sorted(name for name, mount in environment.mounts.items() if mount not in MOUNTS.v1)
    if not stores:
        return None
    name = rng.choice(stores)
    mount = rng.choice(sorted(MOUNTS.v2))
    environment.set_store(name, mount)
    return f"store {name} is for the mount {mount} now"


def delete_store(environment: Environment, rng: Rng) -> str | None:
    if not environment.mounts:
        return None
    name = rng.choice(sorted(environment.mounts))
    environment.set_store(name, None)
    return f"store {name} is deleted"


def create_store(environment: Environment, rng: Rng) -> str | None:
    """Creates a deleted store again, for its original mount."""
    missing = environment.missing_stores()
    if not missing:
        return None
    name = rng.choice(missing)
    environment.set_store(name, STORES[name.name])
    return f"store {name} is created again, for the mount {STORES[name.name]}"


def end_namespace(environment: Environment, rng: Rng) -> str | None:
    if len(environment.namespaces) <= FEWEST_NAMESPACES or environment.losses.ending:
        return None
    name = rng.choice(sorted(environment.namespaces))
    environment.end_namespace(name)
    return f"namespace {name} is being deleted, and all in it stays for now"


def create_push(environment: Environment, rng: Rng) -> str | None:
    """The path belongs to the PushSecret from now on."""
    stores = [name for name, mount in sorted(environment.mounts.items()) if mount in MOUNTS.v2]
    spots = {(store, spot.path) for store in stores for spot in environment.spots() if _is_pushable(store, spot)}
    if not spots or len(environment.pushes) >= MOST_PUSHES:
        return None
    store, path = rng.choice(sorted(spots))
    environment.push(Name(store.namespace, f"push{environment.number('push')}"), store, path)
    return f"a PushSecret writes {path} by the store {store}"


def _is_pushable(store: Name, spot: Spot) -> bool:
    return may_have(store.namespace, spot) and not is_denied(spot)


def remove_push(environment: Environment, rng: Rng) -> str | None:
    if not environment.pushes:
        return None
    name = rng.choice(sorted(environment.pushes))
    environment.remove_push(name)
    return f"PushSecret {name} is deleted"


def approve(environment: Environment, rng: Rng) -> str | None:
    if not environment.losses.mounts or not environment.namespaces:
        return None
    name = rng.choice(sorted(environment.namespaces))
    environment.approve([name])
    return f"a person approves that lost values of {name} are created again"


def restore(environment: Environment, rng: Rng) -> str | None:
    if not environment.losses.mounts:
        return None
    return f"an operator writes the values of Secrets to {environment.try_to(environment.restore)} lost paths"


# -- Vault


def _spot(environment: Environment, rng: Rng, *mounts: str) -> Spot | None:
    spots = [spot for spot in environment.spots() if spot.mount in (mounts or (*MOUNTS.v2, *MOUNTS.v1))]
    return rng.choice(spots) if spots else None


def values_for(environment: Environment, rng: Rng, most: int) -> dict[str, str]:
    """Values of a person, for so many properties."""
    return {
        key: f"a-persons-{environment.number('value')}-{rng.randrange(10**12)}" for key in rng.sample(PROPERTIES, most)
    }


def write(environment: Environment, rng: Rng) -> str | None:
    spot = _spot(environment, rng)
    if spot is None:
        return None
    values = values_for(environment, rng, rng.randint(1, 4))
    environment.write(spot, values)
    return f"an operator writes {', '.join(values)} at {spot}"


def patch(environment: Environment, rng: Rng) -> str | None:
    spot = _spot(environment, rng, *MOUNTS.v2)
    if spot is None:
        return None
    values = values_for(environment, rng, 1)
    environment.patch(spot, values)
    return f"an operator patches {', '.join(values)} at {spot}"


def delete_value(environment: Environment, rng: Rng) -> str | None:
    spot = _spot(environment, rng)
    if spot is None:
        return None
    environment.try_to(lambda: environment.vault.delete(spot.path, spot.mount))
    return f"an operator deletes {spot}"


def undelete(environment: Environment, rng: Rng) -> str | None:
    return _on_versions(environment, rng, "undelete")


def destroy(environment: Environment, rng: Rng) -> str | None:
    return _on_versions(environment, rng, "destroy")


def _on_versions(environment: Environment, rng: Rng, how: str) -> str | None:
    spot, back = _spot(environment, rng, *MOUNTS.v2), rng.randrange(2)
    if spot is None:
        return None

    def do() -> int:
        version = max(1, environment.vault.version(spot.path, spot.mount) - back)
        body = {"versions": [version]}
        environment.vault.api.request("PUT", f"/v1/{spot.mount}/{how}/{spot.path}", body)
        return version

    return f"an operator has version {environment.try_to(do)} of {spot} {how}{'d' if how.endswith('e') else 'ed'}"


def purge(environment: Environment, rng: Rng) -> str | None:
    spot = _spot(environment, rng, *MOUNTS.v2)
    if spot is None:
        return None
    environment.try_to(lambda: environment.vault.delete_metadata(spot.path, spot.mount))
    return f"an operator removes {spot} with all its versions"


def expire(environment: Environment, rng: Rng) -> str | None:
    spot = _spot(environment, rng, *MOUNTS.v2)
    if spot is None:
        return None
    lifetime, values = f"{rng.randint(2, 20)}s", values_for(environment, rng, 1)
    environment.expire(spot, lifetime, values)
    return f"an operator sets delete_version_after={lifetime} at {spot}, and writes {', '.join(values)}"


def replace_mount(environment: Environment, rng: Rng) -> str | None:
    mount = rng.choice((*MOUNTS.v2, *MOUNTS.v1))
    environment.try_to(lambda: environment.replace_mount(mount))
    return f"the mount {mount} is disabled and enabled again"


def revoke(environment: Environment, rng: Rng) -> str:
    def do() -> int:
        path = "/v1/auth/token/lookup-accessor"
        found = environment.vault.api.find("/v1/auth/token/accessors?list=true") or {"data": {"keys": []}}
        own = [
            accessor
            for accessor in found["data"]["keys"]
            if environment.vault.api.request("POST", path, {"accessor": accessor})["data"]["path"]
            == "auth/approle/login"
        ]
        for accessor in own:
            environment.vault.api.request("POST", "/v1/auth/token/revoke-accessor", {"accessor": accessor})
        return len(own)

    return f"every token of vaultsync is revoked ({environment.try_to(do)})"


def compact(environment: Environment, rng: Rng) -> str:
    """Compacts etcd, so that a restarted watch receives 410."""
    etcd = Api(environment.testbed.etcd.address)
    revision = etcd.request("POST", "/v3/kv/range", {"key": "AA=="})["header"]["revision"]
    environment.try_to(
        lambda: etcd.request("POST", "/v3/kv/compaction", {"revision": revision})
    )  # not the same revision twice
    return f"etcd is compacted before revision {revision}"


def cut(environment: Environment, rng: Rng) -> str:
    names = ("vault", "kube", "eso", "audit")
    name = rng.choice(names)
    line: Proxy = getattr(environment.lines, name)
    line.reset()
    return f"every connection of the line {LINES[name]} is reset"


KUBE, VAULT, NONE = frozenset({"kube"}), frozenset({"vault"}), frozenset[str]()
API_SERVER = "the API server"
NO_TEAM = 'path "team/kv/data/*" { capabilities = ["deny"] }\n'

CREATIONS = (
    Action(8, KUBE, create_one),
    Action(5, KUBE, create_several),
    Action(3, KUBE, create_whole),
    Action(3, KUBE, create_refused),
    Action(1, KUBE, create_finding),
)
NEW_NAMESPACE = Action(1, KUBE, add_namespace)
ACTIONS = (
    *CREATIONS,
    NEW_NAMESPACE,
    Action(4, KUBE, change),
    Action(5, KUBE, delete),
    Action(0.5, KUBE, remove_namespace),
    Action(1, KUBE, change_store),
    Action(0.5, KUBE, delete_store),
    Action(2, KUBE, create_store),
    Action(6, VAULT, write),
    Action(4, VAULT, patch),
    Action(8, VAULT, delete_value),
    Action(2, VAULT, undelete),
    Action(2, VAULT, destroy),
    Action(3, VAULT, purge),
    Action(1.5, VAULT, expire),
    Action(1, VAULT, replace_mount),
    Action(0.5, KUBE | VAULT, restore),
    Action(0.5, KUBE, approve),
    Action(0.7, KUBE, end_namespace),
    Action(1.5, KUBE, create_push),
    Action(0.5, KUBE, remove_push),
    Action(1, VAULT, revoke),
    Action(1, KUBE, compact),
    Action(2, NONE, cut),
)

# -- faults

LINES = {
    "vault": "between vaultsync and Vault",
    "kube": "between vaultsync and the API server",
    "eso": "between external-secrets and Vault",
    "audit": "from Vault's audit device to vaultsync",
}
FAULTS = {
    "is late by 200 ms": Fault(latency=0.2),
    "is late by 2 s": Fault(latency=2.0),
    "is slow, 20 kB/s": Fault(rate=20_000),
    "is stalled": Fault(stalled=True),
    "is silent": Fault(silent=True),
    "is refused": Fault(refused=True),
}


def _killed(
    name: str, on: str, find: Callable[[Environment], Server | Process], stops: frozenset[str] = NONE
) -> Trouble:
    fixed = f"{name} starts"
    return Trouble(f"{name} is killed", on, lambda w: find(w).kill(), lambda w: find(w).start(), stops, fixed)


def _frozen(
    name: str, on: str, find: Callable[[Environment], Server | Process], stops: frozenset[str] = NONE
) -> Trouble:
    fixed = f"{name} is thawed"
    return Trouble(f"{name} is frozen", on, lambda w: find(w).freeze(), lambda w: find(w).thaw(), stops, fixed)


def _server(name: str, on: str, find: Callable[[Environment], Server], stops: frozenset[str]) -> list[Trouble]:
    return [_killed(name, on, find, stops), _frozen(name, on, find, stops)]


def _disabled(mount: str) -> Trouble:
    return Trouble(
        f"the mount {mount} is disabled",
        "Vault",
        lambda environment: environment.disable_mount(mount),
        lambda environment: environment.enable_mount(mount),
        fixed=f"the mount {mount} is enabled again",
    )


def _vaultsync(number: int) -> list[Trouble]:
    name = f"vaultsync {number}"

    def find(environment: Environment) -> Process:
        return environment.replicas[number]

    stopped = Trouble(
        f"{name} receives SIGTERM", name, lambda w: find(w).stop(), lambda w: find(w).start(), fixed=f"{name} starts"
    )
    found = (_killed(name, name, find), _frozen(name, name, find), stopped)
    return [replace(trouble, replica=number) for trouble in found]


def _line(name: str) -> list[Trouble]:
    where = f"the line {LINES[name]}"

    def find(environment: Environment) -> Proxy:
        line: Proxy = getattr(environment.lines, name)
        return line

    def break_it(fault: Fault, environment: Environment) -> None:
        find(environment).set(fault)
        if fault.refused:
            find(environment).reset()

    def fix(fault: Fault, environment: Environment) -> None:
        find(environment).heal()
        if fault.silent:  # a host that is back answers unknown connections with a reset
            find(environment).reset()

    faults = dict(FAULTS)
    if name == "vault":
        faults["loses the answers to writes"] = Fault(lost=b"POST /v1/")
        faults["loses the answers to patches"] = Fault(lost=b"PATCH /v1/")
    return [
        Trouble(f"{where} {how}", where, partial(break_it, fault), partial(fix, fault), fixed=f"{where} is good")
        for how, fault in faults.items()
    ]


TROUBLES: tuple[Trouble, ...] = (
    *_server("Vault", "Vault", lambda environment: environment.testbed.vault, VAULT),
    Trouble(
        "Vault is sealed",
        "Vault",
        lambda environment: environment.testbed.vault.seal(),
        lambda environment: environment.testbed.vault.unseal(),
        VAULT,
        "Vault is unsealed",
    ),
    Trouble(
        "Vault's storage is copied",
        "Vault",
        lambda environment: environment.take_snapshot(),
        lambda environment: environment.load_snapshot(),
        fixed="Vault has the older storage again",
    ),
    _disabled("team/kv"),
    _disabled("kv1"),
    *_server("the API server", API_SERVER, lambda environment: environment.testbed.kube_apiserver, KUBE),
    *_server("etcd", API_SERVER, lambda environment: environment.testbed.etcd, KUBE),
    *(replace(one, after=API_SERVER) for one in _server("external-secrets", "external-secrets", lambda w: w.eso, NONE)),
    *_vaultsync(0),
    *_vaultsync(1),
    Trouble(
        "Vault's policy lets vaultsync write nothing in team/kv",
        "Vault",
        lambda environment: environment.allow(NO_TEAM),
        lambda environment: environment.allow(),
        fixed="Vault's policy is as before",
    ),
    *(trouble for name in LINES for trouble in _line(name)),
)
