"""What a sampler is told of the past: from the ledger's trials to Optuna's, in one pure function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search_spaces import Space

__all__ = ["told"]

_INFEASIBLE, _FEASIBLE = {"diverged": 1.0}, {"diverged": -1.0}


def told(
    space: Space, trials: Sequence[Trial], domain: Mapping[str, BaseDistribution], mode: str
) -> list[FrozenTrial]:
    """What a sampler is told of the past, as Optuna trials; the values are to be minimized.

    - COMPLETE: its value, as `Forecast` scales it.
    - PRUNED: COMPLETE, with the final value that is forecast for it. (Optuna's GP reads no PRUNED trial.)
    - DIVERGED: the worst of these values, and a violated constraint; so it repels the sampler and does not stretch
      the scale of the fit. Where none has diverged there is no constraint, which would take a model of its own.
    - RUNNING and WAITING: RUNNING, so that concurrent suggestions keep apart.
    - FAILED and CANCELLED, and a PRUNED trial without a finite report: nothing; they say nothing of the value.
    """
    forecast = Forecast(space, trials, mode)
    finals = {
        trial.id: final
        for trial in trials
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
        if (final := forecast.final(trial)) is not None and math.isfinite(final)
    }
    worst = max(finals.values(), default=0.0)
    feasible = _FEASIBLE if any(trial.state is TrialState.DIVERGED for trial in trials) else None
    result = []
    for trial in trials:
        common: dict[str, Any] = {
            "params": dict(trial.params),
            "distributions": {name: domain[name] for name in trial.params},
        }
        if trial.id in finals:
            result.append(create_trial(value=finals[trial.id], constraints=feasible, **common))
        elif trial.state is TrialState.DIVERGED:
            result.append(create_trial(value=worst, constraints=_INFEASIBLE, **common))
        elif trial.state in {TrialState.RUNNING, TrialState.WAITING}:
            result.append(create_trial(state=optuna.trial.TrialState.RUNNING, **common))
    return result
