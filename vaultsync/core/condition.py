"""What is said on an ExternalSecret as a whole, made of what happened at each path that it reads. Pure."""

from collections.abc import Sequence

from vaultsync.core.annotations import CreatedReason
from vaultsync.core.external_secret import CreatedCondition

MESSAGE_LENGTH = 1000
GRAVEST = (CreatedReason.ERROR_CREATING, CreatedReason.RECREATING, CreatedReason.ERROR_ANNOTATION)
"""The order in which one reason stands for several."""
WITHDRAWAL = CreatedCondition(True, "", "")


def compose(
    annotation_problem: str,
    failures: Sequence[tuple[str, CreatedReason]],
    success: str,
    before: CreatedCondition | None,
    all_there: bool,
    wanted: bool,
) -> CreatedCondition | None:
    """The report as it should stand, None where there is nothing to say beyond what is said already.

    Args:
        annotation_problem: what is wrong with the annotations, "" if nothing.
        failures: per failing path its message and reason.
        success: what was done for the object in this process, "" if nothing.
        before: what the object says now.
        all_there: everything that it reads was seen to exist.
        wanted: somebody asks to have it seeded.
    """
    if annotation_problem:
        return _changed(CreatedCondition(False, CreatedReason.ERROR_ANNOTATION, annotation_problem), before)
    if failures:
        reason = min((reason for _, reason in failures), key=GRAVEST.index)
        return _changed(CreatedCondition(False, reason, "; ".join(message for message, _ in failures)), before)
    if success:
        return _changed(CreatedCondition(True, CreatedReason.SUCCESS, success), before)
    if before is not None and not before.ok and all_there:
        return CreatedCondition(True, CreatedReason.EXISTS, "everything that it reads exists in Vault")
    if before is not None and not before.ok and not wanted:
        return WITHDRAWAL
    return None


def _changed(report: CreatedCondition, before: CreatedCondition | None) -> CreatedCondition | None:
    cut = CreatedCondition(report.ok, str(report.reason), report.message[:MESSAGE_LENGTH])
    return None if cut == before else cut
