"""Whether the same job, run again, makes the same trials and finds the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anon_tune.records import Trial, TrialState
from anon_tune.spec import JobSpec

__all__ = ["FROM_OUTSIDE", "reasons_to_differ"]

FROM_OUTSIDE = ("the worker process died", "ran for more than")
"""How the reasons of trials begin that FAILED for what the machine did."""


def reasons_to_differ(spec: JobSpec, trials: Sequence[Trial], device: str) -> Iterator[str]:
    """Yield why another run of a job may make other trials; nothing where it makes the same.

    That holds for the same versions of all packages and the same type of CPU.

    Args:
        spec: The job's.
        trials: All its trials.
        device: What it was trained on, as the probe found it.
    """
    if spec.budget.time is not None:
        yield "budget.time ends the search by the clock"
    if spec.search.pruner != "none":
        yield f"search.pruner ({spec.search.pruner}) compares a trial with what others have reported by then"
    if device != "cpu":
        yield "sums on a GPU may be made in another order"
    lost = sum(
        trial.state is TrialState.FAILED and (trial.reason or "").startswith(FROM_OUTSIDE) for trial in trials
    )
    if lost:
        yield f"{lost} of its trials FAILED for what the machine did"
