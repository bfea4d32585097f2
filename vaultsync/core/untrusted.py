"""Reads values from untrusted JSON: a value of an unexpected type counts as missing. Pure."""

import json
from datetime import datetime, tzinfo
from typing import Any


def parse_json(document: str | bytes) -> object:
    """The value that the document contains, None if it is not valid or nested too deeply."""
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None


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


def text_fields(value: object) -> dict[str, str]:
    """The fields of an object that are strings; none if the value is not an object."""
    return {name: field for name, field in mapping(value).items() if isinstance(field, str)}


def parse_time(value: object, default: tzinfo | None = None) -> datetime | None:
    """The time (RFC 3339), None if it is not one. Without `default`, the time must have an offset."""
    try:
        time = datetime.fromisoformat(text(value))
    except ValueError:
        return None
    if time.tzinfo is None:
        return None if default is None else time.replace(tzinfo=default)
    return time
