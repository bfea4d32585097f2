"""The Kubernetes permissions of vaultsync: `vaultsync check` reviews them, `--print-setup` grants them. No I/O.

deploy/base/clusterrole.yaml and role.yaml grant the same; a test compares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vaultsync.core.annotations import GROUP
from vaultsync.kube.discovery import CLUSTER_ID
from vaultsync.kube.informer_manager import CLUSTER_STORES, EXTERNAL_SECRETS, NAMESPACES, PUSH_SECRETS, STORES


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A ServiceAccount."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, user: str) -> "ServiceAccount | None":
        """From the name of a Kubernetes user; None for any other user."""
        kind, _, rest = user.partition("system:serviceaccount:")
        namespace, colon, name = rest.partition(":")
        return cls(namespace, name) if colon and not kind else None

    @property
    def user(self) -> str:
        """Its name as a Kubernetes user."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"


DEFAULT_ACCOUNT: Final = ServiceAccount("vaultsync", "vaultsync")
"""The ServiceAccount of deploy/base."""
DEFAULT_LEASE: Final = "vaultsync/vaultsync"
"""VAULTSYNC_LEASE of deploy/base."""


@dataclass(frozen=True, slots=True)
class RbacRule:
    """Verbs on one resource.

    Attributes:
        resource: with its subresource, such as `externalsecrets/status`.
        in_namespaces: whether the resource is namespaced.
        namespace: the only namespace in which it is needed, "" for all watched ones.
        name: the only object on which it is needed, "" for all.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    in_namespaces: bool
    namespace: str = ""
    name: str = ""

    @property
    def label(self) -> str:
        """The resource with the name, such as `leases/vaultsync`."""
        return f"{self.resource}/{self.name}" if self.name else self.resource


@dataclass(frozen=True, slots=True, order=True)
class AccessReview:
    """Attributes of a SelfSubjectAccessReview; an empty namespace or name stands for all."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


STATUS: Final = f"{EXTERNAL_SECRETS}/status"

_READ: Final = ("list", "watch")
_PATCH: Final = "patch"

RBAC_RULES: Final = (
    RbacRule(GROUP, EXTERNAL_SECRETS, (*_READ, _PATCH), True),  # patch: force-sync and vaultsync's annotations
    RbacRule(GROUP, STATUS, (_PATCH,), True),  # the condition Created, where the served CRD allows it
    RbacRule(GROUP, STORES, _READ, True),
    RbacRule(GROUP, PUSH_SECRETS, _READ, True),  # whose paths vaultsync leaves to them
    RbacRule(GROUP, CLUSTER_STORES, _READ, False),
    RbacRule("", NAMESPACES, _READ, False),
    RbacRule("", NAMESPACES, ("get",), False, name=CLUSTER_ID),  # the cluster's ID, in place of VAULTSYNC_CLUSTER
    RbacRule("", "events", ("create", _PATCH), True),
)
"""The rules of the ClusterRole of deploy/base."""


def required_rules(*, writes: bool, takes_condition: bool) -> tuple[RbacRule, ...]:
    """The rules of RBAC_RULES that the settings and the cluster require.

    Args:
        writes: whether vaultsync writes to Kubernetes: not in a dry run.
        takes_condition: whether the served CRD allows the condition `Created`.
    """
    rules = RBAC_RULES if takes_condition else tuple(rule for rule in RBAC_RULES if rule.resource != STATUS)
    if writes:
        return rules
    reads = ((rule, tuple(verb for verb in rule.verbs if verb in ("get", *_READ))) for rule in rules)
    return tuple(replace(rule, verbs=verbs) for rule, verbs in reads if verbs)


def leader_rules(lease: str, *, labels: bool) -> tuple[RbacRule, ...]:
    """The rules for VAULTSYNC_LEASE ("" for no election) and for a leader that labels its pod, as in deploy/base."""
    if not lease:
        return ()
    namespace, _, name = lease.partition("/")
    rules = (
        RbacRule("coordination.k8s.io", "leases", ("create",), True, namespace),  # RBAC can't limit `create` to a name
        RbacRule("coordination.k8s.io", "leases", ("get", *_READ, _PATCH), True, namespace, name),
    )
    return (*rules, RbacRule("", "pods", (_PATCH,), True, namespace)) if labels else rules


def access_reviews(rule: RbacRule, namespaces: Sequence[str]) -> list[AccessReview]:
    """The reviews that check a rule in the watched namespaces; none are given if all are watched."""
    places = [(rule.namespace, rule.name)]
    if namespaces and rule.in_namespaces and not rule.namespace:
        places = [(name, "") for name in namespaces]
    elif namespaces and rule.resource == NAMESPACES and not rule.name:  # the informers watch each Namespace by its name
        places = [("", name) for name in namespaces]
    return [AccessReview(rule.group, rule.resource, verb, *place) for verb in rule.verbs for place in places]
