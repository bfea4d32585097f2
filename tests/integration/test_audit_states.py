"""The documented audit device does not slow Vault down in any state of vaultsync.

Vault is on one machine, vaultsync on another; both are network namespaces, so packets between them can be lost. The
tests assert only that no client waits longer than a second; docs/benchmarks.md has the figures.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manual import audit_devices
from tests.testbed.netns import dropped, hangs, udp_sink
from tests.testbed.testbed import wait_for
from tests.testbed.two_machines import KINDS, TwoMachines, WatchedVault
from tests.testbed.vaultsync import VaultsyncProcess

LIMIT = 1.0
"""Maximum seconds of a request."""
CLIENTS = (1, 8)
LOAD_SECONDS = 2.0
CHART_NOTES = "deploy/helm/vaultsync/templates/NOTES.txt"
CONTROL_SECONDS = 4.0
CONTROL_PATIENCE = 2.0
PATIENCE = 10.0
DEVICE = audit_devices()["README.md"]
TRANSPORT = DEVICE["socket_type"]


@pytest.fixture(scope="module")
def machines() -> Iterator[TwoMachines]:
    with TwoMachines() as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def watched(request: pytest.FixtureRequest, machines: TwoMachines) -> Iterator[WatchedVault]:
    with machines.vault(request.param) as made:
        yield made


@pytest.fixture
def process(watched: WatchedVault, request: pytest.FixtureRequest) -> Iterator[VaultsyncProcess]:
    """A vaultsync that receives every audit entry of Vault."""
    made = watched.vaultsync(TRANSPORT)
    try:
        watched.start(made)
        with watched.device(watched.address_of(made), DEVICE):
            watched.clients(1).write(0)
            made.wait_until(lambda: "audit device is connected" in made.output(), PATIENCE, "connected to Vault")
            yield made
            watched.cable.heal()
    finally:
        made.kill()
        request.node.add_report_section("teardown", made.name, made.output())


def assert_fast(watched: WatchedVault) -> None:
    """All writes succeed, and no client waits too long."""
    found = {f"{number} clients": watched.clients(number).write(LOAD_SECONDS) for number in CLIENTS}
    assert {name: written.failures for name, written in found.items() if written.failures} == {}
    assert {name: written.longest for name, written in found.items() if written.longest >= LIMIT} == {}


def is_frozen(process: VaultsyncProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def test_every_document_sets_up_the_same_device() -> None:
    found = audit_devices()
    assert {
        "README.md",
        "deploy/base/service.yaml",
        "vaultsync/commands/check/audit_devices.py",
        CHART_NOTES,
    } <= found.keys()
    assert {name: options for name, options in found.items() if options != DEVICE} == {}


def test_with_vaultsync_running(watched: WatchedVault, process: VaultsyncProcess) -> None:
    assert_fast(watched)
    assert process.alive


def test_with_vaultsync_stopped(watched: WatchedVault, process: VaultsyncProcess) -> None:
    process.stop()
    assert_fast(watched)


def test_with_vaultsync_killed(watched: WatchedVault, process: VaultsyncProcess) -> None:
    process.kill()
    assert_fast(watched)


def test_with_vaultsync_frozen(watched: WatchedVault, process: VaultsyncProcess) -> None:
    process.freeze()
    wait_for(lambda: is_frozen(process), PATIENCE, "it is frozen")
    assert_fast(watched)


def test_with_packets_to_vaultsync_lost(watched: WatchedVault, process: VaultsyncProcess) -> None:
    """A NetworkPolicy, a security group, a lost node behind a router."""
    watched.cable.lose()
    assert hangs(watched.cable.near, watched.cable.far_address, process.audit_port, LIMIT)
    assert_fast(watched)


def test_with_vaultsyncs_machine_gone_from_vaults_subnet(watched: WatchedVault, process: VaultsyncProcess) -> None:
    """ARP is not answered: the entries fill the buffer of the device's own socket."""
    watched.cable.silence()
    assert hangs(watched.cable.near, watched.cable.far_address, process.audit_port, LIMIT)
    assert_fast(watched)


def test_with_vaultsync_overloaded(watched: WatchedVault, process: VaultsyncProcess) -> None:
    with watched.flood(process, TRANSPORT, seconds=60) as flood:
        if TRANSPORT == "udp":
            wait_for(lambda: dropped(watched.cable.far, process.audit_port), PATIENCE, "the socket drops entries")
        assert_fast(watched)
        assert flood.alive


def test_the_same_device_over_tcp_delays_clients(watched: WatchedVault) -> None:
    """Control: the set-up detects a device that delays clients."""
    cable = watched.cable
    with cable.far.run(lambda: socket.create_server((cable.far_address, 0))) as server:
        address = f"{cable.far_address}:{server.getsockname()[1]}"
        with watched.device(address, {"socket_type": "tcp"}):
            try:
                cable.lose()
                assert watched.clients(1, CONTROL_PATIENCE).write(CONTROL_SECONDS).longest > LIMIT
            finally:
                cable.heal()


def test_a_udp_device_without_a_write_timeout_delays_clients(watched: WatchedVault) -> None:
    """Control: the reason for the write_timeout of the documented device."""
    cable = watched.cable
    with udp_sink(cable.far, cable.far_address) as sink, contextlib.ExitStack() as stack:
        address = f"{cable.far_address}:{sink.getsockname()[1]}"
        stack.enter_context(watched.device(address, {"socket_type": "udp"}))
        stack.callback(cable.heal)
        cable.silence()
        assert watched.clients(1, CONTROL_PATIENCE).write(CONTROL_SECONDS).longest > LIMIT
