"""An estimate of a job before its first trial: how many trials, and for how long."""

from __future__ import annotations

import math

from anon_tune.records import Phase
from anon_tune.spec import JobSpec

__all__ = ["about_estimate"]


def about_estimate(spec: JobSpec, seconds: float | None, at_once: int) -> str:
    """Return the trials of a job and the time that they are expected to take, without evaluation and starts.

    Args:
        spec: The job.
        seconds: Duration of training for an epoch, or for a step if the budget is in steps, as the probe measured it;
            None if it did not.
        at_once: Number of trials that run at once.
    """
    planned, budget = spec.planned_trials(), spec.budget
    search, confirm, verdict = (planned[phase] for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT))
    total = search + confirm + verdict
    counts = f"{search} search, {confirm} confirm and {verdict} verdict trials, {total:,} in all"
    said = f"estimate: at most {counts}, of {budget.in_words} each; "
    if seconds is None:
        return f"{said}the time is unknown, since no report came while the model was measured"
    rounds = math.ceil(total / at_once)
    said += f"about {_in_units(seconds * budget.length * rounds)} of training with {_count(at_once, 'trial')} at once"
    article = "an" if budget.unit == "epoch" else "a"
    if spec.budget.time is not None:
        said += f", or less: the search ends after {_in_units(spec.budget.time)} (budget.time)"
    return f"{said} ({seconds:.2g} s for {article} {budget.unit}; evaluation and the start of trials come on top)"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _in_units(seconds: float) -> str:
    """Return a time to two digits, in the largest unit of which it has two."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"
