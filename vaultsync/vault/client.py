"""Vault's HTTP API as vaultsync uses it. Requests are synchronous, so each call runs in a thread.

Never asks for a secret's value: names of keys come from KV v2's `subkeys/`, existence in KV v1 from LIST.
Values go in through `create` and `rotate` alone, and never into an exception, a log line or a return value.
"""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from loguru import logger
from pydantic import SecretStr

from vaultsync.core import marks
from vaultsync.core.audit_devices import SYS_AUDIT
from vaultsync.core.check import Health
from vaultsync.core.errors import (
    NotLeading,
    RedirectRefused,
    RequestImpossible,
    VaultDenied,
    VaultRejected,
    VaultThrottled,
    VaultUnavailable,
    VaultUntrusted,
    WriteConflict,
)
from vaultsync.core.fence import Fence
from vaultsync.core.measure import Requests
from vaultsync.core.paths import FindPrefix, Mount, VaultPath, guessed_mount, unsendable_reason, v2_path
from vaultsync.core.policy import CAPABILITIES
from vaultsync.core.state import SecretState, parse_time
from vaultsync.vault import transport
from vaultsync.vault.answers import content, counted
from vaultsync.vault.clock import ServerClock
from vaultsync.vault.failures import Failures
from vaultsync.vault.login import Login
from vaultsync.vault.mounts import FRESH_SECONDS, MAX_AGE, WRITE_SECONDS, MountCache
from vaultsync.vault.rate_limiter import RateLimiter, Scope
from vaultsync.vault.transport import Answer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OwnWrite:
    """A KV write of this process that Vault has accepted. Each change source must report it.

    Attributes:
        path: the secret.
        version: the version it created, 0 in KV v1.
        request_id: Vault's ID of the request, as audit entries have it; "" if the response names none (KV v1).
        sent: when the request was sent, by the loop's clock, in seconds.
    """

    path: VaultPath
    version: int
    request_id: str
    sent: float


THREADS: Final = 4
"""Requests under way at once. On 2 cores more threads only wait for each other."""
OLD_SECONDS: Final = 1.0
"""Of a look; a write follows on it within milliseconds."""
IDLE_SECONDS: Final = 30.0
"""After this long without a request the pooled connections are closed: at rest the event stream is the only one."""
CLUSTER_SECONDS: Final = 300.0
"""How long Vault's word counts that it has standby nodes, or none."""
WAIT_SECONDS: Final = 0.25
"""A request whose turn comes within this time waits for it; others are raised as VaultThrottled."""
MAX_LISTED: Final = 10_000
"""Secrets of one `dataFrom.find` that are followed; a listing is untrusted input as to its size."""


class VaultClient:
    """Look, list and write in KV v1 and v2.

    Every method raises a VaultFailure, whose class names its scope, VaultDenied, VaultRejected or VaultThrottled, with
    Vault's own answer in the message; `create` also WriteConflict.

    Args:
        login: has the token; is told when Vault refuses it.
        fence: stands before what writes, which raises NotLeading where it is closed. A write that was sent before and
            arrives late does no harm: check-and-set refuses it if another replica has written meanwhile.
        waits: a request waits for its turn, however long that takes; without, VaultThrottled is raised.
    """

    def __init__(self, login: Login, fence: Fence | None = None, *, waits: bool = False) -> None:
        self._login = login
        self._fence = fence
        self._waits = waits
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._hvac = transport.client(login.access, THREADS, follows=login.redirects)
        self._mounts = MountCache()
        self._cut: set[FindPrefix] = set()
        """Listings of which it was told that they are too long."""
        self._idle: asyncio.TimerHandle | None = None
        self.on_own_write: list[Callable[[OwnWrite], None]] = []
        """Called on the loop for each write that Vault has accepted."""
        self._writes = _Writes()
        self._clock = ServerClock()
        self._is_clustered = True
        self._clustered_until = float("-inf")
        self.requests = Requests()
        self._failures = Failures(login.access, self.requests, login.redirects)
        self._limiter = RateLimiter(time.monotonic)
        self._free = asyncio.Semaphore(THREADS)

    @property
    def trouble(self) -> str:
        """Why Vault as a whole is unavailable, "" while it is not; a text that names no path."""
        return self._failures.trouble

    async def close(self) -> None:
        """Let go of threads and connections; calls under way end by their own time-out."""
        await self._failures.close()
        if self._idle is not None:
            self._idle.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._hvac.adapter.close()

    @property
    def is_writing(self) -> bool:
        """Whether a write was sent that is not answered yet, also one that nobody waits for any more."""
        return self._writes.sent > 0

    async def finish_writes(self, seconds: float) -> int:
        """Send no further values, and wait for the answers to those that were sent. Marks can still be left.

        Args:
            seconds: the longest wait.

        Returns:
            How many writes were not answered by then.
        """
        self._writes.takes_values = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._writes.none_awaited.wait()
        return self._writes.awaited

    def forget_mounts(self) -> None:
        """The mounts may have changed: ask again."""
        self._mounts.forget_all()

    def clock(self) -> datetime:
        """What Vault's clock shows, to about a second."""
        return self._clock.now()

    async def look(self, path: VaultPath, kv: int) -> SecretState:
        """What is at the path: one request once the mount is known.

        Args:
            path: the secret.
            kv: the KV version that its readers' store claims, used where the token may not ask for the mount.
        """
        return await self._in_thread(lambda: self._look(path, kv), _scope(path), path)

    async def create(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        """Write the first values at the path, or add keys to the live version; never replaces one.

        Args:
            path: the secret.
            state: what `look` has said; its version is the check-and-set parameter.
            values: the new keys.

        Returns:
            The state after the write.
        """
        return await self._write(path, state, values)

    async def rotate(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        """Give keys of the live version new values, in a next version that keeps the others.

        Args:
            path: a secret in KV v2.
            state: what `look` has said; its version is the check-and-set parameter.
            values: of keys that vaultsync has made itself.

        Returns:
            The state after the write.
        """
        return await self._write(path, state, values)

    async def mark(self, path: VaultPath, custom_metadata: Mapping[str, str | None]) -> None:
        """Merge into a secret's custom metadata (KV v2).

        Args:
            path: the secret.
            custom_metadata: None removes a key.
        """
        await self._in_thread(lambda: self._mark(path, custom_metadata), _scope(path), ("mark", path))

    async def find(
        self, prefix: FindPrefix, limit: int = MAX_LISTED, may_list: Callable[[], Awaitable[bool]] | None = None
    ) -> set[VaultPath]:
        """Every secret under the prefix, folder by folder, until there are as many as the limit.

        Args:
            prefix: where.
            limit: secrets.
            may_list: awaited before each folder, to wait in, or to end the listing.
        """
        below = VaultPath(prefix.namespace, prefix.prefix + "x")
        mount = await self._in_thread(lambda: self._mount(below, prefix.kv), _scope(below), prefix)
        found: set[VaultPath] = set()
        refused: VaultDenied | VaultRejected | None = None
        try:
            found = await self._find_in(mount, prefix, limit, may_list)
        except (VaultDenied, VaultRejected) as error:
            refused = error
        if found:
            return found
        now = await self._in_thread(lambda: self._mount(below, prefix.kv, FRESH_SECONDS), _scope(below), prefix)
        if now != mount:
            return await self._find_in(now, prefix, limit, may_list)
        if refused is not None:
            raise refused
        return found

    async def _find_in(
        self, mount: Mount, prefix: FindPrefix, limit: int, may_list: Callable[[], Awaitable[bool]] | None
    ) -> set[VaultPath]:
        folders = [_folder(mount, prefix)]
        found: set[VaultPath] = set()
        while folders and len(found) < limit:
            if may_list is not None and not await may_list():
                return found
            listed, api = folders.pop()
            scope = (prefix.namespace, listed.partition("/")[0])
            for key in await self._in_thread(partial(self._list, listed, prefix.namespace), scope, (prefix, listed)):
                if key.endswith("/"):
                    folders.append((listed + key, api + key))
                else:
                    found.add(VaultPath(prefix.namespace, api + key))
        if folders:
            level = "DEBUG" if prefix in self._cut else "WARNING"
            logger.log(level, "a listing is cut: too many secrets under it", prefix=str(prefix), followed=len(found))
            self._cut.add(prefix)
        return found

    async def mounts(self, namespace: str) -> dict[str, Mount]:
        """The KV v2 mounts that the token may see in a Vault namespace, by accessor: no two mounts have the same."""
        return await self._in_thread(lambda: self._v2_mounts(namespace), (namespace, "sys"))

    async def delete_version(self, path: VaultPath, version: int) -> None:
        """Soft-delete one version (KV v2), which can be undeleted. The controller never calls it, and has no right to.

        Args:
            path: the secret.
            version: its number; a later one stays as it is.
        """
        await self._in_thread(lambda: self._delete_version(path, version), _scope(path), path)

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        """The names of the secrets in a path's folder, in one LIST.

        Args:
            path: the secret.
            kv: as for `look`.
        """
        return await self._in_thread(
            lambda: frozenset(self._at_mount(path, kv, lambda mount: self._siblings(path, mount))),
            _scope(path),
            ("siblings", path.namespace, path.path.rpartition("/")[0]),
        )

    async def password(self, policy: str, namespace: str) -> SecretStr:
        """A password by one of Vault's own policies (sys/policies/password/:name/generate).

        Args:
            policy: its name.
            namespace: the Vault namespace that has it.
        """
        return await self._in_thread(lambda: self._password(policy, namespace), (namespace, "sys"), is_next=True)

    async def read_for_audit(self, path: str) -> None:
        """Have Vault's audit devices report a read, in the token's own Vault namespace.

        Args:
            path: of Vault's API, without /v1/.
        """
        namespace = self._login.access.namespace
        await self._in_thread(lambda: self._request("get", path, namespace), (namespace, path.partition("/")[0]))

    async def health(self) -> Health:
        """How Vault is, by its own word (sys/health, which needs no token): it answers also while it is sealed."""
        return await self._failures.health()

    async def is_clustered(self) -> bool:
        """Whether Vault has standby nodes, by its own word (sys/leader, which needs no token); kept for a while."""
        now = time.monotonic()
        if now >= self._clustered_until:
            self._is_clustered = await self._sent(self._leader, ("", "sys"), None)
            self._clustered_until = now + CLUSTER_SECONDS
        return self._is_clustered

    async def capabilities(self, paths: Sequence[str], namespace: str) -> dict[str, frozenset[str]]:
        """What the token may do (sys/capabilities-self), by path.

        Args:
            paths: of Vault's API, without /v1/.
            namespace: the Vault namespace that they are in.
        """
        return await self._in_thread(lambda: self._capabilities(paths, namespace), (namespace, "sys"))

    async def audit_devices(self, namespace: str) -> dict[str, Any]:
        """Vault's audit devices by path, as sys/audit lists them; the token needs `read` and `sudo` on that.

        Args:
            namespace: the token's Vault namespace.
        """
        return await self._in_thread(
            lambda: _mapping(self._request("get", SYS_AUDIT, namespace).get("data")), (namespace, "sys")
        )

    async def mount(self, path: VaultPath, kv: int) -> Mount:
        """The mount of a path; where the token may not ask for it, the one that the path is most likely in.

        Args:
            path: the secret.
            kv: as for `look`.
        """
        return await self._in_thread(lambda: self._mount(path, kv), _scope(path), path)

    # -- in a thread

    def _look(self, path: VaultPath, kv: int) -> SecretState:
        looked = time.monotonic()
        state = self._at_mount(path, kv, lambda mount: self._look_in(mount, path, kv))
        if _says_nothing_of_its_mount(state) and self._mount(path, kv, FRESH_SECONDS) != state.mount:
            state = self._at_mount(path, kv, lambda mount: self._look_in(mount, path, kv))
        return replace(state, looked=looked)

    def _look_in(self, mount: Mount, path: VaultPath, kv: int) -> SecretState:
        if mount.kv == 1:
            return SecretState(mount, exists=path.path.rpartition("/")[2] in self._siblings(path, mount))
        if v2_path(mount, path.path) is None and kv != mount.kv:
            raise VaultRejected(
                f"{path} is in a KV v2 mount, but the store says version v1; "
                "set the store's spec.provider.vault.version to v2"
            )
        return _v2_state(mount, self._request("get", _v2_path(mount, "subkeys", path), path.namespace, missing_ok=True))

    def _at_mount(self, path: VaultPath, kv: int, call: Callable[[Mount], T]) -> T:
        """Send requests for a path in its mount; once more where they are refused and the mount is another one now."""
        mount = self._mount(path, kv)
        try:
            return call(mount)
        except RedirectRefused:
            raise
        except (VaultDenied, VaultRejected) as error:
            refused = error
        now = self._mount(path, kv, FRESH_SECONDS)
        if now == mount:
            raise refused
        return call(now)

    def _check_still_so(self, path: VaultPath, state: SecretState) -> None:
        """Check what no check-and-set does: look again if the last look is old, ask for the mount if it saw nothing.

        An undeletion is no new version. A look is old after this process was frozen, or where Vault or the way to it is
        slow. A look that shows a version also shows that the mount is KV v2. One that shows none does not: a mount that
        was enabled anew as KV v1, or as another engine, would take the write, for a path that nobody reads.

        Raises:
            WriteConflict: it was undeleted, or is in another mount.
        """
        is_old = time.monotonic() - state.looked > OLD_SECONDS
        if state.version > 0 and not state.exists and is_old:
            now = self._look(path, state.mount.kv)
            if now.exists or (now.mount, now.version) != (state.mount, state.version):
                raise WriteConflict(f"{path} was undeleted, or otherwise changed, by somebody else")
        if state.version == 0 and self._mount(path, state.mount.kv, WRITE_SECONDS) != state.mount:
            raise WriteConflict(f"{path} is in another mount now, or in one of another version")

    def _create(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> tuple[SecretState, str]:
        """Write values; returns the state after it, and Vault's ID of the request."""
        self._check_still_so(path, state)
        data = {name: value.get_secret_value() for name, value in values.items()}
        if state.mount.kv == 1:
            # KV v1 has no check-and-set; deploy/vault/policy.hcl grants create without update there,
            # so that Vault itself refuses the write where the path exists by now.
            with self._writing(values=True):
                self._request("post", path.path, path.namespace, data)
            return SecretState(state.mount, exists=True), ""
        body = {"options": {"cas": state.version}, "data": data}
        with self._writing(values=True):
            sent = self.clock()
            try:
                answer = self._request("patch" if state.exists else "post", path.path, path.namespace, body)
                metadata = _mapping(answer.get("data"))
                if not isinstance(metadata.get("version"), int):
                    raise VaultUnavailable(f"an answer that is not Vault's on {path}")
            except VaultUnavailable as error:
                if _may_be_applied(error):
                    error.sent = sent
                raise
        known = dict(state.subkeys or {}) if state.exists else {}
        after = SecretState(
            mount=state.mount,
            exists=True,
            version=metadata["version"],
            subkeys=known | dict.fromkeys(values),
            written=parse_time(metadata.get("created_time")),
            **_custom(metadata),
        )
        return after, str(answer.get("request_id") or "")

    def _mark(self, path: VaultPath, custom_metadata: Mapping[str, str | None]) -> None:
        def send(mount: Mount) -> None:
            where = _v2_path(mount, "metadata", path)
            with self._writing(values=False):
                self._request("patch", where, path.namespace, {"custom_metadata": custom_metadata})

        self._at_mount(path, 2, send)

    @contextmanager
    def _writing(self, *, values: bool) -> Iterator[None]:
        """Stands around each request that writes.

        Raises:
            NotLeading: it must not be sent.
        """
        with self._writes.counted():  # first, so that whoever closes the fence and then counts misses none
            if values and not self._writes.takes_values:
                raise NotLeading("no value is written: this process stops")
            if self._fence is not None:
                self._fence.check()
            yield

    def _v2_mounts(self, namespace: str) -> dict[str, Mount]:
        answer = self._request("get", "sys/internal/ui/mounts", namespace)
        found = {}
        for path, mount in _mapping(_mapping(answer.get("data")).get("secret")).items():
            told = _mapping(mount)
            if told.get("type") == "kv" and _mapping(told.get("options")).get("version") == "2":
                found[str(told.get("accessor") or f"{namespace}/{path}")] = Mount(path.strip("/") + "/", 2)
        return found

    def _delete_version(self, path: VaultPath, version: int) -> None:
        # in a v1 mount this would create a secret
        where = _v2_path(self._mount(path, 2, WRITE_SECONDS), "delete", path)
        self._request("post", where, path.namespace, {"versions": [version]})

    def _siblings(self, path: VaultPath, mount: Mount) -> list[str]:
        """The names in a path's folder."""
        listed = path.path if mount.kv == 1 else _v2_path(mount, "metadata", path)
        folder, slash, _ = listed.rpartition("/")
        return self._list(folder + slash or mount.path, path.namespace)

    def _password(self, policy: str, namespace: str) -> SecretStr:
        path = f"sys/policies/password/{policy}/generate"
        made = _mapping(self._request("get", path, namespace).get("data")).get("password")
        if not isinstance(made, str):
            raise VaultUnavailable(f"an answer that is not Vault's on {path}")
        return SecretStr(made)

    def _list(self, folder: str, namespace: str) -> list[str]:
        answer = self._request("list", folder, namespace, missing_ok=True)
        keys = _mapping(answer.get("data")).get("keys")
        return [key for key in keys if isinstance(key, str)] if isinstance(keys, list) else []

    def _leader(self) -> bool:
        answer = self._send("get", "sys/leader")
        enabled = _mapping(answer.document).get("ha_enabled")
        if not isinstance(enabled, bool):
            raise VaultUnavailable(f"Vault at {self._login.access.address} does not say whether it has standby nodes")
        return enabled

    def _capabilities(self, paths: Sequence[str], namespace: str) -> dict[str, frozenset[str]]:
        data = _mapping(self._request("post", CAPABILITIES, namespace, {"paths": list(paths)}).get("data"))
        return {path: frozenset(map(str, data.get(path) or ())) - {"deny"} for path in paths}

    def _mount(self, path: VaultPath, kv: int, max_age: float = MAX_AGE) -> Mount:
        """The path's mount; the likely one where the token may not ask, as its request then brings Vault's reason."""
        return self._mounts.resolve(path, max_age, lambda: self._ask_mount(path)) or guessed_mount(path.path, kv)

    def _ask_mount(self, path: VaultPath) -> Mount | None:
        try:
            answer = self._request("get", f"sys/internal/ui/mounts/{path.path}", path.namespace)
        except VaultDenied:
            return None
        data = _mapping(answer.get("data"))
        if data.get("type") not in ("kv", "generic"):
            raise VaultRejected(f"{path} is in no KV mount, but one of type {str(data.get('type'))[:40]}")
        version = _mapping(data.get("options")).get("version")
        mount = Mount(str(data.get("path", "")).strip("/") + "/", 2 if version == "2" else 1)
        if inner := self._namespace_in(path, mount.path, data.get("accessor")):
            raise VaultRejected(
                f"{path} is in the Vault namespace {inner}, which its path names: "
                "name it in the store's spec.provider.vault.namespace instead"
            )
        if not path.path.startswith(mount.path):
            raise VaultRejected(f"{path} is in no mount now: Vault is moving it to {mount.path[:200]}")
        return mount

    def _namespace_in(self, path: VaultPath, mount: str, accessor: object) -> str:
        """The Vault namespace of a mount where the path names it, "" where the path begins with the mount.

        Vault takes both spellings, and names such a mount from the root on, so that only its accessor tells it from one
        with slashes (seen on OpenBao 2.7.2). But changes are told by namespace, and VAULTSYNC_SEED_PATHS goes by that.
        """
        within = mount if path.path.startswith(mount) else mount.removeprefix(f"{path.namespace}/")
        names = within.strip("/").split("/")
        for depth in range(len(names) - 1 if accessor else 0, 0, -1):  # the parents would answer the same
            namespace = "/".join(filter(None, (path.namespace, *names[:depth])))
            inner = path.path.removeprefix("/".join(names[:depth]) + "/")
            try:
                answer = self._request("get", f"sys/internal/ui/mounts/{inner}", namespace)
            except (VaultDenied, VaultRejected):
                continue  # no such namespace
            if _mapping(answer.get("data")).get("accessor") == accessor:
                return namespace
        return ""

    def _request(
        self,
        method: str,
        path: str,
        namespace: str,
        body: Mapping[str, Any] | None = None,
        *,
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        if reason := unsendable_reason(namespace, path):
            raise RequestImpossible(reason)
        headers = {"X-Vault-Token": self._token().get_secret_value()}
        return content(self._send(method, path, namespace, body, headers), path, missing_ok=missing_ok)

    def _send(
        self,
        method: str,
        path: str,
        namespace: str = "",
        body: Mapping[str, Any] | None = None,
        own: Mapping[str, str] | None = None,
    ) -> Answer:
        headers = dict(own or {})
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        if method == "patch":
            headers["Content-Type"] = "application/merge-patch+json"

        def send() -> Answer:  # a path that can't be encoded is found here, where its error is translated
            url = "/v1/" + quote(path, safe="/")
            answer: Answer = self._hvac.adapter.request(method, url, headers=headers, json=body)
            return answer

        answer = counted(send, self._login.access.address, method.upper(), self.requests)
        self._clock.observe(answer.date)
        return answer

    def _token(self) -> SecretStr:
        if self._login.token is None:
            raise VaultUnavailable(f"not logged in to Vault at {self._login.access.address} yet")
        return self._login.token

    # -- on the loop

    async def _write(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        sent = asyncio.get_running_loop().time()
        with self._writes.waited_for():
            call = partial(self._create, path, state, values)
            after, request_id = await self._in_thread(call, _scope(path), path, is_next=True)
        for notify in self.on_own_write:
            notify(OwnWrite(path, after.version, request_id, sent))
        return after

    async def _in_thread(
        self, call: Callable[[], T], scope: Scope, key: Hashable = None, *, is_next: bool = False
    ) -> T:
        """Send requests in a thread, when it is their turn.

        Raises:
            VaultFailure: with its scope.
            VaultThrottled: their turn comes later.
        """
        self._token()
        while True:
            try:
                await self._failures.admit()
                await self._turn(scope, key, is_next=is_next)
                return await self._attempt(call, scope, key)
            except VaultThrottled as error:
                if not self._waits:
                    raise
                wait = error.wait
            await asyncio.sleep(wait)

    async def _turn(self, scope: Scope, key: Hashable, *, is_next: bool) -> None:
        if is_next and not self._limiter.pause(scope):
            self._limiter.charge(scope)
            return
        wait = self._limiter.wait(scope, key)
        if 0 < wait <= WAIT_SECONDS:
            await asyncio.sleep(wait)
            wait = self._limiter.wait(scope, key)
        if wait > 0:
            raise VaultThrottled(f"Vault limits the rate of requests to {scope[1]}", wait)

    async def _attempt(self, call: Callable[[], T], scope: Scope, key: Hashable) -> T:
        failure: VaultUnavailable
        try:
            return await self._with_token(call, scope, key)
        except RedirectRefused:
            await self._failures.redirected()
            raise
        except VaultUnavailable as error:
            failure = error
        raise await self._failures.scoped(failure, scope[0])

    async def _with_token(self, call: Callable[[], T], scope: Scope, key: Hashable) -> T:
        token = self._token()
        try:
            return await self._sent(call, scope, key)
        except VaultDenied:
            if not await self._login.replaces(token):
                raise
        return await self._sent(call, scope, key)

    async def _sent(self, call: Callable[[], T], scope: Scope, key: Hashable) -> T:
        loop = asyncio.get_running_loop()
        async with self._free:  # what would wait for a thread waits here, and sees a refusal of what was before it
            if self._limiter.pause(scope):
                raise VaultThrottled(f"Vault limits the rate of requests to {scope[1]}", self._limiter.wait(scope, key))
            try:
                result = await loop.run_in_executor(self._threads, call)
            except VaultThrottled as error:
                raise VaultThrottled(str(error), self._limiter.refused(scope, key, error.wait)) from None
            except (VaultDenied, VaultRejected):
                self._limiter.sent(scope)
                raise
            finally:
                if self._idle is not None:
                    self._idle.cancel()
                self._idle = loop.call_later(IDLE_SECONDS, self._hvac.adapter.close)
        self._limiter.sent(scope)
        return result


class _Writes:
    """The writes under way, for a stop: those that somebody waits for, and those that were sent.

    They differ where a pass was cancelled: its request goes on in its thread.

    Attributes:
        takes_values: whether a value may be sent. Read in threads.
        awaited: how many values are waited for on the loop.
        none_awaited: set while there are none.
    """

    def __init__(self) -> None:
        self.takes_values = True
        self.awaited = 0
        self.none_awaited = asyncio.Event()
        self.none_awaited.set()
        self._lock = threading.Lock()
        self._sent = 0

    @property
    def sent(self) -> int:
        """How many requests that write were sent and are not answered."""
        with self._lock:
            return self._sent

    @contextmanager
    def counted(self) -> Iterator[None]:
        """In a thread, around a request that writes."""
        with self._lock:
            self._sent += 1
        try:
            yield
        finally:
            with self._lock:
                self._sent -= 1

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """On the loop, around the wait for a write of values.

        Whoever waits for none_awaited goes on after the step in which the last writer has taken in its answer.
        """
        self.awaited += 1
        self.none_awaited.clear()
        try:
            yield
        finally:
            self.awaited -= 1
            if not self.awaited:
                self.none_awaited.set()


def _may_be_applied(error: VaultUnavailable) -> bool:
    """Whether Vault may have done what a request asked for that has failed so: not if it refused to begin."""
    return not isinstance(error, VaultUntrusted) and (error.status == 0 or error.status >= 500)


def _scope(path: VaultPath) -> Scope:
    """What a rate limit is likely to be for."""
    return path.namespace, path.path.partition("/")[0]


def _folder(mount: Mount, prefix: FindPrefix) -> tuple[str, str]:
    """What is to be listed for the prefix, and the API path of what is in it."""
    if mount.kv == 1:
        return prefix.prefix, prefix.prefix
    return f"{mount.path}metadata/{prefix.prefix.removeprefix(mount.path + 'data/')}", prefix.prefix


def _v2_path(mount: Mount, folder: str, path: VaultPath) -> str:
    """The secret's path in another folder of KV v2's API, such as `metadata`.

    Raises:
        VaultRejected: it has none.
    """
    inner = v2_path(mount, path.path) if mount.kv == 2 else None
    if inner is None:
        raise VaultRejected(f"{path} is no data path of the KV v{mount.kv} mount {mount.path}")
    return f"{mount.path}{folder}/{inner}"


def _v2_state(mount: Mount, answer: Mapping[str, Any]) -> SecretState:
    data = _mapping(answer.get("data"))
    metadata = _mapping(data.get("metadata"))
    subkeys, version = data.get("subkeys"), metadata.get("version") or 0
    if not isinstance(version, int):
        raise VaultUnavailable(f"an answer that is not Vault's: a version in {mount.path} is no number", 200)
    return SecretState(
        mount=mount,
        exists=isinstance(subkeys, dict),
        version=version,
        subkeys=subkeys if isinstance(subkeys, dict) else {},
        written=parse_time(metadata.get("created_time")),
        **_custom(metadata),
    )


def _says_nothing_of_its_mount(state: SecretState) -> bool:
    """Whether a mount of KV v1 would have answered the same to a look in KV v2; not the other way round."""
    return state.mount.kv == 2 and state.version == 0


def _custom(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the custom metadata says, as fields of SecretState."""
    custom = _mapping(metadata.get("custom_metadata"))
    rest = marks.others(custom)
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12] if rest else ""
    return {
        "metadata_digest": digest,
        "mark": marks.parse_mark(custom),
        "managed_by": str(custom.get(marks.MANAGED_BY, "")),
    }


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
