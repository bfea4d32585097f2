"""Checks of Kubernetes: the API server, external-secrets' CRDs, each permission, and the listing. Writes nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from vaultsync.commands.check.rbac import (
    DEFAULT_ACCOUNT,
    AccessReview,
    RbacRule,
    access_reviews,
    leader_rules,
    required_rules,
)
from vaultsync.commands.check.report import SETUP, Check, CheckReport, CheckResult, some
from vaultsync.config.settings import Settings
from vaultsync.core.annotations import GROUP
from vaultsync.core.errors import (
    KubeDenied,
    KubeNotFound,
    KubeRejected,
    KubeUnavailable,
    VaultsyncError,
    first_reason,
)
from vaultsync.core.untrusted import mapping, mappings, text
from vaultsync.kube.client import KubeClient, NoKubeConfig
from vaultsync.kube.discovery import SUPPORTED_VERSIONS, ServedVersion, preferred, served_resources, takes_condition
from vaultsync.kube.informer_manager import CLUSTER_STORES, EXTERNAL_SECRETS, STORES, EventHandler, InformerManager

CONCURRENT_REVIEWS: Final = 16
NO_CONFIG: Final = "set KUBECONFIG to a kubeconfig file, or run in a pod that has its ServiceAccount's token"
DENIED: Final = "use valid credentials: those of the kubeconfig, or of the pod's ServiceAccount, which must exist"
NO_DISCOVERY: Final = "bind the ClusterRole system:discovery, which allows all users to read what is served"
NO_REVIEWS: Final = "bind the ClusterRole system:basic-user, which allows all users to review their own permissions"
NO_ANSWER: Final = "make the API server reachable from here, or correct its address and CA in the kubeconfig file"
INSTALL: Final = "install external-secrets (https://external-secrets.io) in a version that serves " + " or ".join(
    SUPPORTED_VERSIONS
)
KINDS: Final = (EXTERNAL_SECRETS, STORES, CLUSTER_STORES)


@dataclass(slots=True)
class KubernetesChecks:
    """Fill the report's `user`, `listing_needs` and `listing_error`, and list the selected objects for the handler."""

    settings: Settings
    report: CheckReport
    handler: EventHandler

    async def run(self, connect: Callable[[], Awaitable[KubeClient]]) -> None:
        """Run the checks with a read-only client, as kube.client.connect returns it."""
        try:
            client = await connect()
            try:
                await self._check(client)
            finally:
                await client.close()
        except NoKubeConfig as error:
            self._fail(error, NO_CONFIG)
        except KubeDenied as error:
            self._fail(error, DENIED)
        except KubeUnavailable as error:  # at any request, also after successful ones
            self._fail(error, NO_ANSWER)

    def _fail(self, error: Exception, fix: str) -> None:
        finished = {result.check for result in self.report.results}
        self.report.listing_needs = Check.KUBERNETES
        self.report.add(Check.KUBERNETES.failed(error, fix))
        left = [check for check in (Check.CRDS, Check.PERMISSION) if check not in finished]
        self.report.add(*(check.not_asked(Check.KUBERNETES) for check in left))

    async def _check(self, client: KubeClient) -> None:
        report = self.report
        version = str((await client.get("/version")).get("gitVersion", "unknown"))[:40]  # requires no permission
        report.user = await _user(client)
        report.add(Check.KUBERNETES.ok(f"{version} at {client.server}, as {report.user or 'an unknown user'}"))
        served = await self._served(client)
        unlistable = await self._permissions(client, takes_condition=served is None or served.takes_condition)
        if served is None:
            report.listing_needs = Check.CRDS
        elif unlistable:
            report.listing_needs = f"{Check.PERMISSION} {unlistable}"
        else:
            await self._list(client, served.version)

    async def _served(self, client: KubeClient) -> ServedVersion | None:
        """The version of external-secrets.io to use, None if none is usable."""
        try:
            found = await served_resources(client)
        except KubeDenied as error:
            self.report.add(Check.CRDS.failed(error, NO_DISCOVERY))
            return None
        version, result = check_crds(found)
        self.report.add(result)
        return ServedVersion(version, await takes_condition(client, version)) if version else None

    async def _permissions(self, client: KubeClient, *, takes_condition: bool) -> str:
        """Check each permission; returns a resource that may not be listed, "" if all may be."""
        settings, unlistable = self.settings, ""
        by_namespace = not settings.selection.takes_every_namespace
        watched = required_rules(writes=not settings.dry_run, takes_condition=takes_condition)
        for rule in (*watched, *leader_rules(settings.election_lease, labels=settings.labels_leader)):
            try:
                denied = await _denied(client, access_reviews(rule, ()))
                if denied and (names := await self._selected(client, rule)):
                    verbs = {review.verb for review in denied}
                    denied = await _denied(client, [one for one in access_reviews(rule, names) if one.verb in verbs])
            except (KubeDenied, KubeNotFound, KubeRejected) as error:  # no denial of the permission itself
                self.report.add(Check.PERMISSION.warning(error, NO_REVIEWS, rule.label))
                continue
            self.report.add(check_permission(rule, denied, self.report.user, by_namespace=by_namespace))
            if rule in watched and any(review.verb == "list" for review in denied):
                unlistable = unlistable or rule.resource
        return unlistable

    async def _selected(self, client: KubeClient, rule: RbacRule) -> Sequence[str]:
        """The only namespaces in which a rule is needed; none if it is needed in all, or if they are unknown."""
        selection = self.settings.selection
        if rule.namespace:
            return ()
        if selection.namespaces:
            return selection.namespaces
        if selection.namespace_labels and rule.in_namespaces:
            with suppress(KubeDenied):
                found = await client.get("/api/v1/namespaces", {"labelSelector": selection.namespace_labels})
                return tuple(text(mapping(item.get("metadata")).get("name")) for item in mappings(found.get("items")))
        return ()

    async def _list(self, client: KubeClient, version: str) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                selection = self.settings.selection
                await InformerManager(tasks, client, version, selection, self.handler, once=True).start()
        except* VaultsyncError as errors:
            self.report.listing_needs, self.report.listing_error = Check.STORES, first_reason(errors)


async def _user(client: KubeClient) -> str:
    """The user of the credentials, "" if the API server does not support SelfSubjectReview (1.28 and later do).

    (https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review.)
    """
    try:
        review = await client.review("authentication.k8s.io/v1", "SelfSubjectReview", {})
    except (KubeNotFound, KubeDenied):
        return ""
    return text(mapping(mapping(review.get("status")).get("userInfo")).get("username"))


async def _denied(client: KubeClient, reviews: Sequence[AccessReview]) -> list[AccessReview]:
    slots = asyncio.Semaphore(CONCURRENT_REVIEWS)

    async def is_denied(review: AccessReview) -> bool:
        async with slots:
            return not await _is_allowed(client, review)

    answers = await asyncio.gather(*map(is_denied, reviews))
    return [review for review, denied in zip(reviews, answers, strict=True) if denied]


async def _is_allowed(client: KubeClient, review: AccessReview) -> bool:
    """Whether RBAC allows the access (https://kubernetes.io/docs/reference/access-authn-authz/authorization/)."""
    resource, _, subresource = review.resource.partition("/")
    attributes = {**asdict(review), "resource": resource, "subresource": subresource}
    spec = {"spec": {"resourceAttributes": attributes}}
    answer = await client.review("authorization.k8s.io/v1", "SelfSubjectAccessReview", spec)
    return mapping(answer.get("status")).get("allowed") is True


def check_crds(served: Mapping[str, frozenset[str]]) -> tuple[str, CheckResult]:
    """Whether the API server serves a usable version of external-secrets.io, and which, "" if none.

    Args:
        served: resources by served version; required for the preferred version only.
    """
    version = preferred(served)
    versions = ", ".join(sorted(served))
    if not version:
        return "", Check.CRDS.failed(f"{GROUP} is {f'served only in {versions}' if served else 'not served'}", INSTALL)
    if missing := [kind for kind in KINDS if kind not in served[version]]:
        return "", Check.CRDS.failed(f"{GROUP}/{version} has no {', '.join(missing)}", INSTALL)
    return version, Check.CRDS.ok(f"{GROUP}/{version} (served: {versions})")


def check_permission(rule: RbacRule, denied: Sequence[AccessReview], user: str, *, by_namespace: bool) -> CheckResult:
    """Whether RBAC grants a rule, by the reviews that were denied; the fix depends on user and selected namespaces."""
    if not denied:
        return Check.PERMISSION.ok(", ".join(rule.verbs), rule.label)
    verbs = [verb for verb in rule.verbs if any(review.verb == verb for review in denied)]
    places = sorted({review.namespace or ("" if rule.name else review.name) for review in denied} - {""})
    found = f"may not {', '.join(verbs)}{f' in {some(places)}' if places else ''}"
    overlay = f"your overlay of {'deploy/namespaced (with your namespaces)' if by_namespace else 'deploy/base'}"
    own, commands = DEFAULT_ACCOUNT.user, f"the commands that {SETUP} prints"
    fix = f"run {commands}, or check as {own}, to which {overlay} grants the permissions"
    if user in (own, ""):
        fix = f"kubectl apply -k . in {overlay}, or {commands}"
    return Check.PERMISSION.failed(found, fix, rule.label)
