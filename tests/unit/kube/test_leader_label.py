"""The label of the leader's pod: which names are pods' names, and what is written when."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePosixPath

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.aio.client import ApiClient, Configuration

from tests.unit.build import Clock, eventually, logged
from tests.unit.build import run_ahead as run
from tests.unit.servers import answer, http_server
from vaultsync.config.formats import is_pod_name
from vaultsync.core.annotations import LEADER_LABEL
from vaultsync.core.fence import Fence
from vaultsync.kube import leader_label as module
from vaultsync.kube.client import KubeClient
from vaultsync.kube.leader_label import LeaderLabel, pod_of

UUID = "123e4567-e89b-12d3-a456-426614174000"


@pytest.mark.parametrize(
    ("identity", "pod"),
    [
        (f"vaultsync-5d8f9c7b6-x2x4z_{UUID}", "vaultsync-5d8f9c7b6-x2x4z"),
        (f"host.example_{UUID}", "host.example"),
        (f"{'a' * 253}_{UUID}", "a" * 253),
        (f"{'a' * 254}_{UUID}", ""),
        ("", ""),
        ("_", ""),
        ("a person", ""),
        ("vaultsync", ""),
        (f"a/status_{UUID}", ""),
        (f"..%2f_{UUID}", ""),
        (f"a..b_{UUID}", ""),
        (f"-a_{UUID}", ""),
        (f"a\n_{UUID}", ""),
        (f"Host_{UUID}", ""),
    ],
)
def test_a_pods_name_is_taken_from_an_identity_only_if_it_can_be_one(identity: str, pod: str) -> None:
    assert pod_of(identity) == pod


@given(st.text())
def test_a_pods_name_is_one_segment_of_a_path(text: str) -> None:
    if is_pod_name(text):
        assert PurePosixPath(f"/pods/{text}").parts == ("/", "pods", text)
        assert text.isascii()


class Pods:
    """The API server, as far as pods are patched.

    Attributes:
        labels: the value of the label, by pod; None where it was removed.
        requests: pod and value of each patch.
        status: of the next answers.
        refused: the only pods that get this status; all by default.
        gate: answers wait for it.
    """

    def __init__(self) -> None:
        self.labels: dict[str, str | None] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.status = 200
        self.refused: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        assert request.method == "PATCH"
        assert request.content_type == "application/merge-patch+json"
        folder, _, pod = request.path.rpartition("/")
        assert folder == "/api/v1/namespaces/ns/pods"
        body = json.loads(await request.read())
        value = body["metadata"]["labels"][LEADER_LABEL]
        assert body == {"metadata": {"labels": {LEADER_LABEL: value}}}
        self.requests.append((pod, value))
        await self.gate.wait()
        if self.status != 200 and (pod in self.refused or not self.refused):
            return answer(self.status, {"message": f"no to {pod}"})
        self.labels[pod] = value
        return answer(200, {})


@asynccontextmanager
async def labelling(pods: Pods) -> AsyncIterator[tuple[LeaderLabel, Fence]]:
    """The label of the pod `own`, kept in step; the fence is open."""
    clock = Clock()
    fence = Fence(clock)
    fence.open(clock() + 100)
    async with http_server(pods) as address:
        configuration = Configuration()
        configuration.host = address
        client = KubeClient(ApiClient(configuration), 1.0)
        label = LeaderLabel(client, "ns", "own")
        task = asyncio.create_task(label.run())
        try:
            yield label, fence
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()


def test_it_is_removed_at_the_start_set_while_leading_and_removed_at_the_end() -> None:
    async def main() -> None:
        pods = Pods()
        async with labelling(pods) as (label, fence):
            await eventually(lambda: pods.requests == [("own", None)])
            label.lead(fence, f"other_{UUID}")
            await eventually(lambda: pods.labels == {"own": "true", "other": None})
            await label.withdraw()
            assert pods.requests == [("own", None), ("own", "true"), ("other", None), ("own", None)]

    run(main())


@pytest.mark.parametrize("previous", ["", f"own_{UUID}", "a person", f"a/b_{UUID}"])
def test_no_other_pod_is_touched_where_none_led_before(previous: str) -> None:
    async def main() -> None:
        pods = Pods()
        async with labelling(pods) as (label, fence):
            label.lead(fence, previous)
            await eventually(lambda: pods.labels == {"own": "true"})
            await label.withdraw()
        assert {pod for pod, _ in pods.requests} == {"own"}

    run(main())


def test_a_label_that_somebody_removes_is_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.01)

    async def main() -> None:
        pods = Pods()
        async with labelling(pods) as (label, fence):
            label.lead(fence, "")
            await eventually(lambda: pods.labels == {"own": "true"})
            pods.labels["own"] = None
            await eventually(lambda: pods.labels == {"own": "true"})
            await label.withdraw()
            ended = len(pods.requests)
            await asyncio.sleep(0.05)
            assert len(pods.requests) == ended  # a standby asks nothing

    run(main())


def test_a_process_whose_lease_has_run_out_sets_no_label() -> None:
    async def main() -> None:
        pods = Pods()
        async with labelling(pods) as (label, fence):
            await eventually(lambda: pods.requests)
            fence.close()
            label.lead(fence, f"other_{UUID}")
            await eventually(lambda: len(pods.requests) > 1)
            await label.withdraw()
            assert {value for _, value in pods.requests} == {None}
            assert "other" not in pods.labels

    run(main())


@pytest.mark.parametrize(
    ("status", "words"), [(403, "grant `patch` on pods in the namespace ns"), (404, "VAULTSYNC_POD_NAME")]
)
def test_what_is_refused_is_said_once_with_what_to_do_and_tried_again(
    status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.01)

    async def main() -> None:
        pods = Pods()
        pods.status = status
        with logged() as lines:
            async with labelling(pods) as (label, fence):
                label.lead(fence, "")
                await eventually(lambda: len(pods.requests) > 5)
                pods.status = 200
                await eventually(lambda: pods.labels == {"own": "true"})
        [line] = [line for line in lines if "can't follow the leader" in str(line)]
        assert words in str(line)

    run(main())


def test_a_previous_leader_whose_pod_is_gone_is_no_trouble() -> None:
    async def main() -> None:
        pods = Pods()
        pods.status, pods.refused = 404, {"other"}
        with logged() as lines:
            async with labelling(pods) as (label, fence):
                label.lead(fence, f"other_{UUID}")
                await eventually(lambda: ("other", None) in pods.requests)
                await label.withdraw()
        assert lines == []

    run(main())


def test_a_stop_does_not_wait_for_an_api_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHDRAW_SECONDS", 0.05)

    async def main() -> None:
        pods = Pods()
        async with labelling(pods) as (label, fence):
            label.lead(fence, "")
            await eventually(lambda: pods.labels == {"own": "true"})
            pods.gate.clear()
            async with asyncio.timeout(5):
                await label.withdraw()
            assert pods.labels == {"own": "true"}
            pods.gate.set()
            await eventually(lambda: pods.labels == {"own": None})

    run(main())
