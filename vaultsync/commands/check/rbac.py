"""What vaultsync may do in Kubernetes: the one list that `vaultsync check` asks for and `--print-setup` grants.

Pure. deploy/base/clusterrole.yaml and role.yaml grant the same; a test holds them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from vaultsync.core.annotations import GROUP


@dataclass(frozen=True, slots=True)
class RbacRule:
    """Verbs on one resource.

    Attributes:
        resource: with its subresource, such as `externalsecrets/status`.
        in_namespaces: whether its objects are in namespaces.
        why: what it is for.
        namespace: the only one in which it is used, whatever is watched; "" for all others.
        name: the only object on which it is used, "" for any.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    in_namespaces: bool
    why: str
    namespace: str = ""
    name: str = ""

    @property
    def label(self) -> str:
        """What it is on, such as `leases/vaultsync`."""
        return f"{self.resource}/{self.name}" if self.name else self.resource


@dataclass(frozen=True, slots=True, order=True)
class AccessReview:
    """One verb on one resource, as RBAC is asked: in a namespace ("": in all of them), on an object ("": on any)."""

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""


EXTERNAL_SECRETS: Final = "externalsecrets"
NAMESPACES: Final = "namespaces"
STATUS: Final = f"{EXTERNAL_SECRETS}/status"

_READ: Final = ("list", "watch")
_INFORMERS: Final = "what the informers read"
_PATCH: Final = "patch"

RBAC_RULES: Final = (
    RbacRule(GROUP, EXTERNAL_SECRETS, (*_READ, _PATCH), True, "force-sync and vaultsync's own annotations"),
    RbacRule(GROUP, STATUS, (_PATCH,), True, "the condition Created, where the served CRD takes it"),
    RbacRule(GROUP, "secretstores", _READ, True, _INFORMERS),
    RbacRule(GROUP, "clustersecretstores", _READ, False, _INFORMERS),
    RbacRule("", NAMESPACES, _READ, False, _INFORMERS),
    RbacRule("", "events", ("create", _PATCH), True, "what `kubectl describe externalsecret` shows"),
)
"""All that are ever used on what is watched, as the ClusterRole of deploy/base grants them."""

LEASE: Final = "vaultsync/vaultsync"
"""VAULTSYNC_LEASE of deploy/base."""


def rights(*, writes: bool, takes_condition: bool) -> tuple[RbacRule, ...]:
    """Those that are used.

    Args:
        writes: not in a dry run.
        takes_condition: whether the served CRD allows the condition `Created`.
    """
    left = RBAC_RULES if takes_condition else tuple(right for right in RBAC_RULES if right.resource != STATUS)
    if writes:
        return left
    reads = ((right, tuple(verb for verb in right.verbs if verb in _READ)) for right in left)
    return tuple(replace(right, verbs=verbs, why=_INFORMERS) for right, verbs in reads if verbs)


def leading(lease: str, *, labels: bool) -> tuple[RbacRule, ...]:
    """Those by which one of several replicas leads, as the Role of deploy/base grants them.

    Args:
        lease: VAULTSYNC_LEASE; "" where nobody is elected.
        labels: whether the leader labels its pod, for the Service of the audit port.
    """
    if not lease:
        return ()
    namespace, _, name = lease.partition("/")
    elects = "by which Lease one of the replicas leads"
    found = (
        RbacRule("coordination.k8s.io", "leases", ("create",), True, elects, namespace),  # no name can limit that
        RbacRule("coordination.k8s.io", "leases", ("get", *_READ, _PATCH), True, elects, namespace, name),
    )
    label = RbacRule(
        "", "pods", (_PATCH,), True, "the leader's label, which the Service of the audit port selects", namespace
    )
    return (*found, label) if labels else found


def questions(right: RbacRule, namespaces: Sequence[str]) -> list[AccessReview]:
    """What is to be asked about a right.

    Args:
        right: any.
        namespaces: the only ones that are watched, by name; none: all are.
    """
    places = [(right.namespace, right.name)]
    if namespaces and right.in_namespaces and not right.namespace:
        places = [(name, "") for name in namespaces]
    elif namespaces and right.resource == NAMESPACES:  # each is listed and watched by its name alone
        places = [("", name) for name in namespaces]
    return [AccessReview(right.group, right.resource, verb, *place) for verb in right.verbs for place in places]
