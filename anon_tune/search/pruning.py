"""Stopping trials early: Optuna's pruners, asked with a study rebuilt from the reports.

Optuna's successive halving keeps its rungs in system attributes of the live study; here they are recomputed from
the reports, so that a decision is the same before and after a crash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.pruners import BasePruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import create_trial

from anon_tune.records import Trial, TrialState
from anon_tune.spec import Search

__all__ = ["should_prune"]

# The median is taken over COMPLETE trials alone, as in Optuna; halving looks at the rungs of all.
_STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.RUNNING: optuna.trial.TrialState.RUNNING,
    TrialState.WAITING: optuna.trial.TrialState.RUNNING,
}


def should_prune(trial: Trial, others: Sequence[Trial], search: Search, mode: str) -> bool:
    """Whether `trial` should stop after its last report.

    Args:
        trial: A running search trial with its reports.
        others: The other search trials of its arm, with theirs.
        search: Which pruner, its grace in epochs, its reduction factor.
        mode: "min" or "max".
    """
    if search.pruner == "none" or not trial.reports or trial.reports[-1].step < search.grace:
        return False
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    for other in [*others, trial]:
        last = trial.reports[-1].step if other is trial else None
        state = _STATES.get(other.state, optuna.trial.TrialState.FAIL)
        study.add_trial(
            create_trial(
                state=state,
                value=other.value if state is optuna.trial.TrialState.COMPLETE else None,
                intermediate_values={report.step: report.value for report in other.reports},
                system_attrs=_rungs(other, search, before=last),
            )
        )
    return _pruner(search).prune(study, study.get_trials(deepcopy=False)[-1])


def _pruner(search: Search) -> BasePruner:
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=search.grace)
    return SuccessiveHalvingPruner(min_resource=search.grace, reduction_factor=search.reduction)


def _rungs(trial: Trial, search: Search, before: int | None) -> dict[str, float]:
    """The rungs a trial has completed, at steps below `before`: the value of its first report at or past each.

    NaN completes no rung: a trial ends there.
    """
    attributes: dict[str, float] = {}
    reports = [report for report in trial.reports if before is None or report.step < before]
    rung = 0
    while True:
        at = search.grace * search.reduction**rung
        reached = next((report for report in reports if report.step >= at), None)
        if reached is None or math.isnan(reached.value):
            return attributes
        attributes[f"completed_rung_{rung}"] = reached.value
        rung += 1
