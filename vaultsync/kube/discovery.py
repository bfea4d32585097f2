"""Discovery: the versions and resources of external-secrets.io that the API server serves. Only reads."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loguru import logger

from vaultsync.core.annotations import CONDITION_TYPE, GROUP
from vaultsync.core.errors import KubeDenied, KubeNotFound
from vaultsync.core.untrusted import mapping, text
from vaultsync.kube.client import KubeClient

SUPPORTED_VERSIONS: Final = ("v1", "v1beta1")
"""In order of preference."""
PUSH_VERSION: Final = "v1alpha1"
"""Of PushSecrets, in all versions of external-secrets so far."""
CLUSTER_ID: Final = "kube-system"
"""The Namespace whose UID identifies a cluster; it exists in each one and is never deleted."""
NOT_SERVED: Final = f"{GROUP} is not served in {' or '.join(SUPPORTED_VERSIONS)}: install external-secrets' CRDs"
SCHEMA_WAITS: Final = (0.2, 0.5, 1.0, 2.0)
"""Seconds between attempts to read the schema, which the API server publishes a moment after the CRD."""


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A served version of external-secrets.io.

    Attributes:
        takes_condition: its ExternalSecret allows the condition `Created`; since external-secrets 0.17 v1 does not.
        push_version: the version of PushSecrets, "" if they are not served.
    """

    version: str
    takes_condition: bool
    push_version: str = ""


async def discover(client: KubeClient, waits: Sequence[float] = SCHEMA_WAITS) -> ServedVersion | None:
    """The preferred version among those that are served, None if no supported version is."""
    versions = await served_versions(client)
    version = preferred(versions)
    if not version:
        return None
    push_version = PUSH_VERSION if PUSH_VERSION in versions and await _serves_push_secrets(client) else ""
    return ServedVersion(version, await takes_condition(client, version, waits), push_version)


async def _serves_push_secrets(client: KubeClient) -> bool:
    listed = (await client.get(f"/apis/{GROUP}/{PUSH_VERSION}")).get("resources") or ()
    return any(mapping(resource).get("name") == "pushsecrets" for resource in listed)


async def cluster_id(client: KubeClient) -> str:
    """The UID of the Namespace kube-system, by which clusters are told apart; "" if it may not be read."""
    try:
        namespace = await client.get(f"/api/v1/namespaces/{CLUSTER_ID}")
    except (KubeDenied, KubeNotFound) as error:
        logger.warning("the cluster's ID can't be read: set VAULTSYNC_CLUSTER to a name of your own", reason=str(error))
        return ""
    return text(mapping(namespace.get("metadata")).get("uid"))


async def served_versions(client: KubeClient) -> tuple[str, ...]:
    """The versions of external-secrets.io that are served, supported or not; none if its CRDs are not installed."""
    try:
        group = await client.get(f"/apis/{GROUP}")
    except KubeNotFound:
        return ()
    return tuple(text(mapping(version).get("version")) for version in group.get("versions") or ())


def preferred(versions: Container[str]) -> str:
    """The best supported version among the given ones, "" if there is none."""
    return next((version for version in SUPPORTED_VERSIONS if version in versions), "")


async def served_resources(client: KubeClient) -> dict[str, frozenset[str]]:
    """The resource names, such as externalsecrets, by served version; empty for all versions but the preferred one."""
    versions = await served_versions(client)
    best = preferred(versions)
    listed = (await client.get(f"/apis/{GROUP}/{best}")).get("resources") or () if best else ()
    names = frozenset(text(mapping(resource).get("name")) for resource in listed)
    return {version: names if version == best else frozenset() for version in versions}


async def takes_condition(client: KubeClient, version: str, waits: Sequence[float] = SCHEMA_WAITS) -> bool:
    """Whether a served version's ExternalSecret allows the condition `Created`; False if its schema is not published.

    See https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3.
    """
    for wait in (0.0, *waits):
        await asyncio.sleep(wait)
        try:
            document = await client.get(f"/openapi/v3/apis/{GROUP}/{version}")
            schema: Any = document["components"]["schemas"][f"io.{GROUP.split('.')[0]}.{version}.ExternalSecret"]
            condition = schema["properties"]["status"]["properties"]["conditions"]["items"]["properties"]
            return CONDITION_TYPE in condition["type"].get("enum", (CONDITION_TYPE,))
        except KubeDenied:
            return False
        except (KeyError, TypeError, AttributeError, KubeNotFound):
            continue
    return False
