"""Forged frames and audit entries cause at most one read: no force-sync, no patch and no Event."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.test_source_choice import sources
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.frames import FrameProxy
from tests.testbed.place import Place
from tests.testbed.vaultsync import Metrics, VaultsyncProcess

PATIENCE = 3.0
"""Seconds in which the effects of an event would appear."""
KINDS = ("data-write", "data-patch", "data-delete", "undelete", "metadata-write", "metadata-delete")
REQUESTS = (("update", "data"), ("delete", "data"), ("delete", "metadata"), ("update", "undelete"))


def reads(place: Place, name: str) -> int:
    """How often vaultsync has read a path, by Vault's own audit log."""
    log = place.testbed.work / "logs" / "audit.log"
    path = f'"path":"secret/subkeys/{place.path(name)}"'.encode()
    return sum(path in line and b'"type":"response"' in line for line in log.read_bytes().splitlines())


def written(process: VaultsyncProcess) -> dict[str, float]:
    """The number of writes so far, by kind."""
    now = Metrics(process)
    return {
        "force-syncs": now("force_syncs_total"),
        "patches": now("kube_requests_total", method="PATCH"),
        "Events": now("kube_requests_total", method="POST"),
        "writes in Vault": now("vault_requests_total", method="POST") + now("vault_requests_total", method="PATCH"),
    }


def at_rest(place: Place, process: VaultsyncProcess, source: str) -> None:
    """Enables Vault's own log, and waits until two ExternalSecrets are Ready."""
    log = place.testbed.work / "logs" / "audit.log"
    place.vault.audit("file", "file", file_path=str(log))
    place.put("live", password="p")
    for name in ("live", "missing"):
        place.external_secret(name, {"p": (name, "password")})
    place.wait_for_secret("live")
    place.wait_for(lambda: sources(process) == [source], 20, source)
    time.sleep(1)


@pytest.mark.parametrize("name", ["live", "missing"])
def test_a_forged_frame_causes_at_most_one_read(place: Place, vaultsync: VaultsyncFactory, name: str) -> None:
    vault = place.testbed.vault
    with FrameProxy(vault.port) as proxy:
        env = {"VAULT_ADDR": proxy.address, "VAULTSYNC_STORE_SERVERS": vault.address}
        process = vaultsync(env, audit=False)
        at_rest(place, process, "events")
        before = written(process)
        for kind in KINDS:
            seen, events = reads(place, name), Metrics(process)("events_total", source="events")
            metadata = {"path": f"secret/{_folder(kind)}/{place.path(name)}", "current_version": "99"}
            event = {"event_type": f"kv-v2/{kind}", "event": {"metadata": metadata}}
            later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            plugin = {"plugin_info": {"mount_path": "secret/"}}
            proxy.inject(json.dumps({"time": later, "data": event | plugin}))
            place.wait_for(lambda events=events: Metrics(process)("events_total", source="events") > events)  # type: ignore[misc]
            time.sleep(PATIENCE)
            assert written(process) == before, kind
            assert reads(place, name) <= seen + 1, kind


@pytest.mark.parametrize("name", ["live", "missing"])
def test_a_forged_audit_entry_causes_at_most_one_read(place: Place, vaultsync: VaultsyncFactory, name: str) -> None:
    process = vaultsync({"VAULTSYNC_SOURCE": "audit"})
    at_rest(place, process, "audit")
    with forger(process) as sender:
        before = written(process)
        for operation, folder in REQUESTS:
            seen = reads(place, name)
            request = {
                "id": "forged",
                "operation": operation,
                "path": f"secret/{folder}/{place.path(name)}",
                "mount_point": "secret/",
                "mount_type": "kv",
            }
            later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
            response = {"data": {"version": 99, "created_time": later}}
            entry = {"type": "response", "time": later, "request": request, "response": response}
            sender.send(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            time.sleep(PATIENCE)
            assert written(process) == before, operation
            assert reads(place, name) <= seen + 1, operation


def test_a_forged_entry_about_kv_v1_causes_nothing_either(place: Place, vaultsync: VaultsyncFactory) -> None:
    """KV v1 has no versions to verify a change with: only a verified sender is trusted."""
    place.store("old", path="kv1", version="v1")
    place.put("old", mount="kv1", password="p")
    place.external_secret("old", {"p": ("old", "password")}, store="old")
    process = vaultsync({"VAULTSYNC_SOURCE": "audit"})
    at_rest(place, process, "audit")
    place.wait_for_secret("old")
    with forger(process) as sender:
        time.sleep(PATIENCE)
        before = written(process)
        for operation in ("create", "update", "delete"):
            request = {"id": "forged", "operation": operation, "path": f"kv1/{place.path('old')}", "mount_type": "kv"}
            entry = {"type": "response", "time": datetime.now(UTC).isoformat(), "request": request, "response": {}}
            sender.send(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            time.sleep(PATIENCE)
            assert written(process) == before, operation
    place.put("old", mount="kv1", password="q")
    place.wait_for_secret("old", p="q")


@contextmanager
def forger(process: VaultsyncProcess) -> Iterator[socket.socket]:
    """Another sender on the network that reaches the audit port."""
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", process.audit_port))
        yield sender


def _folder(kind: str) -> str:
    return {"undelete": "undelete", "metadata-write": "metadata", "metadata-delete": "metadata"}.get(kind, "data")
