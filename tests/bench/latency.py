"""The measures of single values: created, deleted, written; one at a time, from just before the request is sent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from tests.bench import running
from tests.bench.breakdown import Span
from tests.bench.figures import Sample
from tests.bench.fixture import KEY, SETTLE_SECONDS, Fixture, Spot, write
from tests.bench.idle import wait_for_rest
from tests.testbed.place import STORE

HOPELESS = 2
"""Give up after this many losses without a single arrival."""
WITHOUT_PATH = "without-path"
SPELLINGS = (
    (STORE, "{}"),
    (STORE, "secret/{}"),
    (STORE, "secret/data/{}"),
    (WITHOUT_PATH, "secret/{}"),
    (WITHOUT_PATH, "secret/data/{}"),
)
"""Store and key: each way in which external-secrets finds a path in the mount `secret`."""


def seed(fixture: Fixture, refresh: str, repeats: int) -> tuple[Sample, list[Span]]:
    """An ExternalSecret is created whose path is missing → there is a value in the Kubernetes Secret."""

    def one(spot: Spot) -> float:
        started = time.time()
        fixture.recipe.create(spot, refresh)
        return started

    with fixture.crowd("seed", repeats, repeats) as spots:
        return _repeat(fixture, spots, one, keep=False)


def heal(
    fixture: Fixture, spots: Sequence[Spot], repeats: int, pause: Callable[[], float] = lambda: 0.0
) -> tuple[Sample, list[Span]]:
    """A path is deleted in Vault → there is a new value in the Kubernetes Secret.

    `pause` returns additional seconds before a deletion: a poller's figure depends on the moment.
    """

    def one(spot: Spot) -> float:
        time.sleep(pause())
        started = time.time()
        spot.place.vault.delete(spot.place.path(spot.name))
        return started

    return _repeat(fixture, spread(spots, repeats), one)


def rotate(
    fixture: Fixture, spots: Sequence[Spot], repeats: int, pause: Callable[[], float] = lambda: 0.0
) -> tuple[Sample, list[Span]]:
    """A value is written in Vault → it is in the Kubernetes Secret.

    `pause` as in `heal`.
    """

    def one(spot: Spot) -> float:
        time.sleep(pause())
        started = time.time()
        write(spot)
        return started

    return _repeat(fixture, spread(spots, repeats), one)


def by_hand(fixture: Fixture, spots: Sequence[Spot], repeats: int) -> Sample:
    """An admin annotates the ExternalSecret right after a write: the share of external-secrets alone."""

    def one(spot: Spot) -> float:
        write(spot)
        started = time.time()
        spot.place.annotate(spot.name, force_sync=str(started))
        return started

    return _repeat(fixture, spread(spots, repeats), one)[0]


def spelled(fixture: Fixture, refresh: str, source: str, rounds: int) -> Sample:
    """A value is written whose path the ExternalSecret spells in any way → it is in the Kubernetes Secret."""
    spelling: dict[Spot, tuple[str, str]] = {}

    def make(spot: Spot, refresh: str) -> None:
        store, key = spelling[spot]
        data = {KEY: (key.format(spot.place.path(spot.name)), KEY)}
        spot.place.external_secret(spot.name, data, store=store, refresh=refresh, absolute=True)

    with fixture.crowd("spelled", len(SPELLINGS), len(SPELLINGS)) as spots:
        spelling.update(zip(spots, SPELLINGS, strict=True))
        spots[0].place.store(WITHOUT_PATH, path=None)
        fixture.fill(spots, refresh, make)
        with running.vaultsync(fixture.testbed, source) as process:
            wait_for_rest(process, fixture.scale.load_patience)
            return rotate(fixture, spots, rounds * len(SPELLINGS))[0]


def within(seconds: float) -> Callable[[], float]:
    """A pause of random length."""
    return lambda: secrets.randbelow(round(seconds * 1000)) / 1000


def spread(spots: Sequence[Spot], number: int) -> list[Spot]:
    """Evenly spread selection of the spots; some are repeated if there are too few."""
    step = max(1, len(spots) // number)
    return [spots[i * step % len(spots)] for i in range(number)]


def _repeat(
    fixture: Fixture, spots: Sequence[Spot], send: Callable[[Spot], float], *, keep: bool = True
) -> tuple[Sample, list[Span]]:
    spans: list[Span] = []
    lost = 0
    for spot in spots:
        if lost == HOPELESS and not spans:
            break
        time.sleep(SETTLE_SECONDS)
        before = fixture.current(spot)
        sent = send(spot)
        arrived = fixture.arrival(spot, before, sent)
        if arrived is None:
            lost += 1
        else:
            spans.append(Span(spot.key, sent, arrived))
        if not keep:  # keeps the number of ExternalSecrets constant
            spot.place.delete(spot.name)
    return Sample([span.arrived - span.sent for span in spans], lost, fixture.scale.patience), spans
