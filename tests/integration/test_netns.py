"""The testbed's network namespaces: they lose packets as configured, and are removed however their owner ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.errors import MissingToolError
from tests.testbed.identity import PROJECT
from tests.testbed.netns import DEVICE, Cable, Namespace, hangs, joined
from tests.testbed.testbed import wait_for

SECONDS = 0.5
PATIENCE = 10.0
OWNER = """
import sys, time
from pathlib import Path
from tests.testbed.netns import joined
from tests.testbed.processes import Process
with joined() as cable:
    server = Process("server", ["sleep", "600"], log=Path(sys.argv[1]))
    cable.far.run(server.start)
    print(cable.near.inode, cable.far.inode, flush=True)
    time.sleep(600)
"""
"""A process with a server in a namespace that is killed before it can clean up."""


@pytest.fixture
def cable() -> Iterator[Cable]:
    with joined() as made:
        yield made


def listener(cable: Cable) -> socket.socket:
    return cable.far.run(lambda: socket.create_server((cable.far_address, 0)))


def inhabited() -> set[int]:
    """The inodes of the network namespaces in use by a process, or held by a file descriptor."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        for file in (folder / "ns" / "net", *folder.glob("fd/*")):
            try:
                found.add(file.stat().st_ino if os.readlink(file).startswith("net:") else 0)
            except OSError:  # the process has ended
                continue
    return found


def devices() -> str:
    """The inode of the namespace that the tests run in."""
    return subprocess.run(["ip", "-brief", "address"], check=True, capture_output=True, text=True).stdout


def test_a_cable_that_loses_everything_makes_a_connection_hang(cable: Cable) -> None:
    with listener(cable) as server:
        port = server.getsockname()[1]
        assert not hangs(cable.near, cable.far_address, port, SECONDS)
        for cut in (cable.lose, cable.silence):
            cut()
            assert hangs(cable.near, cable.far_address, port, SECONDS)
            cable.heal()
            assert not hangs(cable.near, cable.far_address, port, SECONDS)
        for address in (cable.lost_address, cable.absent_address):
            assert hangs(cable.near, address, port, SECONDS)


def test_a_process_in_the_namespace_is_unreachable_and_changes_nothing_outside() -> None:
    before = devices()
    with joined() as cable:
        server = cable.far.run(lambda: socket.create_server(("127.0.0.1", 0)))
        with server, pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.getsockname(), SECONDS)
        assert devices() == before
    assert devices() == before


def test_a_closed_namespace_is_removed() -> None:
    with Namespace() as near:
        with Namespace() as far:
            Cable(near, far)
            inode = far.inode
            assert inode in inhabited()
        wait_for(lambda: inode not in inhabited(), PATIENCE, "no process uses it")
        wait_for(lambda: DEVICE not in near.ip("link"), PATIENCE, "both ends of the cable are gone")


def test_a_killed_owner_leaves_no_namespace_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        inodes = {int(word) for word in owner.stdout.readline().split()}
        assert len(inodes & inhabited()) == 2
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not inodes & inhabited(), PATIENCE, "the server was killed, and the namespaces are gone")


def test_without_iproute2_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match="apt-get install iproute2"):
        Namespace()
