"""vault/mounts: one question a minute for each mount in use, from any thread; and what a refusal says about a mount."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pydantic import SecretStr

from tests.unit.build import V2, gone, login, path, run_ahead
from tests.unit.servers import raw_server
from vaultsync.core.errors import VaultRejected, VaultUnavailable, WriteConflict
from vaultsync.core.paths import FindPrefix, Mount, VaultPath
from vaultsync.vault import mounts as mounts_module
from vaultsync.vault.client import VaultClient
from vaultsync.vault.mounts import MountCache

A, B = path("secret/data/a"), path("team/kv/data/b")
TEAM = Mount("team/kv/", 2)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """Answers for a mount, and counts how often it was asked."""

    def __init__(self, mount: Mount | None = V2) -> None:
        self.mount = mount
        self.times = 0

    def __call__(self) -> Mount | None:
        self.times += 1
        return self.mount


def test_a_mount_is_asked_for_again_when_its_answer_is_old() -> None:
    clock, asked = Clock(), Asked()
    cache = MountCache(clock)
    for _ in range(3):
        assert cache.resolve(A, 60, asked) == V2
    assert asked.times == 1
    clock.now += 59
    cache.resolve(path("secret/data/other"), 60, asked)
    assert asked.times == 1
    cache.resolve(A, 1, asked)
    assert asked.times == 2, "a fresher answer was wanted"
    clock.now += 61
    asked.mount = Mount("secret/", 1)
    assert cache.resolve(A, 60, asked) == Mount("secret/", 1)
    assert asked.times == 3


def test_mounts_with_slashes_and_of_other_namespaces_are_apart() -> None:
    cache = MountCache()
    assert cache.resolve(B, 60, Asked(TEAM)) == TEAM
    other = Asked(Mount("team/x/", 1))
    assert cache.resolve(path("team/x/b"), 60, other) == other.mount
    elsewhere = Asked(Mount("team/kv/", 1))
    assert cache.resolve(VaultPath("ns", B.path), 60, elsewhere) == elsewhere.mount
    assert cache.resolve(B, 60, Asked(None)) == TEAM


def test_what_vault_does_not_tell_any_more_is_forgotten() -> None:
    cache = MountCache()
    cache.resolve(A, 60, Asked())
    assert cache.resolve(A, -1, Asked(None)) is None
    cache.resolve(A, 60, asked := Asked())
    assert asked.times == 1

    def refuse() -> Mount | None:
        raise VaultRejected("no KV mount")

    with pytest.raises(VaultRejected):
        cache.resolve(A, -1, refuse)
    cache.resolve(A, 60, asked)
    assert asked.times == 2


def test_an_outage_forgets_nothing() -> None:
    cache = MountCache()
    cache.resolve(A, 60, Asked())

    def fail() -> Mount | None:
        raise VaultUnavailable("away")

    with pytest.raises(VaultUnavailable):
        cache.resolve(A, -1, fail)
    cache.resolve(A, 60, asked := Asked())
    assert asked.times == 0


def test_an_answer_that_was_on_its_way_when_all_was_forgotten_is_not_kept() -> None:
    cache = MountCache()

    def meanwhile() -> Mount | None:
        cache.forget_all()
        return Mount("secret/", 1)

    cache.resolve(A, 60, meanwhile)
    assert cache.resolve(A, 60, asked := Asked()) == V2
    assert asked.times == 1


def test_threads_that_need_a_mount_together_ask_once_and_one_that_fails_fails_alone() -> None:
    cache, started = MountCache(), threading.Barrier(8)
    asked: list[int] = []

    def slowly() -> Mount | None:
        asked.append(1)
        time.sleep(0.05)
        if len(asked) == 1:
            raise VaultUnavailable("away")
        return V2

    def resolve() -> Mount | None:
        started.wait()
        try:
            return cache.resolve(A, 60, slowly)
        except VaultUnavailable:
            return None

    with ThreadPoolExecutor(8) as pool:
        found = [one.result() for one in [pool.submit(resolve) for _ in range(8)]]
    assert found.count(None) == 1
    assert cache.resolve(A, 60, Asked(None)) == V2
    assert len(asked) <= 8

    again = MountCache()
    asked[:] = [1]
    started.reset()
    cache = again
    with ThreadPoolExecutor(8) as pool:
        assert {one.result() for one in [pool.submit(resolve) for _ in range(8)]} == {V2}
    assert len(asked) == 2


def test_many_threads_and_mounts_that_are_forgotten_all_the_time() -> None:
    cache = MountCache()
    mounts = [Mount(f"m{number}/{'x/' * (number % 3)}", 1 + number % 2) for number in range(20)]
    ends = time.monotonic() + 1.0

    def look(number: int) -> int:
        looks = 0
        while time.monotonic() < ends:
            mount = mounts[(number + looks) % len(mounts)]
            found = cache.resolve(path(f"{mount.path}data/a/{number}"), 60, lambda mount=mount: mount)  # type: ignore[misc]
            assert found == mount
            looks += 1
        return looks

    def forget() -> int:
        while time.monotonic() < ends:
            cache.forget_all()
            cache.resolve(A, 60, Asked(None))
        return 1

    with ThreadPoolExecutor(12) as pool:
        done = [pool.submit(look, number) for number in range(10)] + [pool.submit(forget) for _ in range(2)]
        assert all(one.result() for one in done)


# -- in the client, against a Vault whose mounts change


class Vault:
    """One KV mount, `secret/`, which can change its version; answers as Vault 1.15.1 and OpenBao 2.7.2.

    By hand, since aiohttp's parser refuses the method LIST.

    Attributes:
        kv: 1, 2, or 0 where there is no mount.
        moving_to: where the mount is being moved to, "" for nowhere.
        asked: method and path of each request.
    """

    def __init__(self, kv: int = 2) -> None:
        self.kv = kv
        self.moving_to = ""
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if length := re.search(r"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        method, where, _ = head.split(" ", 2)
        status, document = self._answer(method, where.removeprefix("/v1/"))
        body = json.dumps(document) if document is not None else ""
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()

    def _answer(self, method: str, where: str) -> tuple[int, object]:
        self.asked.append((method, where))
        if "/ui/mounts/" in where:
            if not self.kv:
                return 403, {"errors": ["preflight capability check returned 403"]}
            found = {"path": self.moving_to or "secret/", "type": "kv", "options": {"version": str(self.kv)}}
            return 200, {"data": found}
        if not self.kv or self.moving_to:
            return 404, {"errors": ["no handler for route"]}
        if method == "POST":
            return (200, {"data": {"version": 1}}) if self.kv == 2 else (204, None)
        if self.kv == 1:
            return (200, {"data": {"keys": ["a"]}}) if (method, where) == ("LIST", "secret") else (404, {"errors": []})
        if (method, where) == ("LIST", "secret/metadata"):
            return 200, {"data": {"keys": ["a"]}}
        if where.startswith("secret/subkeys/"):
            return 200, {"data": {"subkeys": {"p": None}, "metadata": {"version": 1}}}
        return 404, {"data": None, "warnings": ["Invalid path for a versioned K/V secrets engine."]}

    @property
    def mounts_asked(self) -> int:
        return sum("/ui/mounts/" in where for _, where in self.asked)


def against(vault: Vault, test: Callable[[VaultClient], object]) -> None:
    async def main() -> None:
        async with raw_server(vault) as address:
            client = VaultClient(login(f"http://{address}"))
            try:
                await test(client)  # type: ignore[misc]
            finally:
                await client.close()

    run_ahead(main())


@pytest.fixture
def always_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if more than FRESH_SECONDS had gone by since any answer, but not MAX_AGE."""
    monkeypatch.setattr(mounts_module, "FRESH_SECONDS", -1.0)


@pytest.mark.usefixtures("always_old")
def test_a_belief_that_vault_refuses_is_asked_about_and_the_look_is_right() -> None:
    """The warning says that the path is not one of KV v2; that is no secret that is missing."""
    vault = Vault(2)

    async def test(client: VaultClient) -> None:
        client._mounts.cache.resolve(A, 60, lambda: Mount("secret/", 1))
        state = await client.look(A, 2)
        assert (state.mount, state.exists, state.version) == (V2, True, 1)
        assert [method for method, _ in vault.asked] == ["LIST", "GET", "GET"]

    against(vault, test)


@pytest.mark.usefixtures("always_old")
def test_a_store_of_v1_is_refused_only_if_the_mount_still_is_of_v2() -> None:
    vault = Vault(1)

    async def test(client: VaultClient) -> None:
        client._mounts.cache.resolve(A, 60, lambda: V2)
        state = await client.look(path("secret/a"), 1)
        assert (state.mount, state.exists) == (Mount("secret/", 1), True)
        vault.kv = 2
        client.forget_mounts()
        with pytest.raises(VaultRejected, match="the store says version v1"):
            await client.look(path("secret/a"), 1)

    against(vault, test)


def test_a_refusal_by_a_mount_that_was_just_asked_for_asks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts_module, "FRESH_SECONDS", 60.0)
    vault = Vault(0)

    async def test(client: VaultClient) -> None:
        client._mounts.cache.resolve(A, 60, lambda: V2)
        for _ in range(5):
            with pytest.raises(VaultRejected):
                await client.look(A, 2)
        assert vault.mounts_asked == 0

    against(vault, test)


@pytest.mark.usefixtures("always_old")
def test_a_mount_that_is_gone_is_refused_with_vaults_own_words() -> None:
    vault = Vault(0)

    async def test(client: VaultClient) -> None:
        client._mounts.cache.resolve(A, 60, lambda: V2)
        with pytest.raises(VaultRejected, match="no handler for route on secret/subkeys/a"):
            await client.look(A, 2)

    against(vault, test)


def test_a_mount_that_is_being_moved_is_none_yet() -> None:
    """Vault 1.15.1 names its new path for a moment in the answer about the old one."""
    vault = Vault(2)
    vault.moving_to = "elsewhere/"

    async def test(client: VaultClient) -> None:
        with pytest.raises(VaultRejected, match="is moving it to elsewhere/"):
            await client.look(A, 2)
        vault.moving_to = ""
        assert (await client.look(A, 2)).exists

    against(vault, test)


@pytest.mark.usefixtures("always_old")
@pytest.mark.parametrize(("seen", "now"), [(V2, 1), (Mount("secret/", 1), 2)])
def test_nothing_is_created_in_a_mount_of_another_version_than_was_seen(seen: Mount, now: int) -> None:
    vault = Vault(now)

    async def test(client: VaultClient) -> None:
        client._mounts.cache.resolve(A, 60, lambda: seen)
        with pytest.raises(WriteConflict, match="another mount"):
            await client.create(A, replace(gone(mount=seen), read_at=time.monotonic()), {"p": SecretStr("x")})
        assert "POST" not in {method for method, _ in vault.asked}

    against(vault, test)


def test_each_creation_asks_for_the_mount_however_fresh_the_last_answer_and_one_after_a_version_never() -> None:
    vault = Vault(2)

    async def test(client: VaultClient) -> None:
        await client.look(A, 2)
        await client.create(A, replace(gone(mount=V2), read_at=time.monotonic()), {"p": SecretStr("x")})
        assert vault.mounts_asked == 2
        client.forget_mounts()
        await client.create(A, replace(gone(3, mount=V2), read_at=time.monotonic()), {"p": SecretStr("x")})
        assert vault.mounts_asked == 2, "what has a version is in a KV v2 mount"

    against(vault, test)


def test_what_a_v1_mount_answers_to_a_look_in_v2_is_no_missing_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """KV v1 answers as if the secret were missing; only the mount tells."""
    vault = Vault(1)

    async def test(client: VaultClient) -> None:
        monkeypatch.setattr(mounts_module, "FRESH_SECONDS", -1.0)
        client._mounts.cache.resolve(A, 60, lambda: V2)
        assert (await client.look(A, 2)).mount == Mount("secret/", 1)

    against(vault, test)


def test_a_listing_goes_on_in_the_mount_that_there_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(1)

    async def test(client: VaultClient) -> None:
        monkeypatch.setattr(mounts_module, "FRESH_SECONDS", -1.0)
        client._mounts.cache.resolve(A, 60, lambda: V2)
        assert await client.find(FindPrefix("", "secret/", 1)) == {path("secret/a")}
        client.forget_mounts()
        client._mounts.cache.resolve(A, 60, lambda: Mount("secret/", 1))
        vault.kv = 2
        assert await client.find(FindPrefix("", "secret/data/", 2)) == {path("secret/data/a")}
        vault.kv = 0
        with pytest.raises(VaultRejected):
            await client.find(FindPrefix("", "secret/data/", 2))

    against(vault, test)


def test_looks_from_many_tasks_while_mounts_are_forgotten() -> None:
    vault = Vault(2)

    async def test(client: VaultClient) -> None:
        async def forget() -> None:
            for _ in range(100):
                client.forget_mounts()
                await asyncio.sleep(0.002)

        looks = [client.look(path(f"secret/data/{number}"), 2) for number in range(200)]
        states = await asyncio.gather(forget(), *looks)
        assert all(state is not None and state.exists and state.mount == V2 for state in states[1:])

    against(vault, test)
