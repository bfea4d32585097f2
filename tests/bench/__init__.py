"""`make bench`: vaultsync beside the talk's shell script, on the same real servers, in figures.

Nothing here asserts speed: a run fails only when something does not arrive at all.
"""
