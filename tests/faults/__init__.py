"""Everything goes wrong at once, by a seed: `python -m tests.faults --seconds 600 --seed 7`, or `make soak`.

model       what people ask for, and what follows from it; pure
history     Vault's audit log, and what it proves; pure
environment the real servers, with a faulty line between each two, and what the operators know of them
actions     what people do, and what breaks
invariants  what must hold once everything is whole again
episode     so many steps by a seed, then healing and checking
"""
