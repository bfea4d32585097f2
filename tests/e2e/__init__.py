"""The README's way from nothing to a vaultsync that works, and back."""
