"""Losses after killed processes: `python -m benchmarks.faults`."""
