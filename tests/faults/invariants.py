"""The invariants after all faults: I1 to I6 of the manual's promises, each as a list of violations."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.idle import connections, memory
from tests.faults.environment import MOUNTS, Environment, Picture
from tests.faults.history import (
    WRITES,
    Recreation,
    Request,
    busiest,
    forbidden,
    overwritten,
    recreations,
    unapproved,
)
from tests.faults.model import NOT_SECRET, Name, Spot, asks, expected, gathered, is_denied, missing
from tests.testbed.vaultsync import VaultsyncProcess

# -- I1: allowed missing values are created and delivered


def lacking(environment: Environment, picture: Picture, but: Collection[Spot] = ()) -> list[str]:
    """Values that should be in Vault and are not, except `but` these."""
    return [
        words
        for name, item in sorted(environment.items.items())
        if asks(item, seeds=environment.namespaces[name.namespace])
        for words in missing(item, [one for one in environment.references(item) if one.spot not in but], picture.vault)
    ]


def may_be_lost(environment: Environment, requests: Sequence[Request]) -> set[Spot]:
    """The paths whose absence Vault need not have reported, by an episode's requests: these may wait for a person."""
    removed = {
        split[1]
        for request in requests
        if request.operation == "delete" and (split := MOUNTS.split(request.path)) and split[0] in ("metadata", "v1")
    }
    return removed | {spot for spot in environment.model.named if spot.mount in environment.losses.mounts}


def stale(environment: Environment, picture: Picture) -> list[str]:
    """ExternalSecrets whose Secret differs from Vault, or that are not Ready."""
    return [words for name in sorted(environment.items) for words in _stale(environment, picture, name)]


def _stale(environment: Environment, picture: Picture, name: Name) -> Iterator[str]:
    found, taken = environment.references(environment.items[name]), environment.folders(environment.items[name])
    wanted = gathered(taken, picture.vault) if taken else expected(found, picture.vault)
    if wanted is None:
        return
    if environment.mode.source == "poll" and any(one.spot.mount in MOUNTS.v1 for one in found):
        return  # the manual: the poll can't see new values in KV v1
    if picture.secrets.get(name) != wanted:
        yield f"{name}: the Secret differs from Vault"
    elif not _is_ready(picture, name):
        yield f"{name} is not Ready"


def _is_ready(picture: Picture, name: Name) -> bool:
    status = picture.items.get(name, {}).get("status") or {}
    return any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())


# -- I2 and I3: nothing is overwritten, nothing is written elsewhere


def replaced(environment: Environment, requests: Sequence[Request]) -> list[str]:
    """Values that vaultsync overwrote or removed, and operators' versions that are not in Vault's log as theirs."""
    theirs = {
        (split[1], request.version)
        for request in requests
        if not request.own and request.version and (split := MOUNTS.split(request.path))
    }
    lost = [
        f"{spot}: version {version} is an operator's, and not in the log"
        for spot, versions in environment.model.versions.items()
        for version in sorted(versions)
        if (spot, version) not in theirs
    ]
    return overwritten(requests, MOUNTS, environment.rewinds) + lost


def recreated(environment: Environment, requests: Sequence[Request], first: int) -> list[Recreation]:
    """Lost values that vaultsync has replaced since the request number `first`, unapproved."""
    since = requests[first].asked if first < len(requests) else 0
    reports_all = environment.mode.source != "poll"
    found = [
        one
        for one in recreations(requests, MOUNTS, environment.rewinds, reports_all=reports_all)
        if one.write.asked >= since
    ]
    return [one for one in unapproved(found, environment.losses.approvals) if _replaces(environment, one)]


def _replaces(environment: Environment, recreation: Recreation) -> bool:
    """Whether a Secret had a former value when it was lost."""
    former = {value for key, value in recreation.former.items() if key not in NOT_SECRET}
    namespace = recreation.spot.path.partition("/")[0]
    copies = environment.copies.values(namespace, recreation.write.at) if former else set()
    return not former.isdisjoint(map(environment.audit_hash, copies))


def touched(requests: Iterable[Request], spots: Collection[Spot]) -> list[str]:
    """The paths of `spots` that vaultsync has written."""
    written = {
        split[1]
        for request in requests
        if request.own and request.operation in WRITES and not request.failed
        if (split := MOUNTS.split(request.path)) is not None and split[0] in ("data", "v1")
    }
    return [f"{spot} was created, and vaultsync must leave it alone" for spot in sorted(written & set(spots))]


def trespasses(environment: Environment, requests: Sequence[Request]) -> list[str]:
    """Requests that vaultsync must not send to Vault."""
    return forbidden(requests, MOUNTS, environment.model.may_be_written())


# -- I4: no value is shown


def shown(environment: Environment, picture: Picture, log: str) -> list[str]:
    """The places where a secret value appears; the value itself is not reported."""
    made = {values[key] for values in picture.vault.values() if values for key in values.keys() - NOT_SECRET}
    secrets = environment.model.secrets | made
    places = {
        "the log": log,
        "annotations, conditions or specs": json.dumps(list(picture.items.values())),
        "Events": json.dumps([environment.kube.items("v1", "Event", name) for name in environment.namespaces]),
        "/metrics": "".join(process.health.text("/metrics") for process in environment.replicas),
        "/readyz": "".join(process.health.text("/readyz") for process in environment.replicas),
    }
    return [f"a secret is in {where}" for where, text in places.items() if any(secret in text for secret in secrets)]


def unforeseen(environment: Environment, log: str) -> list[str]:
    """Unexpected errors in the log, and exited processes."""
    ended = [
        f"{process.name} has exited with {process.returncode}" for process in environment.replicas if not process.alive
    ]
    return ended + [f"the log has {words!r}" for words in ("Traceback", "failed unexpectedly") if words in log]


# -- I5: the request rate stays limited


MOST_A_SECOND = 400
"""Requests of one vaultsync to Vault: 40 ExternalSecrets' paths read, created and owned, several times."""
MOST_DENIED = 54
"""Requests about one path that Vault denies, in any 2 s: 6 passes of 3, at first 0.05 s apart, then doubling;
and reconnecting sources, such as Vault's event stream and the API server, reset the backoff."""


def storms(requests: Sequence[Request]) -> list[str]:
    """Too many requests."""
    own = [request for request in requests if request.own]
    most = busiest(own, 1.0)
    found = [f"{most} requests to Vault within a second"] if most > MOST_A_SECOND else []
    denied: defaultdict[Spot, list[Request]] = defaultdict(list)
    for request in own:
        split = MOUNTS.split(request.path)
        if split is not None and is_denied(split[1]):
            denied[split[1]].append(request)
    for spot, of_it in denied.items():
        if (number := busiest(of_it, 2.0)) > MOST_DENIED:
            found.append(f"{number} requests within 2 s about {spot}, which is denied")
    return found


# -- I6: no resources leak


@dataclass(frozen=True, slots=True)
class Usage:
    """Resource usage of a vaultsync process.

    Attributes:
        memory: resident, in MB.
        files: descriptors.
        connections: to Vault and the API server.
    """

    memory: float
    files: int
    threads: int
    connections: int
    tasks: Counter[str]

    def __str__(self) -> str:
        return (
            f"{self.memory:.0f} MB, {self.files} files, {self.threads} threads, {self.connections} connections, "
            f"{self.tasks.total()} tasks"
        )


MORE_MEMORY = 40.0
"""MB: Python's arenas and the allocator keep memory that was used once."""
MORE_FILES = 24
"""Idle connections: of Vault's 4 threads, and of 16 passes to the API server, which aiohttp
uses in turn, so that renewals of the Lease keep all of them open."""
MORE_THREADS = 6
"""The executor's threads, which are kept once started: at most min(32, cores + 4)."""
MORE_TASKS = 4
"""Tasks of running passes."""


def usage(environment: Environment, process: VaultsyncProcess) -> Usage:
    """The current usage."""
    folder = Path(f"/proc/{process.pid}")
    ports = (environment.lines.vault.port, environment.lines.kube.port)
    return Usage(
        memory=memory(process.pid),
        files=len(list((folder / "fd").iterdir())),
        threads=len(list((folder / "task").iterdir())),
        connections=sum(len(connections(process.pid, port)) for port in ports),
        tasks=environment.tasks(process),
    )


def left_behind(before: Usage, now: Usage) -> list[str]:
    """The resources that are used more than before."""
    found = []
    for what, was, is_now, more in (
        ("MB", before.memory, now.memory, MORE_MEMORY),
        ("file descriptors", before.files, now.files, MORE_FILES),
        ("threads", before.threads, now.threads, MORE_THREADS),
        ("connections", before.connections, now.connections, MORE_FILES),
        ("tasks", before.tasks.total(), now.tasks.total(), MORE_TASKS),
    ):
        if is_now > was + more:
            found.append(f"{is_now:g} {what}, and {was:g} before")
    if found:
        found.append(f"tasks more than before: {dict(now.tasks - before.tasks)}")
    return found
