"""A test's own place: a Kubernetes namespace and a Vault path prefix of one name, with a SecretStore between them."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tests.testbed.api import ApiError, Json
from tests.testbed.kube import EXTERNAL_SECRETS, Kube
from tests.testbed.testbed import ESO_TOKEN, Testbed, wait_for
from tests.testbed.vault import VaultRoot

T = TypeVar("T")

STORE = "vault"
TOKEN_SECRET = "vault-token"
CLEANED = (
    (EXTERNAL_SECRETS, "ExternalSecret"),
    ("external-secrets.io/v1alpha1", "PushSecret"),
    (EXTERNAL_SECRETS, "SecretStore"),
    ("generators.external-secrets.io/v1alpha1", "Password"),
    ("v1", "Secret"),
    ("v1", "Event"),
)

_numbers = itertools.count(1)


class Place:
    """The namespace and path prefix of one test, isolated from the others.

    Args:
        server: Vault's address in its stores; the testbed's Vault by default.
    """

    def __init__(self, testbed: Testbed, name: str | None = None, server: str | None = None) -> None:
        self.testbed = testbed
        self.server = server or testbed.vault.address
        self.name = name or f"t{next(_numbers)}-{secrets.token_hex(3)}"
        self.kube: Kube = testbed.kube

    @property
    def vault(self) -> VaultRoot:
        """Vault, as root."""
        return self.testbed.vault_root

    @property
    def namespace(self) -> str:
        return self.name

    def create(self) -> None:
        """Creates the namespace and the store `vault` in it (mount `secret`, KV v2)."""
        self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        self.kube.create(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": TOKEN_SECRET, "namespace": self.name},
                "stringData": {"token": ESO_TOKEN},
            }
        )
        self.store(STORE)

    def __enter__(self) -> Place:
        self.create()
        return self

    def __exit__(self, *_: object) -> None:
        self.clean()

    def clean(self) -> None:
        """Removes all objects, as no controller does. Vault paths are kept, below a prefix that is not reused."""
        for api_version, kind in CLEANED:
            self.kube.delete_all(api_version, kind, self.name)
        self.kube.delete("v1", "Namespace", self.name)

    def path(self, path: str) -> str:
        """A path below this place's prefix, as in `secret/<prefix>/<path>`."""
        return f"{self.name}/{path}"

    def store(
        self,
        name: str,
        path: str | None = "secret",
        version: str = "v2",
        *,
        server: str | None = None,
        kind: str = "SecretStore",
        **provider: object,
    ) -> Json:
        """Creates a SecretStore (or ClusterSecretStore) for a mount, with a token that can only read."""
        reference = {"name": TOKEN_SECRET, "key": "token"}
        metadata = {"name": name, "namespace": self.name}
        if kind == "ClusterSecretStore":
            reference["namespace"] = metadata.pop("namespace")
        vault = {
            "server": server or self.server,
            "version": version,
            "auth": {"tokenSecretRef": reference},
            **({"path": path} if path else {}),
            **provider,
        }
        return self.kube.create(
            {"apiVersion": EXTERNAL_SECRETS, "kind": kind, "metadata": metadata, "spec": {"provider": {"vault": vault}}}
        )

    def external_secret(
        self,
        name: str,
        data: Mapping[str, tuple[str, str]] | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
        store: str = STORE,
        refresh: str = "1h",
        absolute: bool = False,
        entries: Sequence[Json] = (),
        **spec: object,
    ) -> Json:
        """Creates an ExternalSecret: data is {key in the Secret: (path below the prefix, property)}.

        With `absolute`, paths are used as written; `entries` are additional items of spec.data. Other fields
        of the spec (dataFrom, target, …) take precedence.
        """
        written = [
            {"secretKey": key, "remoteRef": _reference(path if absolute else self.path(path), wanted)}
            for key, (path, wanted) in (data or {}).items()
        ] + list(entries)
        body: Json = {"refreshInterval": refresh, "secretStoreRef": {"name": store, "kind": "SecretStore"}}
        if written:
            body["data"] = written
        return self.kube.create(
            {
                "apiVersion": EXTERNAL_SECRETS,
                "kind": "ExternalSecret",
                "metadata": {"name": name, "namespace": self.name, "annotations": dict(annotations or {})},
                "spec": {**body, **spec},
            }
        )

    def get(self, name: str) -> Json | None:
        """The ExternalSecret, None if there is none."""
        return self.kube.get(EXTERNAL_SECRETS, "ExternalSecret", name, self.name)

    def patch(self, name: str, change: Mapping[str, Any]) -> Json:
        return self.kube.patch(EXTERNAL_SECRETS, "ExternalSecret", name, change, self.name)

    def annotate(self, name: str, **annotations: str | None) -> Json:
        """Sets annotations, or removes those given as None; in a name, `__` stands for `/` and `_` for `-`."""
        named = {key.replace("__", "/").replace("_", "-"): value for key, value in annotations.items()}
        return self.patch(name, {"metadata": {"annotations": named}})

    def delete(self, name: str) -> bool:
        return self.kube.delete(EXTERNAL_SECRETS, "ExternalSecret", name, self.name)

    def ready(self, name: str) -> tuple[str, str] | None:
        """Status and reason of the condition Ready, None if it has none yet."""
        status = (self.get(name) or {}).get("status") or {}
        for condition in status.get("conditions") or []:
            if condition["type"] == "Ready":
                return condition["status"], condition.get("reason", "")
        return None

    def secret(self, name: str) -> dict[str, str] | None:
        """The values of the Kubernetes Secret, None if there is none."""
        return self.kube.secret_values(name, self.name)

    def annotations(self, name: str) -> dict[str, str]:
        """The annotations of an ExternalSecret."""
        return dict((self.get(name) or {"metadata": {}})["metadata"].get("annotations") or {})

    def wait_until_reported(self, name: str, *words: str, timeout: float = 10.0) -> str:
        """Waits until an ExternalSecret reports a failure with all these words; returns the message."""

        def probe() -> str | None:
            found = self.annotations(name)
            message, wrong = found.get("vaultsync.io/message", ""), found.get("vaultsync.io/created", "")
            return message if wrong.startswith("False") and all(word in message for word in words) else None

        return self.wait_for(probe, timeout, f"{name} says {words}")

    def wait_until_healthy(self, name: str, timeout: float = 10.0) -> None:
        """Waits until an ExternalSecret reports no failure."""

        def probe() -> bool:
            return self.annotations(name).get("vaultsync.io/created", "").startswith("True")

        self.wait_for(probe, timeout, what=f"{name} reports no failure")

    def events(self, name: str, component: str | None = None) -> list[tuple[str, str]]:
        """Reasons and messages of the Events about an ExternalSecret, optionally of only one component."""
        return [
            (event["reason"], event["message"])
            for event in self.kube.events_of(name, self.name)
            if component in (None, event.get("reportingComponent"), (event.get("source") or {}).get("component"))
        ]

    def put(self, path: str, mount: str = "secret", **values: object) -> None:
        """Writes a secret below the prefix."""
        self.vault.put(self.path(path), mount, **values)

    def read(self, path: str, mount: str = "secret") -> Json | None:
        """The values at a path below the prefix; None if it is missing or deleted."""
        return self.vault.get(self.path(path), mount)

    def version(self, path: str, mount: str = "secret") -> int:
        return self.vault.version(self.path(path), mount)

    def wait_for(self, probe: Callable[[], T | None], timeout: float = 10.0, what: str = "") -> T:
        """Waits until the probe returns a true value, and returns it; tolerates unavailable servers."""
        return wait_for(lambda: _patiently(probe), timeout, what or f"the condition of the test in {self.name}")

    def wait_for_secret(self, name: str, timeout: float = 10.0, **values: str) -> dict[str, str]:
        """Waits for a Secret, with these values if any are given."""

        def probe() -> dict[str, str] | None:
            found = self.secret(name)
            return found if found and values.items() <= found.items() else None

        found = self.wait_for(
            probe, timeout, f"Secret {self.name}/{name}" + (f" with the keys {sorted(values)}" if values else "")
        )
        assert found is not None
        return found


def _reference(path: str, wanted: str) -> dict[str, str]:
    return {"key": path, **({"property": wanted} if wanted else {})}


def _patiently(probe: Callable[[], T | None]) -> T | None:
    try:
        return probe()
    except ApiError as error:
        if error.status >= 500:
            return None
        raise
