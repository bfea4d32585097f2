"""What Vault's audit log proves: which client wrote which version over which, and how often each sent requests. Pure.

The log has one line for the request and one for the response. Values are hashed; names are not, nor are versions and
check-and-set, because Environment configures it so. A request takes effect between its two lines, and one without a
response may have no effect: a violation is reported only if it is one in every possible order.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from tests.faults.model import Approval, Spot

Line = Mapping[str, Any]
WRITES = ("create", "update", "patch", "delete")
OWN_ERRANDS = ("auth/token/renew-self", "auth/token/revoke-self", "sys/capabilities-self", "auth/approle/login")
"""Other paths that vaultsync may request; none of them has secrets."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with its response.

    Attributes:
        asked, answered: numbers of its lines in the log, `answered` infinite if there is none.
        at: Unix time of the request.
        own: vaultsync sent it.
        data: its body.
        version: the version that it created, 0 if none.
        failed: it was refused.
    """

    asked: int
    answered: float
    at: float
    own: bool
    operation: str
    path: str
    data: Mapping[str, Any]
    version: int
    failed: bool

    @property
    def versions(self) -> Collection[int]:
        """The properties in the request body."""
        return [int(version) for version in self.data.get("versions") or ()]

    @property
    def cas(self) -> int | None:
        """The check-and-set version, None without check-and-set."""
        cas = (self.data.get("options") or {}).get("cas")
        return None if cas is None else int(cas)


@dataclass(frozen=True, slots=True)
class Mounts:
    """Paths of the mounts."""

    v2: Collection[str]
    v1: Collection[str]

    def split(self, path: str) -> tuple[str, Spot] | None:
        """Splits an API path into `data`, `metadata`, … (KV v2) or `v1` (KV v1), and the secret."""
        for mount in self.v2:
            if path.startswith(f"{mount}/"):
                what, _, inner = path.removeprefix(f"{mount}/").partition("/")
                return what, Spot(mount, inner)
        for mount in self.v1:
            if path.startswith(f"{mount}/"):
                return "v1", Spot(mount, path.removeprefix(f"{mount}/"))
        return None


class Log:
    """The requests in an audit log so far.

    Args:
        policy: the policy of vaultsync's tokens.
    """

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._asked: dict[str, tuple[int, Line]] = {}
        self._requests: dict[str, Request] = {}
        self._lines = 0
        self._bytes = 0

    def follow(self, file: Path) -> list[Request]:
        """Reads new lines of the file; returns `requests`."""
        with file.open("rb") as log:
            log.seek(self._bytes)
            whole, _, rest = log.read().rpartition(b"\n")
            self._bytes = log.tell() - len(rest)
        self.feed(whole.splitlines())
        return self.requests

    def feed(self, lines: Iterable[bytes]) -> None:
        """Lines of JSON."""
        for text in lines:
            line = json.loads(text)
            identity = line["request"]["id"]
            if line["type"] == "request":
                self._asked[identity] = self._lines, line
                self._requests[identity] = _request(self._lines, line, None, self._policy)
            elif asked := self._asked.pop(identity, None):
                self._requests[identity] = _request(*asked, (self._lines, line), self._policy)
            self._lines += 1

    @property
    def lines(self) -> int:
        """The number of the next line."""
        return self._lines

    @property
    def requests(self) -> list[Request]:
        """All requests, in the order in which they were sent."""
        return list(self._requests.values())


def read(lines: Iterable[bytes], policy: str) -> list[Request]:
    """The requests in an audit log; see Log."""
    log = Log(policy)
    log.feed(lines)
    return log.requests


def _request(number: int, line: Line, answer: tuple[int, Line] | None, policy: str) -> Request:
    request = line["request"]
    answered, said = answer or (inf, {})
    data = (said.get("response") or {}).get("data") or {}
    version = data.get("version")
    return Request(
        asked=number,
        answered=answered,
        at=datetime.fromisoformat(line["time"]).timestamp(),
        own=policy in ((line.get("auth") or {}).get("policies") or ()),
        operation=request["operation"],
        path=request["path"],
        data=request.get("data") or {},
        version=version if isinstance(version, int) else 0,
        failed=bool(said.get("error")),
    )


# -- existing values are not overwritten


def overwritten(requests: Sequence[Request], mounts: Mounts, rewinds: Collection[int] = ()) -> list[str]:
    """Describes every write of vaultsync that replaced or may have removed a value.

    `rewinds` are the lines before which an older storage was restored: versions from before prove nothing after.
    """
    return [words for spot, past in _pasts(requests, mounts, rewinds) for words in _faults_at(spot, past)]


def _pasts(requests: Sequence[Request], mounts: Mounts, rewinds: Collection[int] = ()) -> Iterator[tuple[Spot, _Past]]:
    by_spot: defaultdict[Spot, list[tuple[str, Request]]] = defaultdict(list)
    for request in requests:
        split = mounts.split(request.path)
        if split is not None and (request.operation in WRITES or split[0] == "subkeys"):
            by_spot[split[1]].append((split[0], request))
    for spot, events in by_spot.items():
        yield spot, _Past(events, rewinds)


class _Past:
    """The history of one path."""

    def __init__(self, events: Sequence[tuple[str, Request]], rewinds: Collection[int] = ()) -> None:
        self.events = events
        self._rewinds = rewinds
        self.own = [one for _, one in events if one.own]
        self.v1 = [one for what, one in events if what == "v1"]
        self.writes = [one for what, one in events if what == "data" and one.operation != "delete" and one.version]
        self._deletions = [
            (what, one)
            for what, one in events
            if not one.failed and (what in ("delete", "destroy") or (what == "data" and one.operation == "delete"))
        ]
        self._looks = [one for what, one in events if what == "subkeys" and one.own]
        self._undeletions = [one for what, one in events if what == "undelete" and not one.failed]

    def is_rewound(self, first: Request | None, second: Request) -> bool:
        """Whether an older storage was restored between two requests; without a first one, at any time before."""
        return any((first.asked if first else -1) < line <= second.asked for line in self._rewinds)

    def write_of(self, version: int, before: Request) -> Request | None:
        """The last write of this version that can have happened before; None if its response was lost."""
        found = [one for one in self.writes if one.version == version and one.asked < before.answered]
        return next((one for one in reversed(found) if one is not before), None)

    def may_be_gone(self, version: int, by: Request) -> bool:
        """Whether this version can have been deleted when `by` took effect."""
        written = self.write_of(version, by)
        known = [one.asked for one in self.writes if one.version < version and one.asked < by.answered]
        since = written.asked if written else max(known, default=-1)
        return any(
            since < deletion.asked < by.answered
            and (not deletion.versions or version in deletion.versions)
            and (what == "destroy" or not self._is_undone(version, deletion, by))
            for what, deletion in self._deletions
        )

    def _is_undone(self, version: int, deletion: Request, by: Request) -> bool:
        """Whether `by` could know of an undeletion: it creates no version, so check-and-set does not detect it."""
        looks = [one.asked for one in self._looks if one.answered < by.asked]
        return any(
            version in one.versions and deletion.answered < one.asked and one.answered < max(looks, default=by.asked)
            for one in self._undeletions
        )

    def keys_of(self, version: int, before: Request) -> frozenset[str] | None:
        """The property names in this version; None if unknown."""
        write = self.write_of(version, before)
        if write is None or self.is_rewound(write, before):
            return None
        data = write.data.get("data") or {}
        if write.operation != "patch":
            return frozenset(data)
        below = self.keys_of(version - 1, write)
        if below is None:
            return None
        return (below | {key for key, value in data.items() if value is not None}) - {
            key for key, value in data.items() if value is None
        }


def _faults_at(spot: Spot, past: _Past) -> Iterator[str]:
    for write in past.own:
        if write in past.v1:
            if write.operation != "create":
                yield f"{spot}: {write.operation} in KV v1"
            continue
        if write.operation == "delete":
            yield f"{spot}: a deletion"
        if write not in past.writes:
            continue
        cas = write.cas
        if cas is None:
            yield f"{spot}: version {write.version} was written without check-and-set"
        elif write.operation == "patch":
            keys = past.keys_of(cas, write) or frozenset()
            if replaced := sorted(keys & (write.data.get("data") or {}).keys()):
                yield f"{spot}: version {write.version} has replaced {', '.join(replaced)} of version {cas}"
        elif cas > 0 and not past.is_rewound(past.write_of(cas, write), write) and not past.may_be_gone(cas, write):
            yield f"{spot}: version {write.version} was written over version {cas}, which existed"


# -- lost values are not created again


@dataclass(frozen=True, slots=True)
class Recreation:
    """A write of vaultsync at a path whose former values are missing without a reported deletion.

    Attributes:
        former: the hashes of the former values of the properties that it wrote.
    """

    spot: Spot
    write: Request
    former: Mapping[str, str]


def recreations(
    requests: Sequence[Request], mounts: Mounts, rewinds: Collection[int] = (), *, reports_all: bool
) -> list[Recreation]:
    """The writes of vaultsync that created lost values again.

    With `reports_all` Vault reports every deletion; without it (the poll), only those that a path's metadata shows.
    """
    pasts = _pasts(requests, mounts, rewinds)
    return [one for spot, past in pasts for one in _recreations_at(spot, past, reports_all)]


def unapproved(found: Iterable[Recreation], approvals: Collection[Approval]) -> list[Recreation]:
    """Those that no person has approved: for its namespace, which the path begins with."""
    return [
        one
        for one in found
        if not any(one.spot.path.startswith(f"{it.namespace}/") and it.since <= one.write.at for it in approvals)
    ]


def beyond(found: Iterable[Recreation], limit: int, terms: Sequence[float]) -> list[str]:
    """Describes the mounts with more recreated values than the limit in one term; the terms begin at these times."""
    groups: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for one in found:
        groups[one.spot.mount, bisect_right(terms, one.write.at)].append(one.spot.path)
    return [
        f"{mount}: {len(paths)} lost paths were created again and replaced values in Secrets, {limit} may be: "
        + ", ".join(paths)
        for (mount, _), paths in groups.items()
        if len(paths) > limit
    ]


def _recreations_at(spot: Spot, past: _Past, reports_all: bool) -> Iterator[Recreation]:
    writes = [
        (what, one)
        for what, one in past.events
        if (what == "data" and one.version) or (what == "v1" and not one.failed and one.operation in WRITES[:2])
    ]
    reported = ("data", "delete", "destroy", *(("metadata", "v1") if reports_all else ()))
    deletions = [
        one
        for what, one in past.events
        if what in reported and not one.failed and (what in ("delete", "destroy") or one.operation == "delete")
    ]
    values: dict[str, str] = {}
    last: Request | None = None
    for what, write in writes:
        written = _values(what, write)
        if write.own and write.operation != "patch" and last is not None:
            is_new = what == "v1" or write.cas == 0 or past.is_rewound(last, write)
            if is_new and not _may_be_deleted(last, deletions, write):
                yield Recreation(spot, write, {key: values[key] for key in values.keys() & written.keys()})
        values = {**values, **written} if write.operation == "patch" else written
        last = write


def _may_be_deleted(last: Request, deletions: Iterable[Request], by: Request) -> bool:
    """Whether the last write, or one in its place, can have been deleted when `by` took effect."""
    return last.answered > by.asked or any(
        last.asked < one.answered
        and one.asked < by.answered
        and (not one.versions or last.version in one.versions or last.version == 0)
        for one in deletions
    )


def _values(what: str, write: Request) -> dict[str, str]:
    found = write.data if what == "v1" else write.data.get("data") or {}
    return {key: value for key, value in found.items() if value is not None}


# -- only requested values are written


def forbidden(requests: Iterable[Request], mounts: Mounts, permitted: Mapping[Spot, Collection[str]]) -> list[str]:
    """Describes every request of vaultsync that it must not send, accepted or not."""
    return sorted({words for request in requests if request.own for words in _wrong(request, mounts, permitted)})


def _wrong(request: Request, mounts: Mounts, permitted: Mapping[Spot, Collection[str]]) -> Iterator[str]:
    split = mounts.split(request.path)
    if request.operation == "read" and split is not None and split[0] in ("data", "v1"):
        yield f"it read values at {request.path}"
    if request.operation not in WRITES or request.path in OWN_ERRANDS:
        return
    if split is None or split[0] not in ("data", "metadata", "v1") or split[1] not in permitted:
        yield f"{request.operation} {request.path}"
    elif split[0] != "metadata":
        written = request.data if split[0] == "v1" else request.data.get("data") or {}
        if others := sorted(written.keys() - set(permitted[split[1]])):
            yield f"{request.operation} {request.path} with {', '.join(others)}"


# -- request rate


def busiest(requests: Iterable[Request], seconds: float) -> int:
    """The maximum number of requests within any window of this length."""
    times = sorted(request.at for request in requests)
    return max((bisect_left(times, at + seconds) - number for number, at in enumerate(times)), default=0)
