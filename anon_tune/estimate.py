"""An estimate of a job before its first trial: how many trials, and for how long."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anon_tune.records import Phase
from anon_tune.spec import JobSpec

__all__ = ["Measured", "about_estimate", "about_time", "duration", "seconds_per_unit"]


@dataclass(frozen=True)
class Measured:
    """A job with the same model, data and batch size as one that is to be estimated.

    Attributes:
        id: The job.
        probe: Measurements of the model.
        seconds: Seconds of work on the job so far.
        trained: Epochs, or steps, that its trials have done so far.
    """

    id: str
    probe: Mapping[str, Any]
    seconds: float
    trained: int


def seconds_per_unit(spec: JobSpec, probe: Mapping[str, Any]) -> float | None:
    """Return the duration of training for an epoch, or for a step if the budget is in steps; None if not measured.

    Args:
        spec: The job.
        probe: Measurements of its model, or of the same model, data and batch size.
    """
    step = probe.get("seconds_per_step")
    steps = 1 if spec.budget.unit == "step" else probe.get("steps_per_epoch")
    return None if step is None or steps is None else float(step) * float(steps)


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
    said += f"about {duration(seconds * budget.length * rounds)} of training with {_count(at_once, 'trial')} at once"
    article = "an" if budget.unit == "epoch" else "a"
    if spec.budget.time is not None:
        said += f", or less: the search ends after {duration(spec.budget.time)} (budget.time)"
    return f"{said} ({seconds:.2g} s for {article} {budget.unit}; evaluation and the start of trials come on top)"


def about_time(spec: JobSpec, measured: Measured | None) -> Iterator[str]:
    """Yield sentences on the time that a job is expected to take, from a job that is alike.

    Args:
        spec: The job.
        measured: A job with the same model, data and batch size, or None.
    """
    budget = spec.budget
    total = sum(spec.planned_trials().values()) * budget.length
    unit = seconds_per_unit(spec, measured.probe) if measured is not None else None
    if measured is None or unit is None:
        yield (
            "The time is unknown until the first trials: no job has measured this model on this data at this batch "
            "size. The new job measures a step before its first trial, and its page shows the time left as soon as "
            "trials end."
        )
    else:
        article = "an" if budget.unit == "epoch" else "a"
        yield (
            f"About {duration(unit * total)} of training with one trial at a time: {unit:.2g} s for {article} "
            f"{budget.unit}, as job {measured.id} measured. Evaluation and the start of trials come on top; parallel "
            "trials divide it."
        )
        if measured.trained:
            rate = measured.seconds / measured.trained
            yield (
                f"Job {measured.id} took {duration(measured.seconds)} for {measured.trained:,} {budget.unit}s in "
                f"all. At that rate this job takes {duration(rate * total)}."
            )
    if budget.time is not None:
        yield f"The search ends after {duration(budget.time)} of work at the latest (budget.time)."


def duration(seconds: float) -> str:
    """Return a time to two digits, in the largest unit of which it has two."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"
    return f"{max(1, round(seconds))} s"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
