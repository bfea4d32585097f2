"""Costs at rest: requests to Vault, connections, memory, processor time."""

from __future__ import annotations

import contextlib
import json
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.bench.running import audit_log
from tests.testbed.identity import POLICY
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess
from vaultsync.core.events import CANARY_PATH

ESTABLISHED = "01"
REST_SECONDS = 1.0
REST_SHARE = 0.03
"""Share of a core. Audit entries about other clients cost a little."""


@dataclass(frozen=True, slots=True)
class Idle:
    """The observed costs.

    Attributes:
        seconds: how long that was.
        requests: paths that vaultsync's token requested from Vault, with their number.
        busiest: the most requests within any second.
        connections: established ones from the process to Vault, at the end.
        memory: resident, in MB.
        cpu: seconds of processor time within the time.
    """

    seconds: float
    requests: Counter[str]
    busiest: int
    connections: int
    memory: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Rest:
    """Costs of a contender and its helpers, with external-secrets and Vault.

    Attributes:
        seconds: how long that was.
        requests: to Vault, by all clients; without canaries, of which there is one in five minutes.
        cpu: seconds of processor time within the time, by process.
    """

    seconds: float
    requests: int
    cpu: dict[str, float]


def rest(testbed: Testbed, seconds: float, contender: int | None) -> Rest:
    """Costs within the next seconds; `contender` is None if only external-secrets runs."""
    assert testbed.eso is not None
    pids = {"itself": contender, "external-secrets": testbed.eso.process.pid, "Vault": testbed.vault.process.pid}

    def used() -> dict[str, float]:
        return {name: processor_time_of_group(pid) for name, pid in pids.items() if pid is not None}

    position, started, before = audit_log(testbed).stat().st_size, time.monotonic(), used()
    time.sleep(seconds)
    now = used()
    return Rest(
        seconds=time.monotonic() - started,
        requests=sum(CANARY_PATH not in request for _, request in requests_of(audit_log(testbed), position)),
        cpu={name: now[name] - seconds_before for name, seconds_before in before.items()},
    )


class Observer:
    """Starts observing; the requests are read from Vault's own audit log."""

    def __init__(self, testbed: Testbed, pid: int) -> None:
        self._vault_port = testbed.vault.port
        self._pid = pid
        self._log = audit_log(testbed)
        self._position = self._log.stat().st_size
        self._cpu = processor_time(pid)
        self._started = time.monotonic()

    def look_until(self, seconds: float) -> Idle:
        """The costs after so many seconds since the start, or now if that time has passed."""
        time.sleep(max(0.0, self._started + seconds - time.monotonic()))
        cpu, elapsed = processor_time(self._pid) - self._cpu, time.monotonic() - self._started
        found = requests_of(self._log, self._position, POLICY)
        return Idle(
            seconds=elapsed,
            requests=Counter(request for _, request in found),
            busiest=busiest_second([at for at, _ in found]),
            connections=len(connections(self._pid, self._vault_port)),
            memory=memory(self._pid),
            cpu=cpu,
        )


def wait_for_rest(process: VaultsyncProcess, patience: float) -> None:
    """Waits until vaultsync has finished its initial scan and its queue is empty."""
    process.wait_until_ready(patience)

    def rests() -> bool:
        before = processor_time(process.pid)
        time.sleep(REST_SECONDS)
        return processor_time(process.pid) - before < REST_SHARE * REST_SECONDS

    process.wait_until(rests, patience, "at rest")


def requests_of(log: Path, start: int, policy: str = "") -> list[tuple[float, str]]:
    """The requests in an audit log, from a position on: time, and operation and path.

    With a policy only those of tokens with this policy.
    """
    with log.open("rb") as file:
        file.seek(start)
        whole, _, _ = file.read().rpartition(b"\n")  # the last line may be half written
    lines = (json.loads(text) for text in whole.splitlines())
    return [
        (datetime.fromisoformat(line["time"]).timestamp(), f"{line['request']['operation']} {line['request']['path']}")
        for line in lines
        if line["type"] == "request" and (not policy or policy in (line.get("auth") or {}).get("policies", ()))
    ]


def busiest_second(times: Sequence[float]) -> int:
    """The most of these within any second, wherever it begins."""
    ordered = sorted(times)
    return max((bisect_left(ordered, at + 1) - number for number, at in enumerate(ordered)), default=0)


def connections(pid: int, port: int) -> list[str]:
    """The local addresses of a process's established connections to a port, as the kernel lists them."""
    own = set(_open_files(pid))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            (
                _,
                local,
                remote,
                state,
                *_,
            ) = line.split()
            inode = line.split()[9]
            if state == ESTABLISHED and int(remote.rpartition(":")[2], 16) == port and f"socket:[{inode}]" in own:
                found.append(local)
    return found


def _open_files(pid: int) -> Iterator[str]:
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(file)


def memory(pid: int) -> float:
    """The process's resident memory in MB."""
    return _megabytes(pid, "VmRSS")


def peak_memory(pid: int) -> float:
    """The most resident memory that the process ever had, in MB."""
    return _megabytes(pid, "VmHWM")


def _megabytes(pid: int, name: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")) / 1024


def processor_time(pid: int) -> float:
    """Processor seconds of the process since it started."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processor_time_of_group(pid: int) -> float:
    """Processor seconds of a process group since its start, with the children that it waited for.

    Args:
        pid: the group's first process.
    """
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended
            fields = _stat(int(folder.name))
            if int(fields[2]) == pid:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Fields from the state on: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
