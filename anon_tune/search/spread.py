"""Variance of one configuration's values between seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import variance

from anon_tune.records import Phase, Trial
from anon_tune.search.scale import Scale

__all__ = ["confirm_runs", "pooled"]


def confirm_runs(
    trials: Sequence[Trial], scale: Scale, arm: str | None = None, of: Trial | None = None
) -> list[list[float]]:
    """Return the values of COMPLETE confirm runs on a scale, a list for each configuration.

    Args:
        trials: Trials of a job.
        scale: Scale of its objective.
        arm: Only runs of this arm.
        of: Only runs of this trial's configuration.
    """
    runs: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        wanted = arm in {None, trial.arm} and (of is None or trial.origin == of.origin)
        if wanted and trial.phase is Phase.CONFIRM and trial.value is not None:
            runs[trial.origin].append(scale(trial.value))
    return list(runs.values())


def pooled(groups: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the variance within groups, and its degrees of freedom; both are 0 if no group has two values."""
    repeated = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(variance(values) * (len(values) - 1) for values in repeated)
    return (squares / freedom if freedom else 0.0), freedom
