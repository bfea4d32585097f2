"""What an audit device tells of changed mounts, and the looks that follow."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.auditing import READ, Receiving, receiving
from tests.unit.build import eventually, external_secret, path, run_ahead
from tests.unit.controller.harness import KV1, A, Engine, v1_external_secret
from tests.unit.servers import unused_port
from vaultsync.controller.rescans import MAX_MOUNTS, MOUNT_SECONDS
from vaultsync.core.events import MountChange, parse_audit_entry
from vaultsync.core.paths import VaultPath

SECRET = MountChange(path("secret/"))


def line(where: str, operation: str = "update", namespace: object = None, **fields: object) -> bytes:
    """As Vault 1.15.1 writes it; the rest of what it holds is hashed."""
    request = {
        **{"id": "5a", "operation": operation, "mount_point": "sys/", "mount_type": "system", "path": where},
        "namespace": namespace or {"id": "root"},
        "data": {"options": {"version": "hmac-sha256:80"}},
    }
    document: dict[str, Any] = {"type": "response", "request": request, "response": {"mount_type": "system"}, **fields}
    return json.dumps(document, separators=(",", ":")).encode()


def changed(entry: bytes) -> MountChange | None:
    return parse_audit_entry(entry).mounts


@pytest.mark.parametrize(
    ("where", "operation", "mount"),
    [
        ("sys/mounts/secret", "update", "secret/"),
        ("sys/mounts/secret/", "update", "secret/"),
        ("sys/mounts/secret", "delete", "secret/"),
        ("sys/mounts/secret/tune", "update", "secret/"),
        ("sys/mounts/team/kv/tune", "update", "team/kv/"),
    ],
)
def test_the_changed_mount_is_named(where: str, operation: str, mount: str) -> None:
    assert changed(line(where, operation)) == MountChange(path(mount))


def test_it_is_of_the_requests_vault_namespace() -> None:
    found = changed(line("sys/mounts/secret", namespace={"id": "x", "path": "team/a/"}))
    assert found == MountChange(VaultPath("team/a", "secret/"))
    assert found.covers("team/a", "secret/data/x")
    assert not found.covers("", "secret/data/x")
    assert not found.covers("team/a", "secrets/data/x")


def test_a_move_names_nothing_in_clear() -> None:
    found = changed(line("sys/remount"))
    assert found == MountChange(None)
    assert found.covers("any", "thing")


@pytest.mark.parametrize(
    "reported",
    [
        line("sys/mounts/secret", "read"),
        line("sys/mounts/secret/tune", "read"),
        line("sys/mounts/secret", type="request"),
        line("sys/mounts/secret", error="permission denied"),
        line("sys/internal/ui/mounts/secret", "read"),
        line("sys/remount/status/5", "read"),
        line("sys/auth/approle"),
        line("secret/data/sys/mounts/a"),
        line('secret/data/x"sys/mounts/'),
        line(""),
    ],
)
def test_other_lines_are_about_no_mount(reported: bytes) -> None:
    assert changed(reported) is None


@given(st.binary(max_size=80), st.sampled_from([b'"sys/mounts/', b'"sys/remount"']))
def test_garbage_is_about_no_mount(garbage: bytes, bait: bytes) -> None:
    assert changed(garbage + bait + b'"response""update"' + garbage) is None
    assert changed(b"[" * 10_000 + bait + b'"response""update"') is None


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_only_a_verified_sender_is_believed(transport: str) -> None:
    async def test(made: Receiving) -> None:
        found: list[MountChange] = []
        made.audit.on_mounts = found.append
        await eventually(lambda: made.asked)
        forger = await made.stranger()
        forger.send(line("sys/mounts/forged") + b"\n" + line("sys/remount") + b"\n")
        device = await made.device()
        device.send(READ)
        await eventually(lambda: made.audit.is_connected)
        device.send(line("sys/mounts/secret/tune") + b"\n")
        await eventually(lambda: found)
        assert found == [SECRET]
        forger.close()

    receiving(test, listen=f"{transport}:127.0.0.1:{unused_port()}")


def engine() -> Engine:
    made = Engine()
    made.vault.write(A, password="p")
    made.vault.write(KV1, password="p")
    return made


def test_what_is_in_a_changed_mount_is_looked_at_a_moment_later_and_forgotten_before() -> None:
    async def test() -> None:
        made, rescans = engine(), list[int]()
        made.controller.on_rescan = lambda: rescans.append(made.vault.looks[A])
        async with made.working():
            for one in (external_secret("a"), v1_external_secret(name="other")):
                made.controller.external_secret_changed(one)
            await asyncio.sleep(60)
            rescans.clear()
            looks, other = made.vault.looks[A], made.vault.looks[KV1]
            made.controller.mounts_changed(SECRET)
            await asyncio.sleep(MOUNT_SECONDS[0] + 0.1)
            assert (made.vault.looks[A], made.vault.looks[KV1]) == (looks + 1, other)
            assert rescans == [looks], "the mounts are asked for again by these looks"

    run_ahead(test())


@pytest.mark.parametrize("change", [SECRET, MountChange(None)])
def test_many_changes_are_one_look_and_forged_ones_cause_few(change: MountChange) -> None:
    async def test() -> None:
        made = engine()
        async with made.working():
            for one in (external_secret("a"), v1_external_secret(name="other")):
                made.controller.external_secret_changed(one)
            await asyncio.sleep(60)
            looks = made.vault.looks[A]
            for number in range(100):
                made.controller.mounts_changed(change)
                for forged in range(MAX_MOUNTS):
                    made.controller.mounts_changed(MountChange(path(f"forged-{number}-{forged}/")))
                await asyncio.sleep(1)
            assert 1 <= made.vault.looks[A] - looks <= 1 + 100 / MOUNT_SECONDS[1]
            assert len(made.controller._mount_rescans._changes) <= MAX_MOUNTS + 1

    run_ahead(test())


def test_a_look_at_everything_asks_for_the_mounts_again() -> None:
    async def test() -> None:
        made, rescans = engine(), list[int]()
        made.controller.on_rescan = lambda: rescans.append(1)
        async with made.working():
            made.controller.external_secret_changed(external_secret("a"))
            await asyncio.sleep(60)
            rescans.clear()
            made.controller.enqueue_all()
            made.controller.vault_connected()
            assert len(rescans) == 2

    run_ahead(test())
