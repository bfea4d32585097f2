"""controller/heal_limit: how many lost paths of a mount are created again."""

from collections.abc import Iterable

import pytest

from tests.unit.build import path
from vaultsync.controller.heal_limit import WINDOW_SECONDS, HealLimit, HealPostponed, MountName
from vaultsync.core.paths import VaultPath

MOUNT = MountName("", "secret/")


class Scene:
    """A mount with paths that are read at once, some of them lost."""

    def __init__(self, known: int, lost: int, limit: int | None = None) -> None:
        self.now = 0.0
        self.paths = [path(f"secret/data/{i}") for i in range(known)]
        self.lost = set(self.paths[:lost])
        self.new = set[VaultPath]()
        self.reads: list[VaultPath] = []
        self.limit = HealLimit(limit, lambda mount: self.paths if mount == MOUNT else (), lambda: self.now)
        self.limit.read_soon = self.read

    def read(self, paths: Iterable[VaultPath]) -> None:
        self.reads += paths

    def finish_reads(self, uuid: str = "") -> None:
        for one in self.reads:
            self.limit.observe(MOUNT, one, uuid, is_live=one not in self.lost | self.new, is_lost=one in self.lost)
        self.reads.clear()

    def refusal(self, one: VaultPath, *, replaced: bool = False, approved: bool = False) -> str:
        self.limit.observe(MOUNT, one, "", is_live=False, is_lost=True)
        return self.limit.refusal(MOUNT, one, replaced=replaced, approved=approved)

    def heal_all(self, **how: bool) -> tuple[int, set[str]]:
        """How many are healed, and the refusals."""
        healed, refusals = 0, set()
        for one in sorted(self.lost):
            if refusal := self.refusal(one, **how):
                refusals.add(refusal)
            else:
                healed += 1
                self.lost.discard(one)
                self.limit.observe(MOUNT, one, "", is_live=True, is_lost=False)
        return healed, refusals


def surveyed(scene: Scene) -> Scene:
    with pytest.raises(HealPostponed, match="are read first"):
        scene.refusal(min(scene.lost))
    scene.finish_reads()
    return scene


@pytest.mark.parametrize(
    ("known", "lost", "limit", "healed"),
    [
        (40, 10, None, 10),
        (40, 11, None, 0),
        (400, 20, None, 20),
        (400, 21, None, 0),
        (40, 3, 2, 0),
        (40, 2, 2, 2),
    ],
)
def test_up_to_the_limit_all_are_healed_and_beyond_it_none(
    known: int, lost: int, limit: int | None, healed: int
) -> None:
    scene = surveyed(Scene(known, lost, limit))
    count, refusals = scene.heal_all()
    assert count == healed
    assert len(refusals) == (0 if healed else 1)
    assert scene.limit.stopped() == ({} if healed else {"secret/": lost})
    assert all(f"{lost} paths of the mount secret/" in one and "vaultsync.io/heal-lost" in one for one in refusals)


def test_paths_that_never_existed_do_not_raise_the_limit() -> None:
    """An ExternalSecret can name a thousand of them, and its author is not trusted."""
    scene = Scene(1040, 11)
    scene.new = set(scene.paths[40:])
    assert surveyed(scene).heal_all()[0] == 0


def test_zero_is_no_limit_and_reads_nothing() -> None:
    scene = Scene(40, 40, 0)
    assert scene.heal_all() == (40, set())
    assert not scene.reads


def test_an_approval_heals_all() -> None:
    scene = surveyed(Scene(40, 40))
    assert scene.heal_all()[0] == 0
    assert scene.heal_all(approved=True) == (40, set())
    assert scene.limit.stopped() == {}


def test_a_single_path_is_not_healed_in_another_mount() -> None:
    scene = surveyed(Scene(40, 1))
    assert scene.heal_all(replaced=True)[0] == 0


def test_losses_one_by_one_reach_the_limit_too_and_ten_minutes_later_there_is_room() -> None:
    scene = surveyed(Scene(40, 1))
    assert scene.heal_all() == (1, set())
    for i in range(1, 10):
        scene.lost = {scene.paths[i]}
        assert scene.heal_all()[0] == 1
    scene.lost = {scene.paths[10]}
    assert scene.heal_all()[0] == 0
    scene.limit.observe(MOUNT, scene.paths[10], "", is_live=True, is_lost=False)
    scene.now += WINDOW_SECONDS + 1
    scene.lost = {scene.paths[11]}
    assert surveyed(scene).heal_all()[0] == 1


def test_paths_that_are_created_at_the_same_time_count_once() -> None:
    """Several passes run at a time, and one whose write fails is repeated."""
    scene = surveyed(Scene(40, 10))
    for _ in range(3):
        assert [scene.refusal(one) for one in sorted(scene.lost)] == [""] * 10
    assert scene.limit.stopped() == {}
    assert scene.heal_all() == (10, set())
    scene.lost = {scene.paths[10]}
    assert scene.heal_all()[0] == 0


def test_restored_values_end_the_stop() -> None:
    scene = surveyed(Scene(40, 40))
    scene.heal_all()
    for one in scene.lost:
        scene.limit.observe(MOUNT, one, "", is_live=True, is_lost=False)
    assert scene.limit.stopped() == {}


def test_paths_that_vault_does_not_let_read_delay_the_healing_for_half_a_minute_at_most() -> None:
    scene = Scene(40, 1)
    [one] = scene.lost
    for _ in range(3):
        with pytest.raises(HealPostponed):
            scene.refusal(one)
        scene.now += 10
    assert scene.refusal(one) == ""


def test_another_mount_is_recognised_until_nothing_is_lost_any_more() -> None:
    scene = Scene(40, 2)
    lost, other = sorted(scene.lost)
    live = scene.paths[5]
    scene.limit.observe(MOUNT, live, "one", is_live=True, is_lost=False)
    assert scene.limit.held() == {"secret/": 0}, "a mount without losses has a sample too"
    assert not scene.limit.is_replaced(MOUNT, "one")
    assert scene.limit.is_replaced(MOUNT, "two")
    assert not scene.limit.is_replaced(MOUNT, ""), "Vault does not report it"
    scene.limit.observe(MOUNT, lost, "", is_live=False, is_lost=True)
    scene.limit.observe(MOUNT, other, "", is_live=False, is_lost=True)
    scene.limit.observe(MOUNT, live, "two", is_live=True, is_lost=False)
    scene.limit.observe(MOUNT, other, "two", is_live=True, is_lost=False)
    assert scene.limit.is_replaced(MOUNT, "two"), "one is still lost"
    scene.lost.clear()
    scene.limit.observe(MOUNT, lost, "two", is_live=True, is_lost=False)
    scene.limit.observe(MOUNT, live, "two", is_live=True, is_lost=False)
    assert scene.limit.is_replaced(MOUNT, "two"), "the others are yet to be read"
    scene.new.add(scene.reads[-1])
    scene.finish_reads("two")
    assert not scene.limit.is_replaced(MOUNT, "two")


def test_one_value_in_another_mount_does_not_hide_the_loss_of_the_others() -> None:
    """Somebody enables the mount again, and writes one value before vaultsync reads the first path."""
    scene = Scene(6, 5)
    live = scene.paths[5]
    scene.limit.observe(MOUNT, live, "one", is_live=True, is_lost=False)
    lost, scene.lost = scene.lost, {scene.paths[0]}
    surveyed(scene).heal_all()  # a survey of the former mount says nothing about the next one
    scene.lost = lost
    scene.limit.observe(MOUNT, live, "two", is_live=True, is_lost=False)
    assert scene.limit.is_replaced(MOUNT, "two")
    scene.finish_reads("two")
    assert scene.limit.is_replaced(MOUNT, "two")
    assert scene.heal_all(replaced=scene.limit.is_replaced(MOUNT, "two"))[0] == 0


def test_a_path_that_nobody_reads_any_more_is_not_lost() -> None:
    scene = surveyed(Scene(40, 11))
    scene.heal_all()
    for one in sorted(scene.lost):
        assert scene.limit.stopped() != {}
        scene.limit.forget(one)
    assert scene.limit.stopped() == {}


def test_the_survey_does_not_wait_for_a_path_that_vault_refuses_to_read() -> None:
    """An ExternalSecret may name any number of them."""
    scene = Scene(40, 1)
    [one], refused = scene.lost, scene.paths[-1]
    with pytest.raises(HealPostponed):
        scene.refusal(one)
    scene.reads.remove(refused)
    scene.finish_reads()
    with pytest.raises(HealPostponed):
        scene.refusal(one)
    scene.limit.skip(refused)
    assert scene.refusal(one) == ""
