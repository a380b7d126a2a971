"""Projection of the ledger to MLflow: one parent run per job, one child run per trial."""

from anon_tune.tracking.projector import Projector
from anon_tune.tracking.store import EXPERIMENT, check_experiment, check_uri

__all__ = ["EXPERIMENT", "Projector", "check_experiment", "check_uri"]
