"""core/decide: each case is a sentence; then properties of all decisions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, V1, external_secret, gone, live, namespace, path, reader, reference
from vaultsync.core.annotation_parser import SeedChoice, SeedMode, seed_choice
from vaultsync.core.annotations import EventReason
from vaultsync.core.decide import Decision, History, Seed, decide
from vaultsync.core.reader import Reader
from vaultsync.core.vault_state import Presence, SecretState, presence
from vaultsync.generation.plan import PropertyPlan

HERE = path("secret/data/a")
WANTED, NOT_ASKED, REFUSED = SeedChoice.WANTED, SeedChoice.NOT_ASKED, SeedChoice.REFUSED
SEEDED, RECREATED = EventReason.SEEDED, EventReason.RECREATED


def seed(*properties: str, cas: int = 0, patch: bool = False, reason: EventReason = SEEDED) -> Seed:
    return Seed({name: PropertyPlan() for name in properties}, cas, patch, reason)


CASES: list[tuple[str, SecretState, list[Reader], Seed | None]] = [
    ("a path that was never written is created", gone(), [reader()], seed("password")),
    (
        "a deleted path is created after its last version",
        gone(3),
        [reader()],
        seed("password", cas=3, reason=RECREATED),
    ),
    ("a path that has all is left alone", live("password"), [reader()], None),
    (
        "a missing property is added to the live version",
        live("user", version=4),
        [reader()],
        seed("password", cas=4, patch=True),
    ),
    (
        "all missing properties of all readers go into one write",
        gone(),
        [reader(reference("b"), reference("a")), reader(reference("c"), name="other")],
        seed("a", "b", "c"),
    ),
    (
        "a property that two readers want is created once",
        gone(),
        [reader(), reader(name="other")],
        seed("password"),
    ),
    ("nobody asked, nothing is created", gone(), [reader(choice=NOT_ASKED)], None),
    ("a refused reader gets nothing", gone(), [reader(choice=REFUSED)], None),
    (
        "what readers who did not ask read is created along",
        gone(),
        [reader(), reader(reference("user"), choice=NOT_ASKED, name="other")],
        seed("password", "user"),
    ),
    (
        "what a refused reader reads is not created along",
        gone(),
        [reader(), reader(reference("user"), choice=REFUSED, name="other")],
        seed("password"),
    ),
    (
        "a path that lacks only what a reader who did not ask reads is left alone",
        live("password"),
        [reader(), reader(reference("user"), choice=NOT_ASKED, name="other")],
        None,
    ),
    ("a reader of the whole secret names no property to create", gone(), [reader(reference(""))], None),
    (
        "a reader of the whole secret gets what others name",
        gone(),
        [reader(reference("", whole=True)), reader(name="other")],
        seed("password"),
    ),
    ("custom metadata is its owner's", gone(), [reader(reference("x", metadata=True))], None),
    ("a gjson expression can't be created", gone(), [reader(reference("a.#.b"))], None),
    ("a dotted name is created as a key of that name", gone(), [reader(reference("db.pw"))], seed("db.pw")),
    ("a refused reference is not created", gone(), [reader(reference(refusal="pinned"))], None),
    (
        "a refused reference does not stop the others",
        gone(),
        [reader(reference("x", refusal="pinned"), reference("y"))],
        seed("y"),
    ),
    ("a store that claims the wrong KV version writes nothing", gone(mount=V1), [reader()], None),
    ("a missing KV v1 path is created", gone(mount=V1), [reader(reference(kv=1))], seed("password")),
    ("a KV v1 path that exists is left alone: its keys are unknown", live(mount=V1), [reader(reference(kv=1))], None),
    ("a property whose presence is unknown is left as it is", live("a"), [reader(reference("a.b"))], None),
    (
        "an extract of a property wants a JSON object there, which can't be generated",
        gone(),
        [reader(reference("config", whole=True))],
        None,
    ),
    ("a path that nobody reads is left alone", gone(), [], None),
]


@pytest.mark.parametrize(("case", "state", "readers", "expected"), CASES, ids=[case[0] for case in CASES])
def test_what_is_seeded(case: str, state: SecretState, readers: list[Reader], expected: Seed | None) -> None:
    assert decide(HERE, state, readers, NOON).seed == expected, case


def problems(decision: Decision) -> list[str]:
    return [problem.message for problem in decision.problems]


REPORTED: list[tuple[str, SecretState, list[Reader], list[str]]] = [
    ("an expression", live("a"), [reader(reference("x|y"))], []),
    ("an expression at a missing path", gone(), [reader(reference("x|y"))], ["gjson expression"]),
    ("a pinned version", gone(), [reader(reference(refusal="pinned"))], ["secret/a is missing", "pinned"]),
    ("the wrong KV version", gone(mount=V1), [reader()], ["KV v1 mount", "spec.provider.vault.version to v1"]),
    ("what KV v1 has there", SecretState(V1, exists=True), [reader()], ["KV v1 mount", "provider.vault.version to v1"]),
    ("a missing path read as a whole", gone(), [reader(reference(""))], ["no entry names a property"]),
    ("a missing path read as a whole, with others that name keys", gone(), [reader(reference("")), reader()], []),
    ("a live path read as a whole", live("a"), [reader(reference(""))], []),
    ("a reader that did not ask", gone(), [reader(reference("x|y"), choice=NOT_ASKED)], []),
    ("a refused reader", gone(), [reader(reference("x|y"), choice=REFUSED)], []),
]


@pytest.mark.parametrize(("case", "state", "readers", "words"), REPORTED, ids=[case[0] for case in REPORTED])
def test_what_is_reported_on_readers(case: str, state: SecretState, readers: list[Reader], words: list[str]) -> None:
    reported = problems(decide(HERE, state, readers, NOON))
    assert bool(reported) == bool(words), case
    assert all(word in reported[0] for word in words)
    assert all(message.startswith("spec.data[0].remoteRef: ") for message in reported)


RECREATIONS: list[tuple[str, SecretState, frozenset[str], bool, EventReason]] = [
    ("never there", gone(), frozenset(), False, SEEDED),
    ("deleted", gone(2), frozenset(), False, RECREATED),
    ("its metadata was deleted, but it was seen before", gone(), frozenset(), True, RECREATED),
    ("a property that was never seen", live("user"), frozenset({"user"}), True, SEEDED),
    ("a property that was seen", live("user"), frozenset({"user", "password"}), True, RECREATED),
]


@pytest.mark.parametrize(
    ("case", "state", "known", "existed", "reason"), RECREATIONS, ids=[case[0] for case in RECREATIONS]
)
def test_created_or_created_again(
    case: str, state: SecretState, known: frozenset[str], existed: bool, reason: EventReason
) -> None:
    made = decide(HERE, state, [reader()], NOON, History(known, existed)).seed
    assert made is not None, case
    assert made.reason is reason


properties = st.sampled_from(["", "a", "b", "c", "a.b", "b.c", "x|y", "@this", "*"])
references = st.builds(
    reference,
    properties,
    kv=st.sampled_from([1, 2]),
    metadata=st.booleans(),
    whole=st.booleans(),
    refusal=st.sampled_from(["", "", "pinned"]),
)
readers_ = st.lists(
    st.builds(
        lambda some, choice, name: reader(*some, choice=choice, name=name),
        st.lists(references, min_size=1, max_size=4),
        st.sampled_from(SeedChoice),
        st.sampled_from(["app", "other", "third"]),
    ),
    max_size=4,
)
subkeys = st.dictionaries(
    st.sampled_from(["a", "b", "c", "a.b"]), st.none() | st.dictionaries(st.sampled_from("abc"), st.none()), max_size=3
)
states = st.one_of(
    st.builds(lambda keys, version: replace(live(version=version), subkeys=keys), subkeys, st.integers(1, 9)),
    st.builds(gone, st.integers(0, 9)),
    st.just(gone(mount=V1)),
    st.just(live(mount=V1)),
)
known_ = st.frozensets(st.sampled_from("abc"))


@given(states, readers_, known_, st.booleans())
def test_a_decision_never_replaces_a_value(
    state: SecretState, readers: list[Reader], known: frozenset[str], existed: bool
) -> None:
    made = decide(HERE, state, readers, NOON, History(known, existed)).seed
    if made is None:
        return
    assert made.properties
    assert list(made.properties) == sorted(set(made.properties))
    assert made.cas == state.version
    assert made.patch == state.exists
    assert all(made.properties)
    if state.exists:
        assert all(presence(state.subkeys, name) is Presence.MISSING for name in made.properties)


@given(states, readers_, known_, st.booleans())
def test_only_readers_that_request_seeding_cause_a_seed(
    state: SecretState, readers: list[Reader], known: frozenset[str], existed: bool
) -> None:
    decision = decide(HERE, state, readers, NOON, History(known, existed))
    heard = [one for one in readers if one.choice is not REFUSED]
    assert decide(HERE, state, heard, NOON, History(known, existed)).seed == decision.seed
    if not any(one.choice is WANTED for one in readers):
        assert decision == Decision()
    if decision.seed is not None:
        read = {ref.property for one in heard for ref in one.references if not ref.refusal and not ref.metadata}
        assert set(decision.seed.properties) <= read


@given(states, readers_)
def test_after_the_seed_nothing_is_left_to_seed(state: SecretState, readers: list[Reader]) -> None:
    made = decide(HERE, state, readers, NOON).seed
    if made is None or state.mount.kv == 1:
        return
    keys = (dict(state.subkeys or {}) if state.exists else {}) | dict.fromkeys(made.properties)
    after = replace(state, exists=True, version=state.version + 1, subkeys=keys)
    assert decide(HERE, after, readers, NOON).seed is None


@given(states, readers_)
def test_problems_are_reported_only_on_readers_that_request_seeding(state: SecretState, readers: list[Reader]) -> None:
    asked = {one.name for one in readers if one.choice is WANTED}
    assert {problem.reader for problem in decide(HERE, state, readers, NOON).problems} <= asked


CHOICES: list[tuple[str, dict[str, str], str | None, SeedMode, SeedChoice]] = [
    ("nobody said anything", {}, None, SeedMode.ANNOTATED, NOT_ASKED),
    ("the object asks", {"vaultsync.io/seed": "true"}, None, SeedMode.ANNOTATED, WANTED),
    ("the talk's annotation", {"create": "true"}, None, SeedMode.ANNOTATED, WANTED),
    ("the namespace asks", {}, "true", SeedMode.ANNOTATED, WANTED),
    ("the object opts out of its namespace", {"vaultsync.io/seed": "false"}, "true", SeedMode.ANNOTATED, REFUSED),
    ("the talk's opt-out", {"create": "false"}, "true", SeedMode.ANNOTATED, REFUSED),
    (
        "the object asks in a namespace that does not",
        {"vaultsync.io/seed": "true"},
        "false",
        SeedMode.ANNOTATED,
        WANTED,
    ),
    ("the namespace opts out", {}, "false", SeedMode.ALL, REFUSED),
    ("all are seeded", {}, None, SeedMode.ALL, WANTED),
    ("all but those that opt out", {"vaultsync.io/seed": "false"}, None, SeedMode.ALL, REFUSED),
    ("false always opts out", {"vaultsync.io/seed": "true", "create": "false"}, None, SeedMode.ANNOTATED, REFUSED),
    ("nothing is seeded", {"vaultsync.io/seed": "true"}, "true", SeedMode.OFF, REFUSED),
]


@pytest.mark.parametrize(
    ("case", "annotations", "of_namespace", "mode", "choice"), CHOICES, ids=[c[0] for c in CHOICES]
)
def test_which_objects_are_seeded(
    case: str, annotations: dict[str, str], of_namespace: str | None, mode: SeedMode, choice: SeedChoice
) -> None:
    found = seed_choice(external_secret("a", annotations=annotations), namespace(seed=of_namespace), mode)
    assert found == (choice, ""), case


@pytest.mark.parametrize("value", ["yes", "True", "", " true", "1", "x" * 500])
@pytest.mark.parametrize("annotation", ["vaultsync.io/seed", "create"])
def test_any_other_value_is_refused_and_reported(annotation: str, value: str) -> None:
    choice, problem = seed_choice(
        external_secret("a", annotations={annotation: value}), namespace(seed="true"), SeedMode.ALL
    )
    assert choice is REFUSED
    assert annotation in problem
    assert len(problem) < 200


def test_an_invalid_namespace_annotation_is_reported_on_objects_that_rely_on_it() -> None:
    choice, problem = seed_choice(external_secret("a"), namespace(seed="yes"), SeedMode.ANNOTATED)
    assert choice is REFUSED
    assert "Namespace dev-1" in problem


def test_an_invalid_namespace_annotation_is_not_reported_on_an_object_that_opted_out() -> None:
    opted_out = external_secret("a", annotations={"vaultsync.io/seed": "false"})
    assert seed_choice(opted_out, namespace(seed="yes"), SeedMode.ANNOTATED) == (REFUSED, "")


def test_without_its_namespace_nothing_is_seeded_yet() -> None:
    asked = external_secret("a", annotations={"vaultsync.io/seed": "true"})
    assert seed_choice(asked, None, SeedMode.ALL) == (REFUSED, "")
