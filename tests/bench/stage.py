"""What every measure works on: the testbed, watches, and places full of ExternalSecrets."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import urllib3

from tests.bench.watching import Name, Watch, digest
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed, wait_for

ANNOTATIONS = {"create": "true"}  # the talk's, which vaultsync understands too
KEY = "password"
THREADS = 4
BUSY = ("workqueue_depth{", "controller_runtime_active_workers{")
REFILL_SECONDS = 2.0
SETTLE_SECONDS = 0.4
"""Between two repeats: Events and conditions are written meanwhile, and bursts on one path count as one."""


class NotArrivedError(Exception):
    """Something that a measure needs before it can begin did not come."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    repeats: int = 25
    slow_repeats: int = 6  # of the talk's, each of which takes up to 6 s
    burst: int = 400
    burst_rounds: int = 3
    many: int = 1000
    idle_seconds: float = 60.0
    patience: float = 30.0  # seconds until a single value counts as not arrived
    mass_patience: float = 240.0


FULL = Scale()
QUICK = Scale(
    repeats=5, slow_repeats=2, burst=60, burst_rounds=1, many=120, idle_seconds=35.0, patience=20.0, mass_patience=60.0
)


@dataclass(frozen=True, slots=True)
class Stage:
    """The testbed with its watches."""

    testbed: Testbed
    secrets: Watch[dict[str, str]]
    ready: Watch[str]
    scale: Scale

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[Place]:
        """A namespace with a store, emptied afterwards (which nobody else does)."""
        place = Place(self.testbed, f"{name}-{secrets.token_hex(3)}")
        place.create()
        try:
            yield place
        finally:
            place.clean()

    def fill(self, place: Place, names: Sequence[str], refresh: str, *, write: bool = True) -> None:
        """ExternalSecrets whose paths exist, all Ready."""
        if write:
            together(lambda name: place.put(name, **{KEY: secrets.token_hex(32)}), names)
        together(lambda name: create(place, name, refresh), names)
        wanted = {Name(place.name, name): is_true for name in names}
        found = self.ready.wait_for_all(wanted, self.scale.mass_patience)
        if len(found) < len(names):
            raise NotArrivedError(f"only {len(found)} of {len(names)} ExternalSecrets in {place.name} became Ready")
        if refresh.endswith("h"):
            self.settle()

    def settle(self) -> None:
        """Waits until external-secrets has nothing left to do.

        Its client sends 50 requests a second to the API server, and 100 at once after a rest: what it still owes to
        others, one's own figures would show.
        """
        eso = self.testbed.eso
        assert eso is not None
        wait_for(lambda: _depth(eso.address) == 0, self.scale.mass_patience, "external-secrets has an empty queue", 1.0)
        time.sleep(REFILL_SECONDS)

    def arrival(self, place: Place, name: str, differs_from: str, since: float) -> float | None:
        """When a value other than the one with this digest is in the Secret; None if it does not come."""
        return self.secrets.wait(
            Name(place.name, name), lambda keys: keys.get(KEY, differs_from) != differs_from, self.scale.patience, since
        )

    def current(self, place: Place, name: str) -> str:
        """The digest of the value that is in the Secret now."""
        return (self.secrets.now(Name(place.name, name)) or {}).get(KEY, "")


def _depth(metrics: str) -> int:
    """How many ExternalSecrets wait in external-secrets' queue or are in work, by its own metrics."""
    text = urllib3.request("GET", f"{metrics}/metrics", retries=False).data.decode()
    rows = [row for row in text.splitlines() if row.startswith(BUSY) and '"externalsecret"' in row]
    return round(sum(float(row.split()[-1]) for row in rows))


def create(place: Place, name: str, refresh: str) -> None:
    """An ExternalSecret that reads a path of its own name."""
    place.external_secret(name, {KEY: (name, KEY)}, annotations=ANNOTATIONS, refresh=refresh)


def write(place: Place, name: str) -> str:
    """Writes a new value in Vault; returns its digest."""
    value = secrets.token_hex(32)
    place.put(name, **{KEY: value})
    return digest(value)


def together(task: Callable[[str], object], names: Iterable[str]) -> float:
    """Runs a task for each name, several at a time; returns the seconds that it took."""
    started = time.time()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(task, names))
    return time.time() - started


def is_true(ready: str) -> bool:
    return ready == "True"
