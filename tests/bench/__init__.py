"""`make bench`: vaultsync beside its peers, its sources beside each other, and its costs, on the same real servers.

Nothing here asserts speed: a run fails only when something does not arrive at all. A whole run writes
docs/benchmarks.md and its pictures.
"""
