"""Writes on ExternalSecrets: annotations and the condition `Created`. Decides nothing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vaultsync.core import annotations
from vaultsync.core.errors import ConditionNotWritten, VaultsyncError
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, Json, parse_external_secret
from vaultsync.kube.client import KubeClient


class ExternalSecretWriter:
    """Patches on ExternalSecrets: annotations, and the condition `Created` where the served CRD takes it."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.takes_condition = False
        """See discovery.ServedVersion; until then annotations are written."""

    async def write(
        self, external_secret: ExternalSecret, annotations: Mapping[str, str | None], report: CreatedCondition | None
    ) -> None:
        """Write what has changed, annotations (and with them the force-sync) first.

        Args:
            external_secret: as last seen.
            annotations: to set.
            report: to say as condition, or as annotations in the same patch where the CRD refuses the condition.

        Raises:
            ConditionNotWritten: the annotations are written, the condition is not.
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
            raise ConditionNotWritten(str(error)) from error

    async def _annotate(self, external_secret: ExternalSecret, annotations: Mapping[str, str | None]) -> Json:
        body = {"metadata": {"annotations": annotations}}
        return await self._client.merge_patch(_path(external_secret), body)

    async def _set_condition(self, external_secret: ExternalSecret, report: CreatedCondition) -> None:
        others = [one for one in external_secret.conditions if one.get("type") != annotations.CONDITION_TYPE]
        own = [one for one in external_secret.conditions if one.get("type") == annotations.CONDITION_TYPE]
        body = {
            # the precondition keeps external-secrets' own conditions whole: a merge patch replaces the list
            "metadata": {"resourceVersion": external_secret.resource_version},
            "status": {"conditions": others if report.is_withdrawal else [*others, _condition(report, own)]},
        }
        await self._client.merge_patch(_path(external_secret) + "/status", body)


def _condition(report: CreatedCondition, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def _as_annotations(report: CreatedCondition) -> dict[str, str | None]:
    if report.is_withdrawal:
        return {annotations.CREATED: None, annotations.MESSAGE: None}
    return {annotations.CREATED: f"{report.ok} {report.reason}", annotations.MESSAGE: report.message}


def _path(external_secret: ExternalSecret) -> str:
    name = external_secret.name
    return f"/apis/{external_secret.api_version}/namespaces/{name.namespace}/externalsecrets/{name.name}"
