"""What a person writes about generated values: the annotation `vaultsync.io/generate` → checked, frozen rules. Pure.

Only the wishes are here, in plain text, as they stand on the object: no value that is secret may enter. What one can
know without generating is checked here, and refused in words that may be shown to the person who wrote it.
"""

import json
import re
import string
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

REST: Final = "*"
"""Stands for the properties without a rule of their own."""

MAX_ANNOTATION_BYTES: Final = 16 * 1024
MAX_PROPERTIES: Final = 64
"""That one annotation may bring about: named, public parts, and what templates use."""
MAX_KEY_PAIRS: Final = 8
"""In one annotation: an RSA key of 4096 bits takes a second."""
MAX_NAME: Final = 253
MAX_TEXT: Final = 4096
"""Characters of a value or a template."""
MAX_TEMPLATE_DEPTH: Final = 4
MAX_NESTING: Final = 8
"""Of YAML; a valid annotation has 2 levels."""
MAX_EVENTS: Final = 2000
"""Of YAML: PyYAML is slow, and reading an annotation holds up everything else. MAX_PROPERTIES take half of them."""
MIN_LENGTH, MAX_LENGTH = 8, 1024
MIN_BYTES, MAX_BYTES = 16, 1024
RSA_BITS: Final = (2048, 3072, 4096)
DEFAULT_RSA_BITS: Final = 3072
QUOTED: Final = 40
"""Most characters of input that a message quotes."""

_REFERENCE = re.compile(r"\{\{ *\.([A-Za-z0-9_.-]+) *(\| *urlquery *)?\}\}")
# the names that Vault's API takes (framework.GenericNameRegex of its SDK); no "..", no slash
_POLICY_NAME = re.compile(r"\w([\w.-]{0,126}\w)?", re.ASCII)
_PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_GRAPHIC = frozenset(string.ascii_letters + string.digits + string.punctuation)
_YAML_FAILURES = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""PyYAML lets some of Python's own errors through, such as chr()'s for an escape beyond Unicode."""
_TYPES: Final = {
    bool: "a boolean",
    int: "a number",
    float: "a number with a fraction",
    str: "text",
    list: "a list",
    dict: "a mapping",
}
_EXAMPLE: Final = "such as password: {format: password, length: 40}"


class RuleError(ValueError):
    """A rule that can't be followed. Its message says what is wrong, where, and what would be right; never a value."""


def shortened(text: str) -> str:
    """Input as a message may quote it: at most QUOTED characters, on one line."""
    short = text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"
    return short if short.isprintable() else short.encode("unicode_escape").decode()[:QUOTED]


def _kind(value: object) -> str:
    return "empty" if value is None else _TYPES.get(type(value), "something else")


def _within(least: int, most: int, below: str, above: str) -> Callable[[int], int]:
    def check(number: int) -> int:
        if not least <= number <= most:
            what = below if number < least else above
            raise ValueError(f"{shortened(str(number))} is too {what}; it must be from {least} to {most}")
        return number

    return check


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text)} characters; at most {MAX_TEXT} are allowed")
    return text


def _name(name: str) -> str:
    if not name:
        raise ValueError("a property's name must not be empty")
    if len(name) > MAX_NAME:
        raise ValueError(f"a property's name of {len(name)} characters is too long; at most {MAX_NAME} are allowed")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise ValueError("a property's name must not hold control characters")
    return name


def _public_name(name: str) -> str:
    if name == REST:
        raise ValueError(f'must be the name of one property, not "{REST}"')
    return _name(name)


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, hide_input_in_errors=True
    )


class PasswordRule(_Model):
    """A password of letters and digits, and of symbols if there are any; at least one letter of either case.

    Attributes:
        length: characters.
        exclude: letters and digits that are never taken. Sorted, each once.
        symbols: the symbols that may be taken, of which at least one is. Sorted, each once, without the excluded.
        digits: at least that many digits.
    """

    format: Literal["password"] = "password"
    length: Annotated[int, AfterValidator(_within(MIN_LENGTH, MAX_LENGTH, "short", "long"))] = 32
    exclude: str = ""
    symbols: str = ""
    digits: Annotated[int, AfterValidator(_within(0, MAX_LENGTH, "few", "many"))] = 1

    # each check uses the fields above its own; one that failed is absent, and is what gets reported

    @field_validator("exclude")
    @classmethod
    def _leaves_letters(cls, exclude: str) -> str:
        if not _GRAPHIC.issuperset(exclude):
            raise ValueError("must be of ASCII letters, digits and punctuation alone")
        for letters, case in ((string.ascii_lowercase, "lower"), (string.ascii_uppercase, "upper")):
            if not set(letters) - set(exclude):
                raise ValueError(f"leaves no {case} case letter; at least one must remain")
        return "".join(sorted(set(exclude)))

    @field_validator("symbols")
    @classmethod
    def _are_symbols(cls, symbols: str, info: ValidationInfo) -> str:
        if not set(string.punctuation).issuperset(symbols):
            raise ValueError(f"must be of ASCII punctuation alone, out of {string.punctuation}")
        remaining = set(symbols) - set(info.data.get("exclude", ""))
        if symbols and not remaining:
            raise ValueError('exclude leaves none of them; let one remain, or set symbols: ""')
        return "".join(sorted(remaining))

    @field_validator("digits")
    @classmethod
    def _fit(cls, digits: int, info: ValidationInfo) -> int:
        if digits and not set(string.digits) - set(info.data.get("exclude", "")):
            raise ValueError(f"{digits} can't be had, since exclude leaves no digit; let one remain, or set digits: 0")
        length = info.data.get("length", MAX_LENGTH)
        most = length - 2 - bool(info.data.get("symbols"))
        if digits > most:
            others = "two letters and a symbol" if info.data.get("symbols") else "two letters"
            raise ValueError(f"{digits} and at least {others} don't fit into {length} characters; at most {most} do")
        return digits

    @property
    def required(self) -> tuple[tuple[str, int], ...]:
        """Each class of characters, and how many of it there must be at least."""
        letters = (self._left(string.ascii_lowercase), 1), (self._left(string.ascii_uppercase), 1)
        return (*letters, (self._left(string.digits), self.digits), (self.symbols, int(bool(self.symbols))))

    @property
    def alphabet(self) -> str:
        """Every character that may be taken."""
        return "".join(characters for characters, _ in self.required)

    def _left(self, characters: str) -> str:
        return "".join(char for char in characters if char not in self.exclude)


class BytesRule(_Model):
    """Random bytes in hex or in base64 (RFC 4648 sections 4 and 5).

    base64url is padded too: by section 3.2 padding may be left out only where a specification says so, and
    external-secrets' decodingStrategy Base64URL reads nothing else.
    """

    format: Literal["hex", "base64", "base64url"]
    bytes: Annotated[int, AfterValidator(_within(MIN_BYTES, MAX_BYTES, "few", "many"))] = 32


class UuidRule(_Model):
    """A random UUID, version 4 (RFC 9562 section 5.4)."""

    format: Literal["uuid"] = "uuid"


class PolicyRule(_Model):
    """A password made by Vault, by one of its password policies; fetched by the caller.

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


class ValueRule(_Model):
    """A fixed text that is not secret, such as a user name."""

    value: Annotated[str, AfterValidator(_text)]


class KeyPairRule(_Model):
    """An asymmetric key pair: the private part in the property that bears the rule.

    Attributes:
        bits: of an RSA modulus, None for ed25519.
        public: the property that holds the public part; for who writes none, `<property>_public` (a dot would read
            as a path into a JSON object).
        encoding: pem is PKCS#8 (RFC 5958) and SubjectPublicKeyInfo (RFC 5280), both as PEM (RFC 7468); openssh is
            OpenSSH's own private format and one line of authorized_keys.
    """

    format: Literal["rsa", "ed25519"]
    bits: int | None = Field(
        default_factory=lambda data: DEFAULT_RSA_BITS if data.get("format") == "rsa" else None,
    )
    public: Annotated[str, AfterValidator(_public_name)]
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


class PublicPartRule(_Model):
    """The public part of the key pair in the property `private`. Derived from that one; nobody writes it."""

    private: str


class Piece(NamedTuple):
    """A piece of a template: fixed text, then the value of the property `name` unless that is ""."""

    text: str
    name: str
    urlquery: bool


class TemplateRule(_Model):
    """A text with the values of properties that are generated in the same write, each as `{{ .name }}`.

    `{{ .name | urlquery }}` percent-encodes the value (RFC 3986 section 2.1; a space is %20).
    """

    template: Annotated[str, AfterValidator(_text)]

    @field_validator("template")
    @classmethod
    def _has_references(cls, template: str) -> str:
        pieces = _pieces(template)
        if not any(piece.name for piece in pieces):
            raise ValueError("has no {{ .name }} in it; write a fixed text as value (does Helm replace {{ }} here?)")
        for piece in pieces:
            if piece.name:
                _name(piece.name)
        return "".join(map(_spelled, pieces))  # in one spelling, so that equal ones compare equal

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The template, taken apart."""
        return _pieces(self.template)

    @property
    def uses(self) -> frozenset[str]:
        """The properties whose values it holds."""
        return frozenset(piece.name for piece in self.pieces if piece.name)


def _pieces(template: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    position = 0
    while (start := template.find("{{", position)) >= 0:
        reference = _REFERENCE.match(template, start)
        if reference is None:
            inside, end, _ = template[start:].partition("}}")
            raise ValueError(
                f"{shortened(inside + end)} is not understood; only {{{{ .name }}}} and {{{{ .name | urlquery }}}} are"
            )
        pieces.append(Piece(template[position:start], reference[1], reference[2] is not None))
        position = reference.end()
    return (*pieces, Piece(template[position:], "", False))


def _spelled(piece: Piece) -> str:
    reference = f"{{{{.{piece.name}{'|urlquery' if piece.urlquery else ''}}}}}"
    return piece.text + (reference if piece.name else "")


Rule: TypeAlias = (
    PasswordRule | BytesRule | UuidRule | PolicyRule | ValueRule | KeyPairRule | PublicPartRule | TemplateRule
)

DEFAULT_RULE: Final = BytesRule(format="hex")
"""For a property without any rule: the same as `openssl rand -hex 32`."""

_FORMATS: Final[Mapping[str, type[_Model]]] = {
    "password": PasswordRule,
    "hex": BytesRule,
    "base64": BytesRule,
    "base64url": BytesRule,
    "uuid": UuidRule,
    "policy": PolicyRule,
    "rsa": KeyPairRule,
    "ed25519": KeyPairRule,
}
_KINDS: Final = ("format", "value", "template")
_NOT_FOR_REST: Final = {
    KeyPairRule: "a key pair needs properties of its own for its two parts",
    TemplateRule: "a template would be used by itself, or all properties would be the same text",
    ValueRule: "a fixed value for all the rest makes no secret of any",
}


@dataclass(frozen=True)
class Rules:
    """The rules for the properties of what one ExternalSecret reads. Equal if they mean the same.

    Attributes:
        written: each rule with its property or "*", sorted; without the public parts.
    """

    written: tuple[tuple[str, Rule], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is no rule at all."""
        return not self.written

    @property
    def named(self) -> tuple[str, ...]:
        """The properties with a rule of their own, public parts included, sorted."""
        return tuple(sorted(name for name in self._by_name if name != REST))

    def rule_for(self, property: str) -> Rule | None:
        """The property's own rule, else that of "*", else None."""
        rule = self._by_name.get(property) if property != REST else None
        return rule or self._by_name.get(REST)

    def siblings(self, property: str) -> frozenset[str]:
        """The other properties that have to be made in the same write: the values of existing ones are not known.

        Those that a template uses, the other part of a key pair, and the siblings of these.
        """
        found: set[str] = set()
        ahead = [property]
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                ahead.extend(_neighbours(self._by_name.get(name)))
        return frozenset(found - {property})

    def over(self, defaults: "Rules") -> "Rules":
        """These rules, and for what they leave open the defaults: own name, own "*", default's name, default's "*".

        Raises:
            RuleError: they contradict each other, such as templates that use each other.
        """
        if REST in self._by_name or defaults.is_empty:
            return self
        kept = {name: rule for name, rule in defaults.written if name not in self._by_name}
        return _checked(kept | dict(self.written))

    @cached_property
    def _by_name(self) -> Mapping[str, Rule]:
        return dict(self.written) | {public: PublicPartRule(private=name) for public, name in _publics(self.written)}


NO_RULES: Final = Rules()


def parse_rules(text: str) -> Rules:
    """Read the annotation.

    Args:
        text: YAML or JSON, a mapping of properties (or "*") to rules; blank is none.

    Raises:
        RuleError: it is anything else, or asks for what can't be or exceeds the limits above.
    """
    try:
        document = _document(text)
    except RecursionError as error:
        raise RuleError(f"it is nested too deeply; it must be a mapping of properties to rules, {_EXAMPLE}") from error
    if document is None:
        return NO_RULES
    if not isinstance(document, dict):
        raise RuleError(f"it is {_kind(document)}; it must be a mapping of properties to rules, {_EXAMPLE}")
    written = {name: _rule(name, fields) for name, fields in document.items()}
    rules = _checked(written)
    _check_numbers(rules)
    return rules


def template_order(rules: Mapping[str, Rule]) -> tuple[str, ...]:
    """The properties with templates, each after those that it uses.

    Raises:
        RuleError: they go round in a circle, or deeper than MAX_TEMPLATE_DEPTH.
    """
    templates = {name: rule for name, rule in rules.items() if isinstance(rule, TemplateRule)}
    sorter = TopologicalSorter({name: sorted(rule.uses & templates.keys()) for name, rule in sorted(templates.items())})
    try:
        order = tuple(sorter.static_order())
    except CycleError as error:
        circle = shortened(" → ".join(reversed(error.args[1])))
        raise RuleError(f"templates use each other in a circle: {circle}; one of them must do without") from error
    depths: dict[str, int] = {}
    for name in order:
        depths[name] = 1 + max((depths[used] for used in templates[name].uses if used in depths), default=0)
        if depths[name] > MAX_TEMPLATE_DEPTH:
            raise RuleError(
                f"{shortened(name)}.template: uses templates that use templates, {depths[name]} deep; "
                f"at most {MAX_TEMPLATE_DEPTH} are allowed"
            )
    return order


def _publics(written: Iterable[tuple[str, Rule]]) -> list[tuple[str, str]]:
    """Public and private property of each key pair."""
    return [(rule.public, name) for name, rule in written if isinstance(rule, KeyPairRule)]


def _neighbours(rule: Rule | None) -> frozenset[str]:
    match rule:
        case TemplateRule():
            return rule.uses
        case KeyPairRule():
            return frozenset({rule.public})
        case PublicPartRule():
            return frozenset({rule.private})
        case _:
            return frozenset()


def _checked(written: Mapping[str, Rule]) -> Rules:
    """The rules as a whole, checked against each other."""
    for kind, reason in _NOT_FOR_REST.items():
        if isinstance(written.get(REST), kind):
            raise RuleError(f'"{REST}": {reason}; "{REST}" may be password, hex, base64, base64url, uuid or policy')
    publics: dict[str, str] = {}
    for public, name in _publics(sorted(written.items())):
        other = publics.setdefault(public, name)
        if public in written or other != name:
            whose = "a rule of its own" if public in written else f"the public part of {shortened(other)}"
            raise RuleError(f"{shortened(name)}.public: {shortened(public)} has {whose} already; name another property")
    template_order(written)
    return Rules(tuple(sorted(written.items())))


def _check_numbers(rules: Rules) -> None:
    pairs = len(_publics(rules.written))
    if pairs > MAX_KEY_PAIRS:
        raise RuleError(f"there are {pairs} key pairs; at most {MAX_KEY_PAIRS} are allowed")
    used = [rule.uses for _, rule in rules.written if isinstance(rule, TemplateRule)]
    properties = frozenset(rules.named).union(*used)
    if len(properties) > MAX_PROPERTIES:
        raise RuleError(
            f"there are {len(properties)} properties, with public parts and what templates use; "
            f"at most {MAX_PROPERTIES} are allowed"
        )


def _rule(name: str, fields: object) -> Rule:
    """One entry of the annotation."""
    try:
        _name(name)
    except ValueError as error:
        raise RuleError(f'"{shortened(name)}": {error}') from error
    place = f'"{REST}"' if name == REST else shortened(name)
    if not isinstance(fields, dict):
        # not quoted: somebody may have taken this for the place of the password itself
        raise RuleError(f"{place}: the rule is {_kind(fields)}; it must be a mapping, {_EXAMPLE}")
    model = _model(place, fields)
    if model is KeyPairRule:
        fields = {"public": f"{name}_public"} | fields
    try:
        rule: Any = model.model_validate(fields)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        raise RuleError(f"{place}.{shortened(str(details['loc'][0]))}: {_wrong(details, model)}") from error
    found: Rule = rule
    return found


def _model(place: str, fields: Mapping[str, object]) -> type[_Model]:
    kinds = [kind for kind in _KINDS if kind in fields]
    if len(kinds) != 1:
        found = f"has {' and '.join(kinds)}" if kinds else "has none of format, value and template"
        raise RuleError(f"{place}: the rule {found}; it must have exactly one of them, {_EXAMPLE}")
    if kinds != ["format"]:
        return ValueRule if kinds == ["value"] else TemplateRule
    found_format = fields["format"]
    model = _FORMATS.get(found_format) if isinstance(found_format, str) else None
    if model is None:
        shown = f'"{shortened(found_format)}"' if isinstance(found_format, str) else _kind(found_format)
        raise RuleError(f"{place}.format: {shown} is not a format; the formats are {', '.join(_FORMATS)}")
    return model


def _wrong(details: Mapping[str, Any], model: type[_Model]) -> str:
    """What pydantic found wrong with a field, in the words of here. Its types of errors are part of its API."""
    kind = _kind(details["input"])
    match details["type"]:
        case "value_error":
            return str(details["ctx"]["error"])
        case "missing":
            return "is missing; it must be given"
        case "extra_forbidden":
            return f"there is no such field here; the fields are {', '.join(model.model_fields)}"
        case "string_type":
            hint = "; put it in quotes" if isinstance(details["input"], bool | int | float) else ""
            return f"must be text, and is {kind}{hint}"
        case "int_type":
            hint = "; write it without quotes" if isinstance(details["input"], str) else ""
            return f"must be a whole number, and is {kind}{hint}"
        case "literal_error":
            shown = f'"{shortened(details["input"])}"' if isinstance(details["input"], str) else kind
            return f"{shown} is not allowed here; it must be {details['ctx']['expected']}"
        case _:
            return f"is not valid ({details['type']})"


def _document(text: str) -> object:
    """The annotation as plain Python objects. JSON first: PyYAML takes no tabs and no surrogate pairs."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_ANNOTATION_BYTES:
        raise RuleError(f"it has {size} bytes; at most {MAX_ANNOTATION_BYTES} are allowed")
    try:
        document = json.loads(text, object_pairs_hook=_mapping)
    except RuleError:
        raise
    except (ValueError, RecursionError):
        document = _yaml(text)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RuleError("it holds half a surrogate pair, which is no character; write the character itself") from error
    return document


def _mapping(pairs: Iterable[tuple[Hashable, object]], line: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise RuleError(f"{line}a name must be text, and is {_kind(name)}; put it in quotes")
        if name in found:
            raise RuleError(f'{line}"{shortened(name)}" stands there twice; it must stand there once')
        found[name] = value
    return found


def _yaml(text: str) -> object:
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _built(node)
    except RuleError:
        raise
    except yaml.MarkedYAMLError as error:
        # cut so that at most QUOTED characters of input remain behind PyYAML's own words
        problem = str(error.problem)[: QUOTED + 20]
        shown = problem if problem.isprintable() else ascii(problem)
        raise RuleError(
            f'{_line(error.problem_mark)}it is not valid YAML: {shown}; put "{REST}" and text with signs in quotes'
        ) from error
    except _YAML_FAILURES as error:
        raise RuleError("it is not valid YAML: it holds a character or an escape that is not allowed") from error


def _line(mark: object) -> str:
    """Where a mark of PyYAML (of which it has two classes, or None) points."""
    line = getattr(mark, "line", None)
    return "" if line is None else f"line {line + 1}: "


def _check_events(text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if number > MAX_EVENTS:
            raise RuleError(f"it has too many parts; at most {MAX_PROPERTIES} properties are allowed")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise RuleError(f"{_line(event.start_mark)}anchors (&) and aliases (*) are not allowed; write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING:
            raise RecursionError


def _built(node: yaml.Node) -> object:
    """The node's value, by the rules of JSON: YAML 1.1 knows more spellings of numbers, and more types, than people."""
    line = _line(node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _mapping(((_built(name), _built(value)) for name, value in node.value), line)
    if isinstance(node, yaml.SequenceNode):
        return [_built(item) for item in node.value]
    match node.tag.removeprefix("tag:yaml.org,2002:"):
        case "str":
            return str(node.value)
        case "null":
            return None
        case "bool":
            return str(node.value).lower() in ("yes", "true", "on")
        case "int" if _PLAIN_INTEGER.fullmatch(node.value):
            return int(node.value)
        case "int":
            raise RuleError(f"{line}{shortened(node.value)} must be a plain decimal number, or in quotes if it is text")
        case "float":
            return 0.5  # refused wherever it stands
        case _:
            raise RuleError(
                f"{line}{shortened(node.value)} is neither plain text nor a number to YAML; put it in quotes"
            )
