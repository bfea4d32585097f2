"""The measures of single values: created, deleted, written; one at a time, from just before the request is sent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from tests.bench.breakdown import Span
from tests.bench.figures import Sample
from tests.bench.stage import SETTLE_SECONDS, Stage, create, write
from tests.bench.watching import Name
from tests.testbed.place import Place


def seed(stage: Stage, refresh: str, repeats: int) -> tuple[Sample, list[Span]]:
    """An ExternalSecret is created whose path is missing → there is a value in the Kubernetes Secret."""

    def one(place: Place, name: str) -> float:
        started = time.time()
        create(place, name, refresh)
        return started

    with stage.place("seed") as place:
        return _repeat(stage, place, [f"es-{i}" for i in range(repeats)], one, keep=False)


def heal(
    stage: Stage, place: Place, names: Sequence[str], repeats: int, pause: Callable[[], float] = lambda: 0.0
) -> tuple[Sample, list[Span]]:
    """A path is deleted in Vault → there is a new value in the Kubernetes Secret.

    `pause` gives further seconds before a deletion: a poller's figure depends on when it is asked.
    """

    def one(place: Place, name: str) -> float:
        time.sleep(pause())
        started = time.time()
        place.vault.delete(place.path(name))
        return started

    return _repeat(stage, place, _spread(names, repeats), one)


def rotate(
    stage: Stage, place: Place, names: Sequence[str], repeats: int, pause: Callable[[], float] = lambda: 0.0
) -> tuple[Sample, list[Span]]:
    """A value is written in Vault → it is in the Kubernetes Secret.

    `pause` as in `heal`.
    """

    def one(place: Place, name: str) -> float:
        time.sleep(pause())
        started = time.time()
        write(place, name)
        return started

    return _repeat(stage, place, _spread(names, repeats), one)


def by_hand(stage: Stage, place: Place, names: Sequence[str], repeats: int) -> Sample:
    """An admin annotates the ExternalSecret right after a write: the share of external-secrets alone."""
    seconds: list[float] = []
    for i in range(repeats):
        name = names[i % len(names)]
        time.sleep(SETTLE_SECONDS)
        before = stage.current(place, name)
        write(place, name)
        sent = time.time()
        place.annotate(name, force_sync=str(sent))
        arrived = stage.arrival(place, name, before, sent)
        seconds += [arrived - sent] if arrived is not None else []
    return Sample(seconds, lost=repeats - len(seconds))


def within(seconds: float) -> Callable[[], float]:
    """A pause of random length."""
    return lambda: secrets.randbelow(round(seconds * 1000)) / 1000


def _spread(names: Sequence[str], number: int) -> list[str]:
    """As many of the names as wanted, from all over them; some more than once where there are too few."""
    step = max(1, len(names) // number)
    return [names[i * step % len(names)] for i in range(number)]


def _repeat(
    stage: Stage, place: Place, names: Sequence[str], send: Callable[[Place, str], float], *, keep: bool = True
) -> tuple[Sample, list[Span]]:
    spans: list[Span] = []
    for name in names:
        time.sleep(SETTLE_SECONDS)
        before = stage.current(place, name)
        sent = send(place, name)
        arrived = stage.arrival(place, name, before, sent)
        if arrived is not None:
            spans.append(Span(Name(place.name, name), sent, arrived))
        if not keep:  # so that the number of ExternalSecrets stays the same
            place.delete(name)
    return Sample([span.arrived - span.sent for span in spans], lost=len(names) - len(spans)), spans
