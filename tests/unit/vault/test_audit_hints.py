"""vault/audit_hints: how fast hints pass, and that one line stands for many. Seconds pass at once."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.unit.build import Clock, logged, path, run_ahead
from vaultsync.core.events import VaultEvent
from vaultsync.core.rate_limit import TokenBucket
from vaultsync.vault.audit_hints import Hint, HintQueue
from vaultsync.vault.limited_log import LOG_SECONDS, LimitedLog


def hint(name: str, kind: str = "kv-v2/data-write", version: int = 1, sender: str = "x") -> Hint:
    return Hint(sender, (VaultEvent(path(f"secret/data/{name}"), kind, version),))


class Scene:
    """A queue with ten hints at once, and two a second."""

    def __init__(self) -> None:
        self.passed: list[Hint] = []
        bucket = TokenBucket(2.0, 10.0, asyncio.get_running_loop().time)
        self.queue = HintQueue(self.passed.append, bucket, 100)

    def names(self) -> list[str]:
        return [one.events[0].path.path.removeprefix("secret/data/") for one in self.passed]


def scene(test: Callable[[Scene], Awaitable[None]]) -> None:
    async def main() -> None:
        made = Scene()
        await test(made)
        made.queue.close()

    run_ahead(main())


def test_a_burst_passes_at_once_and_the_rest_in_its_order_as_fast_as_the_rate() -> None:
    async def test(made: Scene) -> None:
        names = [str(number) for number in range(30)]
        assert all(made.queue.put(hint(name)) for name in names)
        assert made.names() == names[:10]
        await asyncio.sleep(5.1)
        assert made.names() == names[:20]
        await asyncio.sleep(5)
        assert made.names() == names
        await asyncio.sleep(100)
        assert all(made.queue.put(hint(name)) for name in names)
        assert made.names() == names + names[:10]

    scene(test)


def test_of_one_path_the_last_hint_is_kept() -> None:
    async def test(made: Scene) -> None:
        for _ in range(10):
            made.queue.put(hint("first"))
        for version in range(1000):
            assert made.queue.put(hint("a", version=version))
        assert len(made.queue._deferred) == 1
        await asyncio.sleep(10)
        assert [one.events[0].version for one in made.passed[10:]] == [999]

    scene(test)


def test_what_is_about_metadata_does_not_replace_a_write() -> None:
    async def test(made: Scene) -> None:
        for _ in range(10):
            made.queue.put(hint("first"))
        for kind in ("data-write", "metadata-write", "data-delete", "metadata-patch"):
            made.queue.put(hint("a", f"kv-v2/{kind}"))
        await asyncio.sleep(10)
        assert [one.events[0].kind for one in made.passed[10:]] == ["kv-v2/data-delete", "kv-v2/metadata-patch"]

    scene(test)


def test_there_is_room_for_so_many() -> None:
    async def test(made: Scene) -> None:
        taken = [made.queue.put(hint(str(number))) for number in range(200)]
        assert taken == [True] * 110 + [False] * 90
        assert made.queue.put(hint("10"))  # it is kept already

    scene(test)


def test_the_hints_of_one_sender_can_be_taken_out() -> None:
    async def test(made: Scene) -> None:
        for number in range(20):
            made.queue.put(hint(str(number), sender="even" if number % 2 == 0 else "odd"))
        assert [one.sender for one in made.queue.remove("even")] == ["even"] * 5
        await asyncio.sleep(100)
        assert made.names()[10:] == ["11", "13", "15", "17", "19"]

    scene(test)


def test_one_reason_is_one_line_a_minute() -> None:
    clock = Clock()
    log = LimitedLog(clock)
    with logged() as lines:
        for number in range(100):
            log("WARNING", "refused", peer=number)
            log("INFO", "other", peer=number)
        clock.forward(LOG_SECONDS)
        log("WARNING", "refused", peer=100)
    assert lines == ['refused {"peer": 0}', 'other {"peer": 0}', 'refused {"peer": 100, "not_logged_before": 99}']
