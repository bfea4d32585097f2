"""Vault's HTTP API as vaultsync uses it, for code on the event loop.

No method reads a secret's value: the names of keys come from KV v2's `subkeys/`, existence in KV v1 from LIST. Only
`create` and `rotate` send values, which are never part of an exception, a log line or a return value.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from loguru import logger
from pydantic import SecretStr

from vaultsync.core.callbacks import CountRequest, ignore
from vaultsync.core.errors import VaultDenied, VaultRejected, VaultUnavailable, WriteConflict
from vaultsync.core.fence import Fence
from vaultsync.core.paths import FindPrefix, Mount, VaultPath, v2_path
from vaultsync.core.untrusted import mapping, texts
from vaultsync.core.vault_state import SecretState
from vaultsync.vault import kv as kv_api
from vaultsync.vault.api import CAPABILITIES, LEADER, SYS_AUDIT, Health
from vaultsync.vault.clock import loop_time
from vaultsync.vault.login import Login
from vaultsync.vault.mounts import Mounts
from vaultsync.vault.rate_limiter import Scope
from vaultsync.vault.requester import Requester
from vaultsync.vault.writes import OwnWrite, PendingWrites, may_be_applied

OLD_SECONDS: Final = 1.0
"""The age at which a read is repeated before a write; a write normally follows its read within milliseconds."""
CLUSTER_SECONDS: Final = 300.0
"""How long the result of `is_clustered` is cached."""
MAX_LISTED: Final = 10_000
"""Secrets of one `dataFrom.find` that are followed; the length of a listing is untrusted input."""


class VaultClient:
    """Read states, list and write in KV v1 and v2.

    Every method that sends requests raises a VaultFailure whose class names its scope, or VaultDenied, VaultRejected
    or VaultThrottled, with Vault's own message. Writes also raise NotLeading where the fence is closed. A write that
    was sent before and arrives late does no harm: check-and-set refuses it if another replica has written meanwhile.

    The methods take a secret (`path`), the KV version that the store of its readers names (`kv`), used if the token may
    not read the mount, and a Vault namespace (`namespace`).

    Args:
        login: has the token.
        fence: is checked before each write; None where there is no other replica.
        count_request: is called for each request.
        waits: a request waits for its turn without a limit, instead of raising VaultThrottled.

    Attributes:
        writes: those under way.
        on_own_write: called on the loop for each write of values that Vault has accepted.
    """

    def __init__(
        self, login: Login, fence: Fence | None = None, count_request: CountRequest = ignore, *, waits: bool = False
    ) -> None:
        self._login = login
        self._requester = Requester(login, count_request, waits=waits)
        self._mounts = Mounts(self._requester)
        self.writes = PendingWrites(fence)
        self._truncated: set[FindPrefix] = set()
        """Listings whose truncation was logged."""
        self._is_clustered = True
        self._clustered_until = float("-inf")
        self.on_own_write: list[Callable[[OwnWrite], None]] = []

    @property
    def outage(self) -> str:
        """Why Vault as a whole is unavailable, "" if it is available; names no path."""
        return self._requester.failures.outage

    async def close(self) -> None:
        """See Requester.close."""
        await self._requester.close()

    def forget_mounts(self) -> None:
        """Request each mount again at its next use, as mounts may have changed."""
        self._mounts.cache.forget_all()

    def clock(self) -> datetime:
        """The time on Vault's clock, to about a second."""
        return self._requester.clock.now()

    # -- KV

    async def look(self, path: VaultPath, kv: int) -> SecretState:
        """Read the state of a path: one request once the mount is known."""
        return await self._requester.run(lambda: self._look(path, kv), _scope(path), path)

    async def create(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        """Write the first values at the path, or add keys to the live version; never replaces a value.

        The version of `state`, which `look` returns, is the check-and-set parameter. Returns the state after the write.

        Raises:
            WriteConflict: another writer has changed the secret.
        """
        return await self._write(path, state, values)

    async def rotate(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        """Replace values of the live version (KV v2) in a next version, which keeps the other keys; see `create`."""
        return await self._write(path, state, values)

    async def mark(self, path: VaultPath, custom_metadata: Mapping[str, str | None]) -> None:
        """Merge into a secret's custom metadata (KV v2); the value None removes a key."""

        def send(mount: Mount) -> None:
            where = kv_api.v2_api_path(mount, "metadata", path)
            with self.writes.sending(values=False):
                self._requester.request("patch", where, path.namespace, {"custom_metadata": custom_metadata})

        await self._requester.run(lambda: self._mounts.use(path, 2, send), _scope(path), ("mark", path))

    async def find(
        self, prefix: FindPrefix, limit: int = MAX_LISTED, may_list: Callable[[], Awaitable[bool]] | None = None
    ) -> set[VaultPath]:
        """The secrets below a prefix, folder by folder, until `limit` are found or `may_list` returns False."""
        below = VaultPath(prefix.namespace, prefix.prefix + "x")
        mount = await self._requester.run(lambda: self._mounts.find(below, prefix.kv), _scope(below), prefix)
        refused: VaultDenied | VaultRejected | None = None
        try:
            if found := await self._find_in(mount, prefix, limit, may_list):
                return found
        except (VaultDenied, VaultRejected) as error:
            refused = error
        fresh = await self._requester.run(lambda: self._mounts.find_fresh(below, prefix.kv), _scope(below), prefix)
        if fresh != mount:
            return await self._find_in(fresh, prefix, limit, may_list)
        if refused is not None:
            raise refused
        return set()

    async def _find_in(
        self, mount: Mount, prefix: FindPrefix, limit: int, may_list: Callable[[], Awaitable[bool]] | None
    ) -> set[VaultPath]:
        folders = [(kv_api.list_path(mount, prefix), prefix.prefix)]
        found: set[VaultPath] = set()
        while folders and len(found) < limit:
            if may_list is not None and not await may_list():
                return found
            listed, api = folders.pop()
            scope, key = (prefix.namespace, listed.partition("/")[0]), (prefix, listed)
            for name in await self._requester.run(partial(self._list, listed, prefix.namespace), scope, key):
                if name.endswith("/"):
                    folders.append((listed + name, api + name))
                else:
                    found.add(VaultPath(prefix.namespace, api + name))
        if folders:
            level = "DEBUG" if prefix in self._truncated else "WARNING"
            logger.log(
                level, "too many secrets below a prefix: the rest is ignored", prefix=str(prefix), followed=len(found)
            )
            self._truncated.add(prefix)
        return found

    async def siblings(self, path: VaultPath, kv: int) -> frozenset[str]:
        """The names of the secrets in a path's folder, in one LIST."""
        return await self._requester.run(
            lambda: frozenset(self._mounts.use(path, kv, partial(self._list_folder, path))),
            _scope(path),
            ("siblings", path.namespace, path.path.rpartition("/")[0]),
        )

    async def delete_version(self, path: VaultPath, version: int) -> None:
        """Soft-delete one version (KV v2), which can be undeleted. The controller may not, and never calls it."""

        def send() -> None:
            mount = self._mounts.find_before_write(path, 2)  # in a KV v1 mount this request would create a secret
            where = kv_api.v2_api_path(mount, "delete", path)
            self._requester.request("post", where, path.namespace, {"versions": [version]})

        await self._requester.run(send, _scope(path), path)

    async def mount(self, path: VaultPath, kv: int) -> Mount:
        """The mount of a path; see Mounts.find."""
        return await self._requester.run(lambda: self._mounts.find(path, kv), _scope(path), path)

    async def mounts(self, namespace: str) -> dict[str, Mount]:
        """The KV v2 mounts that the token can see in a Vault namespace, by accessor, which no two mounts share."""
        return await self._requester.run(lambda: self._mounts.all_v2(namespace), (namespace, "sys"))

    # -- system backend

    async def password(self, policy: str, namespace: str) -> SecretStr:
        """Generate a password by a password policy of Vault.

        https://developer.hashicorp.com/vault/api-docs/system/policies-password#generate-password-from-password-policy
        """
        path = f"sys/policies/password/{policy}/generate"

        def send() -> SecretStr:
            password = mapping(self._requester.request("get", path, namespace).get("data")).get("password")
            if not isinstance(password, str):
                raise VaultUnavailable(f"a response that is not Vault's on {path}")
            return SecretStr(password)

        return await self._requester.run(send, (namespace, "sys"), is_next=True)

    async def read_for_audit(self, path: str) -> None:
        """Read a path of the API in the token's own Vault namespace, so that Vault's audit devices report it."""
        await self._request("get", path, self._login.access.namespace)

    async def health(self) -> Health:
        """The health of Vault (sys/health), which needs no token and works while Vault is sealed."""
        return await self._requester.failures.health()

    async def is_clustered(self) -> bool:
        """Whether Vault has standby nodes (sys/leader, which needs no token); cached for a while."""
        now = time.monotonic()
        if now >= self._clustered_until:
            self._is_clustered = await self._requester.run_in_thread(self._read_ha_enabled, ("", "sys"))
            self._clustered_until = now + CLUSTER_SECONDS
        return self._is_clustered

    async def capabilities(self, paths: Sequence[str], namespace: str) -> dict[str, frozenset[str]]:
        """The token's capabilities (sys/capabilities-self) on paths of the API, without /v1/."""
        data = await self._request("post", CAPABILITIES, namespace, {"paths": list(paths)})
        return {path: frozenset(texts(data.get(path))) - {"deny"} for path in paths}

    async def audit_devices(self, namespace: str) -> dict[str, Any]:
        """Vault's audit devices by path (sys/audit); the token needs `read` and `sudo` on that."""
        return await self._request("get", SYS_AUDIT, namespace)

    async def _request(
        self, method: str, path: str, namespace: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The field `data` of the response."""
        call = partial(self._requester.request, method, path, namespace, body)
        return mapping((await self._requester.run(call, (namespace, path.partition("/")[0]))).get("data"))

    # -- in a thread

    def _look(self, path: VaultPath, kv: int) -> SecretState:
        looked = time.monotonic()
        read = partial(self._look_in, path, kv)
        state = self._mounts.use(path, kv, read)
        if kv_api.is_ambiguous(state) and self._mounts.find_fresh(path, kv) != state.mount:
            state = self._mounts.use(path, kv, read)
        return replace(state, read_at=looked)

    def _look_in(self, path: VaultPath, kv: int, mount: Mount) -> SecretState:
        if mount.kv == 1:
            return SecretState(mount, exists=path.path.rpartition("/")[2] in self._list_folder(path, mount))
        if v2_path(mount, path.path) is None and kv != mount.kv:
            raise VaultRejected(
                f"{path} is in a KV v2 mount, but the store says version v1; "
                "set the store's spec.provider.vault.version to v2"
            )
        where = kv_api.v2_api_path(mount, "subkeys", path)
        return kv_api.parse_state(mount, self._requester.request("get", where, path.namespace, missing_ok=True))

    def _list_folder(self, path: VaultPath, mount: Mount) -> list[str]:
        return self._list(kv_api.folder_path(mount, path), path.namespace)

    def _list(self, folder: str, namespace: str) -> list[str]:
        return kv_api.parse_keys(self._requester.request("list", folder, namespace, missing_ok=True))

    def _check_unchanged(self, path: VaultPath, state: SecretState) -> None:
        """Check what check-and-set does not check: an undeletion, which creates no version, and a change of the mount.

        The state is read again if it is old: after this process was frozen, or where Vault is slow. A state with a
        version proves that the mount is KV v2. One without a version does not: a mount that was enabled again as KV
        v1, or as another engine, would accept the write, for a path that no ExternalSecret reads.

        Raises:
            WriteConflict: the secret was undeleted, or is in another mount.
        """
        is_old = time.monotonic() - state.read_at > OLD_SECONDS
        if state.version > 0 and not state.exists and is_old:
            now = self._look(path, state.mount.kv)
            if now.exists or (now.mount, now.version) != (state.mount, state.version):
                raise WriteConflict(f"{path} was undeleted, or otherwise changed, by another client")
        if state.version == 0 and self._mounts.find_before_write(path, state.mount.kv) != state.mount:
            raise WriteConflict(f"{path} is in another mount now, or in one of another version")

    def _send_write(
        self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]
    ) -> tuple[SecretState, str]:
        """Returns the state after the write, and Vault's ID of the request."""
        self._check_unchanged(path, state)
        data = {name: value.get_secret_value() for name, value in values.items()}
        if state.mount.kv == 1:
            # KV v1 has no check-and-set; deploy/vault/policy.hcl grants create without update there,
            # so that Vault itself refuses the write if the path exists by now.
            with self.writes.sending(values=True):
                self._requester.request("post", path.path, path.namespace, data)
            return SecretState(state.mount, exists=True), ""
        body = {"options": {"cas": state.version}, "data": data}
        with self.writes.sending(values=True):
            sent = self.clock()
            try:
                method = "patch" if state.exists else "post"
                response = self._requester.request(method, path.path, path.namespace, body)
                return kv_api.parse_written(state, values, path, response), str(response.get("request_id") or "")
            except VaultUnavailable as error:
                if may_be_applied(error):
                    error.sent = sent
                raise

    def _read_ha_enabled(self) -> bool:
        enabled = mapping(self._requester.send("get", LEADER).document).get("ha_enabled")
        if not isinstance(enabled, bool):
            raise VaultUnavailable(f"sys/leader of Vault at {self._login.access.address} has no field ha_enabled")
        return enabled

    # -- on the loop

    async def _write(self, path: VaultPath, state: SecretState, values: Mapping[str, SecretStr]) -> SecretState:
        sent = loop_time()
        with self.writes.awaited():
            call = partial(self._send_write, path, state, values)
            after, request_id = await self._requester.run(call, _scope(path), path, is_next=True)
        for notify in self.on_own_write:
            notify(OwnWrite(path, after.version, request_id, sent))
        return after


def _scope(path: VaultPath) -> Scope:
    """The likely scope of a rate limit."""
    return path.namespace, path.path.partition("/")[0]
