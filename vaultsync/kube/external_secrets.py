"""Writes on ExternalSecrets: annotations and the condition `Created`. Decides nothing."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vaultsync.core import annotations
from vaultsync.core.errors import ConditionNotWritten, VaultsyncError
from vaultsync.core.external_secret import CreatedCondition, ExternalSecret, parse_external_secret
from vaultsync.kube.client import KubeClient


class ExternalSecretWriter:
    """Patches on ExternalSecrets: annotations, and the condition `Created` where the served CRD allows it."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self.takes_condition = False
        """See discovery.ServedVersion; False until discovery."""

    async def write(
        self, external_secret: ExternalSecret, annotations: Mapping[str, str | None], condition: CreatedCondition | None
    ) -> None:
        """Write annotations (which include the force-sync; None removes one) first, then the condition.

        The condition becomes annotations in the same patch if the CRD does not allow it. A failure does not where
        external-secrets could remove a missing value from the Secret, as it reads at each changed annotation.

        Raises:
            ConditionNotWritten: the annotations are written, the condition is not.
            VaultsyncError: nothing is written.
        """
        if condition is not None and not self.takes_condition:
            if external_secret.retains or condition.ok or condition.is_withdrawal:
                annotations = {**annotations, **_as_annotations(condition)}
            condition = None
        if annotations:
            body = {"metadata": {"annotations": annotations}}
            document = await self._client.merge_patch(_path(external_secret), body)
            if condition is not None:
                external_secret = parse_external_secret(document)
        if condition is None:
            return
        try:
            await self._set_condition(external_secret, condition)
        except VaultsyncError as error:
            if not annotations:
                raise
            raise ConditionNotWritten(str(error)) from error

    async def _set_condition(self, external_secret: ExternalSecret, condition: CreatedCondition) -> None:
        others = [one for one in external_secret.conditions if one.get("type") != annotations.CONDITION_TYPE]
        own = [one for one in external_secret.conditions if one.get("type") == annotations.CONDITION_TYPE]
        body = {
            # a merge patch replaces the list: the precondition protects the conditions of external-secrets
            "metadata": {"resourceVersion": external_secret.resource_version},
            "status": {"conditions": others if condition.is_withdrawal else [*others, _render(condition, own)]},
        }
        await self._client.merge_patch(_path(external_secret) + "/status", body)


def _render(condition: CreatedCondition, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The condition; lastTransitionTime changes with its status only (Kubernetes' API conventions)."""
    status, now = str(condition.ok), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    since = next((one.get("lastTransitionTime") for one in before if one.get("status") == status), None)
    return {
        "type": annotations.CONDITION_TYPE,
        "status": status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since or now,
    }


def _as_annotations(condition: CreatedCondition) -> dict[str, str | None]:
    if condition.is_withdrawal:
        return {annotations.CREATED: None, annotations.MESSAGE: None}
    return {annotations.CREATED: f"{condition.ok} {condition.reason}", annotations.MESSAGE: condition.message}


def _path(external_secret: ExternalSecret) -> str:
    name = external_secret.name
    return f"/apis/{external_secret.api_version}/namespaces/{name.namespace}/externalsecrets/{name.name}"
