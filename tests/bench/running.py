"""Starts the contenders as each is meant to run: vaultsync as deploy/ says, the talk's script as root."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.testbed.processes import Process
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

TALK = Path(__file__).with_name("talk.sh")
LISTENS = {
    "audit": "listening for Vault's audit device",
    "events": "subscribed to Vault's event stream",
    "poll": "changes in Vault are reported by",
}
"""The log message of each source once it is active."""
SPY_SECONDS = 15.0
START_SECONDS = 120.0
"""The initial list of ten thousand ExternalSecrets takes long on a busy machine."""


def help_seconds(repeats: int) -> list[float]:
    """How long `vaultsync --help` takes, from the start of the process to its end."""
    found = []
    for _ in range(repeats):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "vaultsync", "--help"], check=True, stdout=subprocess.DEVNULL)
        found.append(time.monotonic() - started)
    return found


@contextlib.contextmanager
def vaultsync(
    testbed: Testbed, source: str = "auto", env: Mapping[str, str] | None = None
) -> Iterator[VaultsyncProcess]:
    """A running vaultsync that receives every change from Vault, deletions included.

    That applies to the sources `auto` and `audit`; with `events` and `poll` there is no audit device for it.
    """
    hears_audit = source in ("auto", "audit")
    settings = {"VAULTSYNC_LOG_FORMAT": "json", "VAULTSYNC_SOURCE": source, **(env or {})}
    if not hears_audit:
        settings["VAULTSYNC_AUDIT_LISTEN"] = ""
    process = VaultsyncProcess(testbed.identity, testbed.work, env=settings)
    with contextlib.ExitStack() as stack:
        stack.callback(process.stop)
        process.start()
        process.wait_until(lambda: _is_listening(process, source), START_SECONDS, "listening for Vault")
        # Vault writes a file for every source
        testbed.vault_root.audit("file", "file", file_path=str(audit_log(testbed)))
        if hears_audit:
            stack.callback(testbed.no_audit_to, process.audit_name)
            testbed.audit_to(process.audit_name, process.audit_address)
            connected = "audit device is connected"
            process.wait_until(lambda: connected in process.output(), 15, "connected with Vault's audit")
        yield process


def audit_log(testbed: Testbed) -> Path:
    """The log of Vault's file audit device; it exists once vaultsync was started."""
    return testbed.work / "logs" / "audit.log"


@contextlib.contextmanager
def talk(testbed: Testbed) -> Iterator[Process]:
    """The talk's script, running as admin and root."""
    folders = ":".join(dict.fromkeys(str(testbed.binaries[name].parent) for name in ("kubectl", "vault")))
    environment = {**os.environ, **testbed.env, "PATH": f"{folders}:{os.environ['PATH']}"}
    script = Process("talk", ["bash", str(TALK)], log=testbed.work / "logs" / "talk.log", env=environment)
    script.start()
    try:
        yield script
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGTERM)  # bash and the kubectl that it waits for
        script.stop()


@contextlib.contextmanager
def profiled(process: VaultsyncProcess, file: Path) -> Iterator[None]:
    """Samples the running thread's stack with py-spy, 100 times a second; writes `a;b;c COUNT` lines.

    It needs the right to inspect another process: root, or `sysctl kernel.yama.ptrace_scope=0`.
    """
    command = ["py-spy", "record", "--pid", str(process.pid), "--gil", "--format=raw", f"--output={file}"]
    spy = Process(
        "py-spy", [str(Path(sys.executable).with_name(command[0])), *command[1:]], log=file.with_suffix(".log")
    )
    spy.start()
    try:
        spy.wait_until(lambda: "Sampling process" in spy.output(), SPY_SECONDS)
        yield
        os.kill(spy.pid, signal.SIGINT)  # py-spy then writes the file
        spy.wait(SPY_SECONDS)
    finally:
        spy.stop()


def _is_listening(process: VaultsyncProcess, source: str) -> bool:
    output = process.output()
    if source == "auto":
        connected = ("subscribed to Vault's event stream", "no event stream from Vault")
        return LISTENS["audit"] in output and any(words in output for words in connected)
    return LISTENS[source] in output
