"""kube/external_secrets: what is written on an ExternalSecret."""

import json

import pytest
from aiohttp import web

from tests.unit.build import external_secret, run
from tests.unit.kube.api import Json, client_of
from tests.unit.servers import answer
from vaultsync.core.external_secret import CreatedCondition
from vaultsync.kube.external_secrets import ExternalSecretWriter

REPORT = CreatedCondition(True, "Success", "created secret/a")


FAILURE = CreatedCondition(False, "NotHealed", "secret/a is missing")


def writing(
    takes_condition: bool, report: CreatedCondition = REPORT, deletion_policy: str = "Retain"
) -> list[tuple[str, Json]]:
    """The patches of two reports, each with a force-sync."""
    reported_on = external_secret("a", spec={"target": {"deletionPolicy": deletion_policy}})
    patches: list[tuple[str, Json]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        patch = json.loads(await request.read())
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        patches.append((request.path, patch))
        document = {"metadata": {"namespace": "dev-1", "name": "app", "resourceVersion": "77"}}
        return answer(200, document | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})

    async def main() -> None:
        async with client_of(handler) as client:
            writer = ExternalSecretWriter(client)
            writer.takes_condition = takes_condition
            for _ in range(2):
                await writer.write(reported_on, {"force-sync": "now"}, report)

    run(main())
    return patches


OBJECT = "/apis/external-secrets.io/v1/namespaces/dev-1/externalsecrets/app"


def test_a_report_is_a_condition_beside_the_others_where_the_crd_takes_it() -> None:
    patches = writing(takes_condition=True)
    assert [where for where, _ in patches] == [OBJECT, OBJECT + "/status"] * 2
    assert patches[0][1] == {"metadata": {"annotations": {"force-sync": "now"}}}
    status = patches[1][1]
    assert status["metadata"]["resourceVersion"] == "77"
    assert [condition["type"] for condition in status["status"]["conditions"]] == ["Ready", "Created"]
    assert status["status"]["conditions"][1]["status"] == "True"


def test_a_report_is_annotations_in_the_same_patch_where_it_does_not() -> None:
    patches = writing(takes_condition=False)
    said = {"vaultsync.io/created": "True Success", "vaultsync.io/message": "created secret/a"}
    assert patches == [(OBJECT, {"metadata": {"annotations": {"force-sync": "now", **said}}})] * 2


@pytest.mark.parametrize("policy", ["Delete", "Merge"])
def test_no_failure_is_an_annotation_at_which_external_secrets_could_delete_values(policy: str) -> None:
    patches = writing(takes_condition=False, report=FAILURE, deletion_policy=policy)
    assert patches == [(OBJECT, {"metadata": {"annotations": {"force-sync": "now"}}})] * 2
    [(_, patch), _] = writing(takes_condition=False, report=REPORT, deletion_policy=policy)
    assert patch["metadata"]["annotations"]["vaultsync.io/created"] == "True Success"
    [_, (where, _), *_] = writing(takes_condition=True, report=FAILURE, deletion_policy=policy)
    assert where == OBJECT + "/status"
