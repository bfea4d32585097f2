"""The acts of the demo; the outcome of each says whether the value arrived, and after how many ms."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.watching import Name, Watch, digest
from tests.demo.example import CREATE, Example, example, examples
from tests.demo.observer import Observer
from tests.demo.timeline import Row, Timeline
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one act ended: the seconds until the value was in the Kubernetes Secret, None if it never came."""

    act: str
    seconds: float | None


class Story:
    """The acts, and their common state."""

    def __init__(
        self,
        testbed: Testbed,
        timeline: Timeline,
        observer: Observer,
        values: Watch[dict[str, str]],
        ready: Watch[str],
    ) -> None:
        self._testbed = testbed
        self._timeline = timeline
        self._observer = observer
        self._values = values
        self._ready = ready

    def wait_for_errors(self) -> int:
        """Waits until external-secrets has tried every ExternalSecret; returns how many are Ready (0 is expected)."""
        wanted = {one.name: (lambda ready: ready != "") for one in examples()}
        self._ready.wait_for_all(wanted, PATIENCE_SECONDS)
        return sum(self._ready.now(name) == "True" for name in wanted)

    def seeding(self, started: float) -> Outcome:
        """The example becomes Ready, one ExternalSecret after another, counted from vaultsync's start."""
        missing, last, deadline = list(examples()), started, started + PATIENCE_SECONDS
        while missing and time.time() < deadline:
            for one in list(missing):
                at = self._is_there(one, started)
                if at is not None:
                    missing.remove(one)
                    last = max(last, at)
                    text = f"{one.name!s:<20} seeded and Ready (key: {one.key})"
                    self._timeline.add(Row(at, "external-secrets", text, lambda: started))
            time.sleep(0.01)
        self._timeline.catch_up()
        return Outcome(f"{len(list(examples()))} missing secrets, all Ready", None if missing else last - started)

    def deletion(self, one: Example) -> Outcome:
        """As an operator does it: the value can be undeleted, but external-secrets no longer reads it."""
        return self._healing(one, ("kv", "delete", one.path))

    def complete_deletion(self, one: Example) -> Outcome:
        """Deletes the path with all its versions."""
        return self._healing(one, ("kv", "metadata", "delete", one.path))

    def rotation(self, one: Example) -> Outcome:
        """An operator writes a value: it is delivered, not replaced."""
        value = secrets.token_hex(32)
        key = one.properties[0]
        command = ("kv", "put", one.path, f"{key}=-")
        return self._act(one.name, command, lambda keys: keys.get(key) == digest(value), value)

    def creation(self, place: Place, name: str) -> Outcome:
        """A developer adds an ExternalSecret while vaultsync runs."""
        one = example(place.name, name, ("password",))
        self._timeline.add(Row(time.time(), "operator", f"$ kubectl apply -f {name}.yaml  # {CREATE}: 'true'"))
        started = time.time()
        one.apply(place)
        arrived = self._values.wait(one.name, bool, PATIENCE_SECONDS, started)
        self._timeline.catch_up()
        return Outcome(f"ExternalSecret {one.name} created", None if arrived is None else arrived - started)

    def _healing(self, one: Example, command: Sequence[str]) -> Outcome:
        before = self._values.now(one.name) or {}
        return self._act(one.name, command, lambda keys: all(keys.get(key) != before.get(key) for key in before))

    def _act(
        self, name: Name, command: Sequence[str], accept: Callable[[dict[str, str]], bool], given: str = ""
    ) -> Outcome:
        shown = " ".join((self._testbed.cli.name, *command))
        self._timeline.add(Row(time.time(), "operator", f"$ {shown}"))
        started = time.time()
        self._vault(command, given)
        arrived = self._values.wait(name, accept, PATIENCE_SECONDS, started)
        self._timeline.catch_up()
        if arrived is None:
            return Outcome(shown, None)
        # from when Vault got the request: the CLI itself needs longer to start
        return Outcome(shown, arrived - (self._observer.cause_of(name, arrived) or started))

    def _is_there(self, one: Example, since: float) -> float | None:
        value = self._values.wait(one.name, lambda keys: set(keys) >= set(one.properties), 0, since)
        ready = self._ready.wait(one.name, lambda status: status == "True", 0, since)
        return max(value, ready) if value is not None and ready is not None else None

    def _vault(self, command: Sequence[str], given: str) -> None:
        binary = str(self._testbed.cli)
        done = subprocess.run(
            [binary, *command],
            input=given,
            text=True,
            capture_output=True,
            env={**os.environ, **self._testbed.env},
            check=False,
            timeout=30,
        )
        if done.returncode:
            raise RuntimeError(f"{binary} {' '.join(command)} ended with code {done.returncode}: {done.stderr.strip()}")
