"""Benchmarks: every speed this project states, measured beside its rivals (`python -m benchmarks`)."""
