"""Benchmarks: every speed this project states, measured together with its rivals (`python -m benchmarks`)."""
