"""kube/discovery: the version to use, and whether it takes the condition."""

import pytest
from aiohttp import web

from tests.unit.build import run
from tests.unit.kube.api import client_of
from tests.unit.servers import answer
from vaultsync.kube.discovery import ServedVersion, discover, served_resources


@pytest.mark.parametrize(
    ("versions", "best"),
    [(["v1", "v1beta1"], "v1"), (["v1beta1"], "v1beta1"), (["v1alpha1"], None), ([], None), (None, None)],
)
def test_the_best_served_version(versions: list[str] | None, best: str | None) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/openapi"):
            return answer(404, {"message": "no"})
        if versions is None:
            return answer(404, {"message": "no"})
        return answer(200, {"versions": [{"version": version} for version in versions]})

    async def main() -> None:
        async with client_of(handler) as client:
            assert await discover(client, waits=(0.0, 0.0)) == (
                ServedVersion(best, takes_condition=False) if best else None
            )

    run(main())


@pytest.mark.parametrize(
    ("schema", "takes"),
    [
        ({"type": "string"}, True),
        ({"type": "string", "enum": ["Ready", "Deleted", "Created"]}, True),
        ({"type": "string", "enum": ["Ready", "Deleted"]}, False),
        ([], False),
        (None, False),
    ],
)
def test_whether_the_crd_takes_the_condition(schema: object, takes: bool) -> None:
    conditions = {"items": {"properties": {"type": schema}}}
    properties = {"status": {"properties": {"conditions": conditions}}}
    schemas = {"io.external-secrets.v1.ExternalSecret": {"properties": properties}}

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/openapi/v3/apis/external-secrets.io/v1":
            return answer(200, {"components": {"schemas": schemas}})
        return answer(200, {"versions": [{"version": "v1"}]})

    async def main() -> None:
        async with client_of(handler) as client:
            assert await discover(client, waits=(0.0, 0.0)) == ServedVersion("v1", takes)

    run(main())


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        (["v1alpha1", "v1"], {"v1alpha1": frozenset(), "v1": frozenset({"externalsecrets", "secretstores"})}),
        (["v1alpha1"], {"v1alpha1": frozenset()}),
        (None, {}),
    ],
)
def test_the_resources_of_the_preferred_version(versions: list[str] | None, found: dict[str, frozenset[str]]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/apis/external-secrets.io/v1":
            return answer(200, {"resources": [{"name": "externalsecrets"}, {"name": "secretstores"}]})
        if versions is None or request.path != "/apis/external-secrets.io":
            return answer(404, {"message": "no"})
        return answer(200, {"versions": [{"version": version} for version in versions]})

    async def main() -> None:
        async with client_of(handler) as client:
            assert await served_resources(client) == found

    run(main())
