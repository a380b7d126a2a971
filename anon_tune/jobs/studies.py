"""A job's search as an Optuna study in memory."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from anon_tune.documents import unknown
from anon_tune.errors import InputError
from anon_tune.records import Phase, TrialState
from anon_tune.search.distributions import distributions
from anon_tune.search_spaces import Space
from anon_tune.views import JobView, ReportView, TrialView

__all__ = ["study_of"]

_ARM = "arm"

_STATES = {
    TrialState.WAITING: optuna.trial.TrialState.WAITING,
    TrialState.RUNNING: optuna.trial.TrialState.RUNNING,
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.DIVERGED: optuna.trial.TrialState.FAIL,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    TrialState.CANCELLED: optuna.trial.TrialState.FAIL,
}


def study_of(
    job: JobView,
    spaces: Mapping[str, Space],
    trials: Sequence[TrialView],
    reports: Iterable[ReportView],
    arm: str | None = None,
) -> optuna.Study:
    """Return the search trials of a job, or of one arm, as a study; see `Jobs.study`.

    Args:
        job: The job.
        spaces: The search space of each arm.
        trials: All its trials, in the order of their creation.
        reports: All its reports.
        arm: The arm; None for all.

    Raises:
        InputError: The job has no such arm.
    """
    arms = [*job.arms] if arm is None else [arm]
    if arm is not None and arm not in job.arms:
        raise InputError(f"Job {job.id}: {unknown('arm', arm, job.arms)}")
    domains = {each: distributions(spaces[each]) if each in spaces else {} for each in arms}
    curves: dict[str, list[ReportView]] = {}
    for report in reports:
        curves.setdefault(report.trial, []).append(report)
    minimizes = job.spec["objective"]["mode"] == "min"
    with _quiet():
        study = optuna.create_study(study_name=job.name, direction="minimize" if minimizes else "maximize")
        study.add_trials(
            _frozen(trial, domains[trial.arm], curves.get(trial.id, []), arms, job.created)
            for trial in trials
            if trial.phase is Phase.SEARCH and trial.arm in arms
        )
    return study


def _frozen(
    trial: TrialView,
    domain: Mapping[str, BaseDistribution],
    curve: Sequence[ReportView],
    arms: Sequence[str],
    created: datetime.datetime,
) -> FrozenTrial:
    """Return one trial; its curve is ordered by step. Its times are those of its first and last report.

    Without a report they are `created`, the time at which the job was created.
    """
    prefix = "" if len(arms) == 1 or trial.arm == "anon" else f"{trial.arm}."
    params: dict[str, Any] = {
        f"{prefix}{name}": value for name, value in trial.params.items() if name in domain
    }
    known: dict[str, BaseDistribution] = {
        f"{prefix}{name}": domain[name] for name in trial.params if name in domain
    }
    if len(arms) > 1:
        params[_ARM], known[_ARM] = trial.arm, CategoricalDistribution(arms)
    own = ("arm", "repeat", "seed", "reason", "hyperparameters")
    frozen = create_trial(
        state=_STATES[trial.state],
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        params=params,
        distributions=known,
        user_attrs={
            "trial": trial.id,
            "state": trial.state.value,
            **trial.model_dump(mode="json", include=set(own)),
        },
        intermediate_values={r.step: math.nan if r.value is None else r.value for r in curve},
    )
    if frozen.state is not optuna.trial.TrialState.WAITING:
        frozen.datetime_start = _local(curve[0].time if curve else created)
    if frozen.state.is_finished():
        frozen.datetime_complete = _local(curve[-1].time if curve else created)
    return frozen


def _local(moment: datetime.datetime) -> datetime.datetime:
    """Return a time as Optuna has it: local, without a zone."""
    return moment.astimezone().replace(tzinfo=None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from logging a new study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
