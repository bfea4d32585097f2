"""Installs, uses and uninstalls vaultsync by the README."""
