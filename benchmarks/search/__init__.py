"""Benchmark of the search, on surfaces with a known best configuration: `python -m benchmarks.search`."""
