"""generation/plan, also through core/decide: how each property of one write is generated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.build import NOON, gone, live, path, reader, reference
from vaultsync.core.annotation_parser import SeedChoice
from vaultsync.core.annotations import CreatedReason
from vaultsync.core.decide import Defaults, decide
from vaultsync.core.external_secret import ObjectName
from vaultsync.core.reader import Reader
from vaultsync.core.vault_state import SecretState
from vaultsync.generation.generate import generate
from vaultsync.generation.plan import Encoding, PropertyRequest, plan
from vaultsync.generation.rule_parser import parse_rules
from vaultsync.generation.rule_set import NO_RULES, Rules
from vaultsync.generation.rules import UuidRule, ValueRule

HERE = path("secret/data/a")
LOGIN = '{user: {value: app}, password: {format: uuid}, url: {template: "{{ .user }}:{{ .password }}"}}'
PAIR = "key: {format: ed25519, public: pub}"


def ruled(text: str, *properties: str, name: str = "app", whole: bool = False) -> Reader:
    references = [reference("", whole=True)] if whole else [reference(one) for one in properties]
    made = reader(*references, name=name)
    return Reader(made.name, made.choice, made.references, parse_rules(text))


def made(state: SecretState, *readers: Reader, defaults: Rules = NO_RULES) -> list[str]:
    seed = decide(HERE, state, readers, NOON, defaults=Defaults(defaults)).seed
    return seed.properties if seed else []


def reported(state: SecretState, *readers: Reader) -> list[tuple[str, str]]:
    return [(one.reader.name, one.message) for one in decide(HERE, state, readers, NOON).problems]


@pytest.mark.parametrize(
    ("case", "state", "readers", "expected"),
    [
        ("a template brings its parts", gone(), [ruled(LOGIN, "url")], ["password", "url", "user"]),
        ("a part alone brings no template", gone(), [ruled(LOGIN, "user")], ["user"]),
        (
            "who reads the whole gets all that the rules name",
            gone(),
            [ruled(LOGIN, whole=True)],
            ["password", "url", "user"],
        ),
        ("a public part brings the private one", gone(), [ruled(PAIR, "pub")], ["key", "pub"]),
        ("a private part brings the public one", gone(), [ruled(PAIR, "key")], ["key", "pub"]),
        ("a part that exists is not read", live("user"), [ruled(LOGIN, "url", "password")], ["password"]),
        ("half a pair is not made", live("key"), [ruled(PAIR, "pub")], []),
        (
            "a missing part of a template that exists is made",
            live("url", "user"),
            [ruled(LOGIN, "password")],
            ["password"],
        ),
        ("what rules name beyond what is read is left alone", live("x"), [ruled(LOGIN, "x")], []),
        (
            "who reads the whole gets what is missing of it",
            live("user"),
            [ruled("{user: {value: a}, p: {format: uuid}}", whole=True)],
            ["p"],
        ),
        ('"*" names no key', gone(), [ruled('"*": {format: uuid}', whole=True)], []),
        (
            "a half that another reads without a rule is made by the pair's",
            gone(),
            [ruled("{}", "key"), ruled(PAIR, "pub")],
            ["key", "pub"],
        ),
        (
            "a half that is no half to another",
            gone(),
            [ruled("key: {format: uuid}", "key"), ruled(PAIR, "pub")],
            ["key"],
        ),
    ],
)
def test_which_properties_are_made(case: str, state: SecretState, readers: list[Reader], expected: list[str]) -> None:
    assert made(state, *readers) == expected, case


@pytest.mark.parametrize(
    ("case", "state", "readers", "words"),
    [
        (
            "a template whose part exists",
            live("user", "password"),
            [ruled(LOGIN, "url")],
            ["'url'", "password, user", "delete the path"],
        ),
        ("half a pair", live("key"), [ruled(PAIR, "pub")], ["'pub'", "key"]),
        (
            "half a pair whose other half is something else to another",
            gone(),
            [ruled("pub: {format: uuid}", "pub", name="other"), ruled(PAIR, "key")],
            ["'key'", "'pub'", "another ExternalSecret"],
        ),
        ("the whole without names", gone(), [ruled('"*": {format: uuid}', whole=True)], ["vaultsync.io/generate"]),
    ],
)
def test_what_can_not_be_generated_is_reported(
    case: str, state: SecretState, readers: list[Reader], words: list[str]
) -> None:
    ((name, message),) = reported(state, *readers)
    assert name == "app", case
    assert message.startswith("spec.data[0].remoteRef: secret/a")
    assert all(word in message for word in words)


def test_the_older_rule_counts_and_the_younger_has_a_problem_until_they_are_equal() -> None:
    old, young = ruled("p: {value: old}", "p", name="old"), ruled("p: {value: young}", "p", name="young")
    for state in (gone(), live("p")):
        decision = decide(HERE, state, [old, young], NOON)
        (problem,) = decision.problems
        assert (problem.reader.name, problem.reason) == ("young", CreatedReason.ERROR_ANNOTATION)
        assert "dev-1/old" in problem.message
    seed = decide(HERE, gone(), [old, young], NOON).seed
    assert seed is not None
    assert seed.plan["p"].rule == ValueRule(value="old")
    assert not reported(gone(), old, ruled("p: {value: old}", "p", name="young"))


def test_a_rule_goes_before_none_however_young_it_is() -> None:
    seed = decide(
        HERE, gone(), [reader(reference("p"), name="old"), ruled("p: {value: x}", "p", name="young")], NOON
    ).seed
    assert seed is not None
    assert seed.plan["p"].rule == ValueRule(value="x")


def test_own_rules_go_before_the_cluster_wide_ones() -> None:
    defaults = parse_rules('{p: {value: cluster}, "*": {format: uuid}}')
    seed = decide(HERE, gone(), [ruled("p: {value: own}", "p", "q")], NOON, defaults=Defaults(defaults)).seed
    assert seed is not None
    assert seed.plan["p"].rule == ValueRule(value="own")
    assert isinstance(seed.plan["q"].rule, UuidRule)


def test_a_reader_that_was_refused_has_no_say_in_rules() -> None:
    refused = Reader(ObjectName("dev-1", "old"), SeedChoice.REFUSED, (reference("p"),), parse_rules("p: {value: bad}"))
    seed = decide(HERE, gone(), [refused, ruled("p: {value: good}", "p")], NOON).seed
    assert seed is not None
    assert seed.plan["p"].rule == ValueRule(value="good")


def test_what_one_reader_decodes_is_encoded_for_all() -> None:
    plain, encoded = reader(reference("p"), name="a"), reader(reference("p", encoding=Encoding.BASE64), name="b")
    seed = decide(HERE, gone(), [plain, encoded], NOON).seed
    assert seed is not None
    assert seed.plan["p"].encoding is Encoding.BASE64


def test_templates_of_two_objects_that_use_each_other_are_reported_and_the_rest_is_generated_whole() -> None:
    one = ruled('{a: {template: "{{ .b }}"}, key: {format: ed25519, public: pub}}', "a", "key", name="one")
    other = ruled('b: {template: "{{ .a }}"}', "b", name="other")
    assert made(gone(), one, other) == ["key", "pub"], "both halves, though nobody reads the public one"
    assert {(name, "circle" in message) for name, message in reported(gone(), one, other)} == {
        ("one", True),
        ("other", True),
    }


rule_texts = st.sampled_from([LOGIN, PAIR, "{}", 'user: {template: "{{ .x }}"}', '"*": {format: uuid}'])
names_ = st.sampled_from(["user", "password", "url", "key", "pub", "x"])
requests_ = st.lists(
    st.builds(
        lambda name, text, who: PropertyRequest(f"dev-1/{who}", "spec", name, rules=parse_rules(text)),
        names_,
        rule_texts,
        st.sampled_from(["a", "b"]),
    ),
    max_size=5,
)


@given(requests_, st.frozensets(names_), st.frozensets(names_))
def test_whatever_is_requested_can_be_made(
    requests: list[PropertyRequest], missing: frozenset[str], present: frozenset[str]
) -> None:
    missing = (missing & {request.property for request in requests}) - present
    planned = plan(requests, missing, present, NO_RULES)
    assert not planned.properties.keys() & present, "what exists is never made"
    assert missing <= planned.properties.keys() | planned.impossible.keys()
    values = generate({name: one.rule for name, one in planned.properties.items()}, {})
    assert values.keys() == planned.properties.keys()
