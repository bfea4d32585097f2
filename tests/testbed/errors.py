"""What can go wrong in the testbed, each as an error that names what is missing or who failed and where to look."""

from __future__ import annotations


class TestbedError(Exception):
    """Anything the testbed reports to a person; its text is complete without a traceback."""

    __test__ = False  # or pytest takes a class named Test… for a test


class MissingToolError(TestbedError):
    """Something the testbed needs from this machine is not there."""


class DiskSpaceError(TestbedError):
    """Too little disk to build."""


class BuildError(TestbedError):
    """A build or an installation failed."""


class ServerError(TestbedError):
    """A server did not start, did not become ready or died."""
