"""Reads values out of JSON that somebody else wrote: what is not of the expected type counts as absent. Pure."""

from typing import Any


def mapping(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """The value if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""
