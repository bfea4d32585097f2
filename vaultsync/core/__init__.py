"""Pure decisions: no I/O, no clock and no event loop of its own; imports none of the other rooms."""
