"""Everything that speaks to the Kubernetes API server, and nothing that speaks to Vault."""
