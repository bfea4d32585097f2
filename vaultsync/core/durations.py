"""Parses and formats durations. Pure."""

import re
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AGES: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90s, 1h, 1h30m or 30d (Go's syntax, plus d); a number without a unit is seconds.

    Raises:
        ValueError: the text is not a duration.
    """
    spelled = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", spelled, re.ASCII):
        return float(spelled)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", spelled, re.ASCII)
    if not parts or "".join(number + unit for number, unit in parts) != spelled:
        raise ValueError("must be a duration such as 90s, 1h or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def age(seconds: float) -> str:
    """Format seconds in the largest whole unit, as kubectl does: 5d, 3h, 12m, 0s."""
    passed = max(0, int(seconds))
    unit, size = next(((unit, size) for unit, size in _AGES if passed >= size), ("s", 1))
    return f"{passed // size}{unit}"
