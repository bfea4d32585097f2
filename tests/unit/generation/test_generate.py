"""generation/generate: values satisfy their rules, are evenly distributed, and are never shown."""

import base64
import math
import re
import string
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from vaultsync.generation.generate import MAX_RESULT, encode, generate
from vaultsync.generation.plan import Encoding
from vaultsync.generation.rules import (
    DEFAULT_RULE,
    BytesRule,
    KeyPairRule,
    PasswordPolicyRule,
    PasswordRule,
    PublicPartRule,
    Rule,
    RuleError,
    TemplateRule,
    UuidRule,
    ValueRule,
)

Shares: TypeAlias = Mapping[Any, float]
"""The part of all that each character, or byte, must have."""

LETTERS, DIGITS = string.ascii_letters, string.digits


def made(rule: Rule) -> str:
    return generate({"p": rule}, {})["p"].get_secret_value()


def plain(wanted: Mapping[str, Rule], fetched: Mapping[str, str] | None = None) -> dict[str, str]:
    secret = {name: SecretStr(value) for name, value in (fetched or {}).items()}
    return {name: value.get_secret_value() for name, value in generate(wanted, secret).items()}


@st.composite
def passwords(draw: st.DrawFn) -> PasswordRule:
    exclude = draw(st.sets(st.sampled_from(LETTERS[1:25] + LETTERS[27:] + DIGITS[:9] + "!#"), max_size=40))
    symbols = draw(st.sets(st.sampled_from(string.punctuation), max_size=8))
    symbols |= set("$") if symbols and not symbols - exclude else set()
    length = draw(st.integers(8, 80) | st.just(1024))
    most = length - 2 - bool(symbols)
    digits = draw(st.integers(0, most) | st.just(most))
    return PasswordRule(length=length, digits=digits, exclude="".join(exclude), symbols="".join(symbols))


@given(passwords())
def test_a_password_satisfies_its_rule(rule: PasswordRule) -> None:
    password = made(rule)
    assert len(password) == rule.length
    assert re.search("[a-z]", password)
    assert re.search("[A-Z]", password)
    assert sum(char in DIGITS for char in password) >= rule.digits
    assert not set(password) & set(rule.exclude)
    assert not set(password) - set(LETTERS + DIGITS + rule.symbols)
    assert not rule.symbols or set(password) & set(rule.symbols)


@given(st.integers(16, 1024))
def test_bytes_decode_to_that_many(number: int) -> None:
    hexadecimal = made(BytesRule(format="hex", bytes=number))
    assert hexadecimal == hexadecimal.lower()
    assert len(bytes.fromhex(hexadecimal)) == number
    standard, url = made(BytesRule(format="base64", bytes=number)), made(BytesRule(format="base64url", bytes=number))
    assert len(base64.b64decode(standard, validate=True)) == number
    assert len(base64.b64decode(url, altchars=b"-_", validate=True)) == number  # refuses a lack of padding


def test_a_uuid_is_a_random_one() -> None:
    found = uuid.UUID(made(UuidRule()))
    assert (found.version, found.variant) == (4, uuid.RFC_4122)


def test_what_is_given_is_taken() -> None:
    wanted: dict[str, Rule] = {"user": ValueRule(value="postgres"), "password": PasswordPolicyRule(name="ops")}
    assert plain(wanted, {"password": "from Vault", "other": "x"}) == {"user": "postgres", "password": "from Vault"}


def test_no_value_comes_twice() -> None:
    rules: list[Rule] = [DEFAULT_RULE, BytesRule(format="base64", bytes=16), UuidRule(), PasswordRule(length=20)]
    for rule in rules:
        values = plain({f"p{number}": rule for number in range(300)})
        assert len(set(values.values())) == 300


# key pairs


def pair(rule: KeyPairRule) -> tuple[str, str]:
    values = plain({rule.public: PublicPartRule(private="key"), "key": rule})
    assert list(values) == [rule.public, "key"]
    return values["key"], values[rule.public]


def loaded(private: str, public: str, encoding: str) -> tuple[object, object]:
    if encoding == "pem":
        assert private.startswith("-----BEGIN PRIVATE KEY-----\n")
        assert public.startswith("-----BEGIN PUBLIC KEY-----\n")
        key = serialization.load_pem_private_key(private.encode(), None)
        return key, serialization.load_pem_public_key(public.encode())
    assert private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert re.fullmatch(r"ssh-(rsa|ed25519) [A-Za-z0-9+/]+=*", public)
    return serialization.load_ssh_private_key(private.encode(), None), serialization.load_ssh_public_key(
        public.encode()
    )


@pytest.mark.parametrize("encoding", ["pem", "openssh"])
def test_an_ed25519_pair_matches(encoding: str) -> None:
    rule = KeyPairRule.model_validate({"format": "ed25519", "public": "pub", "encoding": encoding})
    private, public = loaded(*pair(rule), encoding)
    assert isinstance(private, ed25519.Ed25519PrivateKey)
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(private.sign(b"x"), b"x")


@pytest.mark.parametrize("encoding", ["pem", "openssh"])
def test_an_rsa_pair_matches(encoding: str) -> None:
    rule = KeyPairRule.model_validate({"format": "rsa", "bits": 2048, "public": "pub", "encoding": encoding})
    private, public = loaded(*pair(rule), encoding)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert isinstance(public, rsa.RSAPublicKey)
    assert (private.key_size, public.public_numbers().e) == (2048, 65537)
    public.verify(private.sign(b"x", padding.PKCS1v15(), hashes.SHA256()), b"x", padding.PKCS1v15(), hashes.SHA256())


# templates


def test_a_template_holds_its_siblings() -> None:
    values = plain(
        {
            "outer": TemplateRule(template="<{{.dsn}}|{{.pub}}>"),
            "dsn": TemplateRule(template="postgres://{{ .user }}:{{ .password | urlquery }}@db/{{.user}}"),
            "user": ValueRule(value="a b"),
            "password": PasswordRule(symbols="%/+", length=64),
            "key": KeyPairRule(format="ed25519", public="pub", encoding="openssh"),
            "pub": PublicPartRule(private="key"),
        }
    )
    assert list(values) == ["outer", "dsn", "user", "password", "key", "pub"]
    assert values["dsn"] == f"postgres://a b:{quote(values['password'], safe='')}@db/a b"
    assert values["outer"] == f"<{values['dsn']}|{values['pub']}>"


texts = st.text(min_size=1, max_size=20).filter(lambda text: "{" not in text)


@given(
    st.lists(st.tuples(texts, st.sampled_from("abc"), st.booleans()), min_size=1, max_size=6), st.tuples(*[texts] * 3)
)
def test_a_template_equals_substitution_by_hand(
    parts: Sequence[tuple[str, str, bool]], values: tuple[str, str, str]
) -> None:
    known = dict(zip("abc", values, strict=True))
    template = "".join(f"{text}{{{{ .{name} {'| urlquery' if url else ''}}}}}" for text, name, url in parts)
    expected = "".join(text + (quote(known[name], safe="") if url else known[name]) for text, name, url in parts)
    wanted: dict[str, Rule] = {name: ValueRule(value=value) for name, value in known.items()}
    assert plain({"t": TemplateRule(template=template)} | wanted)["t"] == expected


@given(texts)
def test_urlquery_leaves_only_what_urls_leave_alone(text: str) -> None:
    found = plain({"t": TemplateRule(template="{{ .a | urlquery }}"), "a": ValueRule(value=text)})["t"]
    assert re.fullmatch(r"([A-Za-z0-9._~-]|%[0-9A-F]{2})+", found)
    assert unquote(found) == text


# what shows only here


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"t": TemplateRule(template="{{.b}}{{.a}}")},
            "t.template: a is not generated in the same write, so its value is not known",
        ),
        (
            {"p": PublicPartRule(private="key")},
            "p: it is half of a key pair, and the other half, key, is not generated in the same write",
        ),
        (
            {"p": PublicPartRule(private="key"), "key": DEFAULT_RULE},
            "p: it is half of a key pair, and the other half, key, is not generated in the same write",
        ),
        (
            {"key": KeyPairRule(format="ed25519", public="p")},
            "key: it is half of a key pair, and the other half, p, is not generated in the same write",
        ),
        (
            {"key": KeyPairRule(format="ed25519", public="p"), "p": PublicPartRule(private="other")},
            "key: it is half of a key pair, and the other half, p, is not generated in the same write",
        ),
        (
            {"p": PasswordPolicyRule(name="ops")},
            "p: a password of the policy ops must be fetched from Vault first",
        ),
        (
            {"a": TemplateRule(template="{{.b}}"), "b": TemplateRule(template="{{.a}}")},
            "templates use each other in a circle: a → b → a; remove one of these references",
        ),
        (
            {"t": TemplateRule(template="{{.a}}" * 33), "a": BytesRule(format="hex", bytes=1000)},
            f"t.template: its result is longer than {MAX_RESULT} bytes; use fewer or shorter values",
        ),
    ],
)
def test_what_can_not_be_made_is_refused(wanted: dict[str, Rule], message: str) -> None:
    with pytest.raises(RuleError) as refusal:
        generate(wanted, {"other": SecretStr("x")})
    assert str(refusal.value) == message


def test_templates_of_templates_do_not_explode() -> None:
    wanted: dict[str, Rule] = {"a": BytesRule(format="hex", bytes=1024)}
    for name, used in ("ba", "cb", "dc"):
        wanted[name] = TemplateRule(template=f"{{{{.{used}}}}}" * 30)
    with pytest.raises(RuleError, match=r"^c\.template: its result is longer than"):
        generate(wanted, {})


def test_values_show_nowhere() -> None:
    wanted: dict[str, Rule] = {
        "a": DEFAULT_RULE,
        "b": PasswordRule(),
        "c": TemplateRule(template="{{.a}}"),
        "d": UuidRule(),
        "k": KeyPairRule(format="ed25519", public="p"),
        "p": PublicPartRule(private="k"),
        "v": PasswordPolicyRule(name="ops"),
    }
    found = generate(wanted, {"v": SecretStr("fetched-one")})
    shown = f"{found} {found!r} {list(map(str, found.values()))} {list(map(repr, found.values()))}"
    for name, value in found.items():
        assert isinstance(value, SecretStr), name
        assert value.get_secret_value() not in shown
        for encoding in Encoding:
            assert value.get_secret_value() not in repr(encode(value, encoding))
    too_long: dict[str, Rule] = {"t": TemplateRule(template="{{.v}}" * 20), "v": PasswordPolicyRule(name="ops")}
    with pytest.raises(RuleError) as refusal:
        generate(too_long, {"v": SecretStr("fetched-one" * 400)})
    assert "fetched" not in f"{refusal.value!r} {refusal.value} {refusal.value.__cause__!r}"


@given(st.text())
def test_what_is_encoded_decodes(text: str) -> None:
    value = SecretStr(text)
    assert encode(value, Encoding.NONE) == value
    assert base64.b64decode(encode(value, Encoding.BASE64).get_secret_value(), validate=True).decode() == text
    url = encode(value, Encoding.BASE64URL).get_secret_value()
    assert base64.b64decode(url, altchars=b"-_", validate=True).decode() == text


# Are they drawn evenly? Pearson's chi-square, over characters at each position and over all positions together.

FALSE_ALARM = 1e-12
"""Of one comparison; there are 124 in all, so that one of all is below 1e-9."""


def excess(counts: Mapping[Any, int], expected: Shares) -> float:
    """Chi-square as a part of its bound; above 1 it is no chance.

    The bound: a chi-square of k degrees is above k + 2√(kx) + 2x with a probability below exp(-x)
    (Laurent and Massart 2000, lemma 1).
    """
    total = sum(counts.values())
    assert set(counts) <= set(expected)
    assert min(expected.values()) * total >= 20, "too few for the approximation"
    statistic = sum((counts.get(key, 0) - part * total) ** 2 / (part * total) for key, part in expected.items())
    degrees, x = len(expected) - 1, -math.log(FALSE_ALARM)
    return statistic / (degrees + 2 * math.sqrt(degrees * x) + 2 * x)


def worst(samples: Sequence[Sequence[str] | bytes], expected: Shares) -> float:
    """The largest excess at one position or over all."""
    positions = [Counter[Any](column) for column in zip(*samples, strict=True)]
    return max(excess(counts, expected) for counts in (*positions, sum(positions, Counter())))


def shares(rule: PasswordRule) -> Shares:
    """How often each character must come at any position: its part of what its class must have, and of the rest."""
    rest = rule.length - sum(least for _, least in rule.required)
    return {
        char: (least / len(pool) + rest / len(rule.alphabet)) / rule.length
        for pool, least in rule.required
        for char in pool
    }


SAMPLED = PasswordRule(length=24, symbols="!#%+", digits=4, exclude="O0Il")


def test_passwords_are_drawn_evenly() -> None:
    samples = list(plain({f"p{number}": SAMPLED for number in range(8000)}).values())
    assert worst(samples, shares(SAMPLED)) < 1


def by_remainder() -> str:
    """A modulo bias: bytes are no multiple of the alphabet."""
    alphabet = LETTERS + DIGITS
    return "".join(alphabet[byte % len(alphabet)] for byte in os_bytes(24))


def with_digits_last() -> str:
    """Without a shuffle: right over all, and wrong at each position."""
    return "".join(sorted(made(SAMPLED), key=str.isdigit))


def with_a_lazy_shuffle() -> str:
    """Digits anywhere but at the first place."""
    password = made(SAMPLED)
    first = next(index for index, char in enumerate(password) if char not in DIGITS)
    return password[first] + password[:first] + password[first + 1 :]


def os_bytes(number: int) -> bytes:
    return bytes.fromhex(made(BytesRule(format="hex", bytes=max(number, 16))))[:number]


@pytest.mark.parametrize(
    ("biased", "expected"),
    [
        (by_remainder, dict.fromkeys(LETTERS + DIGITS, 1 / 62)),
        (with_digits_last, shares(SAMPLED)),
        (with_a_lazy_shuffle, shares(SAMPLED)),
    ],
)
def test_a_biased_generator_is_caught(biased: Callable[[], str], expected: Shares) -> None:
    assert worst([biased() for _ in range(4000)], expected) > 1.5


@pytest.mark.parametrize(
    "decoded",
    [
        lambda: bytes.fromhex(made(BytesRule(format="hex"))),
        lambda: base64.b64decode(made(BytesRule(format="base64"))),
        lambda: base64.urlsafe_b64decode(made(BytesRule(format="base64url"))),
    ],
)
def test_bytes_are_drawn_evenly(decoded: Callable[[], bytes]) -> None:
    samples = [decoded() for _ in range(6000)]
    assert worst(samples, dict.fromkeys(range(256), 1 / 256)) < 1
    uneven = [sample[:-1] + bytes([sample[-1] & 0xF7]) for sample in samples]  # one bit of 256 is stuck
    assert worst(uneven, dict.fromkeys(range(256), 1 / 256)) > 1.5


def test_without_a_rule_a_value_is_32_random_bytes_in_hex() -> None:
    values = [generate({"p": DEFAULT_RULE}, {})["p"] for _ in range(500)]
    plain = {value.get_secret_value() for value in values}
    assert len(plain) == len(values)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in plain)
    assert not any(value in f"{values} {values[0]!r} {values[0]}" for value in plain)
