"""The copies of values in Kubernetes: the Secrets of ExternalSecrets over time, by a watch."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

from urllib3.exceptions import HTTPError

from tests.faults.model import Name, Values
from tests.testbed.api import Api, ApiError

SECRETS = "/api/v1/secrets"
WATCH_SECONDS = 10
"""Then all are listed again."""
PAUSE_SECONDS = 0.2
"""Between two attempts while the API server is away."""


class Copies:
    """Records each change of a Secret that external-secrets owns. The values stay in memory.

    Args:
        api: of the API server, as admin; its timeout must be longer than WATCH_SECONDS.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._changes: dict[Name, list[tuple[float, Values]]] = {}
        self._lock, self._ended = Lock(), Event()
        self._thread = Thread(target=self._run, name="copies", daemon=True)

    def start(self) -> None:
        """Starts to record."""
        self._thread.start()

    def stop(self) -> None:
        """Stops within WATCH_SECONDS; without waiting for that."""
        self._ended.set()

    def values(self, namespace: str, at: float) -> set[str]:
        """All values of the namespace's Secrets at a Unix time."""
        with self._lock:
            changes = [list(of_it) for name, of_it in self._changes.items() if name.namespace == namespace]
        return {value for of_it in changes for value in _state(of_it, at).values()}

    def forget(self, before: float) -> None:
        """Drops changes that were replaced before this Unix time."""
        with self._lock:
            for of_it in self._changes.values():
                while len(of_it) > 1 and of_it[1][0] <= before:
                    del of_it[0]

    def record(self, name: Name, values: Values, at: float) -> None:
        """Records the Secret's content; nothing if it was deleted."""
        with self._lock:
            of_it = self._changes.setdefault(name, [])
            if not of_it or of_it[-1][1] != values:
                of_it.append((at, values))

    # -- the watch

    def _run(self) -> None:
        while not self._ended.is_set():
            with suppress(ApiError, HTTPError, ValueError):  # it is away, or the watch has expired
                self._follow()
            self._ended.wait(PAUSE_SECONDS)

    def _follow(self) -> None:
        found = self._api.request("GET", SECRETS)
        there = {name: item for item in found["items"] if (name := _name(item)) is not None}
        with self._lock:
            gone = self._changes.keys() - there.keys()
        for name in gone:
            self.record(name, {}, time.time())
        for name, item in there.items():
            self.record(name, _decoded(item), time.time())
        version = found["metadata"]["resourceVersion"]
        query = f"?watch=1&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        for event in self._events(SECRETS + query):
            if event["type"] == "ERROR":
                return
            name = _name(event["object"])
            if name is not None:
                self.record(name, {} if event["type"] == "DELETED" else _decoded(event["object"]), time.time())

    def _events(self, path: str) -> Iterator[Mapping[str, Any]]:
        for line in self._api.lines(path):
            if self._ended.is_set():
                return
            yield json.loads(line)


def _state(changes: list[tuple[float, Values]], at: float) -> Values:
    return next((values for time, values in reversed(changes) if time <= at), {})


def _name(item: Mapping[str, Any]) -> Name | None:
    metadata = item["metadata"]
    is_copy = any(owner["kind"] == "ExternalSecret" for owner in metadata.get("ownerReferences") or ())
    return Name(metadata["namespace"], metadata["name"]) if is_copy else None


def _decoded(item: Mapping[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode(errors="replace") for key, value in (item.get("data") or {}).items()}
