"""What the fault suite reads out of Vault's audit log: each kind of fault is found, and nothing else is one."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.faults.history import (
    Mounts,
    Recreation,
    beyond,
    busiest,
    forbidden,
    overwritten,
    read,
    recreations,
    unapproved,
)
from tests.faults.model import Approval, Spot

MOUNTS = Mounts(v2=("secret", "team/kv"), v1=("kv1",))
DATA = "secret/data/a/b"
OWN, PERSON = "vaultsync", "root"
PERMITTED = {Spot("secret", "a/b"): {"p"}, Spot("kv1", "a"): {"p"}}

Line = dict[str, object]
_ids = itertools.count()


def asked(who: str, operation: str, path: str = DATA, **data: object) -> Line:
    request = {"id": str(next(_ids)), "operation": operation, "path": path, "data": data}
    return {"type": "request", "time": "2026-01-01T00:00:00Z", "auth": {"policies": [who]}, "request": request}


def answered(line: Line, version: int = 0, error: str = "") -> Line:
    response = {"data": {"version": version}} if version else {}
    return {**line, "type": "response", "response": response, **({"error": error} if error else {})}


def whole(line: Line, version: int = 0, error: str = "") -> tuple[Line, Line]:
    return line, answered(line, version, error)


def create(who: str, version: int, *keys: str, cas: int | None = None) -> tuple[Line, Line]:
    options = {} if cas is None else {"cas": str(cas)}
    return whole(asked(who, "create", data=dict.fromkeys(keys, "hmac"), options=options), version)


def patch(who: str, version: int, *keys: str) -> tuple[Line, Line]:
    return whole(asked(who, "patch", data=dict.fromkeys(keys, "h"), options={"cas": str(version - 1)}), version)


def faults(*lines: Iterable[Line]) -> list[str]:
    found = read([json.dumps(line).encode() for line in itertools.chain(*lines)], OWN)
    return overwritten(found, MOUNTS)


def delete(path: str = DATA) -> tuple[Line, Line]:
    return whole(asked(PERSON, "delete", path))


def on_versions(how: str, *versions: str) -> tuple[Line, Line]:
    return whole(asked(PERSON, "update", f"secret/{how}/a/b", versions=versions))


OVER = ["secret/a/b: version 2 was written over version 1, which existed"]


class TestWhatIsOverwritten:
    def test_the_first_version_is_nobodys_loss(self) -> None:
        assert faults(create(OWN, 1, "p", cas=0)) == []

    def test_a_version_over_a_persons(self) -> None:
        assert faults(create(PERSON, 1, "p"), create(OWN, 2, "p", cas=1)) == OVER

    def test_a_version_over_ones_own(self) -> None:
        assert faults(create(OWN, 1, "p", cas=0), create(OWN, 2, "p", cas=1)) == OVER

    def test_without_check_and_set(self) -> None:
        words = ["secret/a/b: version 1 was written without check-and-set"]
        assert faults(create(OWN, 1, "p")) == words

    @pytest.mark.parametrize("gone", [delete(), on_versions("delete", "1"), on_versions("destroy", "1")])
    def test_over_what_was_deleted(self, gone: tuple[Line, Line]) -> None:
        assert faults(create(PERSON, 1, "p"), gone, create(OWN, 2, "p", cas=1)) == []

    def test_over_what_others_versions_were_deleted_of(self) -> None:
        assert faults(create(PERSON, 1, "p"), on_versions("delete", "7"), create(OWN, 2, "p", cas=1)) == OVER

    def test_over_what_was_deleted_elsewhere(self) -> None:
        assert faults(create(PERSON, 1, "p"), delete("team/kv/data/a/b"), create(OWN, 2, "p", cas=1)) == OVER

    def test_a_refused_deletion_is_none(self) -> None:
        refused = whole(asked(PERSON, "delete"), error="permission denied")
        assert faults(create(PERSON, 1, "p"), refused, create(OWN, 2, "p", cas=1)) == OVER

    def test_a_deletion_before_the_version_is_not_of_it(self) -> None:
        lines = (create(PERSON, 1, "p"), delete(), create(PERSON, 2, "p"), create(OWN, 3, "p", cas=2))
        assert faults(*lines) == ["secret/a/b: version 3 was written over version 2, which existed"]

    def test_over_what_was_undeleted(self) -> None:
        lines = (create(PERSON, 1, "p"), delete(), on_versions("undelete", "1"), create(OWN, 2, "p", cas=1))
        assert faults(*lines) == OVER

    def test_what_was_undeleted_after_the_look_could_not_be_known(self) -> None:
        look = whole(asked(OWN, "read", "secret/subkeys/a/b"))
        undelete, mine = on_versions("undelete", "1"), create(OWN, 2, "p", cas=1)
        assert faults(create(PERSON, 1, "p"), delete(), look, undelete, mine) == []
        assert faults(create(PERSON, 1, "p"), delete(), undelete, look, mine) == OVER

    def test_an_undeletion_that_is_not_answered_yet_may_come_after(self) -> None:
        undelete, done = on_versions("undelete", "1")
        assert faults(create(PERSON, 1, "p"), delete(), [undelete], create(OWN, 2, "p", cas=1), [done]) == []

    def test_a_deletion_whose_answer_is_lost_or_late_may_have_come_before(self) -> None:
        asks, done = delete()
        assert faults(create(PERSON, 1, "p"), [asks], create(OWN, 2, "p", cas=1)) == []
        assert faults(create(PERSON, 1, "p"), [asks], create(OWN, 2, "p", cas=1), [done]) == []

    def test_a_new_life_of_the_path_has_versions_of_its_own(self) -> None:
        purged = whole(asked(PERSON, "delete", "secret/metadata/a/b"))
        lines = (create(PERSON, 1, "p"), delete(), purged, create(PERSON, 1, "p"), create(OWN, 2, "p", cas=1))
        assert faults(*lines) == OVER

    def test_versions_from_before_an_older_storage_was_restored_prove_nothing(self) -> None:
        lines = [
            json.dumps(line).encode() for line in itertools.chain(create(PERSON, 1, "p"), create(OWN, 2, "p", cas=1))
        ]
        assert overwritten(read(lines, OWN), MOUNTS, [0]) == OVER
        assert overwritten(read(lines, OWN), MOUNTS, [2]) == []
        assert overwritten(read(lines, OWN), MOUNTS, [4]) == OVER

    def test_a_patch_adds(self) -> None:
        assert faults(create(PERSON, 1, "p"), patch(OWN, 2, "q")) == []

    def test_a_patch_replaces(self) -> None:
        lines = (create(PERSON, 1, "p"), patch(PERSON, 2, "q"), patch(OWN, 3, "p", "r"), patch(OWN, 4, "q"))
        assert faults(*lines) == [
            "secret/a/b: version 3 has replaced p of version 2",
            "secret/a/b: version 4 has replaced q of version 3",
        ]

    def test_a_deletion_is_never_vaultsyncs(self) -> None:
        assert faults(create(OWN, 1, "p", cas=0), whole(asked(OWN, "delete"))) == ["secret/a/b: a deletion"]

    def test_in_kv_v1_there_are_only_first_writes(self) -> None:
        made = whole(asked(OWN, "create", "kv1/a", p="h"))
        again = whole(asked(OWN, "update", "kv1/a", p="h"))
        assert faults(made) == []
        assert faults(made, again) == ["kv1/a: update in KV v1"]


FIRST, AGAIN = create(PERSON, 1, "p", "q"), create(OWN, 1, "p", cas=0)
PURGE = whole(asked(PERSON, "delete", "secret/metadata/a/b"))
V1_FIRST, V1_AGAIN = whole(asked(PERSON, "create", "kv1/a", p="h")), whole(asked(OWN, "create", "kv1/a", p="h"))
V1_DELETION = whole(asked(PERSON, "delete", "kv1/a"))


def lost(*lines: Iterable[Line], reports_all: bool = True) -> list[Recreation]:
    found = read([json.dumps(line).encode() for line in itertools.chain(*lines)], OWN)
    return recreations(found, MOUNTS, reports_all=reports_all)


class TestWhatIsRecreated:
    def test_a_new_path_is_not(self) -> None:
        assert lost(AGAIN) == []
        assert lost(V1_AGAIN) == []

    def test_what_is_missing_without_a_deletion(self) -> None:
        [found] = lost(FIRST, AGAIN)
        assert (found.spot, found.former) == (Spot("secret", "a/b"), {"p": "hmac"})
        [found] = lost(V1_FIRST, V1_AGAIN)
        assert (found.spot, found.former) == (Spot("kv1", "a"), {"p": "h"})

    def test_the_former_values_are_those_of_the_last_version(self) -> None:
        [found] = lost(create(PERSON, 1, "p"), create(PERSON, 2, "q"), AGAIN)
        assert found.former == {}
        [found] = lost(create(PERSON, 1, "q"), patch(PERSON, 2, "p"), AGAIN)
        assert found.former == {"p": "h"}

    @pytest.mark.parametrize("gone", [delete(), on_versions("delete", "1"), on_versions("destroy", "1"), PURGE])
    def test_a_deleted_path_is_not(self, gone: tuple[Line, Line]) -> None:
        assert lost(FIRST, gone, AGAIN) == []

    def test_the_poll_learns_of_some_deletions_only(self) -> None:
        assert lost(FIRST, delete(), AGAIN, reports_all=False) == []
        assert len(lost(FIRST, PURGE, AGAIN, reports_all=False)) == 1
        assert lost(V1_FIRST, V1_DELETION, V1_AGAIN) == []
        assert len(lost(V1_FIRST, V1_DELETION, V1_AGAIN, reports_all=False)) == 1

    def test_a_deletion_of_another_version_or_of_an_earlier_life_does_not_count(self) -> None:
        assert len(lost(create(PERSON, 2, "p"), on_versions("destroy", "1"), AGAIN)) == 1
        assert len(lost(FIRST, PURGE, create(PERSON, 1, "p"), AGAIN)) == 1

    def test_a_refused_deletion_does_not_count(self) -> None:
        assert len(lost(FIRST, whole(asked(PERSON, "delete"), error="permission denied"), AGAIN)) == 1

    def test_a_deletion_whose_answer_is_late_may_have_come_before(self) -> None:
        asks, done = delete()
        assert lost(FIRST, [asks], AGAIN, [done]) == []

    def test_a_write_that_is_not_answered_yet_may_come_after(self) -> None:
        asks, done = FIRST
        assert lost([asks], AGAIN, [done]) == []

    def test_what_an_older_storage_lacks(self) -> None:
        lines = [json.dumps(line).encode() for line in itertools.chain(FIRST, delete(), create(PERSON, 2, "p"))]
        restored = len(lines)
        lines += [json.dumps(line).encode() for line in create(OWN, 2, "p", cas=1)]
        found = read(lines, OWN)
        assert len(recreations(found, MOUNTS, [restored], reports_all=True)) == 1
        assert overwritten(found, MOUNTS, [restored]) == []

    def test_persons_and_patches_create_nothing_again(self) -> None:
        assert lost(FIRST, create(PERSON, 1, "p", cas=0)) == []
        assert lost(FIRST, patch(OWN, 2, "r")) == []

    def test_what_a_person_has_approved_for_its_namespace_since(self) -> None:
        found = lost(FIRST, AGAIN)
        at = found[0].write.at
        assert unapproved(found, [Approval("a", at - 1)]) == []
        assert unapproved(found, [Approval("a", at + 1), Approval("b", at - 1)]) == found

    def test_more_of_a_mount_than_the_limit(self) -> None:
        found = lost(FIRST, AGAIN) * 2 + lost(V1_FIRST, V1_AGAIN)
        at = found[0].write.at
        assert beyond(found, 2, [at - 1]) == []
        assert [words.partition(" lost")[0] for words in beyond(found, 1, [at - 1])] == ["secret: 2"]

    def test_each_term_has_a_limit_of_its_own(self) -> None:
        [first] = lost(FIRST, AGAIN)
        second = replace(first, write=replace(first.write, at=first.write.at + 10))
        began = first.write.at - 1
        assert len(beyond([first, second], 1, [began])) == 1
        assert beyond([first, second], 1, [began, began + 5]) == []


class TestWhatIsForbidden:
    @pytest.mark.parametrize(
        "line",
        [
            asked(OWN, "create", data={"p": "h"}),
            asked(OWN, "create", "kv1/a", p="h"),
            asked(OWN, "patch", "secret/metadata/a/b", custom_metadata={"managed-by": "vaultsync"}),
            asked(OWN, "update", "auth/token/renew-self"),
            asked(OWN, "read", "secret/subkeys/c"),
            asked(PERSON, "create", "secret/data/c", data={"x": "h"}),
        ],
    )
    def test_this_is_not(self, line: Line) -> None:
        assert forbidden(read([json.dumps(line).encode()], OWN), MOUNTS, PERMITTED) == []

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (asked(OWN, "create", "secret/data/c", data={"p": "h"}), "create secret/data/c"),
            (asked(OWN, "create", data={"p": "h", "x": "h"}), "create secret/data/a/b with x"),
            (asked(OWN, "create", "kv1/a", x="h"), "create kv1/a with x"),
            (asked(OWN, "patch", "secret/metadata/c"), "patch secret/metadata/c"),
            (asked(OWN, "update", "secret/destroy/a/b", versions=["1"]), "update secret/destroy/a/b"),
            (asked(OWN, "update", "sys/policies/acl/vaultsync"), "update sys/policies/acl/vaultsync"),
            (asked(OWN, "read"), "it read values at secret/data/a/b"),
            (asked(OWN, "read", "kv1/a"), "it read values at kv1/a"),
        ],
    )
    def test_this_is(self, line: Line, words: str) -> None:
        assert forbidden(read([json.dumps(line).encode()], OWN), MOUNTS, PERMITTED) == [words]


def test_the_busiest_time_is_found_wherever_it_begins() -> None:
    lines = [asked(OWN, "read") | {"time": f"2026-01-01T00:00:0{at}Z"} for at in ("0.1", "0.9", "1.0", "1.8", "5")]
    found = read([json.dumps(line).encode() for line in lines], OWN)
    assert (busiest(found, 1.0), busiest(found, 2.0), busiest([], 1.0)) == (3, 4, 0)
