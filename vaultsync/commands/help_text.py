"""Help texts about annotations and rules. Describes how a value is generated, never the value. Pure."""

from collections.abc import Mapping
from typing import Final

from vaultsync.core import annotations
from vaultsync.generation.plan import Encoding, PropertyPlan
from vaultsync.generation.rules import (
    BytesRule,
    KeyPairRule,
    PasswordPolicyRule,
    PasswordRule,
    PublicPartRule,
    TemplateRule,
    UuidRule,
    shortened,
)

ANNOTATIONS: Final[Mapping[str, str]] = {
    annotations.SEED: 'on an ExternalSecret or its Namespace: "true" creates missing values, "false" does not',
    annotations.CREATE: "on an ExternalSecret: another name of the same",
    annotations.GENERATE: "on an ExternalSecret: how its values are generated, see below",
    annotations.ROTATE_AFTER: "on an ExternalSecret: the age at which vaultsync rotates the values that it created, "
    'such as 30d; or "never"',
    annotations.ROTATE: "on an ExternalSecret: each new text, such as the date, rotates them at once",
    annotations.HEAL: 'on an ExternalSecret or its Namespace: "false" creates values once, and never again',
    annotations.HEAL_LOST: "on an ExternalSecret or its Namespace: the present time; for 10 minutes from then on, "
    "vaultsync creates values again that were lost without a deletion",
    annotations.FORCE_SYNC_OPT_OUT: 'on an ExternalSecret: "false" disables the force-sync by vaultsync',
    annotations.FORCE_SYNC: "written by vaultsync: external-secrets' own signal to refresh",
    annotations.VERSIONS: "written by vaultsync: the version of each path at the last force-sync",
    annotations.CREATED: "written by vaultsync if the CRD has no condition Created: its status and reason",
    annotations.MESSAGE: "written by vaultsync if the CRD has no condition Created: its message",
}
RULES: Final[Mapping[str, str]] = {
    '{format: password, length: 40, symbols: "!#%+", digits: 4, exclude: "O0Il"}': "letters, digits and these symbols",
    "{format: hex, bytes: 32}": "random bytes; the default without a rule",
    "{format: base64, bytes: 32}": "the same in another encoding",
    "{format: base64url, bytes: 32}": "the same in another encoding",
    "{format: uuid}": "a random UUID",
    "{format: policy, name: ops}": "by a password policy of Vault",
    "{format: ed25519, public: ssh_public, encoding: openssh}": "a private key, the public one in another property",
    "{format: rsa, bits: 3072, public: tls_public, encoding: pem}": "a private key, the public one in another property",
    "{value: app}": "this text, which is not secret",
    '{template: "postgres://{{ .user }}:{{ .password | urlquery }}@db"}': "text with properties of the same write",
}
"""Examples of rules for a property, and the value of each."""


def vocabulary() -> str:
    """Describe all annotations and rules, a paragraph each."""
    rules = f'\nrules, in {annotations.GENERATE} by property ("*": the rest) and in VAULTSYNC_GENERATE, YAML or JSON:'
    return "\n".join(["annotations:", *map(_item, ANNOTATIONS.items()), rules, *map(_item, RULES.items())])


def _item(described: tuple[str, str]) -> str:
    return "  {}\n      {}".format(*described)


def describe_value(plan: PropertyPlan) -> str:
    """Such as `password, 40 characters`."""
    encoded = "" if plan.encoding is Encoding.NONE else f", in {plan.encoding.value}"
    return _rule(plan) + encoded


def _rule(plan: PropertyPlan) -> str:
    match plan.rule:
        case PasswordRule(length=length):
            return f"password, {length} characters"
        case BytesRule(format=format, bytes=count):
            return f"{count} random bytes in {format}"
        case UuidRule():
            return "random UUID"
        case PasswordPolicyRule(name=name):
            return f"Vault's password policy {name}"
        case KeyPairRule(format=format, bits=bits, public=public):
            size = f", {bits} bits" if bits else ""
            return f"{format} private key{size}, the public one in {shortened(public)}"
        case PublicPartRule(private=private):
            return f"public key of {shortened(private)}"
        case TemplateRule():
            return f"template of {', '.join(shortened(name) for name in sorted(plan.rule.uses))}"
        case _:
            return "fixed text"
