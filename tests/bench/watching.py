"""Records when Kubernetes objects change: a watch in its own thread that adds a timestamp to each change.

The timestamp is taken when the bytes arrive, so a caller may poll slowly without distorting a figure. It is wall
time, since it is compared with the times in vaultsync's log.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar

import urllib3

from tests.testbed.api import Json
from tests.testbed.kube import EXTERNAL_SECRETS, path_of
from tests.testbed.testbed import Testbed

T = TypeVar("T")

LOOK_SECONDS = 0.002
LOOK_SHARE = 0.0001
"""Seconds per awaited object between two checks, if that is more: checking many objects costs processor time."""
LIST_SECONDS = 60.0
"""Ten thousand objects are listed again when the API server ends the watch, which it does within the hour."""
CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """An object's namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """The state of an object from `at` on; None: deleted."""

    at: float
    state: T | None


class Watch(Generic[T]):
    """Watches all objects of one kind in all namespaces, reduced to the measured state; `with` starts and ends it.

    Args:
        parse: reduces an object.
        on_change: called in the watch's thread for each changed state.
    """

    def __init__(
        self,
        testbed: Testbed,
        path: str,
        parse: Callable[[Json], T],
        on_change: Callable[[Name, Seen[T]], None] = lambda name, seen: None,
    ) -> None:
        self._url = testbed.kube_apiserver.address + path
        self._headers = testbed.kube_apiserver.api.headers
        self._pool = urllib3.PoolManager(ca_certs=str(testbed.kube_apiserver.ca), retries=urllib3.Retry(False))
        self._parse = parse
        self._on_change = on_change
        self._history: defaultdict[Name, list[Seen[T]]] = defaultdict(list)
        self._stop = threading.Event()
        self._listed = threading.Event()
        self._stream: urllib3.BaseHTTPResponse | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def __enter__(self) -> Watch[T]:
        self._thread.start()
        if not self._listed.wait(LIST_SECONDS):
            raise AssertionError(f"{self._url} could not be listed within {LIST_SECONDS:g} s")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._stream is not None:
            with contextlib.suppress(ValueError, OSError):  # the stream has already ended
                self._stream.shutdown()
        self._thread.join(5)

    def now(self, name: Name) -> T | None:
        """The object's state as last seen; None where there is none."""
        history = self._history.get(name)
        return history[-1].state if history else None

    def wait(self, name: Name, accept: Callable[[T], bool], timeout: float, since: float = 0.0) -> float | None:
        """When the object first came to an accepted state; None if it does not within the time."""
        return self.wait_for_all({name: accept}, timeout, since).get(name)

    def wait_for_all(
        self, wanted: Mapping[Name, Callable[[T], bool]], timeout: float, since: float = 0.0
    ) -> dict[Name, float]:
        """When each object first came to an accepted state (from `since` on); those too late are left out."""
        deadline, found = time.time() + timeout, dict[Name, float]()
        while True:
            for name in wanted.keys() - found.keys():
                if (at := self._first(name, wanted[name], since)) is not None:
                    found[name] = at
            if len(found) == len(wanted) or time.time() > deadline:
                return found
            time.sleep(max(LOOK_SECONDS, LOOK_SHARE * len(wanted)))

    def _first(self, name: Name, accept: Callable[[T], bool], since: float) -> float | None:
        for seen in tuple(self._history.get(name, ())):
            if seen.at >= since and seen.state is not None and accept(seen.state):
                return seen.at
        return None

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._list())
            except (urllib3.exceptions.HTTPError, OSError, ValueError):
                time.sleep(0.05)  # the API server ended the watch or was restarted: list again

    def _list(self) -> str:
        answer = self._pool.request("GET", self._url, headers=self._headers, timeout=LIST_SECONDS).json()
        here = {_name(item): item for item in answer["items"]}
        for name, item in here.items():
            self._note(name, self._parse(item))
        for name in self._history.keys() - here.keys():
            self._note(name, None)
        self._listed.set()
        version: str = answer["metadata"]["resourceVersion"]
        return version

    def _follow(self, version: str) -> None:
        self._stream = self._pool.request(
            "GET",
            f"{self._url}?watch=true&resourceVersion={version}",
            headers=self._headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=5, read=None),
        )
        for at, line in _lines(self._stream):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            deleted = event["type"] == "DELETED"
            self._note(_name(event["object"]), None if deleted else self._parse(event["object"]), at)

    def _note(self, name: Name, state: T | None, at: float | None = None) -> None:
        history = self._history[name]
        if history and history[-1].state == state:
            return
        seen = Seen(time.time() if at is None else at, state)
        history.append(seen)
        self._on_change(name, seen)


def watch_secrets(
    testbed: Testbed, on_change: Callable[[Name, Seen[dict[str, str]]], None] = lambda name, seen: None
) -> Watch[dict[str, str]]:
    """Watches Secrets: by key, the digest of its value. The values themselves are not kept."""
    return Watch(testbed, path_of("v1", "Secret"), _digests, on_change)


def watch_ready(testbed: Testbed, on_change: Callable[[Name, Seen[str]], None] = lambda name, seen: None) -> Watch[str]:
    """Watches ExternalSecrets: the status of the condition Ready, or "" as long as it has none."""
    return Watch(testbed, path_of(EXTERNAL_SECRETS, "ExternalSecret"), _ready, on_change)


def digest(value: str | bytes) -> str:
    """The digest that represents a value: values are never kept or shown."""
    return sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def _digests(secret: Json) -> dict[str, str]:
    return {key: digest(base64.b64decode(value)) for key, value in (secret.get("data") or {}).items()}


def _ready(external_secret: Json) -> str:
    conditions = (external_secret.get("status") or {}).get("conditions") or []
    return next((str(condition["status"]) for condition in conditions if condition["type"] == "Ready"), "")


def _name(item: Json) -> Name:
    return Name(item["metadata"]["namespace"], item["metadata"]["name"])


def _lines(stream: urllib3.BaseHTTPResponse) -> Iterator[tuple[float, bytes]]:
    rest = b""
    for chunk in stream.stream(CHUNK):
        at = time.time()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield at, line
