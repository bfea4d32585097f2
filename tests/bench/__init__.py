"""`make bench`: compares vaultsync with its peers and its sources with each other, and measures its costs.

All run on the same real servers. Nothing asserts speed: a run fails only if a value does not arrive. A full run writes
docs/benchmarks.md and its pictures.
"""
