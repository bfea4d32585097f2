"""Parts of the project against real servers."""
