"""Conclusions from trials: which gammas do well, whether Anon beats a baseline, and what to try on the next model."""
