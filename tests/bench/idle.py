"""What vaultsync costs when nothing happens: requests to Vault, connections, memory, processor time."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.bench.running import audit_log
from tests.testbed.identity import POLICY
from tests.testbed.testbed import Testbed

ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Idle:
    """What was seen.

    Attributes:
        requests: paths that vaultsync's token asked Vault for, with their number.
        connections: established ones from the process to Vault, at the end.
        memory: resident, in MB.
        cpu: seconds of processor time within the time.
    """

    seconds: float
    requests: Counter[str]
    connections: int
    memory: float
    cpu: float


def observe(testbed: Testbed, pid: int, seconds: float) -> Idle:
    """Looks on for some time; Vault's own audit log tells of the requests."""
    log = audit_log(testbed)
    before, start = processor_time(pid), log.stat().st_size
    time.sleep(seconds)
    return Idle(
        seconds=seconds,
        requests=requests_of(log, start, POLICY),
        connections=len(connections(pid, testbed.vault.port)),
        memory=memory(pid),
        cpu=processor_time(pid) - before,
    )


def requests_of(log: Path, start: int, policy: str) -> Counter[str]:
    """The requests in an audit log, from a position on, whose token has the policy, by operation and path."""
    found: Counter[str] = Counter()
    for text in log.read_bytes()[start:].splitlines():
        line = json.loads(text)
        if line["type"] == "request" and policy in (line.get("auth") or {}).get("policies", ()):
            found[f"{line['request']['operation']} {line['request']['path']}"] += 1
    return found


def connections(pid: int, port: int) -> list[str]:
    """The local addresses of a process's established connections to a port, as the kernel lists them."""
    own = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
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


def memory(pid: int) -> float:
    """The process's resident memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def processor_time(pid: int) -> float:
    """Seconds that the process has computed since it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
