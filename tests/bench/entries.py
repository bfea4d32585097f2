"""How many entries of an audit device vaultsync processes in a second of processor time, over UDP and TCP.

`python -m tests.bench.entries ADDRESS` is the receiving process, with vaultsync's own Audit. This process sends it
entries that Vault has recorded, no faster than it processes them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.testbed.identity import PROJECT
from tests.testbed.processes import free_port
from vaultsync.config.change_source import AuditAccess, Transport, parse_audit_address
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.audit import Audit

AT_ONCE = 200
PAUSE = 0.004
"""After each so many: some 40,000 a second."""
END = "end"


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of the receiving process.

    Attributes:
        entries: number of entries that were sent.
        lost: entries that the receiver itself detected as lost.
        reported: changes in them.
        cpu: seconds of processor time, of all its threads.
    """

    entries: int
    lost: int
    reported: int
    cpu: float

    @property
    def rate(self) -> float:
        """Entries in a second of processor time."""
        return self.entries / self.cpu


def recorded(log: Path, most: int = 10_000) -> list[bytes]:
    """The entries of a file audit device, with their ends."""
    return log.read_bytes().splitlines(keepends=True)[:-1][:most]


def measure(transport: Transport, entries: Sequence[bytes], number: int) -> Taken:
    """Send so many entries, the recorded ones again and again.

    Args:
        transport: UDP, an entry a datagram; or TCP.
        entries: of which at least one reports a change.
        number: at least.
    """
    address = f"{transport.value}:127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "tests.bench.entries", address]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            return _send(transport, parse_audit_address(address).port, entries, number, process.stdin, process.stdout)
        finally:
            process.kill()


def _send(
    transport: Transport, port: int, entries: Sequence[bytes], number: int, to: IO[str], answers: IO[str]
) -> Taken:
    canary = answers.readline().strip()  # once it listens
    kind = socket.SOCK_DGRAM if transport is Transport.UDP else socket.SOCK_STREAM
    with socket.socket(type=kind) as sock:
        sock.connect(("127.0.0.1", port))
        sock.sendall(canary_entry(canary))
        assert answers.readline().strip() == "verified"
        sent = 0
        while sent < number:
            for start in range(0, len(entries), AT_ONCE):
                for entry in entries[start : start + AT_ONCE]:
                    sock.sendall(entry)
                sent += len(entries[start : start + AT_ONCE])
                time.sleep(PAUSE)
        time.sleep(1)
        to.write(END + "\n")
        to.flush()
        found = json.loads(answers.readline())
    return Taken(sent, found["lost"], found["reported"], found["cpu"])


def canary_entry(path: str) -> bytes:
    """The relevant part of a canary's entry."""
    request = {"id": "0", "operation": "read", "path": path, "mount_type": "system"}
    return json.dumps({"type": "response", "request": request}, separators=(",", ":")).encode() + b"\n"


async def _receive(address: str) -> None:
    """The receiving process: prints the path of its canary, that it is verified, and at the end its counters."""
    asked = asyncio.Event()

    async def ask(path: str) -> None:
        if not asked.is_set():
            asked.set()
            print(path, flush=True)

    verified = asyncio.Event()
    metrics = Metrics()
    audit = Audit(AuditAccess(address), 300.0, ask, lambda _: True, metrics)
    audit.on_gap = lambda _: verified.set()
    await audit.start()
    running = asyncio.create_task(audit.run())
    await verified.wait()
    print("verified", flush=True)
    began = time.process_time()
    await asyncio.to_thread(sys.stdin.readline)
    cpu = time.process_time() - began
    lost = metrics.registry.get_sample_value("vaultsync_audit_lost_total")
    reported = metrics.registry.get_sample_value("vaultsync_events_total", {"source": "audit"})
    print(json.dumps({"lost": int(lost or 0), "reported": int(reported or 0), "cpu": cpu}), flush=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await audit.stop()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(_receive(sys.argv[1]), 600))
