"""Pure decisions and types: no I/O, clock, thread or event loop. Imports generation only."""
