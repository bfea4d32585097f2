"""The fence that allows writes only while this process leads. Pure, except for the clock that it is given."""

from collections.abc import Callable

from vaultsync.core.errors import NotLeading


class Fence:
    """Is checked before every write; open only while the Lease is certainly held. Thread-safe.

    It reads the clock at each check, so that a process that was frozen finds it closed at once.

    Args:
        clock: monotonic seconds, including the time that the machine is suspended.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = float("-inf")

    @property
    def left(self) -> float:
        """Seconds until it closes, 0 if it is closed."""
        return max(0.0, self._until - self._clock())

    @property
    def is_open(self) -> bool:
        """Whether this process may act now."""
        return self.left > 0

    def open(self, until: float) -> None:
        """Allow writes until a time of the clock."""
        self._until = until

    def close(self) -> None:
        """Allow no more writes."""
        self._until = float("-inf")

    def check(self) -> None:
        """Check the fence; call it immediately before a write is sent.

        Raises:
            NotLeading: the write must not be sent.
        """
        if not self.is_open:
            raise NotLeading("nothing is written: this process does not lead")
