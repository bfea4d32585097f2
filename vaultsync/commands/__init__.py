"""Commands for operators. The top package: nothing imports it."""
