"""The rules of one ExternalSecret as a set: the rule of a property, and the properties that depend on each other.

Pure. generation.plan decides whose rules apply where several ExternalSecrets read a property.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Final

from vaultsync.generation.rules import (
    REST,
    KeyPairRule,
    PublicPartRule,
    Rule,
    RuleError,
    TemplateRule,
    ValueRule,
    shortened,
)

MAX_TEMPLATE_DEPTH: Final = 4
_NOT_FOR_REST: Final = {
    KeyPairRule: "a key pair needs properties of its own for its two parts",
    TemplateRule: "a template would use itself, or all properties would be the same text",
    ValueRule: "all remaining properties would have the same fixed value, which is not secret",
}


@dataclass(frozen=True)
class Rules:
    """The rules of one ExternalSecret, each with its property or "*", sorted; public parts are derived from them."""

    written: tuple[tuple[str, Rule], ...] = ()

    @classmethod
    def checked(cls, written: Mapping[str, Rule]) -> "Rules":
        """Check the rules against each other.

        Raises:
            RuleError: they contradict each other, such as templates that use each other.
        """
        for kind, reason in _NOT_FOR_REST.items():
            if isinstance(written.get(REST), kind):
                raise RuleError(f'"{REST}": {reason}; "{REST}" may be password, hex, base64, base64url, uuid or policy')
        publics: dict[str, str] = {}
        for public, name in _public_parts(sorted(written.items())):
            other = publics.setdefault(public, name)
            if public in written or other != name:
                whose = "a rule of its own" if public in written else f"the public part of {shortened(other)}"
                shown = shortened(public)
                raise RuleError(f"{shortened(name)}.public: {shown} already has {whose}; name another property")
        templates_in_order(written)
        return cls(tuple(sorted(written.items())))

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
        """The other properties that must be generated in the same write, because existing values are never read.

        These are the properties that a template uses, the other part of a key pair, and their siblings.
        """
        return frozenset(closure([property], lambda name: _neighbours(self._by_name.get(name))) - {property})

    def over(self, defaults: "Rules") -> "Rules":
        """Merge with defaults. Precedence: own name, own "*", default's name, default's "*".

        Raises:
            RuleError: they contradict each other, such as templates that use each other.
        """
        if REST in self._by_name or defaults.is_empty:
            return self
        kept = {name: rule for name, rule in defaults.written if name not in self._by_name}
        return self.checked(kept | dict(self.written))

    @cached_property
    def _by_name(self) -> Mapping[str, Rule]:
        publics = {public: PublicPartRule(private=name) for public, name in _public_parts(self.written)}
        return dict(self.written) | publics


NO_RULES: Final = Rules()


def templates_in_order(rules: Mapping[str, Rule]) -> dict[str, TemplateRule]:
    """The templates by property, each after those that it uses.

    Raises:
        RuleError: the templates form a circle, or are nested deeper than MAX_TEMPLATE_DEPTH.
    """
    templates = {name: rule for name, rule in rules.items() if isinstance(rule, TemplateRule)}
    sorter = TopologicalSorter({name: sorted(rule.uses & templates.keys()) for name, rule in sorted(templates.items())})
    try:
        order = tuple(sorter.static_order())
    except CycleError as error:
        circle = shortened(" → ".join(reversed(error.args[1])))
        raise RuleError(f"templates use each other in a circle: {circle}; remove one of these references") from error
    depths: dict[str, int] = {}
    for name in order:
        depths[name] = 1 + max((depths[used] for used in templates[name].uses if used in depths), default=0)
        if depths[name] > MAX_TEMPLATE_DEPTH:
            raise RuleError(
                f"{shortened(name)}.template: uses templates that use templates, {depths[name]} deep; "
                f"at most {MAX_TEMPLATE_DEPTH} are allowed"
            )
    return {name: templates[name] for name in order}


def other_half(name: str, rules: Mapping[str, Rule | None]) -> tuple[str, bool]:
    """The other half of a key pair, and whether its rule fits; "" for a property that is no half of one."""
    match rules[name]:
        case KeyPairRule(public=public):
            return public, rules.get(public) == PublicPartRule(private=name)
        case PublicPartRule(private=private):
            pair = rules.get(private)
            return private, isinstance(pair, KeyPairRule) and pair.public == name
    return "", True


def closure(names: Iterable[str], neighbours: Callable[[str], Iterable[str]]) -> set[str]:
    """The names, their neighbours, the neighbours of these, and so on."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += neighbours(name)
    return found


def _public_parts(written: Iterable[tuple[str, Rule]]) -> list[tuple[str, str]]:
    """The public and the private property of each key pair."""
    return [(rule.public, name) for name, rule in written if isinstance(rule, KeyPairRule)]


def _neighbours(rule: Rule | None) -> frozenset[str]:
    match rule:
        case TemplateRule():
            return rule.uses
        case KeyPairRule():
            return frozenset({rule.public})
        case PublicPartRule():
            return frozenset({rule.private})
    return frozenset()
