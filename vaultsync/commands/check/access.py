"""Requests of `vaultsync check` to the API server: who the credentials belong to, what they allow."""

from vaultsync.commands.check.rbac import AccessReview
from vaultsync.core.errors import KubeDenied, KubeNotFound
from vaultsync.core.untrusted import mapping, text
from vaultsync.kube.client import KubeClient


async def version(client: KubeClient) -> str:
    """The API server's version, such as v1.34.3. Requires valid credentials, but no permission.

    Raises:
        KubeDenied: the credentials are invalid.
        KubeUnavailable: the API server does not answer.
    """
    return str((await client.get("/version")).get("gitVersion", "unknown"))[:40]


async def user(client: KubeClient) -> str:
    """The user of the credentials, "" if the API server does not support SelfSubjectReview (1.28 and later do).

    (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review.)
    """
    try:
        review = await client.review("authentication.k8s.io/v1", "SelfSubjectReview", {})
    except (KubeNotFound, KubeDenied):
        return ""
    return text(mapping(mapping(review.get("status")).get("userInfo")).get("username"))


async def is_allowed(client: KubeClient, access: AccessReview) -> bool:
    """Whether RBAC allows the access (https://kubernetes.io/docs/reference/access-authn-authz/authorization/)."""
    resource, _, subresource = access.resource.partition("/")
    attributes = {
        "group": access.group,
        "resource": resource,
        "subresource": subresource,
        "verb": access.verb,
        "namespace": access.namespace,
        "name": access.name,
    }
    spec = {"spec": {"resourceAttributes": attributes}}
    review = await client.review("authorization.k8s.io/v1", "SelfSubjectAccessReview", spec)
    return mapping(review.get("status")).get("allowed") is True


async def namespaces(client: KubeClient, labels: str) -> tuple[str, ...]:
    """Names of the Namespaces that a label selector selects."""
    items = (await client.get("/api/v1/namespaces", {"labelSelector": labels})).get("items") or ()
    return tuple(text(mapping(mapping(item).get("metadata")).get("name")) for item in items)
