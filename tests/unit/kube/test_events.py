"""kube/events: the filter and the deduplication of Events."""

import asyncio
import json
from collections.abc import Callable

from aiohttp import web

from tests.unit.build import Clock, eventually, external_secret
from tests.unit.build import run_ahead as run
from tests.unit.kube.api import Json, client_at, client_of
from tests.unit.servers import answer
from vaultsync.core.annotations import EventReason
from vaultsync.kube.events import BURST, REFILL_SECONDS, REMEMBERED, EventRecorder


def test_an_object_has_a_burst_of_events_and_then_one_every_five_minutes() -> None:
    clock = Clock()
    recorder = EventRecorder(client_at("http://127.0.0.1:1"), clock=clock)

    def recorded(name: str, times: int) -> int:
        before = len(recorder._waiting)
        for number in range(times):
            recorder.record(external_secret("a", name=name), EventReason.SEEDED, f"created {number}")
        return len(recorder._waiting) - before

    assert recorded("a", BURST + 5) == BURST
    assert recorded("b", 1) == 1
    clock.forward(REFILL_SECONDS)
    assert recorded("a", 3) == 1
    clock.forward(REFILL_SECONDS * 1000)
    assert recorded("a", BURST + 5) == BURST


def test_the_recorder_remembers_a_limited_number_of_objects() -> None:
    recorder = EventRecorder(client_at("http://127.0.0.1:1"), clock=Clock())
    for number in range(REMEMBERED + 100):
        recorder.record(external_secret("a", name=str(number)), EventReason.SEEDED, "created")
    assert len(recorder._limits) == len(recorder._groups) == REMEMBERED


def recording(
    record: Callable[[EventRecorder], None], forgotten: bool = False, down: int = 0
) -> list[tuple[str, str, Json]]:
    """What the recorder sends."""
    sent: list[tuple[str, str, Json]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        sent.append((request.method, request.path, json.loads(await request.read())))
        if len(sent) <= down:
            return answer(500, {"message": "no"})
        if request.method == "PATCH" and forgotten:
            return answer(404, {"message": "no such event"})
        return answer(201, {})

    async def main() -> None:
        async with client_of(handler) as client:
            recorder = EventRecorder(client, delay=0.0, pause=0.0)
            record(recorder)
            task = asyncio.create_task(recorder.run())
            await eventually(lambda: not recorder._waiting)
            await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main())
    return sent


def test_the_same_event_again_raises_the_count() -> None:
    def record(recorder: EventRecorder) -> None:
        for _ in range(3):
            recorder.record(external_secret("a"), EventReason.SEED_FAILED, "denied")
        recorder.record(external_secret("a"), EventReason.SEEDED, "created")

    first, second, third, other = recording(record)
    assert first[:2] == ("POST", "/api/v1/namespaces/dev-1/events")
    assert (first[2]["type"], first[2]["reason"], first[2]["count"]) == ("Warning", "SeedFailed", 1)
    assert first[2]["involvedObject"]["uid"] == "uid-dev-1-app"
    assert second[:2] == third[:2] == ("PATCH", f"/api/v1/namespaces/dev-1/events/{first[2]['metadata']['name']}")
    assert (second[2]["count"], third[2]["count"]) == (2, 3)
    assert (other[0], other[2]["type"]) == ("POST", "Normal")


def test_an_event_that_the_api_server_has_dropped_is_made_anew() -> None:
    def record(recorder: EventRecorder) -> None:
        for _ in range(2):
            recorder.record(external_secret("a"), EventReason.SEEDED, "created")

    assert [method for method, _, _ in recording(record, forgotten=True)] == ["POST", "PATCH", "POST"]


def test_a_lost_event_harms_nothing() -> None:
    def record(recorder: EventRecorder) -> None:
        for number in range(2):
            recorder.record(external_secret("a"), EventReason.SEEDED, f"created {number}")

    assert len(recording(record, down=1)) == 2


def test_a_long_name_and_message_are_cut_to_what_the_api_takes() -> None:
    def record(recorder: EventRecorder) -> None:
        recorder.record(external_secret("a", name="n" * 253), EventReason.SEEDED, "m" * 5000)

    ((_, _, body),) = recording(record)
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) <= 1024
