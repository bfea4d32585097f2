"""One process of the testbed: started with a log file, awaited, frozen, ended by its pid, and never leaked."""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.testbed.errors import ServerError

POLL_SECONDS = 0.02
LOG_LINES_IN_ERRORS = 20


class Watchdog:
    """The parent's end of watchdog.py: registered processes are killed when this process dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._alive: set[Process] = set()

    def watch(self, pid: int) -> None:
        """Registers a process (the leader of its group) to be killed when this one dies."""
        with self._lock:
            self._ensure_started()
            self._send(f"+{pid}")

    def forget(self, pid: int) -> None:
        with self._lock:
            self._send(f"-{pid}")

    def add(self, process: Process) -> None:
        """Watches a process, and ends it at a normal exit too."""
        self.watch(process.pid)
        self._alive.add(process)

    def remove(self, process: Process) -> None:
        self._alive.discard(process)
        self.forget(process.pid)

    def remove_at_death(self, folder: Path) -> None:
        """Registers a folder to be removed if this process dies before it can."""
        with self._lock:
            self._ensure_started()
            self._send(f"={folder}")

    def stop_all(self) -> None:
        """For a normal exit: ends all remaining processes without waiting for the watchdog."""
        if self._owner != os.getpid():
            return  # a forked child is not the owner
        for process in list(self._alive):
            process.kill()

    def _ensure_started(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            return
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        self._owner = os.getpid()
        atexit.register(self.stop_all)

    def _send(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


watchdog = Watchdog()


class Process:
    """A child process in a session of its own: a terminal's Ctrl-C reaches only the testbed, which then stops it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.env = dict(env) if env is not None else None
        self.cwd = cwd
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._process.poll() if self._process else None

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process

    def start(self) -> None:
        if self.alive:
            raise ServerError(f"{self.name} is running already (pid {self.pid})")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
            )
        watchdog.add(self)

    def stop(self, timeout: float = 10.0) -> int | None:
        """SIGTERM, then SIGKILL when that is not enough; returns the exit code."""
        if self.alive:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a frozen process handles SIGTERM only after SIGCONT
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._started.wait(timeout)
        return self.kill()

    def kill(self) -> int | None:
        """SIGKILL, as when a node dies; returns the exit code."""
        if self._process is None:
            return None
        if self.alive:
            self._signal(signal.SIGKILL)
        self._process.wait()
        watchdog.remove(self)
        return self._process.returncode

    def hang_up(self) -> None:
        """Sends SIGHUP, which makes many servers open their files again."""
        self._signal(signal.SIGHUP)

    def freeze(self) -> None:
        """SIGSTOP: the process exists and its connections stay open, but it does not answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Waits for the process to exit; returns its exit code."""
        try:
            code = self._started.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerError(f"{self.name} still runs after {timeout:g} s{self.tail_for_errors()}") from None
        watchdog.remove(self)
        return code

    def wait_until(self, ready: Callable[[], bool], timeout: float, what: str = "ready") -> None:
        """Waits for a condition, and fails at once if the process exits."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive:
                raise ServerError(f"{self.name} ended with code {self.returncode}{self.tail_for_errors()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} was not {what} within {timeout:g} s{self.tail_for_errors()}")
            time.sleep(POLL_SECONDS)

    def output(self) -> str:
        """Its output since it started; the log file may also have the output of earlier processes."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail_for_errors(self) -> str:
        lines = self.output().splitlines()[-LOG_LINES_IN_ERRORS:]
        return f"; its log is {self.log}" + (
            ", the last lines:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""
        )

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has already exited
            os.killpg(self._started.pid, number)


_ports_given: set[int] = set()
_ports_lock = threading.Lock()


def receives(port: int) -> bool:
    """Whether a UDP socket is bound to this port."""
    rows = [row.split() for table in ("udp", "udp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return any(int(row[1].rpartition(":")[2], 16) == port for row in rows)


def accepts(port: int) -> bool:
    """Whether a process listens on the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """An unused port, below the range that the kernel uses for outgoing connections.

    A server that restarts on its port must not find an outgoing connection of another process there.
    """
    with _ports_lock:
        while True:
            port = random.randint(20000, 32000)
            if port not in _ports_given and _is_free(port):
                _ports_given.add(port)
                return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
