"""What turns signals into work: queue, index, passes. Reaches Vault and Kubernetes through what app.py hands in."""
