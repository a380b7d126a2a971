"""Models that a job may name; each file is one architecture."""

from anon_tune.workers.problems.models.build import build_model

__all__ = ["build_model"]
