"""Generates values. The only module in which a secret originates; it leaves the module only inside a SecretStr.

All randomness is the operating system's. Rules arrive checked; only their combination in one write is checked here.
"""

import base64
import secrets
import uuid
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from pydantic import SecretStr

from vaultsync.generation.plan import Encoding
from vaultsync.generation.rule_set import other_half, templates_in_order
from vaultsync.generation.rules import (
    DEFAULT_RSA_BITS,
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
    shortened,
)

MAX_RESULT: Final = 64 * 1024
"""Maximum bytes (UTF-8) of a template's result: templates that use templates could grow without limit."""

_RANDOM: Final = secrets.SystemRandom()


def generate(wanted: Mapping[str, Rule], fetched: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    """Generate one value for each property. The caller writes them together. Large RSA keys take seconds.

    The properties include all siblings (Rules.siblings). The values for each PasswordPolicyRule are fetched before.

    Raises:
        RuleError: a sibling or a policy's password is missing, or a template's result is too long.
    """
    _check_key_pairs(wanted)
    made: dict[str, SecretStr] = {}
    for name, rule in wanted.items():
        match rule:
            case KeyPairRule():
                made[name], made[rule.public] = _key_pair(rule)
            case PasswordPolicyRule():
                if name not in fetched:
                    policy = shortened(rule.name)
                    raise RuleError(
                        f"{shortened(name)}: a password of the policy {policy} must be fetched from Vault first"
                    )
                made[name] = fetched[name]
            case PublicPartRule() | TemplateRule():
                pass  # made with the private part, or below, after the values that they use
            case _:
                made[name] = SecretStr(_simple(rule))
    for name, template in templates_in_order(wanted).items():
        if missing := template.uses - made.keys():
            raise RuleError(
                f"{shortened(name)}.template: {shortened(min(missing))} is not generated in the same write, "
                "so its value is not known"
            )
        made[name] = _filled(name, template, made)
    return {name: made[name] for name in wanted}


def encode(value: SecretStr, encoding: Encoding) -> SecretStr:
    """Encode a value, as UTF-8."""
    if encoding is Encoding.NONE:
        return value
    return SecretStr(_base64(value.get_secret_value().encode(), url=encoding is Encoding.BASE64URL))


def _check_key_pairs(wanted: Mapping[str, Rule]) -> None:
    for name in wanted:
        other, fits = other_half(name, wanted)
        if not fits:
            raise RuleError(
                f"{shortened(name)}: it is half of a key pair, and the other half, {shortened(other)}, "
                "is not generated in the same write"
            )


def _simple(rule: PasswordRule | BytesRule | UuidRule | ValueRule) -> str:
    match rule:
        case PasswordRule():
            return _password(rule)
        case UuidRule():
            return str(uuid.uuid4())
        case ValueRule():
            return rule.value
    if rule.format == "hex":
        return secrets.token_hex(rule.bytes)
    return _base64(secrets.token_bytes(rule.bytes), url=rule.format == "base64url")


def _base64(raw: bytes, *, url: bool) -> str:
    """Base64 or base64url (RFC 4648 sections 4 and 5), with padding."""
    return (base64.urlsafe_b64encode(raw) if url else base64.b64encode(raw)).decode()


def _password(rule: PasswordRule) -> str:
    """The required characters, filled up from the whole alphabet, in random order."""
    alphabet = rule.alphabet
    characters = [secrets.choice(pool) for pool, least in rule.required for _ in range(least)]
    characters += [secrets.choice(alphabet) for _ in range(rule.length - len(characters))]
    _RANDOM.shuffle(characters)
    return "".join(characters)


def _key_pair(rule: KeyPairRule) -> tuple[SecretStr, SecretStr]:
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if rule.format == "rsa":
        # FIPS 186-5 section 5.1 allows 65537 and above; this is the usual exponent
        key = rsa.generate_private_key(public_exponent=65537, key_size=rule.bits or DEFAULT_RSA_BITS)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    ssh = rule.encoding == "openssh"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH if ssh else serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH if ssh else serialization.Encoding.PEM,
        serialization.PublicFormat.OpenSSH if ssh else serialization.PublicFormat.SubjectPublicKeyInfo,
    )
    return SecretStr(private.decode()), SecretStr(public.decode())


def _filled(name: str, rule: TemplateRule, made: Mapping[str, SecretStr]) -> SecretStr:
    filled: list[str] = []
    size = 0
    for piece in rule.pieces:
        value = made[piece.name].get_secret_value() if piece.name else ""
        filled += (piece.text, quote(value, safe="") if piece.urlquery else value)
        size += sum(len(part.encode()) for part in filled[-2:])
        if size > MAX_RESULT:
            raise RuleError(
                f"{shortened(name)}.template: its result is longer than {MAX_RESULT} bytes; use fewer or shorter values"
            )
    return SecretStr("".join(filled))
