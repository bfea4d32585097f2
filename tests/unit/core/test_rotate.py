"""core/rotate: which values are replaced and when, and which problems are reported."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.build import NOON, V1, Anything, gone, live, path, reader, reference
from tests.unit.core.test_ownership import REQUEST, owned, times
from vaultsync.core.annotation_parser import (
    LONGEST,
    NO_ROTATION,
    SHORTEST,
    AnnotationError,
    RotationSpec,
    SeedChoice,
    parse_rotation,
)
from vaultsync.core.annotations import CreatedReason, Refusal
from vaultsync.core.decide import Decision, Defaults, decide
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.ownership import MAX_ROTATION_IDS, Ownership, parse_ownership, render_ownership
from vaultsync.core.reader import Reader, Refused
from vaultsync.core.rotate import SPREAD, due_at, next_ownership
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.rule_parser import parse_rules

HERE = path("secret/data/a")
APP, OTHER = ObjectName("dev-1", "app"), ObjectName("dev-1", "other")
WANTED, NOT_ASKED, REFUSED = SeedChoice.WANTED, SeedChoice.NOT_ASKED, SeedChoice.REFUSED
DAY = 86400.0
AFTER, ROTATE = "vaultsync.io/rotate-after", "vaultsync.io/rotate"
LOGIN = '{user: {value: app}, password: {format: uuid}, url: {template: "{{ .user }}:{{ .password }}"}}'
PAIR = "key: {format: ed25519, public: pub}"


# -- annotations


@pytest.mark.parametrize(
    ("text", "after"),
    [("30d", 30 * DAY), ("1h", SHORTEST), ("3650d", LONGEST), (" 1h30m ", 5400), ("7200", 7200), ("never", 0)],
)
def test_an_age(text: str, after: float) -> None:
    assert parse_rotation(APP, {AFTER: text}) == RotationSpec(after)


@pytest.mark.parametrize(
    "text",
    ["", "30", "59m", "0", "0d", "-1d", "3651d", "soon", "Never", "30 d", "1w", "1d!", "9" * 400 + "d", "3６h"],
)
def test_an_invalid_age_is_reported_with_a_valid_one(text: str) -> None:
    with pytest.raises(AnnotationError) as caught:
        parse_rotation(APP, {AFTER: text})
    message = str(caught.value)
    assert all(words in message for words in (AFTER, repr(text[:40]), "from 1h to 3650d", '"never"'))
    assert len(message) < 200


@given(st.text())
def test_no_annotation_breaks_it(text: str) -> None:
    with suppress(AnnotationError):
        parse_rotation(APP, {AFTER: text, ROTATE: text})


def test_a_request_is_identified_by_its_text_and_its_object() -> None:
    requests = [parse_rotation(name, {ROTATE: words}).request_id for name in (APP, OTHER) for words in ("1", "2")]
    assert len(set(requests)) == 4
    assert parse_rotation(APP, {ROTATE: "1"}).request_id == requests[0]
    assert {len(request) for request in requests} == {len(REQUEST)}


def test_without_annotations_nothing_is_asked() -> None:
    assert parse_rotation(APP, {}) == parse_rotation(APP, {ROTATE: ""}) == NO_ROTATION


# -- when


def test_a_value_is_due_at_its_age_and_up_to_a_tenth_later_each_path_at_its_own_time() -> None:
    late = [
        (due_at(path(f"secret/data/{number}"), NOON, DAY) - NOON).total_seconds() / DAY - 1 for number in range(200)
    ]
    assert 0 <= min(late) < 0.1 * SPREAD
    assert 0.9 * SPREAD < max(late) <= SPREAD
    assert len(set(late)) == len(late)
    assert due_at(HERE, NOON, DAY) == due_at(HERE, NOON, DAY)


@given(times, st.floats(SHORTEST, LONGEST))
@example(datetime.max.replace(tzinfo=UTC), LONGEST)
def test_any_time_of_ownership_is_accepted(made: datetime, after: float) -> None:
    due = due_at(HERE, made, after)
    assert due > made or due == datetime.max.replace(tzinfo=UTC)


# -- marks


LATER = owned(version="2@x", made=NOON + timedelta(days=1), properties=frozenset({"b"}), external_secret="dev-1/other")


def marked(state: SecretState, *properties: str, **fields: Anything) -> SecretState:
    """With the ownership of this version, by default on all of it."""
    names = frozenset(properties) if properties else None
    return replace(
        state, ownership=owned(**{"version": state.fingerprint(metadata=False), "properties": names} | fields)
    )


@pytest.mark.parametrize(
    ("case", "before", "rotated", "expected"),
    [
        ("a new path is vaultsync's as a whole", gone(), False, replace(LATER, properties=None)),
        (
            "so is one that was deleted",
            replace(gone(1), ownership=owned(rotation_ids=("old",))),
            False,
            replace(LATER, properties=None, rotation_ids=("old",)),
        ),
        ("of a person's path, what was added", live("a"), False, LATER),
        (
            "so it is where a person has written since",
            replace(live("a"), ownership=owned(rotation_ids=("old",))),
            False,
            replace(LATER, rotation_ids=("old",)),
        ),
        (
            "what is added to a path of vaultsync's is no younger than the rest",
            marked(live("a"), rotation_ids=("old",)),
            False,
            owned(version="2@x", rotation_ids=("old",)),
        ),
        (
            "what is added to what vaultsync had added",
            marked(live("a", "theirs"), "a"),
            False,
            owned(version="2@x", properties=frozenset({"a", "b"})),
        ),
        (
            "a rotated path is as young as that",
            marked(live("b"), rotation_ids=("old",)),
            True,
            replace(LATER, properties=None, external_secret="dev-1/app", rotation_ids=("old",)),
        ),
        (
            "a rotated part is all there is of vaultsync's",
            marked(live("b", "theirs"), "b"),
            True,
            replace(LATER, external_secret="dev-1/app"),
        ),
    ],
)
def test_the_next_ownership(case: str, before: SecretState, rotated: bool, expected: Ownership) -> None:
    assert next_ownership(before, LATER, rotated=rotated) == expected, case


def test_the_answers_of_other_vaultsyncs_are_kept_behind_our_own_as_far_as_there_is_room() -> None:
    old = tuple(f"old-{number}" for number in range(MAX_ROTATION_IDS))
    after = next_ownership(
        marked(live("b"), rotation_ids=old), replace(LATER, rotation_ids=("new", "old-0")), rotated=True
    )
    assert after.rotation_ids == ("new", "old-0", *old[1:-1])


# -- decisions


def asking(*properties: str, rules: str = "{}", name: str = "app", **fields: Anything) -> Reader:
    """An ExternalSecret that reads these properties ("" is all) and asks for something."""
    namespace, choice = fields.pop("namespace", "dev-1"), fields.pop("choice", WANTED)
    references = tuple(reference(one, whole=not one) for one in properties or ("a",))
    return Reader(ObjectName(namespace, name), choice, references, parse_rules(rules), RotationSpec(**fields))


def aged(days: float, *there: str, own: Sequence[str] = (), **fields: Anything) -> SecretState:
    """A path whose values vaultsync made so many days ago."""
    return marked(live(*there or ("a",)), *own, made=NOON - timedelta(days=days), **fields)


def old(*there: str, own: Sequence[str] = (), **fields: Anything) -> SecretState:
    return aged(2, *there, own=own, **fields)


def rotated(state: SecretState, readers: Sequence[Reader], **more: Anything) -> list[str] | None:
    decision = decide(HERE, state, readers, NOON, **more)
    assert decision.seed is None
    return decision.rotation.properties if decision.rotation else None


PATH = old("a", "b")
DAILY = Defaults(rotate_after=DAY)

ROTATED: list[tuple[str, SecretState, list[Reader], list[str] | None]] = [
    ("what is older than asked for", old(), [asking(max_age=DAY)], ["a"]),
    ("what is younger", aged(0.9), [asking(max_age=DAY)], None),
    ("what nobody wants rotated", old(), [asking()], None),
    ("what is not to be rotated, however old", old(), [asking(max_age=0.0)], None),
    ("what is asked for now", aged(0), [asking(request_id="r")], ["a"]),
    ("what was asked for, and done", aged(0, rotation_ids=("x", "r")), [asking(request_id="r")], None),
    ("what is asked for again", aged(0, rotation_ids=("x",)), [asking(request_id="r")], ["a"]),
    ("what is asked for and never by age", old(), [asking(max_age=0.0, request_id="r")], ["a"]),
    ("what a person wrote", live("a"), [asking(max_age=DAY, request_id="r")], None),
    ("what a person wrote since", replace(old(), version=2), [asking(max_age=DAY, request_id="r")], None),
    (
        "what a person wrote after a purge",
        replace(old(), written=LATER.made),
        [asking(max_age=DAY, request_id="r")],
        None,
    ),
    (
        "KV v1",
        replace(live(mount=V1), ownership=owned()),
        [replace(asking(max_age=DAY, request_id="r"), references=(reference("a", kv=1),))],
        None,
    ),
    ("what is gone", gone(), [], None),
    ("of a person's secret what was added", old("a", "b", own=["a"]), [asking("a", "b", request_id="r")], ["a"]),
    ("a person's property", old("a", "b", own=["a"]), [asking("b", max_age=DAY, request_id="r")], None),
    ("all that is read", PATH, [asking("a", request_id="r"), asking("b", name="other")], ["a", "b"]),
    ("what nobody reads", old("a", "b", "c"), [asking("a", "b", request_id="r")], ["a", "b"]),
    (
        "a template",
        old("user", "password", "url"),
        [asking("url", rules=LOGIN, request_id="r")],
        ["password", "url", "user"],
    ),
    ("a public half", old("key", "pub"), [asking("pub", rules=PAIR, max_age=DAY)], ["key", "pub"]),
    ("a private half", old("key", "pub"), [asking("key", rules=PAIR, max_age=DAY)], ["key", "pub"]),
    (
        "a template with a person's part, and all else",
        old("user", "password", "url", "x", own=["password", "url", "x"]),
        [asking("url", "x", rules=LOGIN, request_id="r")],
        None,
    ),
    ("half a pair", old("key", "pub", own=["pub"]), [asking("pub", rules=PAIR, request_id="r")], None),
    (
        "a whole that names its properties",
        PATH,
        [asking("", rules="{a: {format: uuid}, b: {format: hex}}", request_id="r")],
        ["a", "b"],
    ),
    ("a whole that names none", PATH, [asking("", request_id="r")], None),
    ("a whole that others name", PATH, [asking("", request_id="r"), asking("a", "b", name="other")], ["a", "b"]),
    ("what an opted-out reader reads too", PATH, [asking("a", request_id="r"), asking("a", choice=REFUSED)], ["a"]),
    ("what an opted-out reader alone reads", PATH, [asking("a", request_id="r"), asking("b", choice=REFUSED)], None),
    ("what an opted-out reader reads whole", PATH, [asking("a", request_id="r"), asking("", choice=REFUSED)], None),
    (
        "an opted-out reader's request",
        old(),
        [asking(max_age=DAY, request_id="r", choice=REFUSED), asking(name="other")],
        None,
    ),
    ("the request of one that did not ask", old(), [asking(max_age=DAY, request_id="r", choice=NOT_ASKED)], None),
    ("what one that did not ask reads", PATH, [asking("a", request_id="r"), asking("b", choice=NOT_ASKED)], ["a", "b"]),
    ("the older object's age", old(), [asking(max_age=DAY), asking(max_age=9 * DAY, name="other")], ["a"]),
    ("not the younger object's age", old(), [asking(max_age=9 * DAY), asking(max_age=DAY, name="other")], None),
    ("an age goes before none", old(), [asking(), asking(max_age=DAY, name="other")], ["a"]),
    ("never goes before an age", old(), [asking(max_age=0.0), asking(max_age=DAY, name="other")], None),
]


@pytest.mark.parametrize(("case", "state", "readers", "expected"), ROTATED, ids=[case[0] for case in ROTATED])
def test_what_is_rotated(case: str, state: SecretState, readers: list[Reader], expected: list[str] | None) -> None:
    assert rotated(state, readers) == expected, case


@pytest.mark.parametrize(
    ("case", "readers", "expected"),
    [
        ("who says nothing", [asking()], ["a"]),
        ("who says never", [asking(max_age=0.0)], None),
        ("who says otherwise", [asking(max_age=9 * DAY)], None),
        ("nobody who asked for anything", [asking(choice=NOT_ASKED), asking(choice=REFUSED)], None),
        ("nobody who reads what is vaultsync's", [asking("theirs"), asking("a", choice=REFUSED)], None),
    ],
)
def test_the_cluster_wide_age(case: str, readers: list[Reader], expected: list[str] | None) -> None:
    state = old("a", "theirs", own=["a"])
    decision = decide(HERE, state, readers, NOON, defaults=DAILY)
    assert (decision.rotation.properties if decision.rotation else None) == expected, case
    if len(readers) > 1:
        assert decision == Decision()


def test_a_forbidden_reader_causes_no_rotation_and_what_it_alone_reads_is_not_left_behind() -> None:
    forbidden = {"dev-2": "not your own"}
    theirs = [asking(max_age=DAY, request_id="r", namespace="dev-2")]
    assert rotated(old(), theirs, refused=refused(theirs, forbidden)) is None
    readers = [asking("a", request_id="r"), asking("b", namespace="dev-2")]
    assert rotated(PATH, readers) == ["a", "b"]
    assert rotated(PATH, readers, refused=refused(readers, forbidden)) is None


def test_what_is_missing_is_seeded_first_and_the_rest_is_rotated_then() -> None:
    readers = [asking("a", "b", request_id="r")]
    before = old("a")
    decision = decide(HERE, before, readers, NOON)
    assert decision.seed is not None
    assert (decision.seed.properties, decision.rotation, decision.due) == (["b"], None, None)
    after = replace(before, version=2, subkeys={"a": None, "b": None})
    after = replace(
        after, ownership=next_ownership(before, owned(version=after.fingerprint(metadata=False)), rotated=False)
    )
    assert rotated(after, readers) == ["a", "b"]


def test_what_is_not_due_yet_says_when_it_is() -> None:
    state = aged(0.9)
    decision = decide(HERE, state, [asking(max_age=DAY, request_id="x")], NOON)
    assert decision.rotation is not None, "a request does not wait for it"
    decision = decide(HERE, state, [asking(max_age=DAY)], NOON)
    assert decision == Decision(due=due_at(HERE, NOON - timedelta(days=0.9), DAY))


@pytest.mark.parametrize(
    ("readers", "why"),
    [
        ([asking(max_age=DAY)], "older than 1d"),
        ([asking(request_id="r", max_age=DAY)], "requested by dev-1/app"),
        ([asking(request_id="r"), asking(request_id="r2", name="other")], "requested by dev-1/app, dev-1/other"),
    ],
)
def test_a_rotation_says_why(readers: list[Reader], why: str) -> None:
    rotation = decide(HERE, old(), readers, NOON).rotation
    assert rotation is not None
    assert rotation.why == why


REPORTED: list[tuple[str, SecretState, list[Reader], list[str]]] = [
    ("nothing is wrong", old(), [asking(max_age=DAY, request_id="r")], []),
    (
        "no mark",
        live("a"),
        [asking(request_id="r")],
        [ROTATE, "secret/a is not marked as made by vaultsync", "delete it"],
    ),
    (
        "a person wrote since",
        replace(old(), version=2),
        [asking(request_id="r")],
        ["another client since", "delete it"],
    ),
    (
        "a person wrote since it was answered",
        replace(old(rotation_ids=("r",)), version=2),
        [asking(request_id="r")],
        [],
    ),
    ("a person's value, however old", live("a"), [asking(max_age=DAY)], []),
    ("a property that is a person's", old("a", "b", own=["a"]), [asking("b", request_id="r")], ["another client"]),
    ("a part that is a person's", old("a", "b", own=["a"]), [asking("a", "b", request_id="r")], []),
    ("nothing there", gone(), [asking("", request_id="r", rules="{}")], ["is missing"]),
    (
        "KV v1",
        live(mount=V1),
        [replace(asking(request_id="r"), references=(reference("a", kv=1),))],
        [ROTATE, "kv1/a is in KV v1", "can't record"],
    ),
    (
        "a template's part that is a person's",
        old("user", "password", "url", own=["password", "url"]),
        [asking("url", rules=LOGIN, request_id="r")],
        ["secret/a is not rotated", "'url'", "user"],
    ),
    (
        "what would keep the old value",
        PATH,
        [asking("a", max_age=DAY), asking("b", choice=REFUSED)],
        ["secret/a is not rotated", "b would keep the old value"],
    ),
    (
        "what would keep the old value, once",
        aged(0, "a", "b"),
        [asking("a", max_age=DAY), asking("b", choice=REFUSED)],
        [],
    ),
]


@pytest.mark.parametrize(("case", "state", "readers", "words"), REPORTED, ids=[case[0] for case in REPORTED])
def test_what_is_reported_on_readers(case: str, state: SecretState, readers: list[Reader], words: list[str]) -> None:
    decision = decide(HERE if state.mount.kv == 2 else path("kv1/a"), state, readers, NOON)
    reported = [problem.message for problem in decision.problems]
    assert len(reported) == bool(words), case
    assert all(word in reported[0] for word in words), reported


@pytest.mark.parametrize("state", [live("a"), aged(0)], ids=["a person's", "vaultsync's"])
@pytest.mark.parametrize("after", [2 * DAY, 0.0])
def test_of_two_ages_the_younger_object_has_a_problem_until_they_are_equal(state: SecretState, after: float) -> None:
    (problem,) = decide(HERE, state, [asking(max_age=DAY), asking(max_age=after, name="other")], NOON).problems
    assert (problem.reader, problem.reason) == (OTHER, CreatedReason.ERROR_ANNOTATION)
    assert AFTER in problem.message
    assert "dev-1/app" in problem.message
    same = [asking(max_age=DAY), asking(max_age=DAY, name="other"), asking(name="third")]
    assert not decide(HERE, state, same, NOON).problems


def test_more_requests_than_ownership_can_record_are_reported_and_cause_no_endless_rotation() -> None:
    readers = [asking(request_id=f"{number:012}", name=f"app-{number}") for number in range(MAX_ROTATION_IDS + 2)]
    answered = tuple(one.rotation.request_id for one in readers[:MAX_ROTATION_IDS])
    decision = decide(HERE, aged(0, rotation_ids=answered), readers, NOON)
    assert decision.rotation is None
    assert [problem.reader for problem in decision.problems] == [one.name for one in readers[MAX_ROTATION_IDS:]]
    assert all(ROTATE in problem.message for problem in decision.problems)


# -- whatever there is


rotations = st.builds(
    RotationSpec, st.sampled_from([None, 0.0, SHORTEST, DAY, 9 * DAY]), st.sampled_from(["", "r1", "r2"])
)


def any_reader(names: list[str], rules: str) -> st.SearchStrategy[Reader]:
    return st.builds(
        lambda properties, rules, name, namespace, choice, rotation: replace(
            asking(*properties, rules=rules, name=name, namespace=namespace, choice=choice), rotation=rotation
        ),
        st.lists(st.sampled_from(names), min_size=1, max_size=3),
        st.sampled_from([rules, rules, "{}"]),
        st.sampled_from(["app", "other", "third"]),
        st.sampled_from(["dev-1", "dev-1", "dev-2"]),
        st.sampled_from([WANTED, WANTED, WANTED, NOT_ASKED, REFUSED]),
        rotations,
    )


def any_ownership(state: SecretState, names: list[str]) -> st.SearchStrategy[Ownership]:
    token = state.fingerprint(metadata=False)
    return st.builds(
        Ownership,
        version=st.sampled_from([*[token] * 8, "2@x", "1@2025-06-01T12:00:01+00:00", "missing", "v1", ""]),
        made=st.sampled_from([NOON - timedelta(days=days) for days in (0, 1.2, 5, 20)]) | times,
        properties=st.none() | st.none() | st.frozensets(st.sampled_from(names), min_size=1),
        external_secret=st.just("dev-1/app"),
        rotation_ids=st.lists(st.sampled_from(["r1", "r2", "r3"]), unique=True).map(tuple),
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[SecretState, list[Reader]]:
    """A path, mostly with ownership, and its readers."""
    names, rules = draw(
        st.sampled_from([(["a", "b"], "{}"), (["user", "password", "url"], LOGIN), (["a", "key", "pub"], PAIR)])
    )
    state = draw(st.sampled_from([*[live(*names)] * 8, live(*names[1:]), gone(), gone(1), live(mount=V1)]))
    made = draw(any_ownership(state, names))
    return (
        replace(state, ownership=draw(st.sampled_from([*[made] * 8, None]))),
        draw(st.lists(any_reader([*names, *names, ""], rules), min_size=1, max_size=3)),
    )


defaults_ = st.sampled_from([0.0, SHORTEST, DAY]).map(lambda seconds: Defaults(rotate_after=seconds))
forbidden_ = st.sampled_from([{}, {"dev-2": "not your own"}])


def refused(readers: list[Reader], forbidden: dict[str, str]) -> dict[ObjectName, Refused]:
    return {
        one.name: Refused(forbidden[one.name.namespace], Refusal.SEED_PATHS)
        for one in readers
        if one.name.namespace in forbidden
    }


@given(scenes())
def test_nothing_is_vaultsyncs_own_but_by_a_mark_on_this_very_version(
    scene: tuple[SecretState, list[Reader]],
) -> None:
    state, _ = scene
    if state.owned:
        assert state.exists
        assert state.ownership is not None
        assert state.ownership.version == state.fingerprint(metadata=False)
        assert state.owned <= set(state.subkeys or ())


@settings(max_examples=150)
@given(scenes(), defaults_, forbidden_)
def test_a_rotation_replaces_only_what_is_vaultsyncs_own(
    scene: tuple[SecretState, list[Reader]], defaults: Defaults, forbidden: dict[str, str]
) -> None:
    state, readers = scene
    decision = decide(HERE, state, readers, NOON, defaults=defaults, refused=refused(readers, forbidden))
    if decision.rotation is not None:
        there = set(state.subkeys or ())
        assert set(decision.rotation.properties) & there
        assert set(decision.rotation.properties) & there <= state.owned
        assert (decision.seed, decision.due) == (None, None)
    if decision.due is not None:
        assert decision.due > NOON


@settings(max_examples=150)
@given(scenes(), defaults_, forbidden_)
def test_readers_without_permission_cause_no_rotation_but_may_prevent_one(
    scene: tuple[SecretState, list[Reader]], defaults: Defaults, forbidden: dict[str, str]
) -> None:
    state, readers = scene
    may_ask = [one for one in readers if one.choice is WANTED and one.name.namespace not in forbidden]
    silent = [one if one in may_ask else replace(one, rotation=NO_ROTATION) for one in readers]
    decision = decide(HERE, state, readers, NOON, defaults=defaults, refused=refused(readers, forbidden))
    assert decide(HERE, state, silent, NOON, defaults=defaults, refused=refused(readers, forbidden)) == decision
    if not may_ask:
        assert (decision.rotation, decision.due) == (None, None)
    assert {problem.reader for problem in decision.problems} <= {one.name for one in readers if one.choice is WANTED}


@settings(max_examples=150)
@given(scenes(), defaults_, forbidden_, st.booleans())
def test_after_a_rotation_there_is_none_to_do(
    scene: tuple[SecretState, list[Reader]], defaults: Defaults, forbidden: dict[str, str], restarted: bool
) -> None:
    state, readers = scene
    rotation = decide(HERE, state, readers, NOON, defaults=defaults, refused=refused(readers, forbidden)).rotation
    if rotation is None:
        return
    may_ask = [one for one in readers if one.choice is WANTED and one.name.namespace not in forbidden]
    after = replace(state, version=state.version + 1, subkeys={**(state.subkeys or {}), **dict.fromkeys(rotation.plan)})
    made = Ownership(
        version=after.fingerprint(metadata=False),
        made=NOON,
        properties=frozenset(rotation.plan),
        external_secret="dev-1/app",
        rotation_ids=tuple(one.rotation.request_id for one in may_ask if one.rotation.request_id),
    )
    left: Ownership | None = next_ownership(state, made, rotated=True)
    if restarted and left is not None:
        left = parse_ownership({key: value for key, value in render_ownership(left, "").items() if value is not None})
    after = replace(after, ownership=left)
    assert after.owned == state.owned | rotation.plan.keys()
    assert decide(HERE, after, readers, NOON, defaults=defaults, refused=refused(readers, forbidden)).rotation is None


def test_a_builder_that_asks_for_nothing_is_the_plain_one() -> None:
    assert asking("password") == reader()
