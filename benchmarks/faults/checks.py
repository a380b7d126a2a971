"""Checks of a job at its end, after any kills."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from anon_tune.records import FINISHED, JobRecord, JobState, Trial
from benchmarks.faults.checker import Fault, Violation
from benchmarks.faults.service import Service

__all__ = ["Losses", "losses", "of_history"]


@dataclass
class Losses:
    """Counts of losses and repetitions, which must all be 0.

    Attributes:
        trials_lost: Trials that did not finish, that are gone, or whose end is another than it was.
        trials_twice: A configuration twice with one seed, and attempts at trials that had finished.
        reports_lost: Reports that are gone or changed, and steps left out.
        reports_twice: A step twice.
        mlflow: Runs more or less than trials, and runs whose state or reports are not the ledger's.
        paused: Jobs that a fault PAUSED, so that a person must resume them.
        off_budget: Trials more or less than the confirmed budget, in the search and in the reruns.
        history: Other violations of the history (`checker.py`).
    """

    trials_lost: int = 0
    trials_twice: int = 0
    reports_lost: int = 0
    reports_twice: int = 0
    mlflow: int = 0
    paused: int = 0
    off_budget: int = 0
    history: int = 0

    def __iadd__(self, other: Losses) -> Losses:
        for name in self.titles(plain=True):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.titles(plain=True))

    @classmethod
    def titles(cls, plain: bool = False) -> list[str]:
        """Return the names of the columns."""
        names = [each.name for each in dataclasses.fields(cls)]
        return names if plain else [name.replace("_", " ") for name in names]

    def cells(self) -> list[str]:
        """Return the values of the columns."""
        return [str(getattr(self, name)) for name in self.titles(plain=True)]


def losses(ended: JobRecord, seen: Sequence[JobRecord], service: Service) -> Losses:
    """Compare a job at its end with what it was at each kill, and with MLflow."""
    found = Losses()
    trials = {trial.id: trial for trial in ended.trials}
    if ended.state is not JobState.SUCCEEDED:
        raise SystemExit(f"job {ended.id} is {ended.state}: {ended.reason}; see {service.home}")
    found.trials_lost += sum(trial.state not in FINISHED for trial in ended.trials)
    for before in seen:
        for old in before.trials:
            new = trials.get(old.id)
            if new is None:
                found.trials_lost += 1
                continue
            if old.is_finished:
                found.trials_lost += (old.state, old.value) != (new.state, new.value)
                found.trials_twice += old.attempts != new.attempts
            found.reports_lost += sum(report not in new.reports for report in old.reports)
    ran = Counter((t.arm, t.phase, t.seed, tuple(sorted(t.params.items()))) for t in ended.trials)
    found.trials_twice += sum(count - 1 for count in ran.values())
    for trial in ended.trials:
        steps = Counter(report.step for report in trial.reports)
        found.reports_twice += sum(count - 1 for count in steps.values())
        found.reports_lost += len(set(range(1, max(steps, default=0) + 1)) - set(steps))
    found.mlflow += _off_mlflow(ended.trials, service)
    return found


def of_history(violations: Sequence[Violation]) -> Losses:
    """Count the violations of a service's history."""
    off = sum(violation.fault is Fault.BUDGET for violation in violations)
    return Losses(off_budget=off, history=len(violations) - off)


def _off_mlflow(trials: Sequence[Trial], service: Service) -> int:
    runs = service.mlflow_runs()
    off = 0
    counted = Counter(trial for trial, _, _ in runs)
    off += sum(abs(counted[trial.id] - 1) for trial in trials)
    off += sum(trial not in {t.id for t in trials} for trial in counted)
    states = {trial.id: trial.state.value for trial in trials}
    reports = {trial.id: len(trial.reports) for trial in trials}
    off += sum((state, points) != (states.get(trial), reports.get(trial)) for trial, state, points in runs)
    return off
