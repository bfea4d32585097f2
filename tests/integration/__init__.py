"""Integration tests: parts of the project against real servers."""
