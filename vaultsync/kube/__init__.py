"""All requests to the Kubernetes API server. Imports nothing of vault/."""
