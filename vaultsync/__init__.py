"""vaultsync: seeds missing Vault values for external-secrets and heals what is deleted or rotated."""

__version__ = "0.1.0"
