"""Stopping trials early: Optuna's pruners, asked with a study rebuilt from the reports.

Optuna's successive halving keeps its rungs in system attributes of the live study; here they are recomputed, so that
a decision is the same before and after a crash. What is compared are the final values that are forecast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import optuna
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner
from optuna.trial import create_trial

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search.study import STARTUP_TRIALS
from anon_tune.search_spaces import Space
from anon_tune.spec import Search

__all__ = ["should_prune"]

_DOUBT = 2.0
"""Standard deviations of the forecast's error by which a trial must be behind to be stopped."""


def should_prune(space: Space, trial: Trial, others: Sequence[Trial], search: Search, mode: str) -> bool:
    """Whether `trial` should stop after its last report.

    The first STARTUP_TRIALS of an arm never stop: forecasts learnt from survivors alone would favour their like.

    Args:
        space: What its arm searches.
        trial: A running search trial with its reports.
        others: The other search trials of its arm, with theirs.
        search: Which pruner, its grace in epochs, its reduction factor.
        mode: "min" or "max".
    """
    if search.pruner == "none" or trial.number < STARTUP_TRIALS:
        return False
    if not trial.reports or trial.reports[-1].step < search.grace:
        return False
    forecast = Forecast(space, [*others, trial], mode)
    step = trial.reports[-1].step
    own = forecast.final(trial, step)
    if own is None:
        return False  # not a finite value: it ends as DIVERGED
    own -= _DOUBT * forecast.error(step)
    if search.pruner == "median":
        return _below_median(
            step,
            own,
            [final for other in others if _has_ended(other) if (final := forecast.final(other)) is not None],
        )
    before = trial.reports[-2].step if len(trial.reports) > 1 else 0
    # A trial stands at the rung that its last report reached; at most one, since steps are taken one by one.
    reached = [(number, at) for number, at in _rungs(search, step) if before < at <= step]
    if not reached:
        return False
    rung, at = reached[-1]
    finals = [final for other in others if (final := forecast.final(other, at)) is not None]
    return _halved(rung, step, own, finals, search)


def _has_ended(trial: Trial) -> bool:
    return trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


def _rungs(search: Search, step: int) -> Iterator[tuple[int, int]]:
    """Numbers and steps of the rungs up to a step."""
    number, at = 0, search.grace
    while at <= step:
        yield number, at
        number, at = number + 1, at * search.reduction


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
    """Whether the median rule stops a trial; `finals` are those of all that have ended, forecast where pruned."""
    study = optuna.create_study()
    for final in finals:
        study.add_trial(create_trial(value=final, intermediate_values={step: final}))
    study.add_trial(create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values={step: own}))
    pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS // 2)
    return pruner.prune(study, study.get_trials(deepcopy=False)[-1])
