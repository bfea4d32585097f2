"""The rules for generated values: one frozen model for each kind of rule, and their limits.

A rule describes a value and holds none: no secret may enter. The validators check all that can be checked before
generation. Their messages are shown to the author of the rule.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

REST: Final = "*"
"""Stands for the properties without a rule of their own."""

MAX_NAME: Final = 253
MAX_TEXT: Final = 4096
"""Characters of a value or a template."""
MIN_LENGTH, MAX_LENGTH = 8, 1024
MIN_BYTES, MAX_BYTES = 16, 1024
RSA_BITS: Final = (2048, 3072, 4096)
DEFAULT_RSA_BITS: Final = 3072
QUOTED: Final = 40
"""Maximum number of characters of input that a message quotes."""

_REFERENCE = re.compile(r"\{\{ *\.([A-Za-z0-9_.-]+) *(\| *urlquery *)?\}\}")
# the names that Vault's API takes (framework.GenericNameRegex of its SDK); no "..", no slash
_POLICY_NAME = re.compile(r"\w([\w.-]{0,126}\w)?", re.ASCII)
_GRAPHIC = frozenset(string.ascii_letters + string.digits + string.punctuation)


class RuleError(ValueError):
    """A rule is not valid. The message says what is wrong, where, and what is valid; it never contains a value."""


def shortened(text: str) -> str:
    """Input as a message may quote it: at most QUOTED characters, on one line."""
    short = text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"
    return short if short.isprintable() else short.encode("unicode_escape").decode()[:QUOTED]


def _within(least: int, most: int, below: str, above: str) -> Callable[[int], int]:
    def check(number: int) -> int:
        if least <= number <= most:
            return number
        what = below if number < least else above
        raise ValueError(f"{shortened(str(number))} is too {what}; it must be from {least} to {most}")

    return check


def _check_text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text)} characters; at most {MAX_TEXT} are allowed")
    return text


def check_name(name: str) -> str:
    """Return the property's name, or raise ValueError with what is wrong with it."""
    if not name:
        raise ValueError("a property's name must not be empty")
    if len(name) > MAX_NAME:
        raise ValueError(f"a property's name of {len(name)} characters is too long; at most {MAX_NAME} are allowed")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise ValueError("a property's name must not hold control characters")
    return name


def _check_public_name(name: str) -> str:
    if name == REST:
        raise ValueError(f'must be the name of one property, not "{REST}"')
    return check_name(name)


class RuleModel(BaseModel):
    """The base of every rule."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, hide_input_in_errors=True
    )


class PasswordRule(RuleModel):
    """A password of letters, digits and the given symbols, with at least one lower case and one upper case letter.

    Attributes:
        length: characters.
        exclude: letters and digits that are not used. Sorted, without duplicates.
        symbols: the allowed symbols, at least one of which is used. Sorted, without duplicates and excluded ones.
        digits: minimum number of digits.
    """

    format: Literal["password"] = "password"
    length: Annotated[int, AfterValidator(_within(MIN_LENGTH, MAX_LENGTH, "short", "long"))] = 32
    exclude: str = ""
    symbols: str = ""
    digits: Annotated[int, AfterValidator(_within(0, MAX_LENGTH, "few", "many"))] = 1

    # a validator reads the fields above its own; one that failed is absent from info.data and is reported

    @field_validator("exclude")
    @classmethod
    def _leaves_letters(cls, exclude: str) -> str:
        if not _GRAPHIC.issuperset(exclude):
            raise ValueError("must consist of ASCII letters, digits and punctuation")
        for letters, case in ((string.ascii_lowercase, "lower"), (string.ascii_uppercase, "upper")):
            if not set(letters) - set(exclude):
                raise ValueError(f"leaves no {case} case letter; at least one must remain")
        return "".join(sorted(set(exclude)))

    @field_validator("symbols")
    @classmethod
    def _are_symbols(cls, symbols: str, info: ValidationInfo) -> str:
        if not set(string.punctuation).issuperset(symbols):
            raise ValueError(f"must consist of ASCII punctuation: {string.punctuation}")
        remaining = set(symbols) - set(info.data.get("exclude", ""))
        if symbols and not remaining:
            raise ValueError('exclude leaves none of them; leave one, or set symbols: ""')
        return "".join(sorted(remaining))

    @field_validator("digits")
    @classmethod
    def _fit(cls, digits: int, info: ValidationInfo) -> int:
        if digits and not set(string.digits) - set(info.data.get("exclude", "")):
            raise ValueError(f"{digits} is not possible, as exclude leaves no digit; leave one, or set digits: 0")
        length = info.data.get("length", MAX_LENGTH)
        most = length - 2 - bool(info.data.get("symbols"))
        if digits > most:
            others = "two letters and a symbol" if info.data.get("symbols") else "two letters"
            raise ValueError(f"{digits} and at least {others} don't fit into {length} characters; at most {most} do")
        return digits

    @property
    def required(self) -> tuple[tuple[str, int], ...]:
        """Each class of characters with its minimum number."""
        letters = (self._allowed(string.ascii_lowercase), 1), (self._allowed(string.ascii_uppercase), 1)
        return (*letters, (self._allowed(string.digits), self.digits), (self.symbols, int(bool(self.symbols))))

    @property
    def alphabet(self) -> str:
        """Every allowed character."""
        return "".join(characters for characters, _ in self.required)

    def _allowed(self, characters: str) -> str:
        return "".join(char for char in characters if char not in self.exclude)


class BytesRule(RuleModel):
    """Random bytes in hex or in base64 (RFC 4648 sections 4 and 5).

    base64url has padding too: section 3.2 requires it, and so does external-secrets' decodingStrategy Base64URL.
    """

    format: Literal["hex", "base64", "base64url"]
    bytes: Annotated[int, AfterValidator(_within(MIN_BYTES, MAX_BYTES, "few", "many"))] = 32


class UuidRule(RuleModel):
    """A random UUID, version 4 (RFC 9562 section 5.4)."""

    format: Literal["uuid"] = "uuid"


class PasswordPolicyRule(RuleModel):
    """A password that Vault generates by one of its password policies. The caller fetches it.

    https://developer.hashicorp.com/vault/docs/concepts/password-policies
    """

    format: Literal["policy"] = "policy"
    name: str

    @field_validator("name")
    @classmethod
    def _is_policy_name(cls, name: str) -> str:
        if not _POLICY_NAME.fullmatch(name):
            raise ValueError(
                "must be the name of a password policy in Vault: 1 to 128 letters, digits, _, - and ., "
                "with neither - nor . at an end"
            )
        return name


class ValueRule(RuleModel):
    """A fixed text, such as a user name. It is not secret."""

    value: Annotated[str, AfterValidator(_check_text)]


class KeyPairRule(RuleModel):
    """An asymmetric key pair. The private part goes to the property that has the rule.

    Attributes:
        bits: of an RSA modulus, None for ed25519.
        public: the property for the public part; by default `<property>_public`, as a dot would be a path into a JSON
            object.
        encoding: pem is PKCS#8 (RFC 5958) and SubjectPublicKeyInfo (RFC 5280), both as PEM (RFC 7468); openssh is
            OpenSSH's own private format and one line of authorized_keys.
    """

    format: Literal["rsa", "ed25519"]
    bits: int | None = Field(default_factory=lambda data: DEFAULT_RSA_BITS if data.get("format") == "rsa" else None)
    public: Annotated[str, AfterValidator(_check_public_name)]
    encoding: Literal["pem", "openssh"] = "pem"

    @field_validator("bits")
    @classmethod
    def _suits(cls, bits: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("format") == "ed25519" and bits is not None:
            raise ValueError("only an rsa key has bits; leave it out for ed25519")
        if info.data.get("format") == "rsa" and bits not in RSA_BITS:
            shown = "empty" if bits is None else shortened(str(bits))
            raise ValueError(f"{shown} is not one of {', '.join(map(str, RSA_BITS))}")
        return bits


class PublicPartRule(RuleModel):
    """The public part of the key pair in the property `private`. Derived from that rule, never written by an author."""

    private: str


class Piece(NamedTuple):
    """A piece of a template: fixed text, then the value of the property `name` unless that is ""."""

    text: str
    name: str
    urlquery: bool


class TemplateRule(RuleModel):
    """A text into which values generated in the same write are inserted, each as `{{ .name }}`.

    `{{ .name | urlquery }}` percent-encodes the value (RFC 3986 section 2.1; a space is %20).
    """

    template: Annotated[str, AfterValidator(_check_text)]

    @field_validator("template")
    @classmethod
    def _has_references(cls, template: str) -> str:
        pieces = _pieces(template)
        names = [check_name(piece.name) for piece in pieces if piece.name]
        if not names:
            raise ValueError("has no {{ .name }}; write a fixed text as value (does Helm replace {{ }} here?)")
        return "".join(map(_spelled, pieces))  # normalised, so that equal templates compare equal

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces of the template."""
        return _pieces(self.template)

    @property
    def uses(self) -> frozenset[str]:
        """The properties whose values it uses."""
        return frozenset(piece.name for piece in self.pieces if piece.name)


def _pieces(template: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    position = 0
    while (start := template.find("{{", position)) >= 0:
        reference = _REFERENCE.match(template, start)
        if reference is None:
            inside, end, _ = template[start:].partition("}}")
            raise ValueError(
                f"{shortened(inside + end)} is not supported; only {{{{ .name }}}} and {{{{ .name | urlquery }}}} are"
            )
        pieces.append(Piece(template[position:start], reference[1], reference[2] is not None))
        position = reference.end()
    return (*pieces, Piece(template[position:], "", False))


def _spelled(piece: Piece) -> str:
    reference = f"{{{{.{piece.name}{'|urlquery' if piece.urlquery else ''}}}}}"
    return piece.text + (reference if piece.name else "")


Rule: TypeAlias = (
    PasswordRule | BytesRule | UuidRule | PasswordPolicyRule | ValueRule | KeyPairRule | PublicPartRule | TemplateRule
)

FORMATS: Final[Mapping[str, type[Rule]]] = {
    name: model
    for model in (PasswordRule, BytesRule, UuidRule, PasswordPolicyRule, KeyPairRule)
    for name in get_args(model.model_fields["format"].annotation)
}
"""The rule that has the format."""

DEFAULT_RULE: Final = BytesRule(format="hex")
"""For a property without a rule: equivalent to `openssl rand -hex 32`."""
