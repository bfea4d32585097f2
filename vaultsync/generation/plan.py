"""How each property of one write is made: the rules of everybody who reads it, brought together. Pure.

Knows nothing of who may have what created; that is core/decide.py's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vaultsync.core.external_secret import ObjectName
from vaultsync.generation.generate import Encoding
from vaultsync.generation.rules import (
    DEFAULT_RULE,
    NO_RULES,
    KeyPairRule,
    PublicPartRule,
    Rule,
    RuleError,
    Rules,
    TemplateRule,
    template_order,
)


@dataclass(frozen=True, slots=True)
class PropertyPlan:
    """One property to be made.

    Attributes:
        encoding: what the value is to be decoded from by those who read it.
    """

    rule: Rule = DEFAULT_RULE
    encoding: Encoding = Encoding.NONE


@dataclass(frozen=True, slots=True)
class PropertyRequest:
    """An ExternalSecret reads a property, whether it is there or not.

    Attributes:
        field: where it stands.
        rules: the ExternalSecret's own.
    """

    reader: ObjectName
    field: str
    property: str
    encoding: Encoding = Encoding.NONE
    rules: Rules = NO_RULES


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What is to be made in one write.

    Attributes:
        impossible: properties that can't be made, each with the reason.
    """

    properties: Mapping[str, PropertyPlan] = field(default_factory=dict)
    impossible: Mapping[str, str] = field(default_factory=dict)


def plan(
    requests: Sequence[PropertyRequest], missing: frozenset[str], present: frozenset[str], defaults: Rules
) -> GenerationPlan:
    """What to make for the missing properties, and along with them.

    A template and its parts, or the two halves of a key pair, are made in one write or not at all: what exists is
    never read, so nothing can be made of it.

    Args:
        requests: of everybody who may have something created here, the oldest first.
        missing: the claimed properties that are to be made.
        present: the properties that exist.
        defaults: the cluster-wide rules.
    """
    owned = {name: _owner_rules(requests, name) for name in missing}
    rules_of = {name: rules.over(defaults) for name, rules in owned.items()}
    settled = {name for name, rules in owned.items() if not rules.is_empty}
    needs: dict[str, frozenset[str]] = {}
    todo = sorted(missing)
    while todo:
        name = todo.pop()
        needs[name] = rules_of[name].siblings(name)
        for sibling in sorted(needs[name] - settled - present):
            own = _owner_rules(requests, sibling)
            rules_of[sibling] = (own if own.rule_for(sibling) else rules_of[name]).over(defaults)
            settled.add(sibling)
            todo.append(sibling)
    impossible = _impossible(needs, present, _halves({name: rules_of[name].rule_for(name) for name in needs}))
    planned = {
        name: _property_plan(requests, name, rules_of[name]) for name in _closure(missing - impossible.keys(), needs)
    }
    try:
        template_order({name: one.rule for name, one in planned.items()})
    except RuleError as error:  # each object's rules are sound, together they are not
        templates = [name for name, one in planned.items() if isinstance(one.rule, TemplateRule)]
        impossible |= dict.fromkeys(templates, str(error))
        planned = {name: planned[name] for name in _closure(missing - impossible.keys(), needs)}
    return GenerationPlan(planned, impossible)


def differing(requests: Sequence[PropertyRequest]) -> Iterable[tuple[PropertyRequest, ObjectName]]:
    """The requests whose own rule is not the one that counts, each with the older ExternalSecret whose rule does."""
    owners: dict[str, PropertyRequest] = {}
    for request in requests:
        own = request.rules.rule_for(request.property)
        if own is None:
            continue
        owner = owners.setdefault(request.property, request)
        if owner.rules.rule_for(request.property) != own:
            yield request, owner.reader


def _owner_rules(requests: Iterable[PropertyRequest], name: str) -> Rules:
    """The rules of the oldest ExternalSecret that reads the property and has a rule for it."""
    own = (
        request.rules for request in requests if request.property == name and request.rules.rule_for(name) is not None
    )
    return next(own, NO_RULES)


def _halves(rules: Mapping[str, Rule | None]) -> dict[str, str]:
    """The halves of key pairs whose other half is something else by another ExternalSecret's rules."""
    found: dict[str, str] = {}
    for name, rule in rules.items():
        if isinstance(rule, KeyPairRule) and rule.public in rules:
            other, fits = rule.public, rules[rule.public] == PublicPartRule(private=name)
        elif isinstance(rule, PublicPartRule) and rule.private in rules:
            pair = rules[rule.private]
            other, fits = rule.private, isinstance(pair, KeyPairRule) and pair.public == name
        else:
            continue
        if not fits:
            found[name] = (
                f"{name!r} is half of a key pair, and its other half, {other!r}, is something else by the rules of "
                "another ExternalSecret; make them the same"
            )
    return found


def _impossible(needs: Mapping[str, frozenset[str]], present: frozenset[str], found: dict[str, str]) -> dict[str, str]:
    """With those that are so anyhow, all that can't be made."""
    while blocked := {name: parts & (present | found.keys()) for name, parts in needs.items() if name not in found}:
        if not any(blocked.values()):
            break
        found |= {name: _incomplete(name, parts) for name, parts in blocked.items() if parts}
    return found


def _closure(names: Iterable[str], needs: Mapping[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs[name]
    return found


def _property_plan(requests: Iterable[PropertyRequest], name: str, rules: Rules) -> PropertyPlan:
    encodings = (
        request.encoding for request in requests if request.property == name and request.encoding is not Encoding.NONE
    )
    return PropertyPlan(rules.rule_for(name) or DEFAULT_RULE, next(encodings, Encoding.NONE))


def _incomplete(name: str, there: Iterable[str]) -> str:
    parts = ", ".join(sorted(there))
    return (
        f"{name!r} is made together with {parts}, which can't be made anew as values are never read or replaced; "
        f"write {name!r} in Vault, or delete the path to have all of them made anew"
    )
