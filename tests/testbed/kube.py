"""The testbed's admin client for Kubernetes, by apiVersion and kind."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from tests.testbed.api import Api, ApiError, Json

EXTERNAL_SECRETS = "external-secrets.io/v1"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


def path_of(api_version: str, kind: str, name: str | None = None, namespace: str | None = None) -> str:
    """The REST path of an object, or without a name of all objects of a kind."""
    parts = ["api" if "/" not in api_version else "apis", api_version]
    if namespace:
        parts += ["namespaces", namespace]
    parts.append(plural_of(kind))
    if name:
        parts.append(name)
    return "/" + "/".join(parts)


def plural_of(kind: str) -> str:
    """The English plural, which is correct for all kinds used here."""
    word = kind.lower()
    if word.endswith("y"):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith("s") else "s")


class Kube:
    """Reads and writes objects as an admin."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Json | None:
        return self.api.find(path_of(api_version, kind, name, namespace))

    def items(self, api_version: str, kind: str, namespace: str | None = None, query: str = "") -> list[Json]:
        items: list[Json] = self.api.request("GET", path_of(api_version, kind, None, namespace) + query)["items"]
        return items

    def create(self, item: Mapping[str, Any]) -> Json:
        return self.api.request("POST", path_of(item["apiVersion"], item["kind"], None, _namespace(item)), dict(item))

    def apply(self, item: Mapping[str, Any]) -> Json:
        """Creates or updates an object (server-side apply)."""
        path = path_of(item["apiVersion"], item["kind"], item["metadata"]["name"], _namespace(item))
        return self.api.request(
            "PATCH", f"{path}?fieldManager=testbed&force=true", dict(item), content_type=APPLY_PATCH
        )

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        change: Mapping[str, Any],
        namespace: str | None = None,
        status: bool = False,
    ) -> Json:
        """Merges a change into an object, or into its status."""
        path = path_of(api_version, kind, name, namespace) + ("/status" if status else "")
        return self.api.request("PATCH", path, dict(change), content_type=MERGE_PATCH)

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> bool:
        """Deletes an object; False if there was none."""
        try:
            self.api.request("DELETE", path_of(api_version, kind, name, namespace))
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def delete_all(self, api_version: str, kind: str, namespace: str) -> None:
        """Deletes every object of a kind in a namespace."""
        self.api.request("DELETE", path_of(api_version, kind, None, namespace))

    def secret_values(self, name: str, namespace: str) -> dict[str, str] | None:
        """A Secret's data, decoded; None if there is no such Secret."""
        secret = self.get("v1", "Secret", name, namespace)
        if secret is None:
            return None
        return {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}

    def events_of(self, name: str, namespace: str, kind: str = "ExternalSecret") -> list[Json]:
        """The core Events about an object, oldest first."""
        found = self.items(
            "v1", "Event", namespace, f"?fieldSelector=involvedObject.name={name},involvedObject.kind={kind}"
        )
        return sorted(found, key=lambda event: event["metadata"]["creationTimestamp"])

    def token_for(
        self, service_account: str, namespace: str, seconds: int = 86400, audiences: Sequence[str] = ()
    ) -> str:
        """A token of a ServiceAccount by the TokenRequest API, like in a pod's projected volume."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds, **({"audiences": list(audiences)} if audiences else {})},
        }
        path = path_of("v1", "ServiceAccount", service_account, namespace) + "/token"
        token: str = self.api.request("POST", path, body)["status"]["token"]
        return token


def _namespace(item: Mapping[str, Any]) -> str | None:
    namespace: str | None = item["metadata"].get("namespace")
    return namespace
