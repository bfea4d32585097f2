"""Vault's HTTP API as vaultsync uses it. Requests are synchronous, so each call runs in a thread.

Never asks for a secret's value: names of keys come from KV v2's `subkeys/`, existence in KV v1 from LIST.
Values go in through `create` and `rotate` alone, and never into an exception, a log line or a return value.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote

from loguru import logger
from pydantic import SecretStr

from vaultsync.core import marks
from vaultsync.core.check import Health
from vaultsync.core.errors import (
    RequestImpossible,
    VaultDenied,
    VaultRejected,
    VaultThrottled,
    VaultUnavailable,
    WriteConflict,
)
from vaultsync.core.fence import Fence
from vaultsync.core.measure import Requests
from vaultsync.core.paths import FindPrefix, Mount, VaultPath, guessed_mount, unsendable_reason, v2_path
from vaultsync.core.policy import CAPABILITIES
from vaultsync.core.state import SecretState, parse_time
from vaultsync.vault import transport
from vaultsync.vault.answers import answered, content
from vaultsync.vault.failures import Failures
from vaultsync.vault.login import Login
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
        self._hvac = transport.client(login.access, THREADS)
        self._mounts: dict[str, list[Mount]] = {}
        self._cut: set[FindPrefix] = set()
        """Listings of which it was told that they are too long."""
        self._idle: asyncio.TimerHandle | None = None
        self.last_written = float("-inf")
        """When the last write was sent that Vault has taken, by the loop's clock."""
        self.on_own_write: list[Callable[[OwnWrite], None]] = []
        """Called on the loop for each write that Vault has accepted."""
        self.requests = Requests()
        self._failures = Failures(login.access, self.requests)
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

    def forget_mounts(self) -> None:
        """The mounts may have changed: ask again."""
        self._mounts.clear()

    def forget_mount(self, path: VaultPath) -> None:
        """The mount of a path may have changed, such as to the other KV version: ask for it again."""
        known = self._mounts.get(path.namespace, ())
        self._mounts[path.namespace] = [mount for mount in known if not path.path.startswith(mount.path)]

    async def look(self, path: VaultPath, kv: int) -> SecretState:
        """What is at the path: one request once the mount is known.

        Args:
            path: the secret.
            kv: the KV version that its readers' store claims, used where the token may not ask for the mount.
        """
        return await self._of_path(path, lambda: self._look(path, kv))

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
        await self._of_path(path, lambda: self._mark(path, custom_metadata), ("mark", path))

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
        folders = [await self._of_path(below, lambda: self._folder(prefix), prefix)]
        found: set[VaultPath] = set()
        while folders and len(found) < limit:
            if may_list is not None and not await may_list():
                return found
            listed, api = folders.pop()
            call = partial(self._list, listed, prefix.namespace)
            for key in await self._of_path(below, call, (prefix, listed)):
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
        await self._of_path(path, lambda: self._delete_version(path, version))

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        """The names of the secrets in a path's folder, in one LIST.

        Args:
            path: the secret.
            kv: as for `look`.
        """
        folder = ("siblings", path.namespace, path.path.rpartition("/")[0])
        return await self._of_path(path, lambda: frozenset(self._siblings(path, self._mount(path, kv))), folder)

    async def password(self, policy: str, namespace: str) -> SecretStr:
        """A password by one of Vault's own policies (sys/policies/password/:name/generate).

        Args:
            policy: its name.
            namespace: the Vault namespace that has it.
        """
        return await self._in_thread(lambda: self._password(policy, namespace), (namespace, "sys"), is_next=True)

    async def health(self) -> Health:
        """How Vault is, by its own word (sys/health, which needs no token): it answers also while it is sealed."""
        return await self._failures.health()

    async def capabilities(self, paths: Sequence[str], namespace: str) -> dict[str, frozenset[str]]:
        """What the token may do (sys/capabilities-self), by path.

        Args:
            paths: of Vault's API, without /v1/.
            namespace: the Vault namespace that they are in.
        """
        return await self._in_thread(lambda: self._capabilities(paths, namespace), (namespace, "sys"))

    async def mount(self, path: VaultPath, kv: int) -> Mount:
        """The mount of a path; where the token may not ask for it, the one that the path is most likely in.

        Args:
            path: the secret.
            kv: as for `look`.
        """
        return await self._of_path(path, lambda: self._mount(path, kv))

    # -- in a thread

    def _look(self, path: VaultPath, kv: int) -> SecretState:
        looked = time.monotonic()
        mount = self._mount(path, kv)
        if mount.kv == 1:
            return SecretState(mount, exists=path.path.rpartition("/")[2] in self._siblings(path, mount))
        if v2_path(mount, path.path) is None and kv != mount.kv:
            raise VaultRejected(
                f"{path} is in a KV v2 mount, but the store says version v1; "
                "set the store's spec.provider.vault.version to v2"
            )
        answer = self._request("get", _v2_path(mount, "subkeys", path), path.namespace, missing_ok=True)
        return replace(_v2_state(mount, answer), looked=looked)

    def _check_still_deleted(self, path: VaultPath, state: SecretState) -> None:
        """An undeletion is no new version, and no check-and-set sees it: look again where the last look is old.

        It is after this process was frozen, or where Vault or the way to it is slow.

        Raises:
            WriteConflict: it was undeleted.
        """
        is_old = time.monotonic() - state.looked > OLD_SECONDS
        if state.version > 0 and not state.exists and is_old and self._look(path, state.mount.kv).exists:
            raise WriteConflict(f"{path} was undeleted by somebody else")

    def _create(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> tuple[SecretState, str]:
        """Write values; returns the state after it, and Vault's ID of the request."""
        self._check_still_deleted(path, state)
        self._check_fence()
        data = {name: value.get_secret_value() for name, value in values.items()}
        if state.mount.kv == 1:
            # KV v1 has no check-and-set; deploy/vault/policy.hcl grants create without update there,
            # so that Vault itself refuses the write where the path exists by now.
            self._request("post", path.path, path.namespace, data)
            return SecretState(state.mount, exists=True), ""
        body = {"options": {"cas": state.version}, "data": data}
        answer = self._request("patch" if state.exists else "post", path.path, path.namespace, body)
        metadata = _mapping(answer.get("data"))
        if not isinstance(metadata.get("version"), int):
            raise VaultUnavailable(f"an answer that is not Vault's on {path}")
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
        where = _v2_path(self._mount(path, 2), "metadata", path)
        self._check_fence()
        self._request("patch", where, path.namespace, {"custom_metadata": custom_metadata})

    def _check_fence(self) -> None:
        if self._fence is not None:
            self._fence.check()

    def _v2_mounts(self, namespace: str) -> dict[str, Mount]:
        answer = self._request("get", "sys/internal/ui/mounts", namespace)
        found = {}
        for path, mount in _mapping(_mapping(answer.get("data")).get("secret")).items():
            told = _mapping(mount)
            if told.get("type") == "kv" and _mapping(told.get("options")).get("version") == "2":
                found[str(told.get("accessor") or f"{namespace}/{path}")] = Mount(path.strip("/") + "/", 2)
        return found

    def _delete_version(self, path: VaultPath, version: int) -> None:
        where = _v2_path(self._mount(path, 2), "delete", path)
        self._request("post", where, path.namespace, {"versions": [version]})

    def _folder(self, prefix: FindPrefix) -> tuple[str, str]:
        """What is to be listed for the prefix, and the API path of what is in it."""
        mount = self._mount(VaultPath(prefix.namespace, prefix.prefix + "x"), prefix.kv)
        if mount.kv == 1:
            return prefix.prefix, prefix.prefix
        return f"{mount.path}metadata/{prefix.prefix.removeprefix(mount.path + 'data/')}", prefix.prefix

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

    def _capabilities(self, paths: Sequence[str], namespace: str) -> dict[str, frozenset[str]]:
        data = _mapping(self._request("post", CAPABILITIES, namespace, {"paths": list(paths)}).get("data"))
        return {path: frozenset(map(str, data.get(path) or ())) - {"deny"} for path in paths}

    def _mount(self, path: VaultPath, kv: int) -> Mount:
        known = [mount for mount in self._mounts.get(path.namespace, ()) if path.path.startswith(mount.path)]
        if known:
            return max(known, key=lambda mount: len(mount.path))
        try:
            answer = self._request("get", f"sys/internal/ui/mounts/{path.path}", path.namespace)
        except VaultDenied:
            return guessed_mount(path.path, kv)  # the request itself will bring the 403 that is worth telling
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
        self._mounts.setdefault(path.namespace, []).append(mount)
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
        status = 0

        def send() -> Answer:
            nonlocal status
            url = "/v1/" + quote(path, safe="/")
            answer: Answer = self._hvac.adapter.request(method, url, headers=headers, json=body)
            status = answer.status
            return answer

        try:
            return answered(send, self._login.access.address)
        finally:
            self.requests.count(method.upper(), status)

    def _token(self) -> SecretStr:
        if self._login.token is None:
            raise VaultUnavailable(f"not logged in to Vault at {self._login.access.address} yet")
        return self._login.token

    # -- on the loop

    async def _write(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        sent = asyncio.get_running_loop().time()
        after, request_id = await self._of_path(path, lambda: self._create(path, state, values), is_next=True)
        self.last_written = max(self.last_written, sent)
        for notify in self.on_own_write:
            notify(OwnWrite(path, after.version, request_id, sent))
        return after

    async def _of_path(
        self, path: VaultPath, call: Callable[[], T], key: Hashable = None, *, is_next: bool = False
    ) -> T:
        """As `_in_thread`, for a request about a path in KV.

        Args:
            path: the secret.
            call: sends the request.
            key: whose turn it is, the path's own by default.
            is_next: it follows on another request at once.
        """
        scope = (path.namespace, path.path.partition("/")[0])
        try:
            return await self._in_thread(call, scope, path if key is None else key, is_next=is_next)
        except VaultRejected as error:
            if error.status:  # its mount may have moved, or have the other KV version now
                self.forget_mount(path)
            raise

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
            finally:
                if self._idle is not None:
                    self._idle.cancel()
                self._idle = loop.call_later(IDLE_SECONDS, self._hvac.adapter.close)
        self._limiter.sent(scope)
        return result


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
    subkeys = data.get("subkeys")
    return SecretState(
        mount=mount,
        exists=isinstance(subkeys, dict),
        version=int(metadata.get("version") or 0),
        subkeys=subkeys if isinstance(subkeys, dict) else {},
        written=parse_time(metadata.get("created_time")),
        **_custom(metadata),
    )


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
