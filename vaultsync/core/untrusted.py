"""Reads values from untrusted JSON: a value of an unexpected type counts as missing. Pure."""

from typing import Any


def mapping(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The entries of a list, each as `mapping`; none if the value is not a list."""
    return [mapping(entry) for entry in value] if isinstance(value, list) else []


def text(value: object) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def texts(value: object) -> tuple[str, ...]:
    """The strings in a list; none if the value is not a list."""
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()
