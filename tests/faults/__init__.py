"""Many faults at the same time, chosen by a seed: `python -m tests.faults --seconds 600 --seed 7`, or `make soak`.

model       the requests of operators and their expected results; pure
history     evidence from Vault's audit log; pure
environment the real servers, with a faulty line between each two, and what operators know of them
actions     operators' actions, and faults
invariants  what must hold once all faults are over
episode     a number of steps chosen by a seed, then recovery and checks
"""
