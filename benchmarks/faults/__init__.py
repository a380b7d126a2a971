"""What is lost when something dies: `python -m benchmarks.faults`."""
