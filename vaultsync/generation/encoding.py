"""How a value is encoded in Vault. Holds no value."""

import base64
from enum import Enum

from pydantic import SecretStr


class Encoding(Enum):
    """The encoding of a value in Vault that the reader's decodingStrategy takes off again."""

    NONE = "none"
    BASE64 = "base64"
    BASE64URL = "base64url"


def encode(value: SecretStr, encoding: Encoding) -> SecretStr:
    """Encode a value, as UTF-8, in base64 or base64url (RFC 4648 sections 4 and 5, with padding)."""
    if encoding is Encoding.NONE:
        return value
    return SecretStr(to_base64(value.get_secret_value().encode(), url=encoding is Encoding.BASE64URL))


def to_base64(raw: bytes, *, url: bool) -> str:
    """Base64 with padding, or base64url."""
    return (base64.urlsafe_b64encode(raw) if url else base64.b64encode(raw)).decode()
