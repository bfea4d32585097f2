"""The load measures: many missing paths at once, and rotations among a thousand ExternalSecrets."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.fixture import AT_ONCE, KEY, Fixture, Spot, is_true, together, write
from tests.bench.watching import Name

LIST_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Burst:
    """Seconds from just before the first ExternalSecret is sent; None: that state was not reached.

    Attributes:
        sent: until the last one was sent.
        exist: until every path existed in Vault.
        ready: until all were Ready.
    """

    sent: float
    exist: float | None
    ready: float | None


@dataclass(frozen=True, slots=True)
class Rotations:
    """How many of the written values arrived.

    Attributes:
        sent: the seconds that writing them took.
        arrived: for each that came, the seconds after its own write.
        last: seconds from the first write to the last arrival.
    """

    number: int
    sent: float
    arrived: Sequence[float] = field(default_factory=tuple)
    last: float = 0.0


class Existence:
    """Detects when all paths exist in Vault, by polling in its own thread."""

    def __init__(self, spots: Sequence[Spot]) -> None:
        self._wanted = Counter(spot.place for spot in spots)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.at: float | None = None

    def __enter__(self) -> Existence:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for place, number in self._wanted.items():  # paths are never removed, so a complete place stays complete
            while len(place.vault.names(place.name)) < number:
                if self._stop.wait(LIST_SECONDS):
                    return
        self.at = time.time()


def burst(fixture: Fixture, number: int, refresh: str, *, exist: bool = False) -> Burst:
    """Many ExternalSecrets are created whose paths are missing, or (`exist`) were there before."""
    with fixture.crowd("burst", number) as spots:
        fixture.settle()
        if exist:
            together(write, spots)
        wanted = {spot.key: is_true for spot in spots}
        with Existence(spots) as existence:
            started = time.time()
            sent = together(lambda spot: fixture.recipe.create(spot, refresh), spots, AT_ONCE)
            ready = fixture.ready.wait_for_all(wanted, fixture.scale.load_patience, started)
        return Burst(
            sent=sent,
            exist=existence.at - started if existence.at else None,
            ready=max(ready.values()) - started if len(ready) == len(spots) else None,
        )


def rotations(fixture: Fixture, spots: Sequence[Spot]) -> Rotations:
    """Many values are written within a second → how many arrive, and when."""
    written: dict[Name, float] = {}
    digests: dict[Name, str] = {}

    def one(spot: Spot) -> None:
        written[spot.key] = time.time()
        digests[spot.key] = write(spot)

    started = time.time()
    sent = together(one, spots)
    wanted = {name: (lambda keys, new=new: keys.get(KEY) == new) for name, new in digests.items()}
    found = fixture.secrets.wait_for_all(wanted, fixture.scale.load_patience / 2, started)
    return Rotations(
        number=len(spots),
        sent=sent,
        arrived=[at - written[name] for name, at in found.items()],
        last=max(found.values(), default=started) - started,
    )
