"""All checks against a local server that fails in the middle, which real servers can't be made to do."""

from collections.abc import Callable, Sequence

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration
from pydantic import SecretStr

from tests.unit.build import external_secret_json, run, settings, store_json
from tests.unit.servers import answer, http_server
from vaultsync.commands.check.command import check
from vaultsync.commands.check.rbac import DEFAULT_ACCOUNT, RBAC_RULES
from vaultsync.commands.check.report import Check, CheckReport, CheckResult, Status
from vaultsync.config.change_source import ChangeSource
from vaultsync.core.paths import Mount
from vaultsync.kube.client import KubeClient

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
USER = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
GROUP = "/apis/external-secrets.io"
TYPE = {"items": {"properties": {"type": {"enum": ["Ready"]}}}}
SCHEMA = {"properties": {"status": {"properties": {"conditions": TYPE}}}}
SEED = {"vaultsync.io/seed": "true"}

Failing = Callable[[str], int]
"""The status of the answer to a request for a path, 0 for a good one."""


class Servers:
    """One local server that is both Kubernetes and Vault.

    Args:
        failing: which answers are bad.
        stores: path and version of each store.
    """

    def __init__(self, failing: Failing, stores: Sequence[tuple[str, str]]) -> None:
        self._failing = failing
        self._stores = stores
        self.asked: list[str] = []
        self.address = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(request.path)
        status = self._failing(request.path)
        if status:
            return answer(status, {"message": "not now", "errors": ["not now"]})
        return answer(200, self._good(request.path))

    def _good(self, path: str) -> object:
        names = ("externalsecrets", "secretstores", "clustersecretstores")
        items: dict[str, list[object]] = {
            f"{GROUP}/v1/secretstores": [
                store_json(f"store-{number}", server=self.address, path=path, version=version)
                for number, (path, version) in enumerate(self._stores)
            ],
            f"{GROUP}/v1/externalsecrets": [external_secret_json(data=[], annotations=SEED)],
        }
        return {
            "/version": {"gitVersion": "v1.34.3"},
            USER: {"status": {"userInfo": {"username": DEFAULT_ACCOUNT.user}}},
            REVIEWS: {"status": {"allowed": True}},
            GROUP: {"versions": [{"version": "v1"}]},
            f"/openapi/v3{GROUP}/v1": {"components": {"schemas": {"io.external-secrets.v1.ExternalSecret": SCHEMA}}},
            f"{GROUP}/v1": {"resources": [{"name": name} for name in names]},
            "/v1/sys/health": {"initialized": True, "sealed": False, "standby": False, "version": "2.7.2"},
            "/v1/auth/token/lookup-self": {"data": {"policies": ["vaultsync"], "orphan": True}},
            "/v1/sys/internal/ui/mounts/secret/data/vaultsync-check": {
                "data": {"path": "secret/", "type": "kv", "options": {"version": "2"}}
            },
            "/v1/sys/capabilities-self": {"data": {}},
        }.get(path, {"metadata": {"resourceVersion": "1"}, "items": items.get(path, [])})


def lines(failing: Failing) -> list[CheckResult]:
    return checked(failing)[0].results


def checked(failing: Failing, stores: Sequence[tuple[str, str]] = (("secret", "v2"),)) -> tuple[CheckReport, list[str]]:
    """What was found, and the paths that were asked for."""

    async def main() -> tuple[CheckReport, list[str]]:
        servers = Servers(failing, stores)
        async with http_server(servers.answer) as address:
            servers.address = address

            async def connect() -> KubeClient:
                configuration = Configuration()
                configuration.host = address
                return KubeClient(ApiClient(configuration), 5.0, read_only=True)

            given = settings(vault_addr=address, vault_token=SecretStr("t0ken"), source=ChangeSource.POLL)
            return await check(given, connect), servers.asked

    return run(main())


def marks(found: list[CheckResult], mark: Status) -> list[str]:
    return [f"{line.check} {line.subject}".strip() for line in found if line.status is mark]


REST = [Check.AUDIT, Check.STORES, "policy mounts", Check.EXTERNAL_SECRETS]


def test_only_the_policy_fails_on_a_vault_that_grants_nothing() -> None:
    found = lines(lambda _: 0)
    assert marks(found, Status.FAILED) == ["policy sys/ and auth/", "policy secret/"]
    assert marks(found, Status.NOT_ASKED) + marks(found, Status.WARNING) == [Check.AUDIT]


def test_a_failed_list_is_a_failed_check() -> None:
    found = lines(lambda path: 500 if path == f"{GROUP}/v1/secretstores" else 0)
    assert Check.STORES in marks(found, Status.FAILED)
    assert marks(found, Status.NOT_ASKED) == [Check.AUDIT, "policy mounts", Check.EXTERNAL_SECRETS]


@pytest.mark.parametrize("where", [USER, GROUP, REVIEWS])
def test_an_api_server_that_becomes_unavailable_fails_once(where: str) -> None:
    found = lines(lambda path: 503 if path == where else 0)
    assert marks(found, Status.FAILED).count(Check.KUBERNETES) == 1
    told = {USER: [Check.CRDS, Check.PERMISSION], GROUP: [Check.CRDS, Check.PERMISSION], REVIEWS: [Check.PERMISSION]}[
        where
    ]
    assert marks(found, Status.NOT_ASKED) == [*told, *REST]


def test_denied_access_reviews_are_warnings_and_the_checks_continue() -> None:
    found = lines(lambda path: 403 if path == REVIEWS else 0)
    assert len([line for line in found if line.check is Check.PERMISSION]) >= len(RBAC_RULES) - 1
    assert marks(found, Status.NOT_ASKED) == [Check.AUDIT]
    assert all("system:basic-user" in line.fix for line in found if line.status is Status.WARNING)


@pytest.mark.parametrize("where", [GROUP, f"{GROUP}/v1"])
def test_denied_discovery_fails_the_check_of_the_crds(where: str) -> None:
    found = lines(lambda path: 403 if path == where else 0)
    assert Check.CRDS in marks(found, Status.FAILED)
    assert marks(found, Status.NOT_ASKED) == REST


def test_an_api_server_without_self_subject_reviews_is_ok() -> None:
    found = lines(lambda path: 404 if path == USER else 0)
    assert marks(found, Status.FAILED) == ["policy sys/ and auth/", "policy secret/"]


@pytest.mark.parametrize(
    ("where", "failed", "not_asked"),
    [
        ("/v1/sys/capabilities-self", ["policy sys/ and auth/"], [Check.AUDIT, "policy secret/"]),
        (
            "/v1/sys/internal/ui/mounts/secret/data/vaultsync-check",
            ["policy sys/ and auth/", "policy secret/data/vaultsync-check"],
            [Check.AUDIT],
        ),
    ],
)
def test_a_failed_request_to_vault_fails_its_check_and_the_others_continue(
    where: str, failed: list[str], not_asked: list[str]
) -> None:
    found = lines(lambda path: 500 if path == where else 0)
    assert (marks(found, Status.FAILED), marks(found, Status.NOT_ASKED)) == (failed, not_asked)


def test_a_vault_that_becomes_unavailable_fails() -> None:
    gone: list[str] = []

    def failing(path: str) -> int:
        if "ui/mounts" in path:
            gone.append(path)
        return 500 if gone and path.startswith("/v1/") else 0

    found = lines(failing)
    assert marks(found, Status.FAILED) == [Check.VAULT]
    assert marks(found, Status.NOT_ASKED) == [Check.SOURCE, Check.AUDIT, Check.POLICY, Check.EXTERNAL_SECRETS]


def test_a_store_outside_kv_mounts_is_reported() -> None:
    found = lines(lambda path: 400 if "ui/mounts" in path else 0)
    assert "policy secret/data/vaultsync-check" in marks(found, Status.FAILED)


# -- what is to be set up


def test_discovery_is_requested_once() -> None:
    _, asked = checked(lambda _: 0)
    assert [asked.count(path) for path in (GROUP, f"{GROUP}/v1", f"/openapi/v3{GROUP}/v1")] == [1, 1, 1]


def test_while_vault_takes_no_token_the_mounts_are_those_that_stores_seem_to_name() -> None:
    """And no store can have the printed policy grant anything else."""
    named = (("team/kv", "v2"), ("kv1", "v1"), ("kv1", "v2"), ("*", "v2"), ("+", "v2"), ("sys", "v2"), ("a=v1", "v2"))
    found, _ = checked(lambda path: 403 if path == "/v1/auth/token/lookup-self" else 0, named)
    assert found.token is None
    assert found.mounts == (Mount("kv1/", 1), Mount("team/kv/", 2))


def test_a_redirect_instead_of_vault_fails_with_a_fix() -> None:
    """Such as of a proxy that wants https."""
    found = lines(lambda path: 301 if path == "/v1/sys/health" else 0)
    (line,) = [line for line in found if line.check is Check.VAULT]
    assert line.status is Status.FAILED
    assert "the redirect (301)" in line.found
    assert "set VAULT_ADDR to Vault's address" in line.fix
