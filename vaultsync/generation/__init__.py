"""Rules for generated values, and the values. Imports no I/O."""
