"""Parses rules: the text of the annotation `vaultsync.io/generate`, YAML or JSON and untrusted, to checked rules. Pure.

A RuleError is shown to the author of the text: it says what is wrong, where, and what is valid.
"""

import json
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final

import yaml
from pydantic import ValidationError

from vaultsync.generation.rule_set import NO_RULES, Rules
from vaultsync.generation.rules import (
    FORMATS,
    QUOTED,
    REST,
    KeyPairRule,
    Rule,
    RuleError,
    TemplateRule,
    ValueRule,
    check_name,
    shortened,
)

MAX_ANNOTATION_BYTES: Final = 16 * 1024
MAX_PROPERTIES: Final = 64
"""Properties that one annotation may generate: named ones, public parts, and those that templates use."""
MAX_KEY_PAIRS: Final = 8
"""In one annotation: an RSA key of 4096 bits takes a second."""
MAX_NESTING: Final = 8
"""Of YAML; a valid annotation has 2 levels."""
MAX_EVENTS: Final = 2000
"""Of YAML: PyYAML is slow and blocks the event loop. MAX_PROPERTIES need about half of them."""

_PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_YAML_FAILURES = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Besides its own errors PyYAML raises Python's, such as that of chr() for an escape beyond Unicode."""
_TYPES: Final = {
    bool: "a boolean",
    int: "a number",
    float: "a number with a fraction",
    str: "text",
    list: "a list",
    dict: "a mapping",
}
_EXAMPLE: Final = "such as password: {format: password, length: 40}"
_KINDS: Final = ("format", "value", "template")


def parse_rules(text: str) -> Rules:
    """Read the annotation: YAML or JSON, a mapping of properties (or "*") to rules; blank is none.

    Raises:
        RuleError: it is anything else, is contradictory, or exceeds a limit.
    """
    try:
        document = _document(text)
    except RecursionError as error:
        raise RuleError(f"it is nested too deeply; it must be a mapping of properties to rules, {_EXAMPLE}") from error
    if document is None:
        return NO_RULES
    if not isinstance(document, dict):
        raise RuleError(f"it is {_kind(document)}; it must be a mapping of properties to rules, {_EXAMPLE}")
    rules = Rules.checked({name: _rule(name, fields) for name, fields in document.items()})
    _check_numbers(rules)
    return rules


def _check_numbers(rules: Rules) -> None:
    key_pairs = sum(isinstance(rule, KeyPairRule) for _, rule in rules.written)
    if key_pairs > MAX_KEY_PAIRS:
        raise RuleError(f"there are {key_pairs} key pairs; at most {MAX_KEY_PAIRS} are allowed")
    used = [rule.uses for _, rule in rules.written if isinstance(rule, TemplateRule)]
    properties = frozenset(rules.named).union(*used)
    if len(properties) > MAX_PROPERTIES:
        raise RuleError(
            f"there are {len(properties)} properties, including public parts and those that templates use; "
            f"at most {MAX_PROPERTIES} are allowed"
        )


def _rule(name: str, fields: object) -> Rule:
    """One entry of the annotation."""
    try:
        check_name(name)
    except ValueError as error:
        raise RuleError(f'"{shortened(name)}": {error}') from error
    place = f'"{REST}"' if name == REST else shortened(name)
    if not isinstance(fields, dict):
        # not quoted: the author may have written the password itself here
        raise RuleError(f"{place}: the rule is {_kind(fields)}; it must be a mapping, {_EXAMPLE}")
    model = _model(place, fields)
    if model is KeyPairRule:
        fields = {"public": f"{name}_public"} | fields
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        raise RuleError(f"{place}.{shortened(str(details['loc'][0]))}: {_wrong(details, model)}") from error


def _model(place: str, fields: Mapping[str, object]) -> type[Rule]:
    kinds = [kind for kind in _KINDS if kind in fields]
    if len(kinds) != 1:
        found = f"has {' and '.join(kinds)}" if kinds else "has none of format, value and template"
        raise RuleError(f"{place}: the rule {found}; it must have exactly one of them, {_EXAMPLE}")
    if kinds != ["format"]:
        return ValueRule if kinds == ["value"] else TemplateRule
    found_format = fields["format"]
    if isinstance(found_format, str) and found_format in FORMATS:
        return FORMATS[found_format]
    raise RuleError(f"{place}.format: {_shown(found_format)} is not a format; the formats are {', '.join(FORMATS)}")


def _wrong(details: Mapping[str, Any], model: type[Rule]) -> str:
    """Translate an error of pydantic (https://docs.pydantic.dev/latest/errors/validation_errors/) about one field."""
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
            return f"{_shown(details['input'])} is not allowed here; it must be {details['ctx']['expected']}"
    return f"is not valid ({details['type']})"


def _document(text: str) -> object:
    """Decode the annotation. JSON first: PyYAML rejects tabs and surrogate pairs."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_ANNOTATION_BYTES:
        raise RuleError(f"it has {size} bytes; at most {MAX_ANNOTATION_BYTES} are allowed")
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except RuleError:
        raise
    except (ValueError, RecursionError):
        document = _yaml(text)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RuleError("it contains half a surrogate pair; write the character itself") from error
    return document


def _without_duplicates(pairs: Iterable[tuple[Hashable, object]], line: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise RuleError(f"{line}a name must be text, and is {_kind(name)}; put it in quotes")
        if name in found:
            raise RuleError(f'{line}"{shortened(name)}" is there twice; keep one of them')
        found[name] = value
    return found


def _yaml(text: str) -> object:
    try:
        _check_events(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _construct(node)
    except RuleError:
        raise
    except yaml.MarkedYAMLError as error:
        # cut, so that PyYAML's message quotes at most QUOTED characters of input
        problem = str(error.problem)[: QUOTED + 20]
        shown = problem if problem.isprintable() else ascii(problem)
        raise RuleError(
            f'{_line(error.problem_mark)}it is not valid YAML: {shown}; put "{REST}" and text with signs in quotes'
        ) from error
    except _YAML_FAILURES as error:
        raise RuleError("it is not valid YAML: it contains a character or an escape that is not allowed") from error


def _line(mark: object) -> str:
    """The line of a position in the text: one of PyYAML's two mark classes, or None."""
    line = getattr(mark, "line", None)
    return "" if line is None else f"line {line + 1}: "


def _check_events(text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if number > MAX_EVENTS:
            raise RuleError(f"it has too many elements; at most {MAX_PROPERTIES} properties are allowed")
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            raise RuleError(f"{_line(event.start_mark)}anchors (&) and aliases (*) are not allowed; repeat the text")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_NESTING:
            raise RecursionError


def _construct(node: yaml.Node) -> object:
    """The node's value by the rules of JSON: YAML 1.1 has types and spellings of numbers that authors do not expect."""
    line = _line(node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return _without_duplicates(((_construct(name), _construct(value)) for name, value in node.value), line)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item) for item in node.value]
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
            return 0.5  # no rule accepts a fraction
    raise RuleError(f"{line}{shortened(node.value)} is neither plain text nor a number to YAML; put it in quotes")


def _shown(value: object) -> str:
    return f'"{shortened(value)}"' if isinstance(value, str) else _kind(value)


def _kind(value: object) -> str:
    return "empty" if value is None else _TYPES.get(type(value), "something else")
