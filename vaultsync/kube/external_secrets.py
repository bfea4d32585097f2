"""What vaultsync writes on ExternalSecrets, and which version of them is served."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vaultsync.core import annotations
from vaultsync.core.errors import KubeDenied, KubeNotFound, ReportNotWritten, VaultsyncError
from vaultsync.core.external_secret import ExternalSecret, Json, Report, parse_external_secret
from vaultsync.kube.client import KubeClient

SERVED_VERSIONS = ("v1", "v1beta1")
"""Those that vaultsync understands, best first."""
NOT_SERVED = f"{annotations.GROUP} is not served in {' or '.join(SERVED_VERSIONS)}: install external-secrets' CRDs"


@dataclass(frozen=True, slots=True)
class Served:
    """What the API server serves.

    Attributes:
        version: of external-secrets.io.
        takes_condition: its ExternalSecret allows the condition `Created`; v1 of external-secrets 0.17 on does not.
    """

    version: str
    takes_condition: bool


async def served(client: KubeClient) -> Served | None:
    """The best version of external-secrets.io that the API server serves, None where it serves none of ours."""
    try:
        group = await client.get(f"/apis/{annotations.GROUP}")
    except KubeNotFound:
        return None
    known = {version.get("version") for version in group.get("versions") or () if isinstance(version, dict)}
    version = next((version for version in SERVED_VERSIONS if version in known), None)
    return Served(version, await takes_condition(client, version)) if version else None


async def takes_condition(client: KubeClient, version: str) -> bool:
    """Whether a served version's ExternalSecret allows the condition `Created`.

    As the published schema says, which comes a moment after the CRD does; without it, annotations always work.
    """
    for wait in (0.2, 0.5, 1.0, 2.0, 0.0):
        takes = await _schema_takes_condition(client, version)
        if takes is not None:
            return takes
        await asyncio.sleep(wait)
    return False


async def _schema_takes_condition(client: KubeClient, version: str) -> bool | None:
    """None: not published (https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3)."""
    try:
        document = await client.get(f"/openapi/v3/apis/{annotations.GROUP}/{version}")
        schema: Any = document["components"]["schemas"][
            f"io.{annotations.GROUP.split('.')[0]}.{version}.ExternalSecret"
        ]
        condition = schema["properties"]["status"]["properties"]["conditions"]["items"]["properties"]
        return annotations.CONDITION_TYPE in condition["type"].get("enum", (annotations.CONDITION_TYPE,))
    except KubeDenied:
        return False
    except (KeyError, TypeError, AttributeError, KubeNotFound):
        return None


class ExternalSecretWriter:
    """Patches on ExternalSecrets: annotations, and the condition `Created` where the served CRD takes it."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.takes_condition = False
        """As Served says; until then annotations are written."""

    async def write(
        self, external_secret: ExternalSecret, annotations: Mapping[str, str | None], report: Report | None
    ) -> None:
        """Write what has changed, annotations (and with them the force-sync) first.

        Args:
            external_secret: as last seen.
            annotations: to set.
            report: to say as condition, or as annotations in the same patch where the CRD refuses the condition.

        Raises:
            ReportNotWritten: the annotations are written, the condition is not.
            VaultsyncError: nothing is written.
        """
        if report is not None and not self.takes_condition:
            annotations, report = {**annotations, **_as_annotations(report)}, None
        document = await self._annotate(external_secret, annotations) if annotations else None
        if report is None:
            return
        if document is not None:
            external_secret = parse_external_secret(document)
        try:
            await self._set_condition(external_secret, report)
        except VaultsyncError as error:
            if not annotations:
                raise
            raise ReportNotWritten(str(error)) from error

    async def _annotate(self, external_secret: ExternalSecret, annotations: Mapping[str, str | None]) -> Json:
        body = {"metadata": {"annotations": annotations}}
        return await self._client.merge_patch(_path(external_secret), body)

    async def _set_condition(self, external_secret: ExternalSecret, report: Report) -> None:
        others = [one for one in external_secret.conditions if one.get("type") != annotations.CONDITION_TYPE]
        own = [one for one in external_secret.conditions if one.get("type") == annotations.CONDITION_TYPE]
        body = {
            # the precondition keeps external-secrets' own conditions whole: a merge patch replaces the list
            "metadata": {"resourceVersion": external_secret.resource_version},
            "status": {"conditions": others if report.is_withdrawal else [*others, _condition(report, own)]},
        }
        await self._client.merge_patch(_path(external_secret) + "/status", body)


def _condition(report: Report, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The condition; its time is that of the last change of status, as Kubernetes' API conventions ask."""
    status, now = str(report.ok), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    since = next((one.get("lastTransitionTime") for one in before if one.get("status") == status), None)
    return {
        "type": annotations.CONDITION_TYPE,
        "status": status,
        "reason": report.reason,
        "message": report.message,
        "lastTransitionTime": since or now,
    }


def _as_annotations(report: Report) -> dict[str, str | None]:
    if report.is_withdrawal:
        return {annotations.CREATED: None, annotations.MESSAGE: None}
    return {annotations.CREATED: f"{report.ok} {report.reason}", annotations.MESSAGE: report.message}


def _path(external_secret: ExternalSecret) -> str:
    name = external_secret.name
    return f"/apis/{external_secret.api_version}/namespaces/{name.namespace}/externalsecrets/{name.name}"
