"""The sources that report changes in Vault, as VAULTSYNC_SOURCE names them."""

from enum import Enum


class ChangeSource(Enum):
    """VAULTSYNC_SOURCE."""

    AUTO = "auto"
    EVENTS = "events"
    AUDIT = "audit"
    POLL = "poll"

    @property
    def streams(self) -> bool:
        """Whether the event stream is used where Vault offers it."""
        return self in (ChangeSource.AUTO, ChangeSource.EVENTS)
