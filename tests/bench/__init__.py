"""`make bench`: vaultsync beside the talk's shell script, and its sources beside each other, on the same real servers.

Nothing here asserts speed: a run fails only when something does not arrive at all.
"""
