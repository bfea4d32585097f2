"""Types of callbacks that several packages share, and the callback for which there is nothing to do. Pure."""

from collections.abc import Callable
from typing import TypeAlias

CountRequest: TypeAlias = Callable[[str, int], None]
"""Counts a request by its HTTP method (or WATCH) and its status, 0 without a response. Any thread may call it."""

Clock: TypeAlias = Callable[[], float]
"""A monotonic clock, in seconds."""


def ignore(*_: object) -> None:
    """Do nothing."""
