"""Stopping trials early: Optuna's pruners, asked with a study rebuilt from the reports.

Optuna's successive halving keeps its rungs in system attributes of the live study; here they are recomputed, so that
a decision is the same before and after a crash. What is compared at a rung is the final value that is forecast there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import optuna
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner
from optuna.trial import create_trial

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search_spaces import Space
from anon_tune.spec import Search

__all__ = ["should_prune"]

_DOUBT = 1.0
"""Standard deviations of the forecast's error by which a trial must be behind to be stopped."""

_MEDIAN_OF = 4
"""The median of fewer completed trials stops nothing."""


def should_prune(space: Space, trial: Trial, others: Sequence[Trial], search: Search, mode: str) -> bool:
    """Whether `trial` should stop after its last report.

    Args:
        space: What its arm searches.
        trial: A running search trial with its reports.
        others: The other search trials of its arm, with theirs.
        search: Which pruner, its grace in epochs, its reduction factor.
        mode: "min" or "max".
    """
    if search.pruner == "none" or not trial.reports or trial.reports[-1].step < search.grace:
        return False
    if not math.isfinite(trial.reports[-1].value):
        return False  # it ends as DIVERGED
    if search.pruner == "median":
        return _below_median(trial, others, search, mode)
    return _halved(space, trial, others, search, mode)


def _halved(space: Space, trial: Trial, others: Sequence[Trial], search: Search, mode: str) -> bool:
    step = trial.reports[-1].step
    before = trial.reports[-2].step if len(trial.reports) > 1 else 0
    # A trial stands at the rung that its last report reached; at most one, since steps are taken one by one.
    reached = [number for number, at in _rungs(search, step) if before < at <= step]
    if not reached:
        return False
    rung = reached[-1]
    forecast = Forecast(space, [*others, trial], mode)
    own = forecast.final(trial, step)
    if own is None:
        return False
    own -= _DOUBT * forecast.error(step)
    study = optuna.create_study(direction="minimize")
    for other in others:
        final = forecast.final(other, search.grace * search.reduction**rung)
        if final is not None:
            attributes = {f"completed_rung_{rung}": final}
            study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING, system_attrs=attributes))
    attributes = {f"completed_rung_{number}": own for number in range(rung)}
    study.add_trial(
        create_trial(
            state=optuna.trial.TrialState.RUNNING,
            intermediate_values={step: own},
            system_attrs=attributes,
        )
    )
    pruner = SuccessiveHalvingPruner(min_resource=search.grace, reduction_factor=search.reduction)
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])


def _rungs(search: Search, step: int) -> Iterator[tuple[int, int]]:
    """Numbers and steps of the rungs up to a step."""
    number, at = 0, search.grace
    while at <= step:
        yield number, at
        number, at = number + 1, at * search.reduction


def _below_median(trial: Trial, others: Sequence[Trial], search: Search, mode: str) -> bool:
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    for other in others:
        if other.state is TrialState.COMPLETE:  # the others do not count in Optuna's median
            values = {report.step: report.value for report in other.reports}
            study.add_trial(create_trial(value=other.value, intermediate_values=values))
    values = {report.step: report.value for report in trial.reports}
    study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=values))
    pruner = MedianPruner(n_startup_trials=_MEDIAN_OF, n_warmup_steps=search.grace)
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])
