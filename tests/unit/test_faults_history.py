"""What the fault suite reads out of Vault's audit log: each kind of fault is found, and nothing else is one."""

import itertools
import json
from collections.abc import Iterable

import pytest

from tests.faults.history import Mounts, busiest, forbidden, overwritten, read
from tests.faults.model import Spot

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
