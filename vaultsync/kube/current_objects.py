"""Reads single objects from the API server, past the informers. Only reads.

The watches of two resources have no common order: one may be behind while the other is not.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vaultsync.core.external_secret import ExternalSecret, Store, StoreName, parse_external_secret, parse_store
from vaultsync.kube.client import KubeClient

T = TypeVar("T")


class CurrentObjects:
    """Lists an object by its name, as the informers' permission to list is enough for that."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def external_secret(self, known: ExternalSecret) -> ExternalSecret | None:
        """The ExternalSecret of that name now, None if there is none.

        Raises:
            VaultsyncError: the API server does not answer, or refuses.
        """
        name = known.name
        return await self._find(known.api_version, "ExternalSecret", name.namespace, name.name, parse_external_secret)

    async def store(self, name: StoreName, api_version: str) -> Store | None:
        """The store of that name now, None if there is none.

        Raises:
            VaultsyncError: as `external_secret`.
        """
        return await self._find(api_version, name.kind, name.namespace, name.name, parse_store)

    async def _find(
        self, api_version: str, kind: str, namespace: str, name: str, parse: Callable[[Mapping[str, Any]], T]
    ) -> T | None:
        place = f"namespaces/{namespace}/" if namespace else ""
        path = f"/apis/{api_version}/{place}{kind.lower()}s"
        found = await self._client.get(path, {"fieldSelector": f"metadata.name={name}"})
        return next(
            (parse({"kind": kind, "apiVersion": api_version, **item}) for item in found.get("items") or ()), None
        )
