"""Who vaultsync is to the API server and what that lets it do, asked without doing it: for `vaultsync check`."""

from typing import Any

from vaultsync.commands.check.rbac import Question
from vaultsync.core.errors import KubeDenied, KubeNotFound
from vaultsync.kube.client import KubeClient


async def version(client: KubeClient) -> str:
    """The API server's, such as v1.34.3; the request needs valid credentials and no right.

    Raises:
        KubeDenied: the credentials are not valid.
        KubeUnavailable: it does not answer.
    """
    return str((await client.get("/version")).get("gitVersion", "unknown"))[:40]


async def user(client: KubeClient) -> str:
    """Who the credentials are of, "" where the API server does not tell (from 1.28 it does).

    (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review.)
    """
    try:
        told = await client.review("authentication.k8s.io/v1", "SelfSubjectReview", {})
    except (KubeNotFound, KubeDenied):
        return ""
    return str(_mapping(_mapping(told.get("status")).get("userInfo")).get("username", ""))


async def may(client: KubeClient, question: Question) -> bool:
    """Whether it would be allowed (https://kubernetes.io/docs/reference/access-authn-authz/authorization/)."""
    resource, _, subresource = question.resource.partition("/")
    attributes = {
        "group": question.group,
        "resource": resource,
        "subresource": subresource,
        "verb": question.verb,
        "namespace": question.namespace,
        "name": question.name,
    }
    told = await client.review(
        "authorization.k8s.io/v1", "SelfSubjectAccessReview", {"spec": {"resourceAttributes": attributes}}
    )
    return _mapping(told.get("status")).get("allowed") is True


async def namespaces(client: KubeClient, labels: str) -> tuple[str, ...]:
    """The names of the Namespaces that a label selector selects."""
    items = (await client.get("/api/v1/namespaces", {"labelSelector": labels})).get("items") or ()
    return tuple(str(_mapping(_mapping(item).get("metadata")).get("name", "")) for item in items)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
