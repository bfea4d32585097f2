"""The measures, their order, and their rows in the tables."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import latency, load, running, states
from tests.bench import scale as sizes
from tests.bench.breakdown import Span, explain
from tests.bench.entries import Taken, measure, recorded
from tests.bench.figures import VAULTSYNC, Columns, Figure, Sample
from tests.bench.fixture import HURRY, PER_NAMESPACE, Fixture, Spot
from tests.bench.idle import Idle, Observer, Rest, rest, wait_for_rest
from tests.bench.load import Burst, Rotations
from tests.bench.peers import PEERS, POLLED, Peer
from tests.testbed.two_machines import TwoMachines
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.config.change_source import Transport
from vaultsync.config.settings import Settings

EVENT_DRIVEN = "1h"  # the refreshInterval that vaultsync is meant for
FEW = 5
ANY_MOMENT = latency.within(5)  # otherwise every request would follow a refresh of the poller
SPELLED_ROUNDS = 2
MOST_PER_NAMESPACE = 25
"""For ten thousand: setting up a thousand namespaces would take longer than measuring them."""

NAMES = (
    *("seed", "heal", "write", "burst", "rotations", "idle", "rest", "sources", "keys", "poll", "entries", "scale"),
    "states",
    "help",
)
BESIDE = "vaultsync beside its peers"
AT_SIZES = "vaultsync by the number of ExternalSecrets"
IN_STATES = "Vault in every state of vaultsync"
CONTENDERS = {VAULTSYNC: "vaultsync", **{peer.key: peer.title for peer in PEERS}}


def columns(title: str, figures: Sequence[Figure]) -> Columns:
    """The columns of one of the tables."""
    if title == BESIDE:
        return Columns(title, CONTENDERS)
    if title == IN_STATES:
        return Columns(title, states.COLUMNS)
    sizes = sorted({int(size) for figure in figures for size in figure.samples})
    return Columns(title, {str(size): f"{size:,}" for size in sizes})


class Bench:
    """One run: the figures of the measures that are wanted.

    Args:
        peers: the contenders that vaultsync is compared with.
        profiles: a folder for profiles of vaultsync in the measures of `scale`.
    """

    def __init__(
        self,
        fixture: Fixture,
        wanted: Collection[str] = NAMES,
        peers: Sequence[Peer] = PEERS,
        profiles: Path | None = None,
    ) -> None:
        self.fixture = fixture
        self.scale = fixture.scale
        self.wanted = wanted
        self.peers = peers
        self.profiles = profiles
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
            **self._burst_figures(),
            "rotations": Figure("rotations", f"{burst} rotations within 1 s, {many:,} ExternalSecrets", "all arrive"),
            "rotations-audit": Figure("rotations", "the same, reported by an audit device", "all arrive"),
            "idle": Figure(
                "idle",
                f"idle for {self.scale.idle_seconds:g} s, {many:,} ExternalSecrets",
                "1 request (the canary), 1 connection",
            ),
            "rest": Figure(
                "rest",
                f"at rest with {self.scale.some:,} ExternalSecrets: requests to Vault in an hour",
                "the canaries",
            ),
            **self._source_figures(),
            "help": Figure("help", "`vaultsync --help`, until it ends", "≤ 0.25 s"),
        }
        self._at_sizes = sizes.rows()
        self._in_states = states.rows()

    def _burst_figures(self) -> dict[str, Figure]:
        found = {}
        for number in self.scale.bursts:
            text, target = f"{number} missing paths at once →", "< 2.5 s" if number == self.scale.burst else "–"
            found[f"burst-exist-{number}"] = Figure("burst", f"{text} every path exists", target)
            found[f"burst-ready-{number}"] = Figure("burst", f"{text} all Ready", "< 1.3 × ESO alone")
        return found

    def _source_figures(self) -> dict[str, Figure]:
        keys = "`a`, `secret/a` and `secret/data/a`, with and without the store's `path`"
        polled = f"poll of {self.scale.most:,} paths every {self.scale.poll_interval} s"
        found = {}
        for number in (FEW, self.scale.many, self.scale.most):
            hurried = f" (ESO with {' '.join(HURRY)})" if number == self.scale.most else ""
            text = f"value written in Vault → in the Secret, {number:,} ExternalSecrets{hurried}, reported by"
            found[f"events-{number}"] = Figure("sources", f"{text} the event stream", "–")
            found[f"audit-{number}"] = Figure("sources", f"{text} an audit device", "≤ 1.3 × the event stream")
        return found | {
            "keys": Figure("keys", f"values written, reported by an audit device, keys {keys}", "all arrive"),
            "poll": Figure("poll", polled, "≤ 200 requests in any second"),
            "entries-udp": Figure(
                "entries", "recorded audit entries taken in a second of processor time, UDP", "≥ 50,000"
            ),
            "entries-tcp": Figure("entries", "the same, TCP", "–"),
        }

    @property
    def figures(self) -> dict[str, list[Figure]]:
        """The measured figures, by the title of their table."""
        tables = {BESIDE: self._figures, AT_SIZES: self._at_sizes, IN_STATES: self._in_states}
        found = {title: [figure for figure in table.values() if figure.samples] for title, table in tables.items()}
        return {title: table for title, table in found.items() if table}

    def run(self) -> None:
        """Measures everything that is wanted; the servers are the same for both contenders."""
        if "help" in self.wanted:
            self._say("vaultsync: --help")
            self._figures["help"].samples[VAULTSYNC] = Sample(running.help_seconds(self.scale.repeats))
        if "burst" in self.wanted:
            for number in self.scale.bursts:
                self._bursts(number)
        self._vaultsync()
        for peer in self.peers:
            self._peer(peer)
        self._sources()
        if "states" in self.wanted:
            with TwoMachines() as machines:
                self._in_states = states.States(machines, self.scale, self._say).run()

    # -- vaultsync

    def _vaultsync(self) -> None:
        repeats = self.scale.repeats
        if not {"seed", "heal", "rotations", "idle", "rest", "write"} & set(self.wanted):
            return
        with running.vaultsync(self.fixture.testbed) as process:
            if "seed" in self.wanted:
                self._say("vaultsync: ExternalSecrets are created")
                sample, spans = latency.seed(self.fixture, EVENT_DRIVEN, repeats)
                self._note("seed", sample, spans, process.output())
            if "heal" in self.wanted:
                with self._filled("few", FEW, EVENT_DRIVEN) as spots:
                    self._say("vaultsync: paths are deleted")
                    sample, spans = latency.heal(self.fixture, spots, repeats)
                    self._note("heal", sample, spans, process.output())
            if "rest" in self.wanted:
                self._rest(VAULTSYNC, self.fixture, EVENT_DRIVEN, process.pid)
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
            found = load.rotations(self.fixture, spots[: self.scale.burst])
            self._figures["rotations"].samples[VAULTSYNC] = _rotations_sample(found)
        if "idle" in self.wanted:
            self._say(f"vaultsync: idle for {self.scale.idle_seconds:g} s")
            found_idle = Observer(self.fixture.testbed, process.pid).look_until(self.scale.idle_seconds)
            self._figures["idle"].samples[VAULTSYNC] = _idle_sample(found_idle)

    def _rest(self, contender: str, fixture: Fixture, refresh: str, pid: int | None) -> None:
        with self._filled("rest", self.scale.some, refresh, fixture=fixture):
            time.sleep(sizes.QUIET_SECONDS)
            self._say(f"{CONTENDERS[contender]}: at rest for {self.scale.idle_seconds:g} s")
            found = rest(self.fixture.testbed, self.scale.idle_seconds, pid)
        canaries = sizes.HOUR / Settings.model_fields["canary_interval"].default if contender == VAULTSYNC else 0.0
        self._figures["rest"].samples[contender] = _rest_sample(found, canaries)

    def _writes(self, figure: str, number: int, per_namespace: int = PER_NAMESPACE) -> None:
        """Compared with external-secrets alone on the same objects, to separate its share of the latency."""
        repeats = self.scale.repeats
        with self._filled("write", number, EVENT_DRIVEN, per_namespace) as spots:
            self._say("external-secrets alone: values are written, and annotated by hand")
            by_hand = latency.by_hand(self.fixture, spots, repeats)
            with running.vaultsync(self.fixture.testbed) as process:
                self.fixture.settle()  # wait for the initial scan
                self._say("vaultsync: values are written")
                sample, spans = latency.rotate(self.fixture, spots, repeats)
                note = f"(ESO alone, annotated by hand: {by_hand})".replace("\n", ", ")
                self._note(figure, replace(sample, note=note), spans, process.output())

    def _note(self, name: str, sample: Sample, spans: Sequence[Span], log: str) -> None:
        self._figures[name].samples[VAULTSYNC] = sample
        self.breakdown += [f"{self._figures[name].measure}:", *(f"  {line}" for line in explain(spans, log))]

    def _bursts(self, number: int) -> None:
        """Alternates with external-secrets alone, so that both see the same machine load."""
        alone: list[Burst] = []
        found: list[Burst] = []
        for round_ in range(1, self.scale.burst_rounds + 1):
            self._say(f"external-secrets alone: {number} paths that exist (round {round_})")
            alone.append(load.burst(self.fixture, number, EVENT_DRIVEN, exist=True))
            with running.vaultsync(self.fixture.testbed):
                self._say(f"vaultsync: {number} missing paths at once (round {round_})")
                found.append(load.burst(self.fixture, number, EVENT_DRIVEN))
        exist, ready = _burst_samples(found, self.scale.load_patience)
        reference = [burst.ready for burst in alone if burst.ready is not None]
        if reference and ready.seconds:
            base = statistics.median(reference)
            ratio = statistics.median(ready.seconds) / base
            ready = replace(ready, note=f"{ratio:.2f} × ESO alone (median {base:.2f} s)")
        self._note_burst(number, VAULTSYNC, exist, ready)

    def _note_burst(self, number: int, contender: str, exist: Sample, ready: Sample) -> None:
        self._figures[f"burst-exist-{number}"].samples[contender] = exist
        self._figures[f"burst-ready-{number}"].samples[contender] = ready

    # -- the sources of changes

    def _entries(self) -> None:
        """Replays the audit entries that Vault recorded while vaultsync and operators worked on it."""
        with self._filled("entries", self.scale.some, EVENT_DRIVEN) as spots, running.vaultsync(self.fixture.testbed):
            load.rotations(self.fixture, spots)
            found = recorded(running.audit_log(self.fixture.testbed))
        for transport in (Transport.UDP, Transport.TCP):
            self._say(f"vaultsync: audit entries over {transport.value}")
            taken = measure(transport, found, self.scale.entries)
            self._figures[f"entries-{transport.value}"].samples[VAULTSYNC] = _entries_sample(taken)

    def _sources(self) -> None:
        scale, wanted = self.scale, set(self.wanted)
        if "entries" in wanted:
            self._entries()
        if "keys" in wanted:
            self._say("vaultsync, by an audit device: keys in every spelling")
            sample = latency.spelled(self.fixture, EVENT_DRIVEN, "audit", SPELLED_ROUNDS)
            self._figures["keys"].samples[VAULTSYNC] = _keys_sample(sample)
        if "sources" in wanted:
            with self._filled("sources", FEW, EVENT_DRIVEN) as spots:
                self._writes_by_source(spots)
        if "scale" in wanted:
            with self._filled("size", scale.some, EVENT_DRIVEN, MOST_PER_NAMESPACE) as spots:
                self._at_size(spots)
        if {"sources", "rotations", "scale"} & wanted:
            with self._filled("sources", scale.many, EVENT_DRIVEN) as spots:
                if "sources" in wanted:
                    self._writes_by_source(spots)
                if "rotations" in wanted:
                    self._rotations_by_audit(spots)
                if "scale" in wanted:
                    self._at_size(spots)
        if {"sources", "poll", "scale"} & wanted:
            most = self._filled("sources", scale.most, EVENT_DRIVEN, MOST_PER_NAMESPACE, clean=False)
            with self.fixture.hurry(), most as spots:
                if "scale" in wanted:
                    self._at_size(spots)
                if "sources" in wanted:
                    self._writes_by_source(spots)
                if "poll" in wanted:
                    self._poll(spots)

    def _at_size(self, spots: Sequence[Spot]) -> None:
        size = len(spots)
        profile = partial(_profiled, self.profiles, size)
        with sizes.watch_marks(self.fixture.testbed) as marks:
            say = partial(self._say_at, size)
            found = sizes.AtSize(self.fixture, spots, marks, say, profile).run()
        for name, sample in found.items():
            self._at_sizes[name].samples[str(size)] = sample
        memory = {int(key): sample for key, sample in self._at_sizes["memory"].samples.items()}
        more = sizes.each_more(memory)
        self._at_sizes["each"].samples |= {str(other): sample for other, sample in more.items()}

    def _writes_by_source(self, spots: Sequence[Spot]) -> None:
        """Alternates the sources, so that both see the same machine load."""
        found: dict[str, list[Sample]] = {"events": [], "audit": []}
        for number in range(1, self.scale.source_rounds + 1):
            for source, samples in found.items():
                with self._at_rest(source):
                    self._say(f"vaultsync, by {source}: values are written (round {number})")
                    samples.append(latency.rotate(self.fixture, spots, self.scale.repeats)[0])
        events, audit = (_sum(samples) for samples in found.values())
        if events.seconds and audit.seconds:
            ratio = statistics.median(audit.seconds) / statistics.median(events.seconds)
            audit = replace(audit, note=f"{ratio:.2f} × the event stream")
        self._figures[f"events-{len(spots)}"].samples[VAULTSYNC] = events
        self._figures[f"audit-{len(spots)}"].samples[VAULTSYNC] = audit

    def _rotations_by_audit(self, spots: Sequence[Spot]) -> None:
        with self._at_rest("audit"):
            self._say(f"vaultsync, by audit: {self.scale.burst} rotations at once")
            found = load.rotations(self.fixture, spots[: self.scale.burst])
            self._figures["rotations-audit"].samples[VAULTSYNC] = _rotations_sample(found)

    def _poll(self, spots: Sequence[Spot]) -> None:
        """Starts after the first interval, which contains the initial scan that every source needs."""
        interval, polls = self.scale.poll_interval, self.scale.polls
        with running.vaultsync(self.fixture.testbed, "poll", {"VAULTSYNC_POLL_INTERVAL": f"{interval}s"}) as process:
            self._say(f"vaultsync, by poll: {1 + polls} intervals of {interval} s")
            time.sleep(interval)
            observer = Observer(self.fixture.testbed, process.pid)
            arrived = load.rotations(self.fixture, latency.spread(spots, FEW))
            self._figures["poll"].samples[VAULTSYNC] = _poll_sample(observer.look_until(polls * interval), arrived)

    @contextlib.contextmanager
    def _at_rest(self, source: str) -> Iterator[VaultsyncProcess]:
        with running.vaultsync(self.fixture.testbed, source) as process:
            wait_for_rest(process, self.scale.load_patience)
            self.fixture.settle()
            yield process

    # -- the others

    def _peer(self, peer: Peer) -> None:
        fixture, wanted = peer.on(self.fixture), set(self.wanted)
        with peer.start(fixture.testbed) as started:
            if "rest" in wanted:
                self._rest(peer.key, fixture, POLLED, started.pid if started else None)
            if "seed" in wanted:
                self._say(f"{peer.title}: ExternalSecrets are created")
                self._figures["seed"].samples[peer.key], _ = latency.seed(fixture, POLLED, fixture.scale.repeats)
            if {"heal", "write"} & wanted:
                with self._filled("few", FEW, POLLED, fixture=fixture) as spots:
                    self._peer_at_few(peer, fixture, spots)
            if "burst" in wanted:
                for number in fixture.scale.bursts:
                    self._say(f"{peer.title}: {number} missing paths at once")
                    found = [load.burst(fixture, number, POLLED)]
                    self._note_burst(number, peer.key, *_burst_samples(found, fixture.scale.load_patience))
            if peer.many and {"write", "rotations"} & wanted:
                with self._filled("many", fixture.scale.many, POLLED, fixture=fixture) as spots:
                    self._peer_at_many(peer, fixture, spots)

    def _peer_at_few(self, peer: Peer, fixture: Fixture, spots: Sequence[Spot]) -> None:
        if "write" in self.wanted:
            self._say(f"{peer.title}: values are written")
            found, _ = latency.rotate(fixture, spots, fixture.scale.slow_repeats, ANY_MOMENT)
            self._figures["write"].samples[peer.key] = found
        if "heal" in self.wanted:  # last: a peer that does not heal leaves the paths deleted
            self._say(f"{peer.title}: paths are deleted")
            found, _ = latency.heal(fixture, spots, fixture.scale.slow_repeats, ANY_MOMENT)
            self._figures["heal"].samples[peer.key] = found

    def _peer_at_many(self, peer: Peer, fixture: Fixture, spots: Sequence[Spot]) -> None:
        if "write" in self.wanted:
            self._say(f"{peer.title}: values are written")
            found, _ = latency.rotate(fixture, spots, fixture.scale.slow_repeats, ANY_MOMENT)
            self._figures["write-many"].samples[peer.key] = found
        if "rotations" in self.wanted:
            self._say(f"{peer.title}: {fixture.scale.burst} rotations at once")
            arrived = load.rotations(fixture, spots[: fixture.scale.burst])
            self._figures["rotations"].samples[peer.key] = _rotations_sample(arrived)

    @contextlib.contextmanager
    def _filled(
        self,
        name: str,
        number: int,
        refresh: str,
        per_namespace: int = PER_NAMESPACE,
        *,
        fixture: Fixture | None = None,
        clean: bool = True,
    ) -> Iterator[Sequence[Spot]]:
        fixture = fixture or self.fixture
        with fixture.crowd(name, number, per_namespace, clean=clean) as spots:
            self._say(f"{number:,} ExternalSecrets are created, {min(number, per_namespace):,} in a namespace")
            fixture.fill(spots, refresh)
            yield spots

    def _say_at(self, size: int, text: str) -> None:
        self._say(f"vaultsync at {size:,}: {text}")

    def _say(self, text: str) -> None:
        print(f"bench [{time.monotonic() - self._started:4.0f} s] {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _profiled(folder: Path | None, size: int, process: VaultsyncProcess, name: str) -> Iterator[None]:
    with running.profiled(process, folder / f"{name}-{size}.txt") if folder else contextlib.nullcontext():
        yield


def _burst_samples(rounds: Sequence[Burst], patience: float) -> tuple[Sample, Sample]:
    sent = f"(the last was created after {statistics.median(one.sent for one in rounds):.2f} s)"
    exist = [one.exist for one in rounds if one.exist is not None]
    ready = [one.ready for one in rounds if one.ready is not None]
    lost = [len(rounds) - len(times) for times in (exist, ready)]
    return Sample(exist, lost[0], patience, note=sent), Sample(ready, lost[1], patience)


def _rotations_sample(found: Rotations) -> Sample:
    return Sample(
        found.arrived,
        lost=found.number - len(found.arrived),
        text=f"{len(found.arrived)} of {found.number}",
        note=f"written in {found.sent:.2f} s, the last arrived after {found.last:.2f} s",
    )


def _sum(samples: Sequence[Sample]) -> Sample:
    lost = sum(one.lost for one in samples)
    return Sample([seconds for one in samples for seconds in one.seconds], lost, samples[0].patience)


def _keys_sample(found: Sample) -> Sample:
    arrived = len(found.seconds)
    return Sample(found.seconds, found.lost, text=f"{arrived} of {arrived + found.lost}", note=str(found))


def _poll_sample(found: Idle, arrived: Rotations) -> Sample:
    hourly = found.cpu * sizes.HOUR / found.seconds
    return Sample(
        arrived.arrived,
        lost=arrived.number - len(arrived.arrived),
        text=f"{found.requests.total() / found.seconds:.0f} requests a second, at most {found.busiest} in any",
        note=f"{found.memory:.0f} MB, {hourly:.0f} s of processor time an hour (over {found.seconds:.0f} s); "
        f"{len(arrived.arrived)} of {arrived.number} written values arrived, the last after {arrived.last:.0f} s",
    )


def _rest_sample(found: Rest, canaries: float) -> Sample:
    """Canaries are too rare for the measured time: the number of an hour is added."""
    hourly = sizes.HOUR / found.seconds
    cpu = {name: seconds * hourly for name, seconds in found.cpu.items()}
    parts = ", ".join(f"{name} {seconds:,.0f}" for name, seconds in cpu.items())
    asked = found.requests * hourly + canaries
    parts_of_asked = f"{canaries:.0f} of them canaries; " if canaries else ""
    note = f"{parts_of_asked}{sum(cpu.values()):,.0f} s of processor time an hour ({parts}); over {found.seconds:.0f} s"
    return Sample(value=asked, text=f"{asked:,.0f}", note=note)


def _entries_sample(found: Taken) -> Sample:
    note = f"{found.entries:,} sent, {found.lost:,} lost; {found.reported:,} report a change"
    return Sample(value=found.rate, text=f"{found.rate:,.0f}", note=note)


def _idle_sample(found: Idle) -> Sample:
    asked = ", ".join(f"{number} × {request}" for request, number in found.requests.most_common(3))
    return Sample(
        text=f"{found.requests.total()} requests{f' ({asked})' if asked else ''}, {found.connections} connection(s)",
        note=f"{found.memory:.0f} MB, {found.cpu:.2f} s of processor time",
    )
