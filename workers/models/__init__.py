"""Models that a job may name; each file is one architecture."""

from anon_tune.workers.models.registry import FACTORIES, build_model

__all__ = ["FACTORIES", "build_model"]
