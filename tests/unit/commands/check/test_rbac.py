"""The permissions that are checked and granted are those of the shipped manifests."""

import pytest

from tests.unit.commands.check.manifests import LEADING, by_name, granted, shipped, used
from vaultsync.commands.check.rbac import (
    DEFAULT_ACCOUNT,
    RBAC_RULES,
    AccessReview,
    ServiceAccount,
    access_reviews,
    leader_rules,
    required_rules,
)


def test_the_rights_are_those_of_the_shipped_cluster_role() -> None:
    [role] = shipped("base/clusterrole.yaml", "ClusterRole")
    assert used(RBAC_RULES) == granted(role["rules"])
    assert len(used(RBAC_RULES)) == sum(len(right.verbs) for right in RBAC_RULES)


def test_the_rights_outside_of_namespaces_are_those_of_the_namespaced_role() -> None:
    [role] = shipped("namespaced/cluster.yaml", "ClusterRole")
    assert used(tuple(right for right in RBAC_RULES if not right.in_namespaces)) == granted(role["rules"])


def test_the_rights_in_the_own_namespace_are_those_of_the_shipped_role() -> None:
    [role] = shipped("base/role.yaml", "Role")
    assert {(right.label, verb) for right in LEADING for verb in right.verbs} == by_name(role["rules"])
    assert {(right.group, right.resource, verb) for right in LEADING for verb in right.verbs} == granted(role["rules"])
    assert {right.namespace for right in LEADING} == {role["metadata"]["namespace"]}


def test_leader_rules_depend_on_the_lease_and_the_labels() -> None:
    assert leader_rules("", labels=True) == ()
    assert [right.label for right in leader_rules("a/b", labels=False)] == ["leases", "leases/b"]
    assert [right.label for right in leader_rules("a/b", labels=True)] == ["leases", "leases/b", "pods"]
    assert {right.namespace for right in leader_rules("a/b", labels=True)} == {"a"}


def test_leader_rules_are_reviewed_by_name_in_their_namespace() -> None:
    for watched in ((), ("shop", "web")):
        found = [question for right in leader_rules("a/b", labels=True) for question in access_reviews(right, watched)]
        assert found[0] == AccessReview("coordination.k8s.io", "leases", "create", "a")
        assert found[1] == AccessReview("coordination.k8s.io", "leases", "get", "a", "b")
        assert found[-1] == AccessReview("", "pods", "patch", "a")
        assert len(found) == 6


def test_less_is_used_in_a_dry_run_and_without_the_condition() -> None:
    assert required_rules(writes=True, takes_condition=True) == RBAC_RULES
    assert used(RBAC_RULES) - used(required_rules(writes=True, takes_condition=False)) == {
        ("external-secrets.io", "externalsecrets/status", "patch")
    }
    dry = required_rules(writes=False, takes_condition=True)
    assert {verb for right in dry for verb in right.verbs} == {"get", "list", "watch"}
    assert used(dry) == {one for one in used(RBAC_RULES) if one[2] in ("get", "list", "watch")}


def test_each_namespace_is_reviewed_by_name() -> None:
    by_resource = {right.resource: access_reviews(right, ("shop", "web")) for right in RBAC_RULES if not right.name}
    [cluster] = [access_reviews(right, ("shop", "web")) for right in RBAC_RULES if right.name]
    assert cluster == [AccessReview("", "namespaces", "get", "", "kube-system")]
    assert by_resource["events"][:2] == [
        AccessReview("", "events", "create", "shop"),
        AccessReview("", "events", "create", "web"),
    ]
    assert by_resource["namespaces"][0] == AccessReview("", "namespaces", "list", "", "shop")
    assert by_resource["clustersecretstores"][0] == AccessReview("external-secrets.io", "clustersecretstores", "list")
    assert all(question.namespace == "" for right in RBAC_RULES for question in access_reviews(right, ()))


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("system:serviceaccount:vaultsync:vaultsync", DEFAULT_ACCOUNT),
        ("system:serviceaccount:a:b", ServiceAccount("a", "b")),
        ("admin", None),
        ("system:node:a", None),
        ("x-system:serviceaccount:a:b", None),
        ("", None),
    ],
)
def test_accounts(user: str, account: ServiceAccount | None) -> None:
    assert ServiceAccount.parse(user) == account
