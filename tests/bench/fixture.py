"""The fixture of every measure: the testbed, its watches, and groups of ExternalSecrets."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import urllib3

from tests.bench.watching import Name, Watch, digest
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed, wait_for

T = TypeVar("T")

ANNOTATIONS = {"create": "true"}  # the talk's, which vaultsync understands too
KEY = "password"
THREADS = 4
AT_ONCE = 32
"""Requests in flight in the measures of many simultaneous changes."""
PER_NAMESPACE = 10
"""A realistic number: external-secrets lists a namespace's Secrets whenever it has written one of them."""
HURRY = ("--client-qps=1000", "--client-burst=1000", "--concurrent=4")
"""Without these, external-secrets needs 15 minutes to sync ten thousand ExternalSecrets, and again after a restart."""
BUSY = ("workqueue_depth{", "controller_runtime_active_workers{")
REFILL_SECONDS = 2.0
SETTLE_SECONDS = 0.4
"""Pause between two repeats: lets Events and conditions be written, and keeps bursts on one path apart."""


class NotArrivedError(Exception):
    """A precondition of a measure did not come true in time."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    repeats: int = 25
    slow_repeats: int = 6  # of the pollers', each of which takes up to 6 s
    bursts: tuple[int, int] = (100, 400)
    burst_rounds: int = 3
    some: int = 100
    many: int = 1000
    most: int = 10_000
    at_once: int = 1000  # events, and deletions
    force_syncs: int = 200
    source_rounds: int = 3
    idle_seconds: float = 60.0
    poll_interval: int = 60  # seconds
    polls: int = 3
    entries: int = 500_000
    state_rounds: int = 12
    state_writes: int = 200  # of all clients in a round
    state_patience: float = 60.0  # the Vault CLI's own
    tcp_seconds: float = 8.0
    patience: float = 30.0  # seconds until a single value counts as not arrived
    load_patience: float = 240.0

    @property
    def burst(self) -> int:
        return self.bursts[-1]

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.some, self.many, self.most


FULL = Scale()
QUICK = Scale(
    repeats=5,
    slow_repeats=2,
    bursts=(20, 60),
    burst_rounds=1,
    some=30,
    many=120,
    most=240,
    at_once=100,
    force_syncs=40,
    source_rounds=1,
    idle_seconds=35.0,
    poll_interval=5,
    polls=2,
    entries=50_000,
    state_rounds=3,
    state_patience=12.0,
    tcp_seconds=5.0,
    patience=20.0,
    load_patience=60.0,
)


class Spot(NamedTuple):
    """The location of one value: its place, and the name shared by its path and its ExternalSecret."""

    place: Place
    name: str

    @property
    def key(self) -> Name:
        return Name(self.place.name, self.name)


class Recipe(NamedTuple):
    """How to prepare a namespace and create an ExternalSecret for a contender."""

    furnish: Callable[[Place], object]
    create: Callable[[Spot, str], None]


def create(spot: Spot, refresh: str) -> None:
    """An ExternalSecret that reads a path of its own name."""
    data = {KEY: (spot.name, KEY)}
    spot.place.external_secret(spot.name, data, annotations=ANNOTATIONS, refresh=refresh)


PLAIN = Recipe(lambda place: None, create)


@dataclass(frozen=True, slots=True)
class Fixture:
    """The testbed with its watches."""

    testbed: Testbed
    secrets: Watch[dict[str, str]]
    ready: Watch[str]
    scale: Scale
    recipe: Recipe = PLAIN

    @contextlib.contextmanager
    def crowd(
        self, name: str, number: int, per_namespace: int = PER_NAMESPACE, *, clean: bool = True
    ) -> Iterator[list[Spot]]:
        """Spots in namespaces with a store each; the namespaces are emptied afterwards.

        Without `clean` they are kept: emptying ten thousand takes minutes, and the servers stop next anyway.
        """
        crowd = f"{name}-{secrets.token_hex(3)}"
        places = [Place(self.testbed, f"{crowd}-{count}") for count in range(-(-number // per_namespace))]
        together(Place.create, places)
        together(self.recipe.furnish, places)
        try:
            yield [Spot(places[i // per_namespace], f"es-{i}") for i in range(number)]
        finally:
            together(Place.clean, places if clean else ())

    def fill(self, spots: Sequence[Spot], refresh: str, make: Callable[[Spot, str], None] | None = None) -> None:
        """Creates ExternalSecrets for existing paths and waits until all are Ready; `make` replaces the recipe's."""
        together(write, spots)
        together(lambda spot: (make or self.recipe.create)(spot, refresh), spots)
        patience = self.scale.load_patience * max(1.0, len(spots) / self.scale.many)
        found = self.ready.wait_for_all({spot.key: is_true for spot in spots}, patience)
        if len(found) < len(spots):
            raise NotArrivedError(f"only {len(found)} of {len(spots)} ExternalSecrets became Ready")
        if refresh.endswith("h"):
            self.settle()

    @contextlib.contextmanager
    def hurry(self) -> Iterator[None]:
        """Restarts external-secrets without its rate limits, and with them again afterwards."""
        eso = self.testbed.eso
        assert eso is not None
        usual = eso.extra
        eso.extra = [*usual, *HURRY]
        eso.restart()
        try:
            yield
        finally:
            eso.extra = usual
            eso.restart()

    def settle(self) -> None:
        """Waits until external-secrets has nothing left to do.

        Its client sends 50 requests a second to the API server, with bursts of 100 after a rest: work that is still
        queued for other objects would distort the figures.
        """
        eso = self.testbed.eso
        assert eso is not None
        wait_for(lambda: _depth(eso.address) == 0, self.scale.load_patience, "external-secrets has an empty queue", 1.0)
        time.sleep(REFILL_SECONDS)

    def arrival(self, spot: Spot, differs_from: str, since: float) -> float | None:
        """The time at which a value with another digest is in the Secret; None if it does not arrive."""
        return self.secrets.wait(
            spot.key, lambda keys: keys.get(KEY, differs_from) != differs_from, self.scale.patience, since
        )

    def current(self, spot: Spot) -> str:
        """The digest of the value that is in the Secret now."""
        return (self.secrets.now(spot.key) or {}).get(KEY, "")


def _depth(metrics: str) -> int:
    """Number of objects in external-secrets' queues and workers, by its own metrics."""
    text = urllib3.request("GET", f"{metrics}/metrics", retries=False).data.decode()
    rows = [row for row in text.splitlines() if row.startswith(BUSY)]
    return round(sum(float(row.split()[-1]) for row in rows))


def write(spot: Spot) -> str:
    """Writes a new value in Vault; returns its digest."""
    value = secrets.token_hex(32)
    spot.place.put(spot.name, **{KEY: value})
    return digest(value)


def together(task: Callable[[T], object], items: Iterable[T], threads: int = THREADS) -> float:
    """Runs a task for each item, several at a time; returns the seconds that it took."""
    started = time.time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(task, items))
    return time.time() - started


def is_true(ready: str) -> bool:
    return ready == "True"
