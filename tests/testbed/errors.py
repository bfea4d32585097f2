"""The errors of the testbed; each says what is missing or failed, and where the log is."""

from __future__ import annotations


class TestbedError(Exception):
    """An error for the user of the testbed; its text is complete without a traceback."""

    __test__ = False  # otherwise pytest collects a class named Test…


class MissingToolError(TestbedError):
    """The machine lacks something that the testbed needs."""


class DiskSpaceError(TestbedError):
    """Too little disk to build."""


class BuildError(TestbedError):
    """A build or an installation failed."""


class ServerError(TestbedError):
    """A server did not start, did not become ready or died."""
