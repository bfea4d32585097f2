"""Settings and the types they consist of. Imports no client of Vault or Kubernetes."""
