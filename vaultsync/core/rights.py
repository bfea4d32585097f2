"""What vaultsync may do in Kubernetes: the one list that `vaultsync check` asks for and `--print-setup` grants.

Pure. deploy/base/clusterrole.yaml grants the same; a test holds the two together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vaultsync.core.names import GROUP


@dataclass(frozen=True, slots=True)
class Right:
    """Verbs on one resource.

    Attributes:
        resource: with its subresource, such as `externalsecrets/status`.
        in_namespaces: whether its objects are in namespaces.
        why: what it is for.
    """

    group: str
    resource: str
    verbs: tuple[str, ...]
    in_namespaces: bool
    why: str


@dataclass(frozen=True, slots=True, order=True)
class Question:
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

RIGHTS: Final = (
    Right(GROUP, EXTERNAL_SECRETS, (*_READ, _PATCH), True, "force-sync and vaultsync's own annotations"),
    Right(GROUP, STATUS, (_PATCH,), True, "the condition Created, where the served CRD takes it"),
    Right(GROUP, "secretstores", _READ, True, _INFORMERS),
    Right(GROUP, "clustersecretstores", _READ, False, _INFORMERS),
    Right("", NAMESPACES, _READ, False, _INFORMERS),
    Right("", "events", ("create", _PATCH), True, "what `kubectl describe externalsecret` shows"),
)
"""All that are ever used, as deploy/base grants them."""


def rights(*, writes: bool, takes_condition: bool) -> tuple[Right, ...]:
    """Those that are used.

    Args:
        writes: not in a dry run.
        takes_condition: whether the served CRD allows the condition `Created`.
    """
    left = RIGHTS if takes_condition else tuple(right for right in RIGHTS if right.resource != STATUS)
    if writes:
        return left
    reads = ((right, tuple(verb for verb in right.verbs if verb in _READ)) for right in left)
    return tuple(
        Right(right.group, right.resource, verbs, right.in_namespaces, _INFORMERS) for right, verbs in reads if verbs
    )


def questions(right: Right, namespaces: Sequence[str]) -> list[Question]:
    """What is to be asked about a right.

    Args:
        right: any.
        namespaces: the only ones that are watched, by name; none: all are.
    """
    places = [("", "")]
    if namespaces and right.in_namespaces:
        places = [(name, "") for name in namespaces]
    elif namespaces and right.resource == NAMESPACES:  # each is listed and watched by its name alone
        places = [("", name) for name in namespaces]
    return [Question(right.group, right.resource, verb, *place) for verb in right.verbs for place in places]
