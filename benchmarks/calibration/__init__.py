"""Error rates of answers, on jobs with a known answer: `python -m benchmarks.calibration`."""
