"""`vaultsync check`: the checks, their report, and the commands that fix what they find."""
