"""Coverage-guided fuzzing of what parses untrusted input: `python -m tests.fuzz TARGET [libFuzzer's options]`."""
