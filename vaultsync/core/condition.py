"""Composes the condition `Created` of an ExternalSecret from the results at each path that it reads. Pure."""

from collections.abc import Sequence

from vaultsync.core.annotations import CreatedReason
from vaultsync.core.external_secret import CreatedCondition

MESSAGE_LENGTH = 1000
PRECEDENCE = (
    CreatedReason.NOT_HEALED,
    CreatedReason.OTHER_OWNER,
    CreatedReason.ERROR_CREATING,
    CreatedReason.RECREATING,
    CreatedReason.ERROR_ANNOTATION,
)
"""Order of precedence if there are several reasons."""
WITHDRAWAL = CreatedCondition(True, "", "")


def compose(
    annotation_problem: str,
    failures: Sequence[tuple[str, CreatedReason]],
    success: str,
    before: CreatedCondition | None,
    all_there: bool,
    wanted: bool,
) -> CreatedCondition | None:
    """The condition to write, None if it need not change.

    `failures` has the message and the reason for each failing path; `success` is what this process did for the object,
    "" if nothing. Everything that it reads exists (`all_there`), and it requests seeding (`wanted`), or not.
    """
    if annotation_problem:
        return _changed(CreatedCondition(False, CreatedReason.ERROR_ANNOTATION, annotation_problem), before)
    if failures:
        reason = min((reason for _, reason in failures), key=PRECEDENCE.index)
        return _changed(CreatedCondition(False, reason, "; ".join(message for message, _ in failures)), before)
    if success:
        return _changed(CreatedCondition(True, CreatedReason.SUCCESS, success), before)
    if before is None or before.ok:
        return None
    if all_there:
        return CreatedCondition(True, CreatedReason.EXISTS, "everything that it reads exists in Vault")
    return None if wanted else WITHDRAWAL


def _changed(condition: CreatedCondition, before: CreatedCondition | None) -> CreatedCondition | None:
    cut = CreatedCondition(condition.ok, str(condition.reason), condition.message[:MESSAGE_LENGTH])
    return None if cut == before else cut
