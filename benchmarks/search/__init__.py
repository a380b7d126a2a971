"""Benchmark of the search, on surfaces whose best configuration is known: `python -m benchmarks.search`."""
