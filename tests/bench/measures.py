"""What is measured, in which order, and what becomes of it in the table."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Sequence

from tests.bench import latency, mass, running
from tests.bench.breakdown import Span, explain
from tests.bench.figures import Figure, Sample
from tests.bench.idle import Idle, Observer, wait_for_rest
from tests.bench.mass import Burst, Rotations
from tests.bench.stage import HURRY, PER_NAMESPACE, Spot, Stage
from tests.testbed.vaultsync import VaultsyncProcess

EVENT_DRIVEN = "1h"  # the refreshInterval that vaultsync is meant for
POLLED = "5s"  # the talk's
FEW = 5
ANY_MOMENT = latency.within(5)  # or every request would come just after a refresh of the poller
SPELLED_ROUNDS = 2

NAMES = ("seed", "heal", "write", "burst", "rotations", "idle", "sources", "keys", "poll")


class Bench:
    """One run: the figures of the measures that are wanted."""

    def __init__(self, stage: Stage, wanted: Collection[str] = NAMES, *, talk: bool = True) -> None:
        self.stage = stage
        self.scale = stage.scale
        self.wanted = wanted
        self.talk = talk
        self.breakdown: list[str] = []
        self._started = time.monotonic()
        burst, many = self.scale.burst, self.scale.many
        self._figures = {
            "seed": Figure("seed", "ExternalSecret created, path missing → value in the Secret", "< 35 ms"),
            "heal": Figure("heal", "path deleted in Vault → new value in the Secret", "< 35 ms"),
            "write": Figure("write", f"value written in Vault → in the Secret, {FEW} ExternalSecrets", "< 25 ms"),
            "write-many": Figure(
                "write", f"value written in Vault → in the Secret, {many:,} ExternalSecrets", "< 25 ms"
            ),
            "write-crowded": Figure("write", f"the same, all {many:,} in one namespace", "as ESO alone"),
            "burst-exist": Figure("burst", f"{burst} missing paths at once → every path exists", "< 2.5 s"),
            "burst-ready": Figure("burst", f"{burst} missing paths at once → all Ready", "< 1.3 × ESO alone"),
            "rotations": Figure("rotations", f"{burst} rotations within 1 s, {many:,} ExternalSecrets", "all arrive"),
            "rotations-audit": Figure("rotations", "the same, told by an audit device", "all arrive"),
            "idle": Figure(
                "idle", f"idle for {self.scale.idle_seconds:g} s, {many:,} ExternalSecrets", "0 requests, 1 connection"
            ),
            **self._source_figures(),
        }

    def _source_figures(self) -> dict[str, Figure]:
        keys = "`a`, `secret/a` and `secret/data/a`, with and without the store's `path`"
        polled = f"poll of {self.scale.most:,} paths every {self.scale.poll_interval} s"
        found = {}
        for number in (FEW, self.scale.many, self.scale.most):
            hurried = f" (ESO with {' '.join(HURRY)})" if number == self.scale.most else ""
            text = f"value written in Vault → in the Secret, {number:,} ExternalSecrets{hurried}, told by"
            found[f"events-{number}"] = Figure("sources", f"{text} the event stream", "–")
            found[f"audit-{number}"] = Figure("sources", f"{text} an audit device", "≤ 1.3 × the event stream")
        return found | {
            "keys": Figure("keys", f"values written, told by an audit device, keys {keys}", "all arrive"),
            "poll": Figure("poll", polled, "≤ 200 requests in any second"),
        }

    @property
    def figures(self) -> list[Figure]:
        return [figure for figure in self._figures.values() if figure.name in self.wanted]

    def run(self) -> None:
        """Measures everything that is wanted; the servers are the same for both contenders."""
        if "burst" in self.wanted:
            self._bursts()
        self._vaultsync()
        if self.talk:
            self._talk()
        self._sources()

    # -- vaultsync

    def _vaultsync(self) -> None:
        repeats = self.scale.repeats
        with running.vaultsync(self.stage.testbed) as process:
            if "seed" in self.wanted:
                self._say("vaultsync: ExternalSecrets are created")
                sample, spans = latency.seed(self.stage, EVENT_DRIVEN, repeats)
                self._note("seed", sample, spans, process.output())
            if "heal" in self.wanted:
                with self._filled("few", FEW, EVENT_DRIVEN) as spots:
                    self._say("vaultsync: paths are deleted")
                    sample, spans = latency.heal(self.stage, spots, repeats)
                    self._note("heal", sample, spans, process.output())
            if {"rotations", "idle"} & set(self.wanted):
                with self._filled("many", self.scale.many, EVENT_DRIVEN) as spots:
                    self._vaultsync_at_many(process, spots)
        if "write" in self.wanted:
            self._writes("write", FEW)
            self._writes("write-many", self.scale.many)
            self._writes("write-crowded", self.scale.many, per_namespace=self.scale.many)

    def _vaultsync_at_many(self, process: VaultsyncProcess, spots: Sequence[Spot]) -> None:
        if "rotations" in self.wanted:
            self._say(f"vaultsync: {self.scale.burst} rotations at once")
            found = mass.rotations(self.stage, spots[: self.scale.burst])
            self._figures["rotations"].vaultsync = _rotations_sample(found)
        if "idle" in self.wanted:
            self._say(f"vaultsync: idle for {self.scale.idle_seconds:g} s")
            found_idle = Observer(self.stage.testbed, process.pid).look_until(self.scale.idle_seconds)
            self._figures["idle"].vaultsync = _idle_sample(found_idle)

    def _writes(self, figure: str, number: int, per_namespace: int = PER_NAMESPACE) -> None:
        """Beside external-secrets alone, on the same objects: how long that takes is not vaultsync's doing."""
        repeats = self.scale.repeats
        with self._filled("write", number, EVENT_DRIVEN, per_namespace) as spots:
            self._say("external-secrets alone: values are written, and annotated by hand")
            by_hand = latency.by_hand(self.stage, spots, repeats)
            with running.vaultsync(self.stage.testbed) as process:
                self.stage.settle()  # it looks at everything first
                self._say("vaultsync: values are written")
                sample, spans = latency.rotate(self.stage, spots, repeats)
                note = f"(ESO alone, annotated by hand: {by_hand})".replace("\n", ", ")
                self._note(figure, Sample(sample.seconds, sample.lost, note=note), spans, process.output())

    def _note(self, name: str, sample: Sample, spans: Sequence[Span], log: str) -> None:
        self._figures[name].vaultsync = sample
        self.breakdown += [f"{self._figures[name].measure}:", *(f"  {line}" for line in explain(spans, log))]

    def _bursts(self) -> None:
        """In turns with external-secrets alone, so that both meet the same machine."""
        alone: list[Burst] = []
        found: list[Burst] = []
        for number in range(1, self.scale.burst_rounds + 1):
            self._say(f"external-secrets alone: {self.scale.burst} paths that exist (round {number})")
            alone.append(mass.burst(self.stage, EVENT_DRIVEN, exist=True))
            with running.vaultsync(self.stage.testbed):
                self._say(f"vaultsync: {self.scale.burst} missing paths at once (round {number})")
                found.append(mass.burst(self.stage, EVENT_DRIVEN))
        exist, ready = _burst_samples(found)
        reference = [round_.ready for round_ in alone if round_.ready is not None]
        if reference and ready.seconds:
            base = statistics.median(reference)
            ratio = statistics.median(ready.seconds) / base
            ready = Sample(ready.seconds, ready.lost, note=f"{ratio:.2f} × ESO alone (median {base:.2f} s)")
        self._figures["burst-exist"].vaultsync, self._figures["burst-ready"].vaultsync = exist, ready

    # -- what vaultsync is told by

    def _sources(self) -> None:
        scale, wanted = self.scale, set(self.wanted)
        if "keys" in wanted:
            self._say("vaultsync, by an audit device: keys in every spelling")
            sample = latency.spelled(self.stage, EVENT_DRIVEN, "audit", SPELLED_ROUNDS)
            self._figures["keys"].vaultsync = _keys_sample(sample)
        if "sources" in wanted:
            with self._filled("told", FEW, EVENT_DRIVEN) as spots:
                self._writes_by_source(spots)
        if {"sources", "rotations"} & wanted:
            with self._filled("told", scale.many, EVENT_DRIVEN) as spots:
                if "sources" in wanted:
                    self._writes_by_source(spots)
                if "rotations" in wanted:
                    self._rotations_by_audit(spots)
        if {"sources", "poll"} & wanted:
            with self.stage.hurry(), self._filled("told", scale.most, EVENT_DRIVEN) as spots:
                if "sources" in wanted:
                    self._writes_by_source(spots)
                if "poll" in wanted:
                    self._poll(spots)

    def _writes_by_source(self, spots: Sequence[Spot]) -> None:
        """In turns, so that both meet the same machine."""
        found: dict[str, list[Sample]] = {"events": [], "audit": []}
        for number in range(1, self.scale.source_rounds + 1):
            for source, samples in found.items():
                with self._at_rest(source):
                    self._say(f"vaultsync, by {source}: values are written (round {number})")
                    samples.append(latency.rotate(self.stage, spots, self.scale.repeats)[0])
        events, audit = (_sum(samples) for samples in found.values())
        if events.seconds and audit.seconds:
            ratio = statistics.median(audit.seconds) / statistics.median(events.seconds)
            audit = Sample(audit.seconds, audit.lost, note=f"{ratio:.2f} × the event stream")
        self._figures[f"events-{len(spots)}"].vaultsync = events
        self._figures[f"audit-{len(spots)}"].vaultsync = audit

    def _rotations_by_audit(self, spots: Sequence[Spot]) -> None:
        with self._at_rest("audit"):
            self._say(f"vaultsync, by audit: {self.scale.burst} rotations at once")
            found = mass.rotations(self.stage, spots[: self.scale.burst])
            self._figures["rotations-audit"].vaultsync = _rotations_sample(found)

    def _poll(self, spots: Sequence[Spot]) -> None:
        """After a first interval, in which vaultsync looks at everything as it does whatever its source."""
        interval, polls = self.scale.poll_interval, self.scale.polls
        with running.vaultsync(self.stage.testbed, "poll", {"VAULTSYNC_POLL_INTERVAL": f"{interval}s"}) as process:
            self._say(f"vaultsync, by poll: {1 + polls} intervals of {interval} s")
            time.sleep(interval)
            observer = Observer(self.stage.testbed, process.pid)
            arrived = mass.rotations(self.stage, latency.spread(spots, FEW))
            self._figures["poll"].vaultsync = _poll_sample(observer.look_until(polls * interval), arrived)

    @contextlib.contextmanager
    def _at_rest(self, source: str) -> Iterator[VaultsyncProcess]:
        with running.vaultsync(self.stage.testbed, source) as process:
            wait_for_rest(process, self.scale.mass_patience)
            self.stage.settle()
            yield process

    # -- the others

    def _talk(self) -> None:
        scale = self.scale
        with running.talk(self.stage.testbed):
            if "seed" in self.wanted:
                self._say("the talk's bash: ExternalSecrets are created")
                self._figures["seed"].talk, _ = latency.seed(self.stage, POLLED, scale.repeats)
            if {"heal", "write"} & set(self.wanted):
                with self._filled("few", FEW, POLLED) as spots:
                    self._talk_at_few(spots)
            if "burst" in self.wanted:
                self._say(f"the talk's bash: {scale.burst} missing paths at once")
                figures = _burst_samples([mass.burst(self.stage, POLLED)])
                self._figures["burst-exist"].talk, self._figures["burst-ready"].talk = figures
            if {"write", "rotations"} & set(self.wanted):
                with self._filled("many", scale.many, POLLED) as spots:
                    self._talk_at_many(spots)

    def _talk_at_few(self, spots: Sequence[Spot]) -> None:
        if "heal" in self.wanted:
            self._say("the talk's bash: paths are deleted")
            found, _ = latency.heal(self.stage, spots, self.scale.slow_repeats, ANY_MOMENT)
            self._figures["heal"].talk = found
        if "write" in self.wanted:
            self._say("the talk's bash: values are written")
            found, _ = latency.rotate(self.stage, spots, self.scale.slow_repeats, ANY_MOMENT)
            self._figures["write"].talk = found

    def _talk_at_many(self, spots: Sequence[Spot]) -> None:
        if "write" in self.wanted:
            self._say("the talk's bash: values are written")
            found, _ = latency.rotate(self.stage, spots, self.scale.slow_repeats, ANY_MOMENT)
            self._figures["write-many"].talk = found
        if "rotations" in self.wanted:
            self._say(f"the talk's bash: {self.scale.burst} rotations at once")
            arrived = mass.rotations(self.stage, spots[: self.scale.burst])
            self._figures["rotations"].talk = _rotations_sample(arrived)

    @contextlib.contextmanager
    def _filled(
        self, name: str, number: int, refresh: str, per_namespace: int = PER_NAMESPACE
    ) -> Iterator[Sequence[Spot]]:
        with self.stage.crowd(name, number, per_namespace) as spots:
            self._say(f"{number:,} ExternalSecrets are created, {min(number, per_namespace):,} in a namespace")
            self.stage.fill(spots, refresh)
            yield spots

    def _say(self, text: str) -> None:
        print(f"bench [{time.monotonic() - self._started:4.0f} s] {text}", file=sys.stderr, flush=True)


def _burst_samples(rounds: Sequence[Burst]) -> tuple[Sample, Sample]:
    sent = f"(the last was created after {statistics.median(one.sent for one in rounds):.2f} s)"
    exist = [one.exist for one in rounds if one.exist is not None]
    ready = [one.ready for one in rounds if one.ready is not None]
    return Sample(exist, len(rounds) - len(exist), note=sent), Sample(ready, len(rounds) - len(ready))


def _rotations_sample(found: Rotations) -> Sample:
    return Sample(
        found.arrived,
        lost=found.number - len(found.arrived),
        text=f"{len(found.arrived)} of {found.number}",
        note=f"written in {found.sent:.2f} s, the last arrived after {found.last:.2f} s",
    )


def _sum(samples: Sequence[Sample]) -> Sample:
    return Sample([seconds for one in samples for seconds in one.seconds], sum(one.lost for one in samples))


def _keys_sample(found: Sample) -> Sample:
    arrived = len(found.seconds)
    return Sample(found.seconds, found.lost, text=f"{arrived} of {arrived + found.lost}", note=str(found))


def _poll_sample(found: Idle, arrived: Rotations) -> Sample:
    hourly = found.cpu / found.seconds * 3600
    return Sample(
        arrived.arrived,
        lost=arrived.number - len(arrived.arrived),
        text=f"{found.requests.total() / found.seconds:.0f} requests a second, at most {found.busiest} in any",
        note=f"{found.memory:.0f} MB, {hourly:.0f} s of processor time an hour (over {found.seconds:.0f} s); "
        f"{len(arrived.arrived)} of {arrived.number} written values arrived, the last after {arrived.last:.0f} s",
    )


def _idle_sample(found: Idle) -> Sample:
    asked = ", ".join(f"{number} × {request}" for request, number in found.requests.most_common(3))
    return Sample(
        text=f"{found.requests.total()} requests{f' ({asked})' if asked else ''}, {found.connections} connection(s)",
        note=f"{found.memory:.0f} MB, {found.cpu:.2f} s of processor time",
    )
