"""A rule in a few words, for who asks what would be created. Pure; says how a value is made, never what it is."""

from vaultsync.core.generate import Encoding
from vaultsync.core.rules import (
    BytesRule,
    KeyPairRule,
    PasswordRule,
    PolicyRule,
    PublicPartRule,
    TemplateRule,
    UuidRule,
    shortened,
)
from vaultsync.core.wishes import Wish


def in_words(wish: Wish) -> str:
    """Such as `password, 40 characters`."""
    encoded = "" if wish.encoding is Encoding.NONE else f", in {wish.encoding.value}"
    return _rule(wish) + encoded


def _rule(wish: Wish) -> str:
    match wish.rule:
        case PasswordRule(length=length):
            return f"password, {length} characters"
        case BytesRule(format=format, bytes=count):
            return f"{count} random bytes in {format}"
        case UuidRule():
            return "random UUID"
        case PolicyRule(name=name):
            return f"Vault's password policy {name}"
        case KeyPairRule(format=format, bits=bits, public=public):
            size = f", {bits} bits" if bits else ""
            return f"{format} private key{size}, the public one in {shortened(public)}"
        case PublicPartRule(private=private):
            return f"public key of {shortened(private)}"
        case TemplateRule():
            return f"template of {', '.join(shortened(name) for name in sorted(wish.rule.uses))}"
        case _:
            return "fixed text"
