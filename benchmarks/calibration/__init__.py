"""Whether what is said of a job is true: `python -m benchmarks.calibration`, on jobs whose answer is known."""
