"""`vaultsync check`: what it asks, what it reports, and the commands that fix what it finds."""
