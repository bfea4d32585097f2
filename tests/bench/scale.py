"""Costs and latency of vaultsync at one size: its start, memory, events, deletions, resyncs, and rest.

Requests are counted by the servers' own audit logs and, for comparison, by vaultsync's own metrics.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.bench import latency, running
from tests.bench.figures import Figure, Sample
from tests.bench.fixture import KEY, Fixture, Spot, together, write
from tests.bench.idle import Observer, memory, peak_memory, processor_time, requests_of
from tests.bench.watching import Name, Watch
from tests.testbed.api import Json
from tests.testbed.identity import NAMESPACE, POLICY, SERVICE_ACCOUNT
from tests.testbed.kube import EXTERNAL_SECRETS, path_of
from tests.testbed.testbed import Testbed, wait_for
from tests.testbed.vaultsync import Metrics, VaultsyncProcess
from vaultsync.controller.rescans import SENDER_SECONDS

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"
"""The user whose requests the API server logs."""
PAUSE_SECONDS = 0.1
"""Pause between two measured writes, so that external-secrets is at rest again."""
LOOK_SECONDS = 0.05
LOOK_SHARE = 0.00003
"""Seconds per ExternalSecret between two scrapes, if that is more: a scrape costs vaultsync time."""
QUIET_SECONDS = 5.0
"""After this time without a request it is done: ownership is written 3 s after the value."""
HOUR = 3600.0

Profile = Callable[[VaultsyncProcess, str], AbstractContextManager[object]]
"""Profiles the processor time under a name."""

ROWS = {
    "start": ("started → everything scanned, nothing left to do", "–"),
    "memory": ("memory at rest after the start", "< 150 MB at 10,000"),
    "each": ("memory for each ExternalSecret more", "< 15 kB"),
    "force-sync": ("Vault's answer to a write → force-sync seen by a watch", "p99 < 50 ms, flat"),
    "cpu": ("processor time for 1,000 writes at once", "–"),
    "event-vault": ("requests to Vault for each reported write", "≤ 2"),
    "event-kube": ("requests to the API server for each reported write", "1 patch, 1 Event"),
    "healed-vault": ("many deletions at once → all values are in Vault again", "–"),
    "healed-secrets": ("many deletions at once → all Secrets are new", "–"),
    "heal-cpu": ("processor time for 1,000 deletions at once", "–"),
    "heal-vault": ("requests to Vault for each deletion healed", "≤ 2"),
    "heal-kube": ("requests to the API server for each deletion healed", "1 patch, 1 Event"),
    "idle": ("requests at rest, in an hour", "none but renewals, watches and canaries"),
    "resync": ("a full scan", "< 20 s at 10,000"),
    "meanwhile": ("the force-sync of a write during a full scan", "≤ 100 ms more than at rest"),
    "after": ("memory after all that, and the most it ever had", "–"),
}


def rows() -> dict[str, Figure]:
    """The empty rows of the table, whose columns are sizes."""
    return {name: Figure("scale", measure, target) for name, (measure, target) in ROWS.items()}


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of one measure.

    Attributes:
        cpu: seconds of processor time.
        vault, kube: requests by kind, by the servers' audit logs.
        vault_counted, kube_counted: how many, by vaultsync's own metrics.
    """

    cpu: float
    vault: Counter[str]
    kube: Counter[str]
    vault_counted: float
    kube_counted: float

    def cpu_for(self, number: int) -> Sample:
        """Scaled to a thousand."""
        value = self.cpu * 1000 / number
        return Sample(value=value, text=f"{value:.2f} s", note=f"({number:,} measured)")

    def vault_for(self, number: int) -> Sample:
        return _each(self.vault, self.vault_counted, number)

    def kube_for(self, number: int) -> Sample:
        return _each(self.kube, self.kube_counted, number)


class Meter:
    """Reads the costs since its creation."""

    def __init__(self, testbed: Testbed, process: VaultsyncProcess) -> None:
        self._process = process
        self._vault_log = running.audit_log(testbed)
        self._kube_log = testbed.kube_apiserver.audit_log
        self._vault_start, self._kube_start = (log.stat().st_size for log in (self._vault_log, self._kube_log))
        self._before = Metrics(process)
        self._cpu = processor_time(process.pid)

    def read(self) -> Costs:
        """The costs until now."""
        cpu, now = processor_time(self._process.pid) - self._cpu, Metrics(self._process)
        return Costs(
            cpu,
            Counter(_kind(request) for _, request in self.vault_requests()),
            kube_requests(self._kube_log, self._kube_start),
            *(now(name) - self._before(name) for name in ("vault_requests_total", "kube_requests_total")),
        )

    def vault_requests(self) -> list[tuple[float, str]]:
        """Time, and operation and path."""
        return requests_of(self._vault_log, self._vault_start, POLICY)


class AtSize:
    """The measures of one vaultsync with the existing ExternalSecrets, all of them Ready.

    Args:
        marks: a watch of the ExternalSecrets' force-syncs.
        say: reports the progress.
    """

    def __init__(
        self,
        fixture: Fixture,
        spots: Sequence[Spot],
        marks: Watch[str],
        say: Callable[[str], None],
        profile: Profile = lambda process, name: nullcontext(),
    ) -> None:
        self._stage = fixture
        self._testbed = fixture.testbed
        self._spots = spots
        self._at_once = spots[: fixture.scale.at_once]
        self._marks = marks
        self._say = say
        self._profile = profile
        self._look_seconds = max(LOOK_SECONDS, LOOK_SHARE * len(spots))
        self._looked_at = 0.0

    def run(self) -> dict[str, Sample]:
        """A sample for each row but `each`, which takes two sizes."""
        found = {}
        self._say("vaultsync starts")
        found["start"], found["memory"] = self._start()
        with running.vaultsync(self._testbed) as process:
            self._looked_at = time.monotonic()
            self._wait_until_quiet(process)
            self._say("values are written, one after another")
            found["force-sync"] = rest = self._force_syncs(latency.spread(self._spots, self._stage.scale.force_syncs))
            self._say(f"{len(self._at_once):,} values are written at once")
            found |= self._events(process)
            self._say(f"{len(self._at_once):,} values are deleted at once")
            found |= self._deletions(process)
            self._say("a full scan")
            found["resync"], _ = self._resync(process)
            self._say(f"at rest for {self._stage.scale.idle_seconds:g} s")
            found["idle"] = self._idle(process)
            self._say("a full scan, and values are written meanwhile")
            busy, meanwhile = self._resync(process, writes=True)
            found["meanwhile"] = _compared(meanwhile, rest, busy)
            found["after"] = _memory(process, f"; {peak_memory(process.pid):.0f} MB")
        return found

    def _start(self) -> tuple[Sample, Sample]:
        number = len(self._spots)

        def is_done() -> bool:
            now = Metrics(process)
            scanned = all(now("reconciles_total", kind=kind) >= number for kind in ("path", "external_secret"))
            return scanned and now("queue_depth") == 0

        began = time.monotonic()
        # no audit device: its connection would cause a second scan
        with running.vaultsync(self._testbed, "events") as process:
            self._when(is_done)
            asked = Metrics(process)
            note = "({:.0f} requests to Vault, {:.0f} to the API server)".format(
                asked("vault_requests_total"), asked("kube_requests_total")
            )
            took = Sample([time.monotonic() - began], note=note)
            self._wait_until_quiet(process)
            return took, _memory(process)

    def _force_syncs(self, spots: Sequence[Spot], go_on: Callable[[], bool] = lambda: True) -> Sample:
        """One after another, measured from Vault's response."""
        seconds, lost = list[float](), 0
        for spot in spots:
            if not go_on():
                break
            time.sleep(PAUSE_SECONDS)
            before, sent = self._marks.now(spot.key), time.time()
            write(spot)
            answered = time.time()
            at = self._marks.wait(spot.key, _differs(before), self._stage.scale.patience, sent)
            if at is None:
                lost += 1
            else:
                seconds.append(max(0.0, at - answered))  # the event may arrive before the response
        return Sample(seconds, lost, self._stage.scale.patience)

    def _events(self, process: VaultsyncProcess) -> dict[str, Sample]:
        number, meter, since = len(self._at_once), Meter(self._testbed, process), time.time()
        before = {spot.key: self._marks.now(spot.key) for spot in self._at_once}
        with self._profile(process, "events"):
            together(write, self._at_once)
            wanted = {name: _differs(old) for name, old in before.items()}
            found = self._marks.wait_for_all(wanted, self._stage.scale.load_patience, since)
        self._wait_until_quiet(process)
        costs = meter.read()
        cpu = costs.cpu_for(number)
        lost = number - len(found)
        return {
            "cpu": Sample((), lost, self._stage.scale.load_patience, cpu.value, cpu.text, cpu.note),
            "event-vault": costs.vault_for(number),
            "event-kube": costs.kube_for(number),
        }

    def _deletions(self, process: VaultsyncProcess) -> dict[str, Sample]:
        fixture, number, patience = self._stage, len(self._at_once), self._stage.scale.load_patience
        fixture.settle()
        meter, since = Meter(self._testbed, process), time.time()
        before = {spot.key: fixture.current(spot) for spot in self._at_once}
        sent = together(lambda spot: spot.place.vault.delete(spot.place.path(spot.name)), self._at_once)
        wanted = {name: (lambda keys, old=old: keys.get(KEY, old) != old) for name, old in before.items()}
        found = fixture.secrets.wait_for_all(wanted, patience, since)
        self._wait_until_quiet(process)
        costs = meter.read()
        written = _writes(meter.vault_requests(), self._at_once)
        note = f"({number:,} deleted in {sent:.2f} s)"
        return {
            "healed-vault": _last(written, number, since, patience, note),
            "healed-secrets": _last(found, number, since, patience, note),
            "heal-cpu": costs.cpu_for(number),
            "heal-vault": costs.vault_for(number),
            "heal-kube": costs.kube_for(number),
        }

    def _idle(self, process: VaultsyncProcess) -> Sample:
        self._wait_until_quiet(process)
        meter, observer = Meter(self._testbed, process), Observer(self._testbed, process.pid)
        seen, costs = observer.look_until(self._stage.scale.idle_seconds), meter.read()
        hourly = HOUR / seen.seconds
        vault, kube = costs.vault.total() * hourly, costs.kube.total() * hourly
        asked = _listed({kind: count * hourly for kind, count in (costs.vault + costs.kube).items()}, "{:.0f}")
        return Sample(
            value=vault,
            text=f"Vault {vault:.0f}, API server {kube:.0f}{f' ({asked})' if asked else ''}",
            note=f"{seen.cpu * hourly:.0f} s of processor time an hour; over {seen.seconds:.0f} s",
        )

    def _resync(self, process: VaultsyncProcess, *, writes: bool = False) -> tuple[Sample, Sample]:
        """Reconnects Vault's audit device, which causes a full scan; measures the scan and writes during it."""
        time.sleep(max(0.0, self._looked_at + SENDER_SECONDS - time.monotonic()))
        self._wait_until_quiet(process)
        before, number = Metrics(process), len(self._spots)

        def is_done() -> bool:
            now = Metrics(process)
            scanned = now("reconciles_total", kind="path") - before("reconciles_total", kind="path")
            return now("resyncs_total") > before("resyncs_total") and scanned >= number and now("queue_depth") == 0

        self._testbed.no_audit_to(process.audit_name)
        with self._profile(process, "resync"), ThreadPoolExecutor(1) as pool:
            self._looked_at = time.monotonic()
            self._testbed.audit_to(process.audit_name, process.audit_address)
            ended: Future[float] = pool.submit(self._when, is_done)
            spots = latency.spread(self._spots, self._stage.scale.force_syncs) if writes else ()
            meanwhile = self._force_syncs(spots, lambda: not ended.done())
            return Sample([ended.result() - self._looked_at]), meanwhile

    def _when(self, is_done: Callable[[], bool]) -> float:
        wait_for(is_done, running.START_SECONDS, "vaultsync has scanned everything", self._look_seconds)
        return time.monotonic()

    def _wait_until_quiet(self, process: VaultsyncProcess) -> None:
        """Waits until no request is left to send, Events and ownership included."""
        last, since = -1.0, time.monotonic()

        def is_quiet() -> bool:
            nonlocal last, since
            now = Metrics(process)
            total = now("vault_requests_total") + now("kube_requests_total") + now("queue_depth")
            if total != last:
                last, since = total, time.monotonic()
            return time.monotonic() - since > QUIET_SECONDS

        wait_for(is_quiet, self._stage.scale.load_patience + QUIET_SECONDS, "vaultsync has nothing left to do", 1.0)


def watch_marks(testbed: Testbed) -> Watch[str]:
    """Watches the ExternalSecrets' force-syncs."""
    return Watch(testbed, path_of(EXTERNAL_SECRETS, "ExternalSecret"), _mark)


def each_more(memory_by_size: dict[int, Sample]) -> dict[int, Sample]:
    """Memory per ExternalSecret for every size but the smallest: the slope from there."""
    (smallest, base), *others = sorted(memory_by_size.items())
    found = {}
    for size, sample in others:
        if sample.value is not None and base.value is not None:
            slope = (sample.value - base.value) * 1024 / (size - smallest)
            found[size] = Sample(value=slope, text=f"{slope:.1f} kB", note=f"(from {smallest:,} on)")
    return found


def kube_requests(log: Path, start: int) -> Counter[str]:
    """The requests in the API server's audit log, from a position on, by verb and resource."""
    with log.open("rb") as file:
        file.seek(start)
        whole, _, _ = file.read().rpartition(b"\n")
    lines = [json.loads(text) for text in whole.splitlines()]
    return Counter(f"{line['verb']} {_resource(line)}" for line in lines)


def _resource(line: Json) -> str:
    what = line.get("objectRef") or {"resource": line["requestURI"]}
    return "/".join(part for part in (what["resource"], what.get("subresource")) if part)


def _differs(old: str | None) -> Callable[[str], bool]:
    return lambda mark: mark != old


def _mark(external_secret: Json) -> str:
    return str((external_secret["metadata"].get("annotations") or {}).get("force-sync", ""))


def _kind(request: str) -> str:
    """The kind of a request: `update data` for `update secret/data/some/path`."""
    operation, _, path = request.partition(" ")
    mount, _, rest = path.partition("/")
    return f"{operation} {rest.partition('/')[0] if mount == 'secret' else path}"


def _each(requests: Counter[str], counted: float, number: int) -> Sample:
    value = requests.total() / number
    parts = _listed({kind: count / number for kind, count in requests.items() if count / number >= 0.005}, "{:.2f}")
    return Sample(value=value, text=f"{value:.2f} ({parts})", note=f"its own count {counted / number:.2f}")


def _listed(numbers: dict[str, float], form: str) -> str:
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(f"{form.format(number)} {kind}" for kind, number in ordered)


def _writes(requests: Sequence[tuple[float, str]], spots: Sequence[Spot]) -> dict[Name, float]:
    """When each spot's value was written."""
    names = {f"secret/data/{spot.place.path(spot.name)}": spot.key for spot in spots}
    operations = ("create", "update", "patch")
    found: dict[Name, float] = {}
    for at, request in requests:
        operation, _, path = request.partition(" ")
        if operation in operations and path in names:
            found.setdefault(names[path], at)
    return found


def _last(found: dict[Name, float], number: int, since: float, patience: float, note: str) -> Sample:
    """The time until the last one arrived."""
    if len(found) < number:
        return Sample((), number - len(found), patience, text=f"{len(found):,} of {number:,}", note=note)
    return Sample([max(found.values()) - since], note=note)


def _memory(process: VaultsyncProcess, more: str = "") -> Sample:
    value = memory(process.pid)
    return Sample(value=value, text=f"{value:.0f} MB{more}")


def _compared(meanwhile: Sample, rest: Sample, scan: Sample) -> Sample:
    if not meanwhile.seconds:
        return Sample(lost=meanwhile.lost, patience=meanwhile.patience, text="over before a write was")
    more = ", ".join(
        f"{name} {(meanwhile.quantile(share) - rest.quantile(share)) * 1000:+.0f} ms"
        for name, share in (("median", 0.5), ("p95", 0.95))
    )
    note = f"({more} against at rest; the scan took {scan.seconds[0]:.1f} s)"
    return Sample(meanwhile.seconds, meanwhile.lost, meanwhile.patience, note=note)
