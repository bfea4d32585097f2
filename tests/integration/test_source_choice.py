"""VAULTSYNC_SOURCE=auto: the best available source, and changes between sources, on OpenBao."""

from pathlib import Path

import pytest

from tests.integration.test_healing import SEED, another
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed
from tests.testbed.vaultsync import VaultsyncProcess


@pytest.fixture(scope="module")
def testbed(openbao: Testbed) -> Testbed:
    return openbao


def sources(process: VaultsyncProcess) -> list[str]:
    """The sources in the log, in order."""
    lines = [line for line in process.output().splitlines() if "changes in Vault are reported by" in line]
    return [word for line in lines for word in ("events", "audit", "poll") if f'"source": "{word}"' in line]


def heals(place: Place, name: str) -> None:
    place.external_secret(name, {"p": (name, "password")}, annotations=SEED)
    first = place.wait_for_secret(name)
    place.vault.delete(place.path(name))
    place.wait_for(lambda: another(place, name, first))


def test_a_better_source_is_used_while_available_and_the_poll_otherwise(
    place: Place, vaultsync: VaultsyncFactory
) -> None:
    process = vaultsync({"VAULTSYNC_POLL_INTERVAL": "1s"}, audit=False)
    place.wait_for(lambda: sources(process) == ["poll"], 20, "the poll, because no device has connected")
    heals(place, "polled")
    place.testbed.audit_to(process.audit_name, process.audit_address)
    place.wait_for(lambda: sources(process) == ["poll", "audit"], what="the audit device")
    heals(place, "connected")
    place.testbed.no_audit_to(process.audit_name)  # this leaves the connection open: it is detected by its silence
    place.external_secret("asked", {"p": ("asked", "password")}, annotations=SEED)
    place.wait_for(lambda: sources(process) == ["poll", "audit", "poll"], 20, "the poll again")
    heals(place, "polled-again")


def test_without_a_listener_it_polls_at_once_and_logs_why(place: Place, vaultsync: VaultsyncFactory) -> None:
    process = vaultsync({"VAULTSYNC_AUDIT_LISTEN": "", "VAULTSYNC_POLL_INTERVAL": "1s"}, audit=False)
    place.wait_for(lambda: sources(process) == ["poll"], 5)
    assert "the token's policy needs read on sys/events/subscribe/*" in process.output()
    heals(place, "app")


def test_an_audit_file_is_followed_across_its_rotation(
    place: Place, vaultsync: VaultsyncFactory, tmp_path: Path
) -> None:
    file = tmp_path / "audit.log"
    root = place.testbed.vault_root
    root.audit("followed", "file", file_path=str(file))
    try:
        process = vaultsync({"VAULTSYNC_AUDIT_LISTEN": "", "VAULTSYNC_AUDIT_FILE": str(file)}, audit=False)
        place.wait_for(lambda: sources(process) == ["audit"], 15)
        heals(place, "before")
        file.rename(tmp_path / "audit.log.1")
        heals(place, "renamed")  # still written to the old file, because no HUP was sent
        place.testbed.vault.process.hang_up()
        heals(place, "after")
        assert file.exists()
    finally:
        root.unaudit("followed")


def test_an_audit_socket_may_be_a_file(place: Place, vaultsync: VaultsyncFactory, tmp_path: Path) -> None:
    socket = tmp_path / "audit.sock"
    process = vaultsync({"VAULTSYNC_AUDIT_LISTEN": f"unix:{socket}"}, audit=False)
    place.wait_for(lambda: "listening for Vault's audit device" in process.output())
    assert socket.is_socket()
    root = place.testbed.vault_root
    root.audit("unix", "socket", address=str(socket), socket_type="unix")
    try:
        place.wait_for(lambda: sources(process) == ["audit"], 15)
        heals(place, "app")
    finally:
        root.unaudit("unix")
