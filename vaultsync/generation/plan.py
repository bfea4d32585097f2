"""Plans how each property of one write is generated, from the rules of all ExternalSecrets that read it. Pure.

Which ExternalSecrets may have something generated is decided in core.decide.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from vaultsync.generation.rule_set import NO_RULES, Rules, closure, other_half, templates_in_order
from vaultsync.generation.rules import DEFAULT_RULE, Rule, RuleError, TemplateRule


class Encoding(Enum):
    """The encoding of a value in Vault, which the readers' decodingStrategy removes."""

    NONE = "none"
    BASE64 = "base64"
    BASE64URL = "base64url"


@dataclass(frozen=True, slots=True)
class PropertyPlan:
    """How one property is generated."""

    rule: Rule = DEFAULT_RULE
    encoding: Encoding = Encoding.NONE


@dataclass(frozen=True, slots=True)
class PropertyRequest:
    """The entry `field` of a reader, which is an ExternalSecret (NAMESPACE/NAME) with rules, for one property."""

    reader: str
    field: str
    property: str
    encoding: Encoding = Encoding.NONE
    rules: Rules = NO_RULES


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """The plan of one write, and the properties that can't be generated, each with the reason."""

    properties: Mapping[str, PropertyPlan]
    impossible: Mapping[str, str]


def plan(
    requests: Sequence[PropertyRequest], missing: frozenset[str], present: frozenset[str], defaults: Rules
) -> GenerationPlan:
    """Plan the missing properties and their siblings.

    A template and its parts, or the two halves of a key pair, are generated in one write or not at all, because
    existing values are never read. The requests are those of ExternalSecrets that may have something created here, the
    oldest first.
    """
    owned = {name: _owner_rules(requests, name) for name in missing}
    rules_of = {name: rules.over(defaults) for name, rules in owned.items()}
    settled = {name for name, rules in owned.items() if not rules.is_empty}
    containing = _existing_templates(requests, present, defaults)
    needs: dict[str, frozenset[str]] = {}
    todo = sorted(missing)
    while todo:
        name = todo.pop()
        needs[name] = rules_of[name].siblings(name) | containing[name]
        for sibling in sorted(needs[name] - settled - present):
            own = _owner_rules(requests, sibling)
            rules_of[sibling] = (own if own.rule_for(sibling) else rules_of[name]).over(defaults)
            settled.add(sibling)
            todo.append(sibling)
    impossible = _impossible(needs, present, _halves({name: rules_of[name].rule_for(name) for name in needs}))
    possible = closure(missing - impossible.keys(), needs.__getitem__)
    planned = {name: _property_plan(requests, name, rules_of[name]) for name in possible}
    try:
        templates_in_order({name: one.rule for name, one in planned.items()})
    except RuleError as error:  # rules that are valid for each ExternalSecret may contradict each other together
        templates = [name for name, one in planned.items() if isinstance(one.rule, TemplateRule)]
        impossible |= dict.fromkeys(templates, str(error))
        planned = {name: planned[name] for name in closure(missing - impossible.keys(), needs.__getitem__)}
    return GenerationPlan(planned, impossible)


def differing(requests: Sequence[PropertyRequest]) -> Iterable[tuple[PropertyRequest, str]]:
    """The requests whose own rule is not used, each with the older ExternalSecret whose rule is."""
    owners: dict[str, PropertyRequest] = {}
    for request in requests:
        if (own := request.rules.rule_for(request.property)) is not None:
            owner = owners.setdefault(request.property, request)
            if owner.rules.rule_for(request.property) != own:
                yield request, owner.reader


def _owner_rules(requests: Iterable[PropertyRequest], name: str) -> Rules:
    """The rules of the oldest ExternalSecret that reads the property and has a rule for it."""
    rules = (request.rules for request in requests if request.property == name)
    return next((one for one in rules if one.rule_for(name) is not None), NO_RULES)


def _existing_templates(
    requests: Sequence[PropertyRequest], present: frozenset[str], defaults: Rules
) -> Mapping[str, frozenset[str]]:
    """By property, the existing templates that contain it: with another value for it they would be out of date."""

    def uses(name: str) -> frozenset[str]:
        rule = _owner_rules(requests, name).over(defaults).rule_for(name)
        return frozenset(rule.uses) if isinstance(rule, TemplateRule) else frozenset()

    found: dict[str, frozenset[str]] = defaultdict(frozenset)
    for name in present & {request.property for request in requests}:
        for part in closure(uses(name), uses):
            found[part] |= {name}
    return found


def _halves(rules: Mapping[str, Rule | None]) -> dict[str, str]:
    """Halves of key pairs whose other half has a different rule in another ExternalSecret, each with the reason."""
    found: dict[str, str] = {}
    for name in rules:
        other, fits = other_half(name, rules)
        if other in rules and not fits:
            found[name] = (
                f"{name!r} is half of a key pair, and its other half, {other!r}, has a different rule in another "
                "ExternalSecret; make the rules equal"
            )
    return found


def _impossible(needs: Mapping[str, frozenset[str]], present: frozenset[str], found: dict[str, str]) -> dict[str, str]:
    """Transitive closure of the properties that can't be generated, each with the reason."""
    while blocked := {name: parts & (present | found.keys()) for name, parts in needs.items() if name not in found}:
        if not any(blocked.values()):
            break
        found |= {name: _incomplete(name, parts) for name, parts in blocked.items() if parts}
    return found


def _property_plan(requests: Iterable[PropertyRequest], name: str, rules: Rules) -> PropertyPlan:
    encodings = (request.encoding for request in requests if request.property == name)
    encoding = next((one for one in encodings if one is not Encoding.NONE), Encoding.NONE)
    return PropertyPlan(rules.rule_for(name) or DEFAULT_RULE, encoding)


def _incomplete(name: str, there: Iterable[str]) -> str:
    parts = ", ".join(sorted(there))
    return (
        f"{name!r} is generated together with {parts}, and values that exist are never read or replaced; "
        f"write {name!r} in Vault, or delete the path so that all of them are generated"
    )
