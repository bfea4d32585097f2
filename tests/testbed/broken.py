"""`python -m tests.testbed.broken run`: vaultsync with a bug in one of its helper tasks, the resync.

No input is known that triggers such a bug (it would be fixed), so one is injected. The rest is the real process.
"""

import sys

from vaultsync import cli
from vaultsync.controller.controller import Controller
from vaultsync.runtime import term

SECRET = "hvs.a-value-that-nobody-may-see"


class BrokenController(Controller):
    """Fails after the initial scan, with a value in the message and in local variables."""

    async def resync(self) -> None:
        await self.caught_up.wait()
        value = {"token": SECRET}
        raise LookupError(f"no such thing: {value}")


def main() -> int:
    """Runs vaultsync's `main` with the bug."""
    setattr(term, "Controller", BrokenController)  # noqa: B010 — Term makes this one then
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
