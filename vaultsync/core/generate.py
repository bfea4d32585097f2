"""Generated values. The one room where a secret comes into being; it leaves only inside a SecretStr."""

import secrets

from pydantic import SecretStr

DEFAULT_BYTES = 32


def default_value() -> SecretStr:
    """32 bytes of the operating system's generator in hex, the same as `openssl rand -hex 32`."""
    return SecretStr(secrets.token_hex(DEFAULT_BYTES))
