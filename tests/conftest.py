"""Gives the real servers to every test that asks for them; see tests/testbed/fixtures.py."""

pytest_plugins = ["tests.testbed.fixtures"]
