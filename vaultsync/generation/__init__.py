"""Rules for generated values, and their generation. No I/O. Imports no other package of vaultsync."""
