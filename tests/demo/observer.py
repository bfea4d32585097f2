"""Converts logs and watches into rows of the timeline, with the milliseconds since the cause.

Sources: Vault's audit log (who changed what), vaultsync's log, and watches on Secrets and ExternalSecrets. No value is
ever shown: the first characters of a digest show that it differs.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from tests.bench.watching import Name, Seen
from tests.demo.timeline import Row, Timeline

CAUSE_SECONDS = 60.0
"""Rows later than this after a change have no milliseconds."""
LEVELS = {"WARNING": "yellow", "ERROR": "red"}
STARTING = ("vaultsync starts", "watching Kubernetes", "subscribed to Vault's event stream")
PEOPLE = "root"  # the policy of manual changes here; vaultsync and external-secrets have their own
CHANGES = {
    ("delete", "data"): "deleted {path}",
    ("delete", "metadata"): "deleted {path} with all its versions",
    ("update", "delete"): "deleted versions of {path}",
    ("update", "destroy"): "destroyed versions of {path}",
    ("update", "undelete"): "undeleted versions of {path}",
    ("create", "data"): "wrote {path}",
    ("update", "data"): "wrote {path}",
    ("patch", "data"): "patched {path}",
}
DONE = {"Seeded": "created", "Recreated": "re-created"}


class Observer:
    """The known causes, and the callbacks of the sources (each is called in its source's thread)."""

    def __init__(self, timeline: Timeline, readers: Mapping[str, Name]) -> None:
        self._timeline = timeline
        self._lock = threading.Lock()
        self._readers: defaultdict[str, set[Name]] = defaultdict(set)
        for path, name in readers.items():
            self._readers[path].add(name)
        self._causes: dict[str | Name, float] = {}
        self.vaultsync_started: float | None = None
        self.shows_objects = False
        """Whether Secrets and ExternalSecrets produce rows: not while forty are created at once."""

    def cause_of(self, what: str | Name, at: float) -> float | None:
        """The last time at which an operator changed a path, or a path of an ExternalSecret."""
        cause = self._causes.get(what)
        return cause if cause is not None and cause <= at < cause + CAUSE_SECONDS else None

    def audit_line(self, line: Mapping[str, Any]) -> None:
        """An operator's change in Vault: the cause of the following rows."""
        if line.get("type") != "request" or PEOPLE not in (line.get("auth") or {}).get("policies", ()):
            return
        request = line["request"]
        mount, _, rest = request["path"].partition("/")
        folder, _, path = rest.partition("/")
        text = CHANGES.get((request["operation"], folder))
        if text is None or mount != "secret":
            return
        at, logical = _time(line["time"]), f"{mount}/{path}"
        with self._lock:
            self._causes[logical] = at
            self._causes.update(dict.fromkeys(self._readers[logical], at))
        self._timeline.add(Row(at, "Vault", f"an operator {text.format(path=logical)}", lambda: at))

    def vaultsync_line(self, line: Mapping[str, Any]) -> None:
        """A row for a line of vaultsync's log: an action or a failure."""
        at = _time(line["time"])
        if line["message"] == "seeded":
            self._learn(line["path"], line["external_secrets"])
            if self.shows_objects:
                self._timeline.add(Row(at, "vaultsync", _seeded(line), partial(self.cause_of, line["path"], at)))
        elif line["message"] == "force-synced":
            name = _name(line["external_secret"])
            if self.shows_objects:
                self._timeline.add(Row(at, "vaultsync", f"force-synced {name}", partial(self.cause_of, name, at)))
        elif line["message"] in STARTING:
            self._timeline.add(Row(at, "vaultsync", line["message"], lambda: self.vaultsync_started))
        elif line["level"] in LEVELS:
            self._timeline.add(Row(at, "vaultsync", _plain(line), style=LEVELS[line["level"]]))

    def secret_seen(self, name: Name, seen: Seen[dict[str, str]]) -> None:
        """A Secret was created, changed or deleted; relevant if an ExternalSecret of that name reads a path."""
        if not self.shows_objects or not self._is_read(name):
            return
        if seen.state is None:
            text = f"Secret {name} is gone"
        else:
            digests = ", ".join(f"{key} sha256 {value[:6]}…" for key, value in sorted(seen.state.items()))
            text = f"new value in Secret {name} ({digests})"
        self._timeline.add(Row(seen.at, "external-secrets", text, partial(self.cause_of, name, seen.at), "bold"))

    def ready_seen(self, name: Name, seen: Seen[str]) -> None:
        """An ExternalSecret was created or deleted, or its condition Ready has changed."""
        if seen.state == "":
            with self._lock:
                self._causes[name] = self._causes[f"secret/{name}"] = seen.at
        if not self.shows_objects:
            return
        text = {None: "is gone", "": "was created", "True": "is Ready", "False": "is not Ready"}.get(seen.state, "")
        who = "external-secrets" if seen.state else "Kubernetes"
        since = partial(self.cause_of, name if seen.state is not None else "", seen.at)
        self._timeline.add(Row(seen.at, who, f"ExternalSecret {name} {text}", since))

    def _learn(self, path: str, names: Iterable[str]) -> None:
        with self._lock:
            self._readers[path] |= {_name(name) for name in names}

    def _is_read(self, name: Name) -> bool:
        with self._lock:
            return any(name in names for names in self._readers.values())


def _seeded(line: Mapping[str, Any]) -> str:
    version = f" version {line['version']}" if line["version"] else ""
    return f"{DONE[line['reason']]} {line['path']}{version} ({', '.join(line['properties'])})"


def _plain(line: Mapping[str, Any]) -> str:
    fields = [f"{key}={value}" for key, value in line.items() if key not in ("time", "level", "message", "exception")]
    return " ".join([line["message"], *fields])


def _name(text: str) -> Name:
    namespace, _, name = text.partition("/")
    return Name(namespace, name)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
