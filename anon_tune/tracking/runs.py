"""Contents of runs: parameters, metrics and tags of a job and of its trials, as MLflow's pages show them."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from anon_tune.answer import Answer
from anon_tune.records import (
    ArmRecord,
    JobRecord,
    JobState,
    Overview,
    Trial,
    TrialState,
    objective_key,
)
from anon_tune.tracking.names import DESCRIPTION_TAG, JOB_TAG, NAME_TAG, PARENT_TAG, TRIAL_TAG, readable

__all__ = [
    "JOB_STATUS",
    "TRIAL_STATUS",
    "DataSet",
    "Point",
    "data_set",
    "job_params",
    "job_points",
    "job_tags",
    "milliseconds",
    "new_job_tags",
    "new_trial_tags",
    "trial_params",
    "trial_points",
    "trial_settings",
    "trial_tags",
]

_LONGEST_TAG, _LONGEST_REASON = 8000, 5000  # MLflow's limit is 8000
_DIGITS = 6
_SORTED = ("gamma", "step_size", "lr", "beta3", "delay", "weight_decay", "momentum")
"""Settings that are metrics too. More of them would make the projection noticeably slower."""

TRIAL_STATUS: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.CANCELLED: "KILLED",
    TrialState.DIVERGED: "FAILED",
    TrialState.FAILED: "FAILED",
}
"""MLflow's status of trials that have ended."""

JOB_STATUS: Mapping[JobState, str] = {
    JobState.QUEUED: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.PAUSED: "SCHEDULED",
    JobState.SUCCEEDED: "FINISHED",
    JobState.CANCELLED: "KILLED",
    JobState.FAILED: "FAILED",
}
"""MLflow's status of jobs."""


class Point(NamedTuple):
    """A value of a metric, named as in anon_tune; MLflow may need another name."""

    name: str
    value: float
    milliseconds: int
    step: int


class DataSet(NamedTuple):
    """The data of a job: its name, and a digest that differs for other data."""

    name: str
    digest: str


def milliseconds(moment: datetime.datetime) -> int:
    """Return a time as MLflow stores it."""
    return round(moment.timestamp() * 1000)


def new_job_tags(job: JobRecord) -> dict[str, str]:
    """Return the tags that a job's run gets when it is created."""
    owner = {} if job.owner is None else {"mlflow.user": job.owner, "anon_tune.owner": job.owner}
    return {JOB_TAG: job.id, NAME_TAG: f"{job.name} {job.id}", **owner}


def job_tags(job: JobRecord, description: str) -> dict[str, str]:
    """Return the tags of a job's run in its present state."""
    family = (job.architecture or {}).get("family")
    return {
        DESCRIPTION_TAG: description[:_LONGEST_TAG],
        "anon_tune.name": job.name,
        "anon_tune.state": job.state.value,
        "anon_tune.phase": job.phase.value,
        "anon_tune.arms": ", ".join(job.spec["arms"]),
        **({} if family is None else {"anon_tune.family": str(family)}),
    }


def job_params(job: JobRecord) -> dict[str, Any]:
    """Return the job file's keys, nested ones as "budget.trials"."""
    return _flat(job.spec)


def job_points(overview: Overview, moment: datetime.datetime) -> Iterator[Point]:
    """Yield the metrics of a job's run in its present state.

    Args:
        overview: The job and the progress of its arms.
        moment: Time of these values, by the ledger: the same whenever this state is written again.
    """
    job = overview.job
    done = sum(map(_ended, overview.arms.values()))
    found = {
        **_best(overview),
        **(_answered(job.answer) if job.answer is not None and job.state is not JobState.RUNNING else {}),
        "trials_done": done,
        "work_seconds": job.spent,
    }
    yield from (
        Point(name, value, milliseconds(moment), done) for name, value in found.items() if value is not None
    )


def _best(overview: Overview) -> dict[str, float | None]:
    """Return the best values so far: Anon's with its gamma, as in the columns of trials, and each arm's."""
    best = {arm: progress.best for arm, progress in overview.arms.items() if progress.best is not None}
    anon = best.get("anon")
    of_anon = {} if anon is None else {"objective": anon.value, "gamma": anon.hyperparameters.get("gamma")}
    return {**of_anon, **{f"best/{arm}": trial.value for arm, trial in best.items()}}


def _answered(answer: Answer) -> dict[str, float | None]:
    gamma = answer.gamma
    flat = gamma.flat
    return {
        "gamma": gamma.best,
        "gamma_low": gamma.low,
        "gamma_high": gamma.high,
        "gamma_flat_low": min((low for low, _ in flat), default=None),
        "gamma_flat_high": max((high for _, high in flat), default=None),
        **{f"test/{arm}": winner.test.mean for arm, winner in answer.winners.items()},
    }


def _ended(arm: ArmRecord) -> int:
    return sum(
        number
        for counted in (arm.search, arm.reruns)
        for state, number in counted.items()
        if state in TRIAL_STATUS
    )


def new_trial_tags(trial: Trial, parent: str) -> dict[str, str]:
    """Return the tags that a trial's run gets when it is created."""
    return {
        TRIAL_TAG: trial.id,
        PARENT_TAG: parent,
        NAME_TAG: trial.id.removeprefix(f"{trial.job}-"),  # its parent's name has the job
        "anon_tune.job": trial.job,
        "anon_tune.arm": trial.arm,
        "anon_tune.phase": trial.phase.value,
        "anon_tune.repeat": str(trial.repeat),
    }


def trial_tags(trial: Trial) -> dict[str, str]:
    """Return the tags of a trial's run in its present state."""
    reason = {"anon_tune.reason": trial.reason[:_LONGEST_REASON]} if trial.reason else {}
    return {"anon_tune.state": trial.state.value, **(reason if trial.is_finished else {})}


def trial_params(trial: Trial) -> dict[str, str]:
    """Return the trial's settings, and its arm, phase and seed. Numbers have six digits and no exponent."""
    return {
        **{name: _text(value) for name, value in _settings(trial).items()},
        "arm": trial.arm,
        "phase": trial.phase.value,
        "seed": str(trial.seed),
    }


def trial_settings(trial: Trial, moment: datetime.datetime) -> Iterator[Point]:
    """Yield the main settings of a trial as metrics: MLflow sorts these as numbers, and parameters as text."""
    for name, value in _settings(trial).items():
        if name in _SORTED and _is_number(value):
            yield Point(
                name if name == "gamma" else f"settings/{name}", float(value), milliseconds(moment), 0
            )


def trial_points(trial: Trial, written: int, mode: str) -> Iterator[Point]:
    """Yield the metrics of the reports after the first `written` ones, and the summary of a trial that has ended.

    The objective comes first, and its section before that of the optimizer in MLflow's pages, which sort sections by
    name. Only a COMPLETE trial has an `objective`; all have the values on validation data.

    Args:
        trial: The trial with its reports.
        written: Number of reports that MLflow has.
        mode: Better direction of the objective, "min" or "max".
    """
    if trial.value is not None and trial.finished is not None:
        yield Point("objective", trial.value, milliseconds(trial.finished), len(trial.reports))
    for report in trial.reports[written:]:
        time = milliseconds(report.time)
        yield Point("objective/validation", report.value, time, report.step)
        for name, value in report.metrics.items():
            yield Point(readable(name), value, time, report.step)
    finite = [report for report in trial.reports if math.isfinite(report.value)]
    if finite and trial.is_finished:
        best = min(finite, key=lambda report: (objective_key(report.value, mode), report.step))
        yield Point("objective/best", best.value, milliseconds(best.time), best.step)


def data_set(job: JobRecord) -> DataSet | None:
    """Return the job's data; None if the user's training brings its own.

    The digest is of the data's name and options, with names and sizes of files in place of their contents.
    """
    data = job.spec.get("data")
    if not data:
        return None
    options = {name: _of_file(value) for name, value in data.get("options", {}).items()}
    content = json.dumps([data["name"], options], sort_keys=True, default=str)
    return DataSet(data["name"], hashlib.sha256(content.encode()).hexdigest()[:12])


def _of_file(value: Any) -> Any:
    path = Path(value) if isinstance(value, str) else None
    if path is None or not path.is_absolute() or not path.exists():
        return value
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [path.name, *((file.name, file.stat().st_size) for file in files if file.is_file())]


def _settings(trial: Trial) -> dict[str, Any]:
    """Return search coordinates and the optimizer's arguments, named alike in all arms: betas as beta1, beta2, ..."""
    settings = {**trial.params, **trial.hyperparameters}
    betas = settings.pop("betas", None)
    if isinstance(betas, list | tuple):
        settings |= {f"beta{number}": beta for number, beta in enumerate(betas, 1)}
    elif betas is not None:
        settings["betas"] = betas
    return settings


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value) and value and -12 < math.log10(abs(value)) < 15:
        return format(Decimal(f"{value:.{_DIGITS}g}"), "f")
    return str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
