"""Builders of test objects: each has a sensible default for everything that a test does not care about.

Kubernetes objects are built as the API server's JSON and go through the real parsers.
"""

import asyncio
import json
import selectors
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

from loguru import logger
from pydantic import SecretStr

from vaultsync.config.auth import AuthConfig
from vaultsync.config.settings import Settings
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.external_secret import (
    ExternalSecret,
    Namespace,
    ObjectName,
    Store,
    parse_external_secret,
    parse_namespace,
    parse_store,
)
from vaultsync.core.paths import Mount, VaultPath
from vaultsync.core.reader import Reader, Reference
from vaultsync.core.vault_state import SecretState
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.login import Login
from vaultsync.vault.transport import VaultAccess

T = TypeVar("T")

ADDRESS = "http://vault.test:8200"
V1, V2 = Mount("kv1/", 1), Mount("secret/", 2)
NOON = datetime(2025, 6, 1, 12, 0, 0, tzinfo=UTC)
LONG_AGO = "2024-01-01T00:00:00Z"

Json = dict[str, Any]
Anything: TypeAlias = Any
"""What a builder passes on; the parsers judge it."""


def login(
    address: str = "http://vault.test",
    token: str = "t0ken",  # noqa: S107
    namespace: str = "",
    timeout: float = 5.0,
    servers: tuple[str, ...] = (),
) -> Login:
    """One that has a token already."""
    access = VaultAccess(address, namespace, timeout, servers=servers)
    return Login(access, AuthConfig(token=SecretStr(token)))


def settings(**fields: Anything) -> Settings:
    """Settings by field name, of which nothing is validated or read from the environment."""
    return Settings.model_construct(**{"vault_addr": "http://vault.test:8200", **fields})


def run(coroutine: Coroutine[Any, Any, T], limit: float = 10.0) -> T:
    """Run an asynchronous test."""

    async def limited() -> T:
        async with asyncio.timeout(limit):
            return await coroutine

    return asyncio.run(limited())


class _Leaping(selectors.DefaultSelector):
    """Leaps to the next timer when nothing else is left to do: no callback, no socket, no thread.

    While a thread of `run_in_executor` works, or a socket delivers, time passes as it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self.threads or timeout is None:
            started = time.monotonic()
            found = super().select(timeout)
            self.now += time.monotonic() - started
            return found
        has_sockets = len(self.get_map()) > 1  # besides the loop's own
        found = super().select(SOCKET_SECONDS if has_sockets else 0)
        if not found:
            self.now += timeout
        return found


class _LeapingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Leaping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(self, *arguments: Anything) -> Anything:  # type: ignore[override]
        future = super().run_in_executor(*arguments)
        self._clock.threads += 1
        future.add_done_callback(self._thread_is_done)
        return future

    def _thread_is_done(self, _: object) -> None:
        self._clock.threads -= 1


SOCKET_SECONDS = 0.001
"""Within this time what one end of a local connection has sent is there at the other."""


def run_ahead(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run an asynchronous test whose waits pass at once, as by the loop's clock.

    All that it talks to must be in the same loop, or in threads of `run_in_executor`. Without sockets it is exact.
    """

    async def limited() -> T:
        async with asyncio.timeout(1e6):
            return await coroutine

    with asyncio.Runner(loop_factory=_LeapingLoop) as runner:
        return runner.run(limited())


async def eventually(holds: Callable[[], object], limit: float = 3.0) -> None:
    """Wait until it holds; a generous upper bound only."""
    end = time.monotonic() + limit
    step = 0.02 if isinstance(asyncio.get_running_loop(), _LeapingLoop) else 0.001
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        await asyncio.sleep(step)


@contextmanager
def logged(level: str = "INFO") -> Iterator[list[str]]:
    """Each line that is logged meanwhile: the message, and its fields in JSON."""
    found: list[str] = []

    def note(message: Anything) -> None:
        found.append(f"{message.record['message']} {json.dumps(message.record['extra'], default=str)}")

    number = logger.add(note, level=level)
    try:
        yield found
    finally:
        logger.remove(number)


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of one sample, None if it is not exported. The prefix `vaultsync_` of its name is left out."""
    return metrics.registry.get_sample_value(f"vaultsync_{name}", labels)


def path(text: str, namespace: str = "") -> VaultPath:
    """`secret/data/a` → VaultPath."""
    return VaultPath(namespace, text)


def audit_line(operation: str, where: str, mount: str = "secret/", **more: Anything) -> bytes:
    """A response as an audit device writes it, with what is asked for of request and response merged in.

    Measured on Vault 1.15.1 and OpenBao 2.7.2: both hash texts and leave numbers as they are.
    """
    request: Json = {"operation": operation, "path": where, "mount_point": mount, "mount_type": "kv"}
    request |= {"namespace": {"id": "root"}, "data": {"data": {"password": "hmac-sha256:94000c6f"}}}
    document = {"type": "response", "time": NOON.isoformat(), "request": request | more.pop("request", {})} | more
    return json.dumps({"response": {}} | document, separators=(",", ":")).encode()


def canary_line(path: str, **request: Anything) -> bytes:
    """The entry of a canary, as its audit device writes it."""
    asked = {"mount_type": "system", "data": None} | request
    return audit_line("read", path, "sys/", request=asked)


def wrote(version: int, created: str = "hmac-sha256:94000c6f") -> Json:
    """What KV v2 answers to a write; Vault hashes the time as any text, OpenBao does not."""
    answer = {"created_time": created, "custom_metadata": None, "destroyed": False, "version": version}
    return {"response": {"data": answer | {"deletion_time": "hmac-sha256:031b4bff"}}}


def entry(key: str, prop: str = "", store: Mapping[str, str] | None = None, **ref: str) -> Json:
    """One of spec.data."""
    found: Json = {"secretKey": "k", "remoteRef": {"key": key, **({"property": prop} if prop else {}), **ref}}
    return found | ({"sourceRef": {"storeRef": dict(store)}} if store else {})


def external_secret_json(
    name: str = "app",
    namespace: str = "dev-1",
    *,
    uid: str = "",
    data: Iterable[Json] = (),
    data_from: Iterable[Json] = (),
    store: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: str = LONG_AGO,
    spec: Json | None = None,
    status: Json | None = None,
    resource_version: str = "1",
) -> Json:
    """An ExternalSecret as the API server sends it."""
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid or f"uid-{namespace}-{name}",
            "resourceVersion": resource_version,
            "creationTimestamp": created,
            "annotations": dict(annotations or {}),
        },
        "spec": {
            "secretStoreRef": dict(store or {"kind": "SecretStore", "name": "vault"}),
            "data": list(data),
            "dataFrom": list(data_from),
            **(spec or {}),
        },
        "status": status or {},
    }


def external_secret(*keys: str | tuple[str, str], **fields: Anything) -> ExternalSecret:
    """An ExternalSecret that reads these keys (or pairs of key and property; the default property is `password`)."""
    pairs = [(key, "password") if isinstance(key, str) else key for key in keys]
    fields.setdefault("data", [entry(key, prop) for key, prop in pairs])
    return parse_external_secret(external_secret_json(**fields))


def store_json(
    name: str = "vault",
    namespace: str = "dev-1",
    *,
    server: str | None = ADDRESS,
    path: str | None = "secret",
    version: str | None = "v2",
    vault_namespace: str | None = None,
    kind: str = "SecretStore",
    managed: Iterable[Json] = (),
) -> Json:
    """A store as the API server sends it."""
    vault = {"server": server, "path": path, "version": version, "namespace": vault_namespace}
    metadata: Json = {"name": name} | ({"namespace": namespace} if kind == "SecretStore" else {})
    metadata["managedFields"] = list(managed)
    provider = {"vault": {key: value for key, value in vault.items() if value is not None}} if server else {"fake": {}}
    return {"kind": kind, "metadata": metadata, "spec": {"provider": provider}}


def store(name: str = "vault", namespace: str = "dev-1", **fields: Anything) -> Store:
    """A store; without `server` one of another provider."""
    return parse_store(store_json(name, namespace, **fields))


def namespace(name: str = "dev-1", seed: str | None = None) -> Namespace:
    """A Kubernetes namespace."""
    annotations = {} if seed is None else {"vaultsync.io/seed": seed}
    return parse_namespace({"metadata": {"name": name, "annotations": annotations}})


def reference(prop: str = "password", **fields: Anything) -> Reference:
    """One resolved entry."""
    values: Json = {
        "path": path("secret/data/a"),
        "field": "spec.data[0].remoteRef",
        "property": prop,
        "kv": 2,
        "metadata": False,
        "whole": False,
        "refusal": "",
    }
    return Reference(**(values | fields))


def reader(*references: Reference, choice: SeedChoice = SeedChoice.WANTED, name: str = "app") -> Reader:
    """An ExternalSecret that reads a path."""
    return Reader(ObjectName("dev-1", name), choice, references or (reference(),))


def live(*properties: str, version: int = 1, mount: Mount = V2, written: datetime | None = NOON) -> SecretState:
    """A path with a live version that has these properties."""
    keys = dict.fromkeys(properties) if mount.kv == 2 else None
    number = version if mount.kv == 2 else 0
    return SecretState(mount, exists=True, version=number, subkeys=keys, written=written if mount.kv == 2 else None)


def gone(version: int = 0, mount: Mount = V2) -> SecretState:
    """A path without a live version: never written (0), or deleted."""
    return SecretState(mount, exists=False, version=version, subkeys={} if mount.kv == 2 else None)
