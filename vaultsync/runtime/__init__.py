"""The process: its parts, its start and end, its health, metrics and log."""
