"""Early stopping of trials by Optuna's pruners, with a study rebuilt from the reports.

Optuna's successive halving keeps its rungs in system attributes of the live study. This module recomputes them, so a
decision is the same before and after a crash. The pruners compare forecasts of the final values. Trials may report at
different steps: a trial is compared with the others at the step of its last report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner
from optuna.trial import create_trial

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective, Search

__all__ = ["NEVER_STOPPED", "should_prune"]

NEVER_STOPPED = 8
"""Number of an arm's first trials that are always trained to their end."""

_DOUBT = 2.0
"""A trial is stopped if it is behind by so many standard deviations of the forecast's error."""


def should_prune(
    space: Space, trial: Trial, others: Sequence[Trial], search: Search, objective: Objective
) -> bool:
    """Whether `trial` should stop after its last report.

    The first NEVER_STOPPED of an arm never stop: forecasts learnt from survivors alone would be biased towards them.

    Args:
        space: The arm's search space.
        trial: A running search trial with its reports.
        others: The other search trials of the arm, with their reports.
        search: The pruner, its grace in the unit of the budget and its reduction factor.
        objective: The job's objective.
    """
    if search.pruner == "none" or trial.number < NEVER_STOPPED:
        return False
    if not trial.reports or trial.reports[-1].step < search.grace:
        return False
    rung = _reached(search, trial) if search.pruner == "asha" else None
    if search.pruner == "asha" and rung is None:
        return False  # between two rungs
    step = trial.reports[-1].step
    forecast = Forecast(space, [*others, trial], objective)
    own = forecast.final(trial, step)
    if own is None:
        return False  # not finite: the trial ends as DIVERGED
    own -= _DOUBT * forecast.error(step)
    if rung is not None:
        number, at = rung
        return _halved(number, step, own, _reaching(forecast, others, at, step), search)
    ended = filter(_has_ended, others)
    finals = [final for other in ended if (final := forecast.final(other)) is not None]
    return _below_median(step, own, finals)


def _reaching(forecast: Forecast, trials: Iterable[Trial], rung: int, step: int) -> list[float]:
    """Return the forecasts of the trials that reached a rung, from a step or, if they are not there, their last."""
    finals = []
    for trial in trials:
        last = trial.reports[-1].step if trial.reports else 0
        if trial.state is TrialState.COMPLETE or last >= rung:
            finals.append(
                forecast.final(trial, step if trial.state is TrialState.COMPLETE else min(step, last))
            )
    return [final for final in finals if final is not None]


def _has_ended(trial: Trial) -> bool:
    return trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


def _reached(search: Search, trial: Trial) -> tuple[int, int] | None:
    """Return the number and step of the rung that a trial's last report reached, if it reached one."""
    before = trial.reports[-2].step if len(trial.reports) > 1 else 0
    number, at, found = 0, search.grace, None
    while at <= trial.reports[-1].step:
        if before < at:
            found = number, at
        number, at = number + 1, at * search.reduction
    return found


def _halved(rung: int, step: int, own: float, finals: Sequence[float], search: Search) -> bool:
    """Whether successive halving stops a trial at a rung; `finals` are the forecasts of all that reached it."""
    study = optuna.create_study()
    for final in finals:
        attributes = {f"completed_rung_{rung}": final}
        study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING, system_attrs=attributes))
    study.add_trial(
        create_trial(
            state=optuna.trial.TrialState.RUNNING,
            intermediate_values={step: own},
            system_attrs={f"completed_rung_{number}": own for number in range(rung)},
        )
    )
    pruner = SuccessiveHalvingPruner(min_resource=search.grace, reduction_factor=search.reduction)
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])


def _below_median(step: int, own: float, finals: Sequence[float]) -> bool:
    """Whether the median rule stops a trial; `finals` are the values of all ended trials, forecast if pruned."""
    study = optuna.create_study()
    for final in finals:
        study.add_trial(create_trial(value=final, intermediate_values={step: final}))
    study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values={step: own}))
    pruner = MedianPruner(n_startup_trials=NEVER_STOPPED // 2)
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])
