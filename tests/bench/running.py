"""Starts the two that are compared, as each is meant to run: vaultsync as deploy/ says, the talk's script as root."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.testbed.processes import Process
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess

TALK = Path(__file__).with_name("talk.sh")


@contextlib.contextmanager
def vaultsync(testbed: Testbed, env: Mapping[str, str] | None = None) -> Iterator[VaultsyncProcess]:
    """A running vaultsync that Vault tells of everything, deletions included."""
    process = VaultsyncProcess(testbed.identity, testbed.work, env={"VAULTSYNC_LOG_FORMAT": "json", **(env or {})})
    with contextlib.ExitStack() as stack:
        stack.callback(process.stop)
        process.start()
        process.wait_until(lambda: _is_listening(process), 15, "listening for Vault")
        stack.callback(testbed.no_audit_to, process.audit_name)
        testbed.audit_to(process.audit_name, f"127.0.0.1:{process.audit_port}")
        process.wait_until(lambda: "audit device is connected" in process.output(), 15, "connected with Vault's audit")
        yield process


def audit_log(testbed: Testbed) -> Path:
    """The log of Vault's audit device that is a file; it is there once vaultsync was started."""
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


def _is_listening(process: VaultsyncProcess) -> bool:
    output = process.output()
    heard = ("subscribed to Vault's event stream", "no event stream from Vault")
    return "listening for Vault's audit device" in output and any(words in output for words in heard)
