"""The data of a job's charts, from a record of the ledger or from the `Jobs` interface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from anon_tune.answer import Answer
from anon_tune.records import (
    ENDED,
    ArmRecord,
    JobRecord,
    LearningCurve,
    Overview,
    Phase,
    Trial,
    TrialState,
    objective_key,
)
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.views import JobView, TrialView, job_view, trial_view

__all__ = ["ChartData", "Source"]

_MEASURED = {TrialState.PRUNED, TrialState.RUNNING}
"""States of trials whose last report counts, because they have no final value."""


class Source(Protocol):
    """The methods of `anon_tune.jobs.interface.Jobs` that charts need."""

    def job(self, job_id: str) -> JobView:
        """Return a job."""

    def list_trials(self, job_id: str) -> Sequence[TrialView]:
        """Return its trials."""

    def curves(self, job_id: str) -> Mapping[str, LearningCurve]:
        """Return the learning curves of its trials that have a report, by their ids."""


@dataclass(frozen=True)
class ChartData:
    """The data of a job's charts.

    Attributes:
        job: The job, with its answer once it has one.
        trials: All its trials, in order of creation.
        curves: Learning curves by id of the trial; a trial without a report has none.
    """

    job: JobView
    trials: Sequence[TrialView]
    curves: Mapping[str, LearningCurve]

    @classmethod
    def of_record(cls, job: JobRecord) -> ChartData:
        """Return the data of a job that was read with its trials and their reports."""
        arms = {arm: _arm([t for t in job.trials if t.arm == arm], job) for arm in job.spec["arms"]}
        projected = sum(trial.mlflow_run is not None for trial in job.trials)
        curves = {
            trial.id: LearningCurve(
                [r.step for r in trial.reports], [_finite(r.value) for r in trial.reports]
            )
            for trial in job.trials
            if trial.reports
        }
        return cls(job_view(Overview(job, arms, projected)), [trial_view(t) for t in job.trials], curves)

    @classmethod
    def of_jobs(cls, jobs: Source, job_id: str, *, curves: bool = True) -> ChartData:
        """Return the data of a job of this machine or of a service.

        Args:
            jobs: `anon_tune.Client()`, or another implementation of `Jobs`.
            job_id: The job.
            curves: Read the learning curves too, which not all charts need; see `Chart.needs_curves`.

        Raises:
            NotFoundError: There is no such job.
        """
        return cls(jobs.job(job_id), jobs.list_trials(job_id), jobs.curves(job_id) if curves else {})

    @cached_property
    def spec(self) -> JobSpec:
        """The job's settings."""
        return stored_spec(self.job.spec)

    @property
    def answer(self) -> Answer | None:
        """The job's answer; None before there is one."""
        return self.job.result

    @property
    def arms(self) -> list[str]:
        """The job's arms, in its order."""
        return list(self.job.arms)

    @property
    def minimizes(self) -> bool:
        """Whether a smaller objective is better."""
        return self.spec.objective.mode == "min"

    @property
    def objective(self) -> str:
        """Name of the objective on the validation data: "validation loss"."""
        return f"validation {self.spec.objective.metric}"

    def search(self, arm: str | None = None) -> list[TrialView]:
        """Return the search trials of an arm, or of all arms."""
        return [t for t in self.trials if t.phase is Phase.SEARCH and arm in {None, t.arm}]

    def value(self, trial: TrialView) -> float | None:
        """Return the objective of a COMPLETE trial, or the last one that a PRUNED or RUNNING one reported."""
        if trial.state is TrialState.COMPLETE:
            return trial.value
        curve = self.curves.get(trial.id)
        return None if curve is None or trial.state not in _MEASURED else curve.last

    def without_answer(self, what: str) -> str:
        """Return why a part of the answer is missing; `what` names it in the plural."""
        if self.job.state in ENDED:
            return "The job ended without an answer."
        return f"{what} come with the answer, when the job has finished."

    def key(self, value: float) -> float:
        """Return a sort key of an objective: the better, the smaller."""
        return objective_key(value, self.spec.objective.mode)


def _arm(trials: Sequence[Trial], job: JobRecord) -> ArmRecord:
    """Return the progress of an arm, from its trials in order of creation."""
    search: dict[TrialState, int] = {}
    reruns: dict[TrialState, int] = {}
    for trial in trials:
        counts = search if trial.phase is Phase.SEARCH else reruns
        counts[trial.state] = counts.get(trial.state, 0) + 1
    complete = [
        (objective_key(trial.value, job.spec["objective"]["mode"]), trial)
        for trial in trials
        if trial.phase is Phase.SEARCH and trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    best = min(complete, key=lambda pair: pair[0], default=(0.0, None))[1]
    return ArmRecord(search, reruns, best, sum(t.steps for t in trials), sum(t.seconds for t in trials))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
