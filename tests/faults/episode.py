"""One episode: steps chosen by a seed, with overlapping faults; then all faults end and invariants are checked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from urllib3.exceptions import HTTPError

from tests.faults.actions import (
    ACTIONS,
    CREATIONS,
    FEWEST_NAMESPACES,
    NEW_NAMESPACE,
    TROUBLES,
    Action,
    Trouble,
    values_for,
)
from tests.faults.environment import HEAL_LIMIT, MODES, Away, Environment
from tests.faults.history import Request, beyond, busiest
from tests.faults.invariants import (
    Usage,
    lacking,
    left_behind,
    may_be_lost,
    recreated,
    replaced,
    shown,
    stale,
    storms,
    touched,
    trespasses,
    unforeseen,
    usage,
)
from tests.faults.model import is_denied
from tests.testbed.api import ApiError

STEPS = 60
PAUSE = (0.05, 0.6)
"""Seconds between two steps."""
LASTS = (5, 25)
"""Steps until a fault ends."""
TROUBLE_RATE = 0.16
"""Probability of a new fault in a step."""
MOST_TROUBLES = 3
SOON = 10.0
"""Seconds after the faults in which everything must recover on an idle machine."""
PATIENCE = 12 * SOON
"""On a busy machine; requests that failed in Vault or external-secrets are retried after twice that time."""
REST_PATIENCE = 90.0
"""Seconds until idle connections are closed, 30 at most, with a margin for the machine."""
BEGINNING = 12
"""ExternalSecrets that are created first, without faults."""
RESTORE_RATE = 0.5
"""Probability that lost values are restored at the end, and not all created again."""
UNTOUCHED_SECONDS = 1.5
"""In which vaultsync would create a deleted value again."""
TRIES = 20
"""Attempts to find an action that is possible now."""


class Broken(AssertionError):
    """An invariant does not hold; the message says which, and has the history of the episode."""


@dataclass
class Story:
    """The history of an episode, in sentences."""

    sentences: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def tell(self, sentence: str) -> None:
        self.sentences.append(f"{time.monotonic() - self.began:6.1f} s  {sentence}")

    def __str__(self) -> str:
        return "\n".join(self.sentences)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The measured times of an episode, in seconds after the faults.

    Attributes:
        seeded: until Vault had every allowed value.
        brought: until the Secrets had them too.
        rested: until resource usage was back to the start.
        busiest: vaultsync's requests to Vault in the busiest second.
    """

    seeded: float
    brought: float
    rested: float
    busiest: int

    def __str__(self) -> str:
        return (
            f"in Vault after {self.seeded:.1f} s, in the Secrets after {self.brought:.1f} s, at rest after "
            f"{self.rested:.1f} s, {self.busiest} requests in the busiest second"
        )


class Episode:
    """One episode in an environment, by a seed.

    Args:
        say: receives each sentence as it is recorded.
    """

    def __init__(self, environment: Environment, seed: int, say: Callable[[str], None] = lambda _: None) -> None:
        self._environment = environment
        self._seed = seed
        self._rng = random.Random(seed)
        self._say = say
        self._story = Story()
        self._first = 0
        """Index of the episode's first request to Vault."""
        self._troubles: dict[str, tuple[int, Trouble]] = {}
        """The current faults by the affected part, with the step at which they end."""

    def run(self, steps: int = STEPS) -> Outcome:
        """Runs the episode.

        Raises:
            Broken: an invariant does not hold.
        """
        environment = self._environment
        mode = MODES[self._seed % len(MODES)]
        self._record(f"seed {self._seed}: {mode}")
        self._first = len(environment.requests())
        environment.start_vaultsync(mode)
        while len(environment.namespaces) < FEWEST_NAMESPACES:
            self._act([NEW_NAMESPACE])
        for _ in range(BEGINNING):
            self._act(CREATIONS)
        self._wait("before anything breaks", lambda: lacking(environment, environment.picture()))
        self._wait_until_brought()
        before = self._usages()
        for step in range(steps):
            self._end_faults(step)
            if self._rng.random() < TROUBLE_RATE and len(self._troubles) < MOST_TROUBLES:
                self._break(step)
            else:
                self._act()
            time.sleep(self._rng.uniform(*PAUSE))
        return self._end(before)

    # -- steps

    def _act(self, actions: Sequence[Action] = ACTIONS) -> None:
        stopped = frozenset[str]().union(*(trouble.stops for _, trouble in self._troubles.values()))
        possible = [action for action in actions if not action.needs & stopped]
        for _ in range(TRIES if possible else 0):
            action = self._rng.choices(possible, [action.weight for action in possible])[0]
            try:
                sentence = action.do(self._environment, self._rng)
            except Away as error:
                sentence = f"{action.do.__name__.replace('_', ' ')}: {error}"
            if sentence:
                self._record(sentence)
                return

    def _break(self, step: int) -> None:
        replicas = self._environment.mode.replicas
        free = [one for one in TROUBLES if one.on not in self._troubles and one.replica < replicas]
        on = self._rng.choice(sorted({one.on for one in free}))
        trouble = self._rng.choice([one for one in free if one.on == on])
        until = step + self._rng.randint(*LASTS)
        self._record(trouble.what)
        trouble.start(self._environment)
        self._troubles[trouble.on] = (until, trouble)

    def _end_faults(self, step: float) -> None:
        for on, (until, trouble) in sorted(self._troubles.items(), key=lambda item: item[1][1].after):
            if until <= step and trouble.after not in self._troubles:
                trouble.end(self._environment)
                del self._troubles[on]
                self._record(trouble.fixed)

    # -- the end

    def _end(self, before: dict[bool, Usage]) -> Outcome:
        environment = self._environment
        self._end_faults(float("inf"))
        if not environment.eso.process.alive:  # it exits earlier than vaultsync, and Kubernetes restarts it
            environment.eso.start()
        self._wait("requests that are sent again", self._made_sure)
        self._wait("values that no longer expire", self._kept)
        self._record("all faults are over")
        lost = may_be_lost(environment, self._check_writes()[self._first :])
        others = lost | environment.pushed()
        seeded = self._wait("I1, in Vault", lambda: lacking(environment, environment.picture(), others))
        self._check_owners()
        seeded += self._wait("I1, without other owners", lambda: lacking(environment, environment.picture(), lost))
        self._help()
        seeded += self._wait("I1, in Vault with a person's help", lambda: lacking(environment, environment.picture()))
        brought = seeded + self._wait_until_brought()
        environment.wait_until_ready()  # including one that was just started
        picture = environment.picture()
        requests = self._check_writes()
        log = environment.news()
        self._check("I4", shown(environment, picture, log))
        self._check("unexpected errors", unforeseen(environment, log))
        new = requests[self._first :]
        self._check("I5", storms(new))
        rested = brought + self._wait("I6", lambda: self._left_behind(before), REST_PATIENCE)
        outcome = Outcome(seeded, brought, rested, busiest([one for one in new if one.own], 1.0))
        self._record(str(outcome))
        for leads, now in self._usages().items():
            who = "the leader" if leads else "a standby"
            self._record(f"{who} uses {now}; at first {before.get(leads, 'not known')}")
        environment.forget_losses()
        return outcome

    def _kept(self) -> list[str]:
        """An operator writes new values without an expiry."""
        environment = self._environment
        for spot in sorted(environment.losses.expiring):
            environment.keep(spot, values_for(environment, self._rng, 2))
            environment.losses.expiring.discard(spot)
        return []

    def _check_owners(self) -> None:
        """Deletes the values of PushSecrets, and of namespaces that are being deleted: vaultsync must not create them.

        It may have learned late whose they are, and so gets more than one chance.
        """
        environment = self._environment
        spots = environment.pushed().union(*environment.losses.ending.values())
        spots = {spot for spot in spots if not is_denied(spot)}
        if not spots:
            return

        def wrong() -> list[str]:
            first = len(environment.requests())
            for spot in spots:
                environment.vault.delete(spot.path, spot.mount)
            time.sleep(UNTOUCHED_SECONDS)
            return touched(environment.requests()[first:], spots)

        self._record(f"values of other owners are deleted: {', '.join(map(str, sorted(spots)))}")
        self._wait("I2, for values of other owners", wrong)
        for name in sorted(environment.pushes):
            environment.remove_push(name)
        environment.finish_namespaces()

    def _help(self) -> None:
        """An operator restores lost values, or a person approves new ones."""
        environment = self._environment
        if environment.losses.mounts and self._rng.random() < RESTORE_RATE:
            self._record(f"the values of Secrets are written to {environment.restore()} lost paths")
        if lost := lacking(environment, environment.picture()):
            environment.approve(environment.namespaces)
            self._record(f"a person approves new values: {', '.join(lost)}")

    def _wait_until_brought(self) -> float:
        """external-secrets backs off after its own failures, such as to write a status: restart it if that is too long.

        A restart does not hide a missing force-sync: a path that was read is read again only after an hour.
        """
        environment, started = self._environment, time.monotonic()
        try:
            return self._wait("I1, in the Secrets", lambda: stale(environment, environment.picture()), 3 * SOON)
        except Broken as error:
            self._record(f"external-secrets is restarted: {str(error).splitlines()[1].strip()}")
        environment.eso.restart()
        self._wait("I1, in the Secrets", lambda: stale(environment, environment.picture()))
        return time.monotonic() - started

    def _made_sure(self) -> list[str]:
        self._environment.make_sure()
        return []

    def _check_writes(self) -> list[Request]:
        """Checks I2 and I3, which hold at any time. Returns all requests to Vault so far."""
        requests = self._environment.requests()
        self._check("I2", replaced(self._environment, requests))
        lost = recreated(self._environment, requests, self._first)
        self._check("I2, of lost values", beyond(lost, HEAL_LIMIT, self._environment.terms()))
        self._check("I3", trespasses(self._environment, requests))
        return requests

    def _usages(self) -> dict[bool, Usage]:
        """The usage of each replica, by whether it leads."""
        leader = self._environment.leader()
        return {process is leader: usage(self._environment, process) for process in self._environment.replicas}

    def _left_behind(self, before: dict[bool, Usage]) -> list[str]:
        return [
            f"{'the leader' if leads else 'a standby'} uses {words}"
            for leads, now in self._usages().items()
            if leads in before
            for words in left_behind(before[leads], now)
        ]

    def _wait(self, what: str, wrong: Callable[[], list[str]], patience: float = PATIENCE) -> float:
        """Waits until nothing is wrong; returns the seconds."""
        started = time.monotonic()
        last: list[str] = []
        while True:
            try:
                found = wrong()
            except (ApiError, Away, HTTPError) as error:  # the server has just started
                found = [str(error)]
            took = time.monotonic() - started
            if not found:
                if took > SOON:
                    self._record(f"{what}: {took:.0f} s until this held too: {', '.join(last)}")
                return took
            last = found
            if took > patience:
                self._check(f"{what}, after {took:.0f} s", found)
            time.sleep(0.1)

    def _check(self, what: str, wrong: list[str]) -> None:
        if wrong:
            raise Broken(f"{what}:\n" + "\n".join(f"  {words}" for words in wrong[:20]) + f"\n\n{self._story}")

    def _record(self, sentence: str) -> None:
        self._story.tell(sentence)
        self._say(sentence)
