"""Everything that speaks to Vault, and nothing that speaks to Kubernetes."""
