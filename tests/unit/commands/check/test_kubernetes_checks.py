"""Results of the checks of Kubernetes."""

from collections.abc import Mapping

import pytest

from vaultsync.commands.check.kubernetes_checks import KINDS, check_crds, check_permission
from vaultsync.commands.check.rbac import DEFAULT_ACCOUNT, RBAC_RULES, AccessReview
from vaultsync.commands.check.report import Check, CheckResult, Status

ALL = frozenset(KINDS)


@pytest.mark.parametrize(
    ("served", "mark", "found"),
    [
        ({"v1": ALL, "v1beta1": ALL}, Status.OK, "external-secrets.io/v1 (served: v1, v1beta1)"),
        (
            {"v1alpha1": frozenset(), "v1beta1": ALL},
            Status.OK,
            "external-secrets.io/v1beta1 (served: v1alpha1, v1beta1)",
        ),
        ({"v1alpha1": frozenset()}, Status.FAILED, "external-secrets.io is served only in v1alpha1"),
        ({}, Status.FAILED, "external-secrets.io is not served"),
        ({"v1": ALL - {"secretstores"}}, Status.FAILED, "external-secrets.io/v1 has no secretstores"),
    ],
)
def test_crds(served: Mapping[str, frozenset[str]], mark: Status, found: str) -> None:
    _, line = check_crds(served)
    assert (line.status, line.found, bool(line.fix)) == (mark, found, mark is Status.FAILED)


EVENTS = RBAC_RULES[-1]


@pytest.mark.parametrize(
    ("user", "by_namespace", "words"),
    [
        ("", False, "kubectl apply -k . in your overlay of deploy/base, or"),
        (DEFAULT_ACCOUNT.user, True, "kubectl apply -k . in your overlay of deploy/namespaced"),
        (
            "system:serviceaccount:a:b",
            False,
            "` prints, or check as system:serviceaccount:vaultsync:vaultsync",
        ),
    ],
)
def test_permissions(user: str, by_namespace: bool, words: str) -> None:
    assert check_permission(EVENTS, [], user, by_namespace=by_namespace) == CheckResult(
        Check.PERMISSION, Status.OK, "create, patch", subject="events"
    )
    everywhere = check_permission(EVENTS, [AccessReview("", "events", "patch")], user, by_namespace=by_namespace)
    assert (everywhere.status, everywhere.found) == (Status.FAILED, "may not patch")
    assert words in everywhere.fix
    many = [AccessReview("", "events", verb, f"ns-{number}") for verb in EVENTS.verbs for number in range(9)]
    told = check_permission(EVENTS, many, user, by_namespace=True).found
    assert told == "may not create, patch in ns-0, ns-1, ns-2 and 6 more"
