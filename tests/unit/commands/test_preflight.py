"""checkup against a local server that fails in the middle, as real ones can not be made to fail."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from tests.unit.build import external_secret_json, login, run, store_json
from tests.unit.servers import answer, http_server
from vaultsync.commands.check import report as check
from vaultsync.commands.check.preflight import Asking, Checked, Checkup, missing
from vaultsync.commands.check.rbac import LEASE, RIGHTS, Right, leading
from vaultsync.commands.check.report import Hearing, Line, Mark, Name
from vaultsync.commands.planner import Survey
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.config.selection import Selection
from vaultsync.controller.index import Index, server_identity
from vaultsync.core.decide import SeedMode
from vaultsync.core.paths import Mount
from vaultsync.core.seed_paths import DEFAULT, SeedPaths
from vaultsync.kube.client import KubeClient
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault.api import Token
from vaultsync.vault.client import VaultClient
from vaultsync.vault.stream import EventStream

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
            USER: {"status": {"userInfo": {"username": check.SERVICE_ACCOUNT}}},
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


def asking(address: str = "http://vault.test:8200", namespaces: tuple[str, ...] = ()) -> Asking:
    return Asking(
        address=address,
        servers=(address,),
        vault_namespace="",
        selection=Selection(namespaces),
        seed_paths=SeedPaths.parse(DEFAULT),
        seeds=True,
        by_annotation=True,
        writes=True,
        hearing=Hearing("poll", "", "", 60.0),
        streams=False,
    )


def lines(failing: Failing) -> list[Line]:
    return checked(failing)[0].lines


def checked(failing: Failing, stores: Sequence[tuple[str, str]] = (("secret", "v2"),)) -> tuple[Checked, list[str]]:
    """What was found, and the paths that were asked for."""

    async def main() -> tuple[Checked, list[str]]:
        servers = Servers(failing, stores)
        async with http_server(servers.answer) as address:
            servers.address = address
            own = login(address)
            vault, index = VaultClient(own), Index(frozenset({server_identity(address)}), SeedMode.ANNOTATED)
            survey = Survey(index, vault, SeedPaths.parse(DEFAULT), SeedMode.ANNOTATED)

            async def connect() -> KubeClient:
                configuration = Configuration()
                configuration.host = address
                return KubeClient(ApiClient(configuration), 5.0, read_only=True)

            try:
                stream = EventStream(own, lambda: None, lambda _: None, Metrics())
                checkup = Checkup(asking(address), own, vault, stream, index, survey)
                return await checkup.run(connect), servers.asked
            finally:
                await own.close()
                await vault.close()

    return run(main())


def marks(found: list[Line], mark: Mark) -> list[str]:
    return [f"{line.check} {line.of}".strip() for line in found if line.mark is mark]


REST = [Name.AUDIT, Name.STORES, "policy mounts", Name.EXTERNAL_SECRETS]


def test_a_vault_that_grants_nothing_is_all_that_is_wrong_here() -> None:
    found = lines(lambda _: 0)
    assert marks(found, Mark.FAILED) == ["policy sys/ and auth/", "policy secret/"]
    assert marks(found, Mark.NOT_ASKED) + marks(found, Mark.WARNING) == [Name.AUDIT]


def test_a_list_that_fails_is_red() -> None:
    found = lines(lambda path: 500 if path == f"{GROUP}/v1/secretstores" else 0)
    assert Name.STORES in marks(found, Mark.FAILED)
    assert marks(found, Mark.NOT_ASKED) == [Name.AUDIT, "policy mounts", Name.EXTERNAL_SECRETS]


@pytest.mark.parametrize("where", [USER, GROUP, REVIEWS])
def test_an_api_server_that_goes_away_is_red_once(where: str) -> None:
    found = lines(lambda path: 503 if path == where else 0)
    assert marks(found, Mark.FAILED).count(Name.KUBERNETES) == 1
    told = {USER: [Name.CRDS, Name.PERMISSION], GROUP: [Name.CRDS, Name.PERMISSION], REVIEWS: [Name.PERMISSION]}[where]
    assert marks(found, Mark.NOT_ASKED) == [*told, *REST]


def test_who_may_not_ask_for_rights_is_told_so_and_the_rest_goes_on() -> None:
    found = lines(lambda path: 403 if path == REVIEWS else 0)
    assert len([line for line in found if line.check is Name.PERMISSION]) >= len(RIGHTS) - 1
    assert marks(found, Mark.NOT_ASKED) == [Name.AUDIT]
    assert all("system:basic-user" in line.fix for line in found if line.mark is Mark.WARNING)


@pytest.mark.parametrize("where", [GROUP, f"{GROUP}/v1"])
def test_who_may_not_ask_what_is_served_is_told_so(where: str) -> None:
    found = lines(lambda path: 403 if path == where else 0)
    assert Name.CRDS in marks(found, Mark.FAILED)
    assert marks(found, Mark.NOT_ASKED) == REST


def test_an_api_server_that_does_not_tell_the_user_will_do() -> None:
    found = lines(lambda path: 404 if path == USER else 0)
    assert marks(found, Mark.FAILED) == ["policy sys/ and auth/", "policy secret/"]


@pytest.mark.parametrize(
    ("where", "failed", "not_asked"),
    [
        ("/v1/sys/capabilities-self", ["policy sys/ and auth/"], [Name.AUDIT, "policy secret/"]),
        (
            "/v1/sys/internal/ui/mounts/secret/data/vaultsync-check",
            ["policy sys/ and auth/", "policy secret/data/vaultsync-check"],
            [Name.AUDIT],
        ),
    ],
)
def test_what_vault_fails_on_is_red_and_the_rest_goes_on(where: str, failed: list[str], not_asked: list[str]) -> None:
    found = lines(lambda path: 500 if path == where else 0)
    assert (marks(found, Mark.FAILED), marks(found, Mark.NOT_ASKED)) == (failed, not_asked)


def test_a_vault_that_goes_away_is_red() -> None:
    gone: list[str] = []

    def failing(path: str) -> int:
        if "ui/mounts" in path:
            gone.append(path)
        return 500 if gone and path.startswith("/v1/") else 0

    found = lines(failing)
    assert marks(found, Mark.FAILED) == [Name.VAULT]
    assert marks(found, Mark.NOT_ASKED) == [Name.SOURCE, Name.AUDIT, Name.POLICY, Name.EXTERNAL_SECRETS]


def test_a_store_in_no_mount_of_kv_is_told() -> None:
    found = lines(lambda path: 400 if "ui/mounts" in path else 0)
    assert "policy secret/data/vaultsync-check" in marks(found, Mark.FAILED)


# -- what is to be set up


def test_what_is_served_is_asked_for_once() -> None:
    _, asked = checked(lambda _: 0)
    assert [asked.count(path) for path in (GROUP, f"{GROUP}/v1", f"/openapi/v3{GROUP}/v1")] == [1, 1, 1]


def test_while_vault_takes_no_token_the_mounts_are_those_that_stores_seem_to_name() -> None:
    """And no store can have the printed policy grant anything else."""
    named = (("team/kv", "v2"), ("kv1", "v1"), ("kv1", "v2"), ("*", "v2"), ("+", "v2"), ("sys", "v2"), ("a=v1", "v2"))
    found, _ = checked(lambda path: 403 if path == "/v1/auth/token/lookup-self" else 0, named)
    assert found.token is None
    assert found.mounts == (Mount("kv1/", 1), Mount("team/kv/", 2))


def fine(*more: Line) -> list[Line]:
    told = {line.check for line in more}
    return [*(Line(name, Mark.OK, "") for name in Name if name not in told), *more]


def test_without_a_checkup_all_is_missing() -> None:
    found = missing(asking(), Checked())
    assert (found.login, found.seeded) == (True, "NAMESPACE")
    assert "get service vaultsync-audit" in found.audit
    assert found.rights == (*RIGHTS, *leading(LEASE, labels=True))
    assert 'path "secret/data/*"' in found.policy
    assert (found.crds, found.address) == (False, "")


def test_what_is_fine_is_not_missing() -> None:
    token = Token(("vaultsync-2",), 0.0, False, 0.0, 0.0, True, 0)
    found = missing(asking(), Checked(fine(), check.SERVICE_ACCOUNT, (Mount("kv/", 2),), token, "1.15.1"))
    assert (found.rights, found.policy, found.login, found.audit, found.crds) == ((), "", False, "", False)
    by_person = missing(asking(), Checked(fine(), "admin", token=token, version="1.15.1"))
    assert (by_person.rights, by_person.policy) == ((*RIGHTS, *leading(LEASE, labels=True)), "")


@pytest.mark.parametrize(
    ("user", "changes", "own"),
    [
        ("admin", {"lease": "a/b"}, leading("a/b", labels=True)),
        ("admin", {"writes": False}, ()),
        (check.SERVICE_ACCOUNT, {}, ()),
        (check.SERVICE_ACCOUNT, {"lease": "a/b"}, leading("a/b", labels=False)),
        (check.SERVICE_ACCOUNT, {"lease": "a/b", "labels": True}, leading("a/b", labels=True)),
    ],
)
def test_the_rights_in_the_own_namespace_go_by_the_settings(
    user: str, changes: dict[str, Any], own: tuple[Right, ...]
) -> None:
    """A pod has settings that are its own; a person's shell lacks them."""
    lacks = Line(Name.PERMISSION, Mark.FAILED, "may not", "grant it", "events")
    found = missing(replace(asking(), **changes), Checked(fine(lacks), user))
    assert tuple(right for right in found.rights if right.namespace) == own


def test_a_policy_that_is_not_vaultsyncs_is_not_written_but_a_new_one_with_a_token() -> None:
    token = Token(("admin",), 0.0, False, 0.0, 0.0, True, 0)
    lacks = Line(Name.POLICY, Mark.FAILED, "may not", "write it", "kv/")
    found = missing(asking(), Checked(fine(lacks), check.SERVICE_ACCOUNT, (Mount("kv/", 2),), token, "1.15.1"))
    assert (found.policy_name, found.login) == ("vaultsync", True)
    assert 'path "kv/data/*"' in found.policy
    by_role = replace(asking(), way=AuthConfig(Auth.KUBERNETES, role="r"))
    found = missing(by_role, Checked(fine(lacks), check.SERVICE_ACCOUNT, (Mount("kv/", 2),), token, "1.15.1"))
    assert (found.policy_name, found.login, found.is_other) == ("vaultsync", False, True), "the role may be others' too"


@pytest.mark.parametrize(
    ("user", "jwt_file", "audience"),
    [
        ("admin", "", "vault"),
        ("admin", "/a", "vault"),
        (check.SERVICE_ACCOUNT, "/a", "vault"),
        (check.SERVICE_ACCOUNT, "", ""),
    ],
)
def test_the_audience_is_that_of_the_token_which_is_logged_in_with(user: str, jwt_file: str, audience: str) -> None:
    """A pod that names no file has the token for the API server; a person's shell stands for deploy/base."""
    by_role = replace(asking(), way=AuthConfig(Auth.KUBERNETES, role="r", jwt_file=jwt_file))
    assert missing(by_role, Checked([], user)).audience == audience


def test_a_redirect_in_place_of_vault_is_red_and_says_what_to_do() -> None:
    """Such as of a proxy that wants https."""
    found = lines(lambda path: 301 if path == "/v1/sys/health" else 0)
    (line,) = [line for line in found if line.check is Name.VAULT]
    assert line.mark is Mark.FAILED
    assert "the redirect (301)" in line.found
    assert "set VAULT_ADDR to Vault's address" in line.fix
