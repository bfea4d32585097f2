"""What operators look at: logs and health."""
