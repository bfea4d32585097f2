"""Provides the real servers as fixtures; see tests/testbed/fixtures.py."""

pytest_plugins = ["tests.testbed.fixtures"]
