"""The Vault policy is minimal: every request of vaultsync works with it, and not every one with one capability less.

Each probe runs vaultsync's own code with a token that has only one policy.
"""

import asyncio
import itertools
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.manual import commands, section
from tests.testbed.api import Api, ApiError
from tests.testbed.identity import DEPLOY, POLICY, PROJECT
from tests.testbed.testbed import Testbed
from tests.testbed.vault import VaultRoot
from tests.testbed.vaultsync import FOREIGN
from vaultsync.commands.policy import policy
from vaultsync.config.auth import AuthConfig
from vaultsync.core.errors import VaultDenied
from vaultsync.core.events import VaultEvent
from vaultsync.core.paths import FindPrefix, Mount, VaultPath
from vaultsync.core.seed_paths import SeedPaths
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.api import CAPABILITIES
from vaultsync.vault.client import VaultClient
from vaultsync.vault.login import Login
from vaultsync.vault.stream import EventStream
from vaultsync.vault.transport import VaultAccess

SECRET, TEAM, OLD = Mount("secret/", 2), Mount("team/kv/", 2), Mount("kv1/", 1)
NARROW = SeedPaths.parse(["*/apps/{namespace}/**", "*/solo/{namespace}", "*/shared/one"])
VALUE = SecretStr("not-to-be-seen")
PASSWORD_POLICY = 'length = 20\nrule "charset" { charset = "abcdefghij" }'
COMES, COMES_NOT = 15.0, 0.7
"""Seconds to wait for an event: if it must arrive, and if it must not. It takes a few milliseconds."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Area:
    """Paths in a mount; {} is replaced by a new name each time."""

    mount: Mount
    form: str
    may_seed: bool = True

    def new(self) -> str:
        return self.form.format(f"p{next(_numbers)}-{secrets.token_hex(3)}")

    def api(self, path: str) -> VaultPath:
        return VaultPath("", self.mount.path + ("data/" if self.mount.kv == 2 else "") + path)

    def folder(self, path: str) -> FindPrefix:
        """The folder that a `dataFrom.find` lists; for the root of a mount everything."""
        return FindPrefix("", self.api(path).path.rpartition("/")[0] + "/", self.mount.kv)

    def below(self, path: str) -> FindPrefix:
        return FindPrefix("", self.api(path).path + "/", self.mount.kv)


@dataclass(frozen=True)
class Case:
    """A policy, and the requests and events that it must allow in each area."""

    name: str
    text: str
    areas: tuple[Area, ...]

    @property
    def may_seed(self) -> bool:
        return any(area.may_seed for area in self.areas)


def everywhere(mount: Mount, *, may_seed: bool = True) -> Area:
    return Area(mount, "{}/a", may_seed)


CASES = [
    Case(
        "shipped",
        (DEPLOY / "vault" / "policy.hcl").read_text(),
        (everywhere(SECRET), everywhere(TEAM), everywhere(OLD)),
    ),
    Case(
        "narrow",
        policy(NARROW, [SECRET, OLD], seeds=True),
        tuple(
            area
            for mount in (SECRET, OLD)
            for area in (
                everywhere(mount, may_seed=False),
                Area(mount, "apps/{}/a"),
                Area(mount, "solo/{}"),
                Area(mount, "shared/one"),
            )
        ),
    ),
    Case(
        "off",
        policy(SeedPaths.parse(["*/**"]), [SECRET, OLD], seeds=False),
        (everywhere(SECRET, may_seed=False), everywhere(OLD, may_seed=False)),
    ),
]


# -- policies without one capability


@dataclass(frozen=True)
class Right:
    """One capability of one block of a policy."""

    path: str
    capability: str

    def __str__(self) -> str:
        return f"{self.path} {self.capability}"


BLOCK = re.compile(
    r'^path "([^"]+)" \{\n  capabilities +=( \[[^]]+\])\n(?:  subscribe_event_types = \["\*"\]\n)?\}\n', re.MULTILINE
)


def rights(text: str) -> list[Right]:
    return [Right(path, one) for path, listed in BLOCK.findall(text) for one in re.findall(r'"(\w+)"', listed)]


def without(text: str, right: Right) -> str:
    """The policy without this capability; a block without capabilities is removed."""

    def less(block: re.Match[str]) -> str:
        if block[1] != right.path:
            return block[0]
        kept = [one for one in re.findall(r'"(\w+)"', block[2]) if one != right.capability]
        types = '  subscribe_event_types = ["*"]\n' if "subscribe" in kept else ""
        listed = ", ".join(f'"{one}"' for one in kept)
        return f'path "{block[1]}" {{\n  capabilities = [{listed}]\n{types}}}\n' if kept else ""

    found = BLOCK.sub(less, text)
    assert len(rights(found)) == len(rights(text)) - 1
    return found


# -- probes

Probe = Callable[[], Awaitable[None]]


class Probes:
    """All requests of vaultsync to Vault, for one token.

    Attributes:
        requests: raise the exceptions of VaultClient, or AssertionError.
    """

    def __init__(self, case: Case, client: VaultClient, login: Login, spare: Login, root: VaultRoot) -> None:
        self._case = case
        self._client = client
        self._login = login
        self._spare = spare
        self._root = root
        self.requests: dict[str, Probe] = {
            "look up": self._look_up,
            "renew": self._renew,
            "revoke": self._revoke,
            "capabilities": self._capabilities,
        }
        if case.may_seed:
            self.requests["password"] = self._password
        for area in case.areas:
            for name, probe in self._of(area).items():
                self.requests[f"{name} in {area.mount.path}{area.form}"] = probe

    def _of(self, area: Area) -> dict[str, Probe]:
        probes = {"look": self._look, "find": self._find, "find below": self._find_below}
        if area.may_seed:
            probes["create"] = self._create
        if area.may_seed and area.mount.kv == 2:
            probes |= {"create again": self._create_again, "add a key": self._add_a_key, "mark": self._mark}

        def bound(probe: Callable[[Area], Awaitable[None]]) -> Probe:
            return lambda: probe(area)

        return {name: bound(probe) for name, probe in probes.items()}

    async def failing(self) -> dict[str, Exception]:
        """The requests that fail; all are tried."""
        found: dict[str, Exception] = {}
        for name, probe in self.requests.items():
            try:
                await probe()
            except VaultDenied as error:
                found[name] = error
        return found

    # -- the requests

    async def _look_up(self) -> None:
        assert (await self._login.look_up()).renewable

    async def _renew(self) -> None:
        assert (await self._login.api.renew(self._login.token)).ttl > 0

    async def _revoke(self) -> None:
        """Runs once, with another token, because this one is still needed."""
        await self._spare.api.revoke(self._spare.token)

    async def _capabilities(self) -> None:
        found = await self._client.capabilities([CAPABILITIES, "sys/mounts"], "")
        assert found == {CAPABILITIES: {"update"}, "sys/mounts": set()}

    async def _password(self) -> None:
        assert len((await self._client.password("probe", "")).get_secret_value()) == 20

    async def _look(self, area: Area) -> None:
        path = self._fresh(area)
        assert not (await self._client.look(area.api(path), area.mount.kv)).exists
        self._put(area, path)
        assert (await self._client.look(area.api(path), area.mount.kv)).exists

    async def _find(self, area: Area) -> None:
        path = self._put(area, self._fresh(area))
        assert area.api(path) in await self._client.find(area.folder(path))

    async def _find_below(self, area: Area) -> None:
        """A path is a value and a folder at once."""
        path = self._put(area, self._fresh(area))
        assert await self._client.find(area.below(path)) == set()

    async def _create(self, area: Area) -> None:
        path = area.api(self._fresh(area))
        state = await self._client.look(path, area.mount.kv)
        assert not state.exists
        assert (await self._client.create(path, state, {"a": VALUE})).exists

    async def _create_again(self, area: Area) -> None:
        path = self._put(area, self._fresh(area))
        self._root.delete(path, self._mount(area))
        state = await self._client.look(area.api(path), 2)
        assert (state.exists, state.version) == (False, 1)
        assert (await self._client.create(area.api(path), state, {"a": VALUE})).version == 2

    async def _add_a_key(self, area: Area) -> None:
        path = self._put(area, self._fresh(area))
        state = await self._client.look(area.api(path), 2)
        assert (await self._client.create(area.api(path), state, {"b": VALUE})).version == 2

    async def _mark(self, area: Area) -> None:
        path = self._put(area, self._fresh(area))
        await self._client.mark(area.api(path), {"managed-by": "vaultsync"})
        metadata = self._root.metadata(path, self._mount(area))
        assert metadata is not None
        assert metadata["custom_metadata"] == {"managed-by": "vaultsync"}

    # -- by hand

    def _fresh(self, area: Area) -> str:
        """A path without a secret and without metadata."""
        path = area.new()
        if "{}" not in area.form:
            (self._root.delete_metadata if area.mount.kv == 2 else self._root.delete)(path, self._mount(area))
        return path

    def _put(self, area: Area, path: str) -> str:
        self._root.put(path, self._mount(area), a="a person's")
        return path

    @staticmethod
    def _mount(area: Area) -> str:
        return area.mount.path[:-1]

    def write_everywhere(self) -> set[tuple[VaultPath, str]]:
        """Writes a value and metadata in each area; returns the received events: path and kind."""
        expected = set()
        for area in self._case.areas:
            path = self._put(area, self._fresh(area))
            expected.add((area.api(path), "kv-v2/data-write" if area.mount.kv == 2 else "kv-v1/write"))
            if area.mount.kv == 2:
                self._root.api.request("POST", f"/v1/{area.mount.path}metadata/{path}", {"max_versions": 3})
                expected.add((area.api(path), "kv-v2/metadata-write"))
        return expected


class Vault:
    """The testbed's Vault, for probes."""

    def __init__(self, testbed: Testbed) -> None:
        self.root = testbed.vault_root
        self.address = testbed.vault.address
        self.root.password_policy("probe", PASSWORD_POLICY)

    def token(self, text: str) -> str:
        """A token that has only this policy."""
        name = f"probe-{next(_numbers)}"
        self.root.policy(name, text)
        return self.root.token([name])

    def login(self, token: str) -> Login:
        return Login(VaultAccess(self.address), AuthConfig(token=SecretStr(token)))

    @asynccontextmanager
    async def probes(self, case: Case, token: str) -> AsyncIterator[Probes]:
        known = self.root.api.request("POST", "/v1/auth/token/lookup", {"token": token})["data"]
        login, spare = self.login(token), self.login(self.root.token(known["policies"]))
        client = VaultClient(login)
        try:
            yield Probes(case, client, login, spare, self.root)
        finally:
            await client.close()
            await login.close()
            await spare.close()

    def failing(self, case: Case, token: str) -> dict[str, Exception]:
        """The requests that fail."""

        async def probe() -> dict[str, Exception]:
            async with self.probes(case, token) as probes:
                return await probes.failing()

        return asyncio.run(probe())

    def missed(self, case: Case, token: str, patience: float) -> set[tuple[VaultPath, str]]:
        """The events that do not arrive."""

        async def probe() -> set[tuple[VaultPath, str]]:
            arrived: asyncio.Queue[VaultEvent] = asyncio.Queue()
            stream = EventStream(self.login(token), Metrics())
            stream.on_event = arrived.put_nowait
            running = asyncio.create_task(stream.run())
            expected = {(VaultPath("", "anything"), "no stream at all")}
            try:
                async with asyncio.timeout(patience):
                    await stream.tried.wait()
                async with self.probes(case, token) as probes:
                    expected = await asyncio.to_thread(probes.write_everywhere)
                async with asyncio.timeout(patience):
                    while expected:
                        event = await arrived.get()
                        expected.discard((event.path, event.kind))
            except TimeoutError:
                pass
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            return expected

        return asyncio.run(probe())


@pytest.fixture(scope="module")
def vault(testbed: Testbed) -> Vault:
    return Vault(testbed)


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_right = pytest.mark.parametrize(
    ("case", "right"),
    [pytest.param(case, right, id=f"{case.name}: {right}") for case in CASES for right in rights(case.text)],
)


@each_case
def test_with_the_policy_everything_works_though_no_value_can_be_read(vault: Vault, case: Case) -> None:
    token = vault.token(case.text)
    assert vault.failing(case, token) == {}
    assert vault.missed(case, token, COMES) == set()
    reader = Api(vault.address, {"X-Vault-Token": token})
    for area in case.areas:
        path = area.new()
        vault.root.put(path, area.mount.path[:-1], a="a person's")
        asked = {"token": token, "paths": [area.api(path).path]}
        allowed = vault.root.api.request("POST", "/v1/sys/capabilities", asked)["data"]["capabilities"]
        assert "subscribe" in allowed
        assert {"read", "root", "sudo", "delete"}.isdisjoint(allowed)
        with pytest.raises(ApiError) as caught:
            reader.request("GET", f"/v1/{area.api(path).path}")
        assert caught.value.status == 403


@each_right
def test_with_one_capability_less_something_fails(vault: Vault, case: Case, right: Right) -> None:
    """Waits for events only for capabilities of event paths: no others are checked when events are sent."""
    token = vault.token(without(case.text, right))
    if right.capability == "subscribe" or right.path.startswith("sys/events"):
        assert vault.missed(case, token, COMES_NOT)
    else:
        assert vault.failing(case, token)


@pytest.mark.parametrize("case", CASES[1:], ids=lambda case: case.name)
def test_where_it_may_not_seed_nothing_is_written(vault: Vault, case: Case) -> None:
    elsewhere = tuple(everywhere(area.mount) for area in case.areas if not area.may_seed)
    denied = vault.failing(Case("elsewhere", "", elsewhere), vault.token(case.text))
    writes = {
        f"{what} in {area.mount.path}{area.form}"
        for area in elsewhere
        for what in (("create", "create again", "add a key", "mark") if area.mount.kv == 2 else ("create",))
    }
    assert denied.keys() - {"password"} == writes


# -- the command, as operators run it


@pytest.fixture
def policy_of_vaultsync(testbed: Testbed) -> Iterator[None]:
    """The shared token's policy, restored after the test."""
    yield
    testbed.vault_root.policy(POLICY, CASES[0].text)


def environment(testbed: Testbed, more: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    folders = [str(Path(sys.executable).parent), str(testbed.binaries["vault"].parent), os.environ["PATH"]]
    return {**own, "PATH": os.pathsep.join(folders), **more}


@pytest.mark.usefixtures("policy_of_vaultsync")
def test_the_command_of_the_readme_works(testbed: Testbed) -> None:
    [command] = [block for block in commands(section("Where it may write")) if "vaultsync policy" in block]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=PROJECT,
        check=False,
        env=environment(testbed, testbed.env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = testbed.vault_root.api.request("GET", f"/v1/sys/policies/acl/{POLICY}")["data"]["policy"]
    assert 'path "secret/data/apps/+/*"' in written
    assert VALUE.get_secret_value() not in written


def test_a_wrong_mount_is_one_line_and_exit_2(testbed: Testbed) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vaultsync", "policy", "--mount", "kv=v3"],
        cwd=PROJECT,
        check=False,
        env=environment(testbed, {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--mount 'kv=v3'" in done.stderr
