"""What the parts count and time about themselves, to be read by whoever asks. Pure, and cheap: an addition each."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from threading import Lock
from typing import Final

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds for what takes hundredths of a second when all is well, and minutes when a server is away."""
NO_ANSWER: Final = "none"
OTHER: Final = "other"
CODES: Final = frozenset(
    {200, 201, 202, 204, 307, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 422, 429, 472, 473, 500, 502, 503, 504}
)
"""Statuses that are told apart: what Vault and the API server document, and the proxies before them."""


def code(status: int) -> str:
    """The status as a label, of which there are only so many.

    Args:
        status: of HTTP, 0 where nothing was answered.
    """
    if status in CODES:
        return str(status)
    return OTHER if status else NO_ANSWER


class Histogram:
    """How many of the observed values were at most as large as each bound.

    Args:
        bounds: rising; a last one without limit is added.

    Attributes:
        sum: of all values.
    """

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[float, int]]:
        """Each bound, the last one infinite, with the number of values up to it."""
        return list(zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True))


class Requests:
    """Counts requests by method and code; several threads may do so at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def count(self, method: str, status: int) -> None:
        """Count one request.

        Args:
            method: one of those that vaultsync uses.
            status: of HTTP, 0 where nothing was answered.
        """
        with self._lock:  # an addition is a read and a write
            self._counts[method, code(status)] += 1

    def counts(self) -> dict[tuple[str, str], int]:
        """By method and code, how many there were."""
        with self._lock:
            return dict(self._counts)
