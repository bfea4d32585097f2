"""The dependencies that vaultsync is delivered with: `python -m tests.supply`."""
