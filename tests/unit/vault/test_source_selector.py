"""vault/source_selector: the best source that is there, the poll only where none is, and one line for each change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.build import logged, login, path, run_ahead
from vaultsync.config.change_source import AuditAccess, ChangeSource
from vaultsync.core.callbacks import ignore
from vaultsync.core.events import MountChange, VaultEvent
from vaultsync.runtime.metrics import Metrics
from vaultsync.vault import silent_stream
from vaultsync.vault.audit import Audit
from vaultsync.vault.poll import Poller
from vaultsync.vault.source_selector import GRACE_SECONDS, SourceSelector
from vaultsync.vault.stream import EventStream
from vaultsync.vault.writes import OwnWrite

AUTO, EVENTS, AUDIT, POLL = ChangeSource.AUTO, ChangeSource.EVENTS, ChangeSource.AUDIT, ChangeSource.POLL
ALWAYS = 1000.0
"""Long after any grace."""


class Stream(EventStream):
    """Is what it is told to be."""

    runs = False

    def __init__(self) -> None:
        super().__init__(login(), Metrics())

    async def run(self) -> None:
        self.runs = True
        await asyncio.Event().wait()

    def comes(self) -> None:
        self._set_state(connected=True)

    def is_found_silent(self) -> None:
        self.silence.is_unproven = True
        self._set_state(connected=True)

    def goes(self, reason: str = "Vault closed the stream", *, refused: bool = False) -> None:
        self._set_state(connected=False, refused=refused, reason=reason)


class Device(Audit):
    """Is connected if it is told so."""

    says = False

    def __init__(self, *, is_configured: bool) -> None:
        nobody: Any = ignore  # its canaries are not sent
        access = AuditAccess("127.0.0.1:1" if is_configured else "")
        super().__init__(access, 300.0, nobody, nobody, Metrics())

    async def run(self) -> None:
        await asyncio.Event().wait()

    @property
    def is_connected(self) -> bool:
        return self.says

    def comes(self) -> None:
        self.says = True
        self.on_change()

    def goes(self) -> None:
        self.says = False
        self.on_change()


class Handler:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def vault_connected(self) -> None:
        self.told.append("connected")

    def vault_changed(self, event: VaultEvent) -> None:
        self.told.append(event)

    def audit_gap(self, alone: bool, *, settles: bool = False) -> None:
        self.told.append({"alone": alone, "settles": settles})

    def mounts_changed(self, change: MountChange) -> None:
        self.told.append(change)


class Scene:
    """The sources, and what they have said."""

    def __init__(self, wanted: ChangeSource, *, listens: bool = True) -> None:
        nobody: Any = None  # its rounds are not run
        self.stream, self.device = Stream(), Device(is_configured=listens)
        self.poller = Poller(nobody, nobody, 1.0, 1.0)
        self.poller.run = self._rounds  # type: ignore[method-assign]
        self.handler = Handler()
        self.sources = SourceSelector(wanted, self.stream, self.device, self.poller, self.handler)
        self.lines: list[str] = []

    async def _rounds(self) -> None:
        await asyncio.Event().wait()

    def said(self) -> list[str]:
        """The sources that were named, in order."""
        return [line.partition('"source": "')[2].partition('"')[0] for line in self.lines]

    async def after(self, seconds: float, current: ChangeSource | None) -> None:
        """So much later this is relied upon, and polled only if it is the poll."""
        await asyncio.sleep(seconds)
        assert self.sources.current is current
        assert self.poller.needed.is_set() == (current is POLL)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with logged() as self.lines:
            task = asyncio.create_task(self.sources.run())
            try:
                yield
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def scene(test: Callable[[Scene], Awaitable[None]], wanted: ChangeSource = AUTO, *, listens: bool = True) -> None:
    async def main() -> None:
        made = Scene(wanted, listens=listens)
        async with made.running():
            await test(made)

    run_ahead(main())


@pytest.mark.parametrize("heard", [True, False])
def test_the_stream_is_the_best(heard: bool) -> None:
    async def test(made: Scene) -> None:
        if heard:
            made.device.comes()
        made.stream.comes()
        await made.after(0.1, EVENTS)
        await made.after(ALWAYS, EVENTS)
        assert made.said() == ["events"]

    scene(test)


def test_an_audit_device_is_next() -> None:
    async def test(made: Scene) -> None:
        made.stream.goes(refused=True)
        made.device.comes()
        await made.after(0.1, AUDIT)
        assert made.said() == ["audit"]

    scene(test)


def test_nothing_is_polled_before_the_others_had_their_time() -> None:
    async def test(made: Scene) -> None:
        await made.after(GRACE_SECONDS - 0.1, None)
        assert made.said() == []
        await made.after(0.2, POLL)
        await made.after(ALWAYS, POLL)
        assert made.said() == ["poll"]

    scene(test)


@pytest.mark.parametrize("moment", [0.0, GRACE_SECONDS / 2, GRACE_SECONDS - 0.1])
def test_what_comes_in_that_time_is_taken_at_once(moment: float) -> None:
    async def test(made: Scene) -> None:
        made.stream.tried.set()
        await asyncio.sleep(moment)
        made.device.comes()
        await made.after(0.01, AUDIT)
        assert made.said() == ["audit"]

    scene(test)


def test_a_device_that_is_first_does_not_count_before_the_stream_was_tried() -> None:
    async def test(made: Scene) -> None:
        made.device.comes()
        await made.after(1.0, None)
        made.stream.comes()
        await made.after(0.01, EVENTS)
        assert made.said() == ["events"]

    scene(test)


def test_a_stream_that_answers_nothing_is_not_waited_for_for_ever() -> None:
    async def test(made: Scene) -> None:
        made.device.comes()
        await made.after(GRACE_SECONDS + 0.1, AUDIT)

    scene(test)


def test_a_refused_stream_and_no_listener_leave_nothing_to_wait_for() -> None:
    async def test(made: Scene) -> None:
        made.stream.goes("Vault returned 404", refused=True)
        await made.after(0.01, POLL)
        assert "Vault returned 404" in made.lines[0]

    scene(test, listens=False)


def test_a_device_that_is_only_listened_for_is_waited_for() -> None:
    async def test(made: Scene) -> None:
        made.stream.goes(refused=True)
        await made.after(GRACE_SECONDS - 0.1, None)
        await made.after(0.2, POLL)

    scene(test)


def test_a_stream_that_fails_again_and_again_does_not_keep_the_poll_away() -> None:
    """Its attempts are closer together than the grace."""

    async def test(made: Scene) -> None:
        made.stream.comes()
        await made.after(1, EVENTS)
        for attempt in range(4):
            made.stream.goes(f"Vault returned 503, {attempt}")
            await made.after(GRACE_SECONDS / 4 - 0.01, EVENTS)
        await made.after(0.1, POLL)
        for _ in range(10):
            made.stream.goes("Vault returned 503")
            await made.after(GRACE_SECONDS / 4, POLL)
        assert made.said() == ["events", "poll"]
        assert "Vault returned 503" in made.lines[1]

    scene(test)


def test_a_restart_of_vault_is_no_reason_to_poll() -> None:
    async def test(made: Scene) -> None:
        made.stream.comes()
        for _ in range(5):
            await made.after(1, EVENTS)
            made.stream.goes()
            await made.after(GRACE_SECONDS - 1, EVENTS)
            made.stream.comes()
        await made.after(ALWAYS, EVENTS)
        assert made.said() == ["events"]

    scene(test)


def test_a_device_is_named_for_a_stream_that_does_not_come_back() -> None:
    async def test(made: Scene) -> None:
        made.device.comes()
        made.stream.comes()
        await made.after(1, EVENTS)
        made.stream.goes()
        await made.after(GRACE_SECONDS - 0.1, EVENTS)
        await made.after(0.2, AUDIT)
        made.stream.comes()
        await made.after(0.01, EVENTS)
        made.stream.goes("Vault returned 403", refused=True)
        await made.after(0.01, AUDIT)
        assert made.said() == ["events", "audit", "events", "audit"]
        assert "Vault closed the stream" in made.lines[1]

    scene(test)


def test_a_stream_that_is_cut_again_and_again_is_not_told_where_a_device_is_heard() -> None:
    async def test(made: Scene) -> None:
        made.device.comes()
        made.stream.comes()
        for _ in range(20):
            await made.after(GRACE_SECONDS * 6, EVENTS)
            made.stream.goes()
            await made.after(0.1, EVENTS)
            made.stream.comes()
        assert made.said() == ["events"]

    scene(test)


def test_a_device_that_goes_while_the_stream_is_away_leaves_the_poll() -> None:
    async def test(made: Scene) -> None:
        made.device.comes()
        made.stream.comes()
        await made.after(1, EVENTS)
        made.stream.goes()
        await made.after(GRACE_SECONDS / 2, EVENTS)
        made.device.goes()
        await made.after(GRACE_SECONDS / 2 + 0.1, POLL)
        assert made.said() == ["events", "poll"]

    scene(test)


def test_from_the_poll_up_to_the_best_and_down_again() -> None:
    async def test(made: Scene) -> None:
        await made.after(GRACE_SECONDS + 1, POLL)
        made.device.comes()
        await made.after(0.01, AUDIT)
        made.stream.comes()
        await made.after(0.01, EVENTS)
        made.device.goes()
        await made.after(ALWAYS, EVENTS)
        made.stream.goes()
        await made.after(GRACE_SECONDS - 0.1, EVENTS)
        await made.after(0.2, POLL)
        made.stream.comes()
        await made.after(0.01, EVENTS)
        assert made.said() == ["poll", "audit", "events", "poll", "events"]

    scene(test)


@pytest.mark.parametrize("wanted", [EVENTS, AUDIT, POLL])
def test_a_wanted_source_is_taken_whatever_is_there(wanted: ChangeSource) -> None:
    async def test(made: Scene) -> None:
        await made.after(0.01, wanted)
        for change in (made.device.comes, made.stream.comes, made.device.goes, made.stream.goes):
            change()
            await made.after(GRACE_SECONDS * 2, wanted)
        assert made.stream.runs == (wanted is EVENTS)
        assert made.said() == [wanted.value]
        assert f"VAULTSYNC_SOURCE is {wanted.value}" in made.lines[0]

    scene(test, wanted)


def test_the_reason_tells_how_the_audit_device_is() -> None:
    async def test(made: Scene) -> None:
        made.stream.comes()
        await made.after(0.1, EVENTS)
        assert "Vault offers its event stream; whether the audit device delivers is not known yet" in made.lines[-1]
        made.device.comes()
        made.stream.goes("Vault returned 403", refused=True)
        await made.after(0.1, AUDIT)
        assert "Vault returned 403; the audit device delivers" in made.lines[-1]
        made.device._is_silence_logged = True
        made.device.goes()
        await made.after(GRACE_SECONDS + 0.1, POLL)
        assert "Vault returned 403; the audit device does not deliver" in made.lines[-1]

    scene(test)


@pytest.mark.parametrize(("wanted", "says"), [(AUTO, True), (EVENTS, False)])
def test_the_reason_tells_that_no_audit_device_is_configured_where_one_could_be_taken(
    wanted: ChangeSource, says: bool
) -> None:
    async def test(made: Scene) -> None:
        made.stream.goes("Vault returned 404", refused=True)
        await made.after(0.1, POLL if wanted is AUTO else EVENTS)
        assert ("; no audit device is configured" in made.lines[0]) is says

    scene(test, wanted, listens=False)


@pytest.mark.parametrize("heard", [True, False])
def test_a_silent_stream_is_replaced_at_once_and_taken_again_once_it_delivers(heard: bool) -> None:
    async def test(made: Scene) -> None:
        if heard:
            made.device.comes()
        made.stream.comes()
        await made.after(1.0, EVENTS)
        made.stream.is_found_silent()
        await made.after(0.1, AUDIT if heard else POLL)
        assert silent_stream.REASON in made.lines[-1]
        made.stream.silence.is_unproven = False
        made.stream.comes()
        await made.after(0.1, EVENTS)

    scene(test)


@pytest.mark.parametrize("streams", [True, False])
def test_while_the_stream_reports_writes_the_device_is_believed_about_deletions_alone(streams: bool) -> None:
    write, deletion = (VaultEvent(path("secret/data/a"), f"kv-v2/{kind}", 1) for kind in ("data-write", "delete"))
    change = MountChange(path("secret/"))

    async def test(made: Scene) -> None:
        made.device.comes()
        if streams:
            made.stream.comes()
        made.stream.on_event(write)
        for event in (write, deletion):
            made.device.on_event(event)
        made.device.on_mounts(change)
        made.device.on_gap(True)
        made.stream.on_connect()
        gap = {"alone": not streams, "settles": True}
        assert made.handler.told == [write, *([] if streams else [write]), deletion, change, gap, "connected"]

    scene(test)


def test_each_source_is_told_of_own_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(made: Scene) -> None:
        told: list[object] = []
        monkeypatch.setattr(made.stream.silence, "wrote", told.append)
        monkeypatch.setattr(made.device, "wrote", told.append)
        own = OwnWrite(path("secret/data/a"), 1, "id", 0.0)
        made.sources.wrote(own)
        assert told == [own, "id"]

    scene(test)
