"""How long Vault takes for a KV write in every state of vaultsync, beside the same Vault without it.

Alternates within one run: a few writes without vaultsync's audit device, then as many with it, in each state, round by
round. So both see the same machine load, and their ratio is the cost of the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tests.bench.figures import Figure, Sample
from tests.bench.fixture import Scale
from tests.manual import audit_devices
from tests.testbed.load import Written
from tests.testbed.netns import dropped
from tests.testbed.testbed import wait_for
from tests.testbed.two_machines import KINDS, TwoMachines, WatchedVault
from tests.testbed.vaultsync import VaultsyncProcess

CLIENTS = (1, 8)
TITLES = {"vault": "Vault", "openbao": "OpenBao"}
COLUMNS = {
    f"{kind}-{number}": f"{TITLES[kind]}, {number} client{'s' * (number > 1)}" for kind in KINDS for number in CLIENTS
}
TARGET = 1.2
UDP_TARGET = f"p99 ≤ {TARGET} × without"
STATES = {
    "running": "running",
    "stopped": "stopped (SIGTERM)",
    "killed": "killed (SIGKILL)",
    "frozen": "frozen (SIGSTOP)",
    "lost": "unreachable, packets lost",
    "absent": "its machine gone from Vault's subnet, no ARP answer",
    "overloaded": "overloaded by a flood of entries",
}
TCP_STATES = ("running", "stopped", "frozen", "lost")
NO_DEVICE, WITHOUT, SECOND = "none", "without", "second"
CONNECTED_SECONDS = 15.0
FLOOD_SECONDS = 120.0


def rows() -> dict[str, Figure]:
    """The measures in the order of the table."""
    device = "vaultsync's device by"
    return {
        NO_DEVICE: Figure("states", "no audit device", "–"),
        WITHOUT: Figure("states", "without vaultsync: a file audit device alone", "–"),
        SECOND: Figure("states", "a second file audit device, /dev/null, in place of vaultsync's", "–"),
        **{name: Figure("states", f"{device} UDP, vaultsync {text}", UDP_TARGET) for name, text in STATES.items()},
        **{
            f"tcp-{name}": Figure("states", f"{device} TCP, as before, vaultsync {STATES[name]}", "–")
            for name in TCP_STATES
        },
    }


@dataclass(frozen=True, slots=True)
class Pair:
    """Durations of the writes in a state, and of those without vaultsync just before."""

    seconds: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def sample(self) -> Sample:
        made, other = Sample(self.seconds, lost=len(self.failures)), Sample(self.without)
        p99, base = made.quantile(0.99), other.quantile(0.99)
        return replace(made, note=f"p99 {p99 / base:.2f} × without ({base * 1000:.1f} ms)")


class States:
    """Measures all states, on separate machines.

    Args:
        say: receives a description of each measure as it starts.
    """

    def __init__(self, machines: TwoMachines, scale: Scale, say: Callable[[str], None]) -> None:
        self.machines = machines
        self.cable = machines.cable
        self.scale = scale
        self.say = say
        self.figures = rows()
        self.device = audit_devices()["README.md"]

    def run(self) -> dict[str, Figure]:
        """Measures all."""
        for kind in KINDS:
            with self.machines.vault(kind) as watched:
                self._in_turns(kind, watched)
                self._by_tcp(kind, watched)
        return self.figures

    # -- by UDP, in turns

    def _in_turns(self, kind: str, watched: WatchedVault) -> None:
        pairs = {(name, number): Pair() for name in (SECOND, *STATES) for number in CLIENTS}
        bare: dict[int, list[float]] = {number: [] for number in CLIENTS}
        with self._every_state(watched) as targets:
            for round_ in range(1, self.scale.state_rounds + 1):
                self.say(f"{TITLES[kind]}: writes in every state (round {round_})")
                for number in CLIENTS:
                    for name in STATES:
                        self._pair(watched, name, targets[name], number, pairs[name, number])
                    pairs[SECOND, number].without.extend(self._write(watched, number).seconds)
                    with watched.second_file():
                        pairs[SECOND, number].seconds.extend(self._write(watched, number).seconds)
                    with watched.without_file():
                        bare[number] += self._write(watched, number).seconds
        for number in CLIENTS:
            key = f"{kind}-{number}"
            without = [seconds for name in STATES for seconds in pairs[name, number].without if name != "overloaded"]
            self.figures[NO_DEVICE].samples[key] = Sample(bare[number])
            self.figures[WITHOUT].samples[key] = Sample(without)
            for name in (SECOND, *STATES):
                self.figures[name].samples[key] = pairs[name, number].sample()

    @contextlib.contextmanager
    def _every_state(self, watched: WatchedVault) -> Iterator[Mapping[str, VaultsyncProcess | str]]:
        """A vaultsync in each state, or an address in its place, all at once."""
        with contextlib.ExitStack() as stack:
            found: dict[str, VaultsyncProcess | str] = {
                "lost": f"{self.cable.lost_address}:8220",
                "absent": f"{self.cable.absent_address}:8220",
            }
            for name in ("running", "stopped", "killed", "frozen", "overloaded"):
                process = watched.vaultsync("udp")
                stack.callback(process.kill)
                watched.start(process)
                _enter(name, process)
                found[name] = process
            yield found

    def _pair(self, watched: WatchedVault, name: str, target: VaultsyncProcess | str, number: int, pair: Pair) -> None:
        address = target if isinstance(target, str) else watched.address_of(target)
        with contextlib.ExitStack() as stack:
            if name == "overloaded" and isinstance(target, VaultsyncProcess):  # in both halves
                before = dropped(self.cable.far, target.audit_port)
                stack.enter_context(watched.flood(target, "udp", FLOOD_SECONDS))
                wait_for(
                    lambda: dropped(self.cable.far, target.audit_port) > before, CONNECTED_SECONDS, "it is overloaded"
                )
            pair.without.extend(self._write(watched, number).seconds)
            with watched.device(address, self.device):
                found = self._write(watched, number)
            pair.seconds.extend(found.seconds)
            pair.failures.extend(found.failures)

    def _write(self, watched: WatchedVault, number: int) -> Written:
        clients = watched.clients(number, self.scale.state_patience)
        return clients.write(self.scale.state_patience, -(-self.scale.state_writes // number))

    # -- by TCP, one state after another

    def _by_tcp(self, kind: str, watched: WatchedVault) -> None:
        for name in TCP_STATES:
            for number in CLIENTS:
                self.say(f"{TITLES[kind]}: writes beside a device by TCP, {STATES[name]}, clients: {number}")
                with self._tcp_device(watched) as process:
                    self._enter_tcp(name, process)
                    patience = self.scale.state_patience
                    found = watched.clients(number, patience).write(self.scale.tcp_seconds)
                    note = f"{len(found.failures)} of {len(found.seconds)} failed" if found.failures else ""
                    self.figures[f"tcp-{name}"].samples[f"{kind}-{number}"] = Sample(found.seconds, note=note)

    @contextlib.contextmanager
    def _tcp_device(self, watched: WatchedVault) -> Iterator[VaultsyncProcess]:
        process = watched.vaultsync("tcp")
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            watched.start(process)
            stack.enter_context(watched.device(watched.address_of(process), {"socket_type": "tcp"}))
            stack.callback(process.kill)  # before the device is disabled, because Vault then writes to it
            stack.callback(self.cable.heal)
            watched.clients(1).write(0)
            yield process

    def _enter_tcp(self, name: str, process: VaultsyncProcess) -> None:
        if name == "lost":
            self.cable.lose()
        else:
            _enter(name, process)


def _enter(name: str, process: VaultsyncProcess) -> None:
    if name == "stopped":
        process.stop()
    elif name == "killed":
        process.kill()
    elif name == "frozen":
        process.freeze()
