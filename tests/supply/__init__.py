"""What vaultsync is delivered with: `python -m tests.supply`."""
