"""Conclusions from trials: good gammas, verdicts on Anon against baselines, and advice for the next model."""
