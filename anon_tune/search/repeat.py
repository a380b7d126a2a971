"""Repeatability: whether the same job, run again, makes the same trials and finds the same answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anon_tune.records import RAN_TOO_LONG, WORKER_DIED, Trial, TrialState
from anon_tune.spec import JobSpec

__all__ = ["reasons_to_differ"]


def reasons_to_differ(spec: JobSpec, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the reasons why another run of a job may make other trials; none if it makes the same.

    This assumes the same versions of all packages and the same type of CPU.

    Args:
        spec: The job.
        trials: All its trials.
    """
    if spec.budget.time is not None:
        yield "budget.time ends the search by the clock"
    if spec.search.pruner != "none":
        yield f"search.pruner ({spec.search.pruner}) compares a trial with the reports of others at that time"
    if spec.resources.gpu:
        yield "a GPU may add numbers in a different order"
    lost = sum(
        trial.state is TrialState.FAILED and (trial.reason or "").startswith((WORKER_DIED, RAN_TOO_LONG))
        for trial in trials
    )
    if lost:
        yield f"{lost} of its trials died or ran too long (see `anon-tune logs`)"
