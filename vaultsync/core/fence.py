"""Whether this process may act, where one of several replicas leads. Pure but for the clock handed in."""

from collections.abc import Callable

from vaultsync.core.errors import NotLeading


class Fence:
    """Stands before every write; open for as long as the Lease is held for sure. Any thread may ask it.

    It goes by the clock at each write, so that a process that was frozen, or did not get the processor, finds it closed
    before anything has told it so.

    Args:
        clock: seconds, monotonic, also while the process or the machine sleeps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = float("-inf")

    @property
    def left(self) -> float:
        """Seconds for which it stays open, 0 if it is closed."""
        return max(0.0, self._until - self._clock())

    @property
    def is_open(self) -> bool:
        """Whether this process may act now."""
        return self.left > 0

    def open(self, until: float) -> None:
        """Let writes through until then, by the clock."""
        self._until = until

    def close(self) -> None:
        """Let nothing through any more."""
        self._until = float("-inf")

    def check(self) -> None:
        """To be called right before a write is sent.

        Raises:
            NotLeading: it must not be sent.
        """
        if not self.is_open:
            raise NotLeading("nothing is written: this process does not lead")
