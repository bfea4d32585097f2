"""Which events report vaultsync's own writes, and which only look like that."""

import pytest

from tests.unit.build import Clock, path
from vaultsync.controller.vault_events import EXPECTED_SECONDS, KEPT_SECONDS, OwnWrites
from vaultsync.core.events import VaultEvent

A, B, KV1 = path("secret/data/a"), path("secret/data/b"), path("kv1/a")


def by_stream(version: int = 1, kind: str = "kv-v2/data-write") -> VaultEvent:
    return VaultEvent(A, kind, version)


def by_audit(request_id: str, version: int = 1) -> VaultEvent:
    return VaultEvent(A, "kv-v2/data-write", version, request_id=request_id)


def v1(kind: str = "kv-v1/write", request_id: str = "") -> VaultEvent:
    return VaultEvent(KV1, kind, 0, request_id=request_id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own(clock: Clock) -> OwnWrites:
    return OwnWrites(clock)


def test_the_stream_reports_a_write_once(own: OwnWrites) -> None:
    own.add(A, 1, "id")
    assert not own.recognise(by_stream(2))
    assert not own.recognise(by_stream(kind="kv-v2/data-delete"))
    assert not own.recognise(VaultEvent(B, "kv-v2/data-write", 1))
    assert own.recognise(by_stream())
    assert not own.recognise(by_stream())


def test_a_patch_is_a_write(own: OwnWrites) -> None:
    own.add(A, 2, "id")
    assert own.recognise(by_stream(2, "kv-v2/data-patch"))


def test_an_audit_entry_is_recognised_by_its_request_alone_and_as_often_as_devices_report_it(own: OwnWrites) -> None:
    own.add(A, 1, "id")
    assert not own.recognise(by_audit("somebody-else"))
    assert own.recognise(by_audit("id"))
    assert own.recognise(by_audit("id"))
    assert own.recognise(by_stream()), "the stream reports it too"


def test_two_writes_of_the_same_version_are_two_events(own: OwnWrites) -> None:
    """A heal, `kv metadata delete`, and another heal."""
    own.add(A, 1, "one")
    own.add(A, 1, "two")
    assert [own.recognise(by_stream()) for _ in range(3)] == [True, True, False]


def test_a_v1_write_is_recognised_once_by_each_source(own: OwnWrites) -> None:
    own.add(KV1, 0, "")
    assert not own.recognise(v1("kv-v1/delete"))
    assert own.recognise(v1())
    assert not own.recognise(v1())
    assert own.recognise(v1(request_id="x"))
    assert not own.recognise(v1(request_id="x"))


def test_nothing_is_expected_for_long(own: OwnWrites, clock: Clock) -> None:
    own.add(A, 1, "id")
    own.add(KV1, 0, "")
    clock.forward(EXPECTED_SECONDS / 2)
    own.add(A, 2, "later")
    clock.forward(EXPECTED_SECONDS / 2)
    assert not own.recognise(by_stream())
    assert not own.recognise(v1())
    assert own.recognise(by_stream(2))
    assert own.recognise(by_audit("id")), "a request ID is exact, whenever its entry comes"
    clock.forward(KEPT_SECONDS)
    assert not own.recognise(by_audit("id"))
    assert not own.recognise(by_audit("later", 2))
    assert not own._by_path


def test_after_a_gap_nothing_is_expected(own: OwnWrites) -> None:
    own.add(A, 1, "id")
    own.clear()
    assert not own.recognise(by_stream())
