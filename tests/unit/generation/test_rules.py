"""generation/rules and rule_parser: valid annotations, their meaning, and the errors of invalid ones."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vaultsync.generation.rule_parser import MAX_ANNOTATION_BYTES, parse_rules
from vaultsync.generation.rule_set import NO_RULES, Rules
from vaultsync.generation.rules import (
    DEFAULT_RULE,
    MAX_TEXT,
    QUOTED,
    BytesRule,
    KeyPairRule,
    PasswordPolicyRule,
    PasswordRule,
    Piece,
    PublicPartRule,
    Rule,
    RuleError,
    TemplateRule,
    UuidRule,
    ValueRule,
)

FORMATS = "password, hex, base64, base64url, uuid, policy, rsa, ed25519"
SUCH_AS = "such as password: {format: password, length: 40}"
ONE_OF = f"it must have exactly one of them, {SUCH_AS}"
KINDS_OF_REST = '"*" may be password, hex, base64, base64url, uuid or policy'
PASSWORD_FIELDS = "format, length, exclude, symbols, digits"
BRACES = "only {{ .name }} and {{ .name | urlquery }} are"
QUOTES = 'put "*" and text with signs in quotes'
LOWER, UPPER = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONG = "n" * 254


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{format: password}", PasswordRule(length=32, symbols="", digits=1, exclude="")),
        (
            '{format: password, length: 40, symbols: "!#%+", digits: 4, exclude: "O0Il"}',
            PasswordRule(length=40, symbols="!#%+", digits=4, exclude="O0Il"),
        ),
        ("{format: password, digits: 0, exclude: '0123456789'}", PasswordRule(digits=0, exclude="0123456789")),
        ("{format: password, length: 8, digits: 5, symbols: '-'}", PasswordRule(length=8, digits=5, symbols="-")),
        ("{format: password, length: 1024}", PasswordRule(length=1024)),
        ("{format: hex}", BytesRule(format="hex", bytes=32)),
        ("{format: base64, bytes: 16}", BytesRule(format="base64", bytes=16)),
        ("{format: base64url, bytes: 1024}", BytesRule(format="base64url", bytes=1024)),
        ("{format: uuid}", UuidRule()),
        ("{format: policy, name: ops.team-1_b}", PasswordPolicyRule(name="ops.team-1_b")),
        ("{value: postgres}", ValueRule(value="postgres")),
        ('{value: "yes"}', ValueRule(value="yes")),
        ("{format: rsa}", KeyPairRule(format="rsa", bits=3072, public="p_public", encoding="pem")),
        (
            "{format: rsa, bits: 4096, public: q, encoding: openssh}",
            KeyPairRule(format="rsa", bits=4096, public="q", encoding="openssh"),
        ),
        ("{format: ed25519}", KeyPairRule(format="ed25519", bits=None, public="p_public", encoding="pem")),
        ('{template: "x{{ .a }}{}}}{{.b-c.d|urlquery}}"}', TemplateRule(template="x{{.a}}{}}}{{ .b-c.d | urlquery }}")),
    ],
)
def test_a_rule_is_read(text: str, expected: Rule) -> None:
    assert parse_rules(f"p: {text}").rule_for("p") == expected


@pytest.mark.parametrize("text", ["", " \n ", "# nothing", "null", "{}"])
def test_nothing_is_no_rules(text: str) -> None:
    assert parse_rules(text) == NO_RULES
    assert parse_rules(text).is_empty


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        # what a rule is
        ("hunter2", f"p: the rule is text; it must be a mapping, {SUCH_AS}"),
        ("", f"p: the rule is empty; it must be a mapping, {SUCH_AS}"),
        ("[1]", f"p: the rule is a list; it must be a mapping, {SUCH_AS}"),
        ("{}", f"p: the rule has none of format, value and template; {ONE_OF}"),
        ("{length: 40}", f"p: the rule has none of format, value and template; {ONE_OF}"),
        ("{format: hex, value: x}", f"p: the rule has format and value; {ONE_OF}"),
        ("{value: x, template: x}", f"p: the rule has value and template; {ONE_OF}"),
        ("{format: md5}", f'p.format: "md5" is not a format; the formats are {FORMATS}'),
        ("{format: Hex}", f'p.format: "Hex" is not a format; the formats are {FORMATS}'),
        (f"{{format: {'h' * 50}}}", f'p.format: "{"h" * 39}…" is not a format; the formats are {FORMATS}'),
        ("{format: 5}", f"p.format: a number is not a format; the formats are {FORMATS}"),
        ("{format: [hex]}", f"p.format: a list is not a format; the formats are {FORMATS}"),
        ("{format: }", f"p.format: empty is not a format; the formats are {FORMATS}"),
        ("{format: public, private: x}", f'p.format: "public" is not a format; the formats are {FORMATS}'),
        # fields
        ("{format: password, size: 40}", f"p.size: there is no such field here; the fields are {PASSWORD_FIELDS}"),
        ("{format: uuid, bytes: 16}", "p.bytes: there is no such field here; the fields are format"),
        ("{value: x, length: 1}", "p.length: there is no such field here; the fields are value"),
        (
            f"{{value: x, {'l' * 50}: 1}}",
            f"p.{'l' * 39}…: there is no such field here; the fields are value",
        ),
        ("{format: policy}", "p.name: is missing; it must be given"),
        # types
        (
            '{format: password, length: "40"}',
            "p.length: must be a whole number, and is text; write it without quotes",
        ),
        ("{format: password, length: 40.0}", "p.length: must be a whole number, and is a number with a fraction"),
        ("{format: password, length: yes}", "p.length: must be a whole number, and is a boolean"),
        ("{format: password, length: }", "p.length: must be a whole number, and is empty"),
        ("{format: hex, bytes: [32]}", "p.bytes: must be a whole number, and is a list"),
        ("{format: hex, bytes: {}}", "p.bytes: must be a whole number, and is a mapping"),
        ("{value: yes}", "p.value: must be text, and is a boolean; put it in quotes"),
        ("{value: 5}", "p.value: must be text, and is a number; put it in quotes"),
        ("{value: 1.5}", "p.value: must be text, and is a number with a fraction; put it in quotes"),
        ("{value: }", "p.value: must be text, and is empty"),
        ("{format: password, exclude: 0}", "p.exclude: must be text, and is a number; put it in quotes"),
        ("{format: rsa, bits: '3072'}", "p.bits: must be a whole number, and is text; write it without quotes"),
        # passwords
        ("{format: password, length: 4}", "p.length: 4 is too short; it must be from 8 to 1024"),
        ("{format: password, length: 1025}", "p.length: 1025 is too long; it must be from 8 to 1024"),
        ("{format: password, length: -1}", "p.length: -1 is too short; it must be from 8 to 1024"),
        ("{format: password, digits: -1}", "p.digits: -1 is too few; it must be from 0 to 1024"),
        ("{format: password, digits: 1025}", "p.digits: 1025 is too many; it must be from 0 to 1024"),
        (
            "{format: password, length: 8, digits: 7}",
            "p.digits: 7 and at least two letters don't fit into 8 characters; at most 6 do",
        ),
        (
            "{format: password, length: 8, digits: 6, symbols: '-'}",
            "p.digits: 6 and at least two letters and a symbol don't fit into 8 characters; at most 5 do",
        ),
        (
            "{format: password, exclude: '0123456789'}",
            "p.digits: 1 is not possible, as exclude leaves no digit; leave one, or set digits: 0",
        ),
        (
            f"{{format: password, exclude: {LOWER}}}",
            "p.exclude: leaves no lower case letter; at least one must remain",
        ),
        (
            f"{{format: password, exclude: {UPPER}}}",
            "p.exclude: leaves no upper case letter; at least one must remain",
        ),
        (
            "{format: password, exclude: 'é'}",
            "p.exclude: must consist of ASCII letters, digits and punctuation",
        ),
        (
            "{format: password, symbols: '!?', exclude: '?!'}",
            'p.symbols: exclude leaves none of them; leave one, or set symbols: ""',
        ),
        *(
            (
                f"{{format: password, symbols: {json.dumps(symbols)}}}",
                "p.symbols: must consist of ASCII punctuation: !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
            )
            for symbols in ("a", "!0", "Z", " ", "é", "\n", "\x7f")
        ),
        # bytes, policies, values
        ("{format: hex, bytes: 15}", "p.bytes: 15 is too few; it must be from 16 to 1024"),
        ("{format: base64, bytes: 1025}", "p.bytes: 1025 is too many; it must be from 16 to 1024"),
        *(
            (
                f"{{format: policy, name: {json.dumps(name)}}}",
                "p.name: must be the name of a password policy in Vault: 1 to 128 letters, digits, _, - and ., "
                "with neither - nor . at an end",
            )
            for name in ("", "..", "a/b", "-a", "a.", "a b", "é", "a\n", "a" * 129)
        ),
        ('{value: ""}', "p.value: must not be empty"),
        (f"{{value: {'v' * 4097}}}", "p.value: has 4097 characters; at most 4096 are allowed"),
        # key pairs
        ("{format: rsa, bits: 1024}", "p.bits: 1024 is not one of 2048, 3072, 4096"),
        ("{format: rsa, bits: }", "p.bits: empty is not one of 2048, 3072, 4096"),
        ("{format: ed25519, bits: 2048}", "p.bits: only an rsa key has bits; leave it out for ed25519"),
        ("{format: rsa, encoding: der}", "p.encoding: \"der\" is not allowed here; it must be 'pem' or 'openssh'"),
        ("{format: rsa, encoding: 5}", "p.encoding: a number is not allowed here; it must be 'pem' or 'openssh'"),
        ('{format: rsa, public: "*"}', 'p.public: must be the name of one property, not "*"'),
        ('{format: rsa, public: ""}', "p.public: a property's name must not be empty"),
        ('{format: rsa, public: "a\\n"}', "p.public: a property's name must not hold control characters"),
        ("{format: rsa, public: 1}", "p.public: must be text, and is a number; put it in quotes"),
        ("{format: rsa, public: p}", "p.public: p already has a rule of its own; name another property"),
        (
            f"{{format: rsa, public: {LONG}}}",
            "p.public: a property's name of 254 characters is too long; at most 253 are allowed",
        ),
        # templates
        ('{template: ""}', "p.template: must not be empty"),
        (f"{{template: {'v' * 4097}}}", "p.template: has 4097 characters; at most 4096 are allowed"),
        *(
            (f'{{template: "a{reference}b"}}', f"p.template: {reference} is not supported; {BRACES}")
            for reference in (
                "{{ name }}",
                "{{ . }}",
                "{{}}",
                "{{- .a }}",
                "{{ .a | b64enc }}",
                "{{ .a | urlquery | urlquery }}",
                "{{ .a .b }}",
                "{{{ .a }}",
                "{{ .ä }}",
                "{{ index . 'a' }}",
            )
        ),
        ('{template: "{{ .a }}{{ .b"}', f"p.template: {{{{ .b is not supported; {BRACES}"),
        ('{template: "{{\\n.b}}"}', f"p.template: {{{{\\n.b}}}} is not supported; {BRACES}"),
        (
            f'{{template: "{{{{ .{"b" * 50} }}"}}',
            f"p.template: {{{{ .{'b' * 35}… is not supported; {BRACES}",
        ),
        (
            "{template: plain}",
            "p.template: has no {{ .name }}; write a fixed text as value (does Helm replace {{ }} here?)",
        ),
        (
            f'{{template: "{{{{.{LONG}}}}}"}}',
            "p.template: a property's name of 254 characters is too long; at most 253 are allowed",
        ),
        ('{template: "{{ .p }}"}', "templates use each other in a circle: p → p; remove one of these references"),
        # YAML that is no JSON
        ("{value: 0x20}", "line 1: 0x20 must be a plain decimal number, or in quotes if it is text"),
        ("{value: 010}", "line 1: 010 must be a plain decimal number, or in quotes if it is text"),
        ("{value: 1:30}", "line 1: 1:30 must be a plain decimal number, or in quotes if it is text"),
        (
            f"{{value: {'9' * 5000}}}",
            f"line 1: {'9' * 39}… must be a plain decimal number, or in quotes if it is text",
        ),
        ("{value: 2001-01-01}", "line 1: 2001-01-01 is neither plain text nor a number to YAML; put it in quotes"),
        ("{value: =}", "line 1: = is neither plain text nor a number to YAML; put it in quotes"),
        ("{value: !!binary eA==}", "line 1: eA== is neither plain text nor a number to YAML; put it in quotes"),
        ("{value: !x y}", "line 1: y is neither plain text nor a number to YAML; put it in quotes"),
        ("{<<: {value: x}}", "line 1: << is neither plain text nor a number to YAML; put it in quotes"),
        ("&a {value: x}", "line 1: anchors (&) and aliases (*) are not allowed; repeat the text"),
        ("*a", "line 1: anchors (&) and aliases (*) are not allowed; repeat the text"),
        ("{value: x, value: x}", 'line 1: "value" is there twice; keep one of them'),
        ("{5: x}", "line 1: a name must be text, and is a number; put it in quotes"),
        ("{on: x}", "line 1: a name must be text, and is a boolean; put it in quotes"),
        ("{~: x}", "line 1: a name must be text, and is empty; put it in quotes"),
        ("{? [a] : x}", "line 1: a name must be text, and is a list; put it in quotes"),
        ('{value: "\\ud800"}', "it contains half a surrogate pair; write the character itself"),
    ],
)
def test_a_rule_is_refused(rule: str, message: str) -> None:
    with pytest.raises(RuleError) as refusal:
        parse_rules(f"p: {rule}")
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secret", "it is text; it must be a mapping of properties to rules, " + SUCH_AS),
        ("[]", "it is a list; it must be a mapping of properties to rules, " + SUCH_AS),
        ("5", "it is a number; it must be a mapping of properties to rules, " + SUCH_AS),
        ("[" * 16000, "it is nested too deeply; it must be a mapping of properties to rules, " + SUCH_AS),
        ("- " * 8000, "it is nested too deeply; it must be a mapping of properties to rules, " + SUCH_AS),
        ('{"a":' * 3000 + "1" + "}" * 3000, f"it has 18001 bytes; at most {MAX_ANNOTATION_BYTES} are allowed"),
        ("#" + "é" * 8192, f"it has 16385 bytes; at most {MAX_ANNOTATION_BYTES} are allowed"),
        ('"": {format: hex}', '"": a property\'s name must not be empty'),
        ('"a\\tb": {format: hex}', '"a\\tb": a property\'s name must not hold control characters'),
        ('"a\\x85b": {format: hex}', '"a\\x85b": a property\'s name must not hold control characters'),
        (
            f"{LONG}: {{format: hex}}",
            f'"{"n" * 39}…": a property\'s name of 254 characters is too long; at most 253 are allowed',
        ),
        (f"{'n' * 253}: {{format: x}}", f'{"n" * 39}….format: "x" is not a format; the formats are {FORMATS}'),
        (
            '{"a": {"format": "hex"}, "a": {"format": "hex"}}',
            '"a" is there twice; keep one of them',
        ),
        ("a: {format: hex}\nb: {format: hex}\na: {}", 'line 1: "a" is there twice; keep one of them'),
        ("a: b: c", f"line 1: it is not valid YAML: mapping values are not allowed here; {QUOTES}"),
        (
            "*: {format: hex}",
            f"line 1: it is not valid YAML: expected alphabetic or numeric character, but found ':'; {QUOTES}",
        ),
        (
            "a: {format: hex}\n---\nb: {format: hex}",
            f"line 2: it is not valid YAML: but found another document; {QUOTES}",
        ),
        (
            f"a: !{'t' * 90}!x y",
            f"line 1: it is not valid YAML: found undefined tag handle '!{'t' * 31}; {QUOTES}",
        ),
        ("a: \x00", "it is not valid YAML: it contains a character or an escape that is not allowed"),
        ('a: "\\UFFFFFFFF"', "it is not valid YAML: it contains a character or an escape that is not allowed"),
        (
            '"*": {format: rsa}',
            f'"*": a key pair needs properties of its own for its two parts; {KINDS_OF_REST}',
        ),
        (
            '"*": {template: "{{ .a }}"}',
            f'"*": a template would use itself, or all properties would be the same text; {KINDS_OF_REST}',
        ),
        (
            '"*": {value: a}',
            f'"*": all remaining properties would have the same fixed value, which is not secret; {KINDS_OF_REST}',
        ),
        ('"*": {format: md5}', f'"*".format: "md5" is not a format; the formats are {FORMATS}'),
        (
            "a: {format: rsa, public: b}\nb: {format: hex}",
            "a.public: b already has a rule of its own; name another property",
        ),
        (
            "a: {format: rsa, public: c}\nb: {format: ed25519, public: c}",
            "b.public: c already has the public part of a; name another property",
        ),
        (
            'a: {template: "{{.b}}"}\nb: {template: "{{.c}}"}\nc: {template: "{{.a}}"}',
            "templates use each other in a circle: a → b → c → a; remove one of these references",
        ),
        (
            "\n".join(f'{name}: {{template: "{{{{.{used}}}}}"}}' for name, used in ("ab", "bc", "cd", "de", "ef")),
            "a.template: uses templates that use templates, 5 deep; at most 4 are allowed",
        ),
        (
            "\n".join(f"a{number}: {{format: hex}}" for number in range(65)),
            "there are 65 properties, including public parts and those that templates use; at most 64 are allowed",
        ),
        (
            "a: {template: '" + "".join(f"{{{{.a{number}}}}}" for number in range(64)) + "'}",
            "there are 65 properties, including public parts and those that templates use; at most 64 are allowed",
        ),
        (
            "\n".join(f"a{number}: {{format: rsa}}" for number in range(9)),
            "there are 9 key pairs; at most 8 are allowed",
        ),
        ("[" + "a," * 8000 + "]", "it has too many elements; at most 64 properties are allowed"),
    ],
)
def test_an_annotation_is_refused(text: str, message: str) -> None:
    with pytest.raises(RuleError) as refusal:
        parse_rules(text)
    assert str(refusal.value) == message


def test_the_limits_themselves_are_allowed() -> None:
    parse_rules("\n".join(f"a{number}: {{format: hex}}" for number in range(64)))
    parse_rules("\n".join(f"a{number}: {{format: rsa}}" for number in range(8)))
    parse_rules(f"{'n' * 253}: {{value: {'v' * MAX_TEXT}}}")
    parse_rules("\n".join(f'{a}: {{template: "{{{{.{b}}}}}"}}' for a, b in ("ab", "bc", "cd", "de")))
    blank = "#" + "a" * (MAX_ANNOTATION_BYTES - 1)
    assert parse_rules(blank) == NO_RULES


RULES = parse_rules(
    """
    dsn: {template: "postgres://{{ .user }}:{{ .password | urlquery }}@db/{{ .name }}"}
    all: {template: "{{ .dsn }}{{ .key_pub }}"}
    user: {value: app}
    password: {format: password}
    key: {format: ed25519, public: key_pub}
    "*": {format: base64}
    """
)


def test_the_rule_of_a_property() -> None:
    assert RULES.named == ("all", "dsn", "key", "key_pub", "password", "user")
    assert RULES.rule_for("password") == PasswordRule()
    assert RULES.rule_for("key_pub") == PublicPartRule(private="key")
    assert RULES.rule_for("other") == RULES.rule_for("*") == BytesRule(format="base64")
    assert parse_rules("a: {format: uuid}").rule_for("b") is None
    assert NO_RULES.rule_for("a") is None
    assert BytesRule(format="hex", bytes=32) == DEFAULT_RULE


@pytest.mark.parametrize(
    ("name", "siblings"),
    [
        ("user", set()),
        ("other", set()),
        ("dsn", {"user", "password", "name"}),
        ("key", {"key_pub"}),
        ("key_pub", {"key"}),
        ("all", {"dsn", "user", "password", "name", "key", "key_pub"}),
    ],
)
def test_siblings_are_made_in_the_same_write(name: str, siblings: set[str]) -> None:
    assert RULES.siblings(name) == siblings


def test_the_pieces_of_a_template() -> None:
    rule = TemplateRule(template='{"a": {"b": "{{ .x }}"}}{{.y-1.z|urlquery}}')
    assert rule.pieces == (
        Piece('{"a": {"b": "', "x", False),
        Piece('"}}', "y-1.z", True),
        Piece("", "", False),
    )
    assert rule.uses == {"x", "y-1.z"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a: {format: hex}", "a: {format: hex, bytes: 32}"),
        ("a: {format: rsa}", "a: {encoding: pem, bits: 3072, public: a_public, format: rsa}"),
        ("a: {format: password, symbols: '!#!', exclude: aba}", "a: {format: password, symbols: '#!', exclude: ba}"),
        ("a: {format: password, symbols: '!#', exclude: '#'}", "a: {format: password, symbols: '!', exclude: '#'}"),
        ("a: {template: '{{.b}}'}", "a: {template: '{{   .b }}'}"),
        ("a: {template: '{{.b|urlquery}}'}", "a: {template: '{{ .b | urlquery }}'}"),
        ("a: {format: uuid}\nb: {format: hex}", "b: {format: hex}\na: {format: uuid}"),
        ('"*": {format: uuid}', '{"*": {"format": "uuid"}}'),
        ('a: {value: "\U0001f600"}', '{\n\t"a": {"value": "\\ud83d\\ude00"}}'),
    ],
)
def test_the_same_meaning_compares_equal(one: str, other: str) -> None:
    assert parse_rules(one) == parse_rules(other)
    assert hash(parse_rules(one)) == hash(parse_rules(other))
    assert parse_rules(one) != parse_rules("c: {value: x}")


@pytest.mark.parametrize(
    ("own", "defaults", "expected"),
    [
        ("", "a: {format: uuid}", "a: {format: uuid}"),
        ("a: {format: uuid}", "", "a: {format: uuid}"),
        ("a: {value: x}", "a: {value: y}\nb: {value: z}", "a: {value: x}\nb: {value: z}"),
        ('"*": {format: uuid}', 'a: {value: y}\n"*": {format: hex}', '"*": {format: uuid}'),
        ("a: {value: x}", '"*": {format: uuid}', 'a: {value: x}\n"*": {format: uuid}'),
        # a key pair is replaced with both its parts, and a public part has precedence too
        ("a: {value: x}", "a: {format: rsa}", "a: {value: x}"),
        ("a: {format: rsa}", "a_public: {value: x}", "a: {format: rsa}"),
    ],
)
def test_own_rules_come_before_the_defaults(own: str, defaults: str, expected: str) -> None:
    assert parse_rules(own).over(parse_rules(defaults)) == parse_rules(expected)


@pytest.mark.parametrize(
    ("own", "defaults", "message"),
    [
        (
            "a: {template: '{{.b}}'}",
            "b: {template: '{{.a}}'}",
            "templates use each other in a circle: a → b → a; remove one of these references",
        ),
        (
            "a_public: {value: x}",
            "a: {format: rsa}",
            "a.public: a_public already has a rule of its own; name another property",
        ),
    ],
)
def test_defaults_that_contradict_are_refused(own: str, defaults: str, message: str) -> None:
    with pytest.raises(RuleError) as refusal:
        parse_rules(own).over(parse_rules(defaults))
    assert str(refusal.value) == message


words = st.sampled_from(
    [
        "a",
        "b",
        "*",
        "format",
        "password",
        "length",
        "value",
        "template",
        "{{.a}}",
        "public",
        "rsa",
        "bits",
        "hex",
        "name",
    ]
)
trees: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | words | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
almost_rules = st.dictionaries(
    words, st.dictionaries(words, words | st.integers(0, 5000) | trees, max_size=4), max_size=4
)
SIGNS = "a : - { } [ ] , &a *a ! !!int !!bool !!float ' \" \\U \\x | > ? %YAML %TAG --- << 0x _ 1 . e # ~ yes FFFFFFFF"
marks = st.lists(st.sampled_from([*SIGNS.split(), " ", "\n", "\t"]), max_size=30).map("".join)


def parse_or_refuse(text: str) -> Rules | None:
    try:
        return parse_rules(text)
    except RuleError as refusal:
        message = str(refusal)
    assert message.isprintable()
    return None


@given(st.text() | marks | st.text(st.characters()))
def test_any_text_is_read_or_refused(text: str) -> None:
    parse_or_refuse(text)


@given(trees | almost_rules)
def test_any_structure_is_read_or_refused_alike_as_yaml_and_json(tree: object) -> None:
    from_yaml = parse_or_refuse(yaml.safe_dump(tree, allow_unicode=True))
    try:
        as_json = json.dumps(tree)
    except TypeError:
        return  # dates
    assert parse_or_refuse(as_json) == from_yaml


@given(
    st.text("xyz", min_size=QUOTED + 1, max_size=300),
    st.sampled_from(["{}: 5", "a: {{format: {}}}", "a: {{{}: 5, value: a}}"]),
)
def test_little_of_the_input_is_quoted(text: str, frame: str) -> None:
    with pytest.raises(RuleError) as refusal:
        parse_rules(frame.format(text))
    assert text[:QUOTED] not in str(refusal.value)
