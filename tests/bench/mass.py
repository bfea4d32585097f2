"""The measures of many at once: missing paths, and rotations among a thousand ExternalSecrets."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.stage import KEY, Stage, create, is_true, together
from tests.bench.watching import Name, digest
from tests.testbed.place import Place

LIST_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Burst:
    """Seconds from just before the first ExternalSecret is sent; None: it did not come to that.

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
    """When all paths of a place exist in Vault: asks again and again, in a thread of its own."""

    def __init__(self, place: Place, number: int) -> None:
        self._place = place
        self._number = number
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
        while not self._stop.wait(LIST_SECONDS):
            if len(self._place.vault.names(self._place.name)) >= self._number:
                self.at = time.time()
                return


def burst(stage: Stage, refresh: str, *, exist: bool = False) -> Burst:
    """Many ExternalSecrets are created whose paths are missing, or (`exist`) were there before."""
    names = [f"es-{i}" for i in range(stage.scale.burst)]
    with stage.place("burst") as place:
        stage.settle()
        if exist:
            together(lambda name: place.put(name, **{KEY: secrets.token_hex(32)}), names)
        wanted = {Name(place.name, name): is_true for name in names}
        with Existence(place, len(names)) as existence:
            started = time.time()
            sent = together(lambda name: create(place, name, refresh), names)
            ready = stage.ready.wait_for_all(wanted, stage.scale.mass_patience, started)
        return Burst(
            sent=sent,
            exist=existence.at - started if existence.at else None,
            ready=max(ready.values()) - started if len(ready) == len(names) else None,
        )


def rotations(stage: Stage, place: Place, names: Sequence[str]) -> Rotations:
    """Many values are written within a second → how many arrive, and when."""
    values = {name: secrets.token_hex(32) for name in names}
    digests = {Name(place.name, name): digest(value) for name, value in values.items()}
    written: dict[Name, float] = {}

    def one(name: str) -> None:
        written[Name(place.name, name)] = time.time()
        place.put(name, **{KEY: values[name]})

    started = time.time()
    sent = together(one, names)
    wanted = {name: (lambda keys, new=new: keys.get(KEY) == new) for name, new in digests.items()}
    found = stage.secrets.wait_for_all(wanted, stage.scale.mass_patience / 2, started)
    return Rotations(
        number=len(names),
        sent=sent,
        arrived=[at - written[name] for name, at in found.items()],
        last=max(found.values(), default=started) - started,
    )
