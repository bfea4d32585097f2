"""The callback for which there is nothing to do. Pure."""


def ignore(*_: object) -> None:
    """Do nothing."""
