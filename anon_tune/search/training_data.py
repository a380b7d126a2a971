"""Training data of the sampler: the ledger's trials as Optuna trials, by one pure function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective

__all__ = ["as_frozen_trials"]

_BAD = 0.9
"""A diverged trial has this quantile of the values."""


def as_frozen_trials(
    space: Space, trials: Sequence[Trial], domain: Mapping[str, BaseDistribution], objective: Objective
) -> list[FrozenTrial]:
    """Return the sampler's training data as Optuna trials; the values are to be minimized.

    - COMPLETE: COMPLETE, with its value as `Forecast` scales it.
    - PRUNED: COMPLETE, with its forecast final value. (Optuna's GP ignores PRUNED trials.)
    - DIVERGED: COMPLETE, with the 90% quantile of these values. So it repels the sampler, does not stretch the scale
      of the fit, and is not a cliff beside the best configurations, which are often next to it. (A constraint, which
      needs a model of its own, did not help: docs/search.md.)
    - RUNNING and WAITING: RUNNING, so that concurrent suggestions differ.
    - FAILED and CANCELLED, and a PRUNED trial without a finite report: omitted, since their value is unknown.
    """
    forecast = Forecast(space, trials, objective)
    finals = {
        trial.id: final
        for trial in trials
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
        if (final := forecast.final(trial)) is not None and math.isfinite(final)
    }
    bad = float(np.quantile(list(finals.values()), _BAD)) if finals else 0.0
    result = []
    for trial in trials:
        common: dict[str, Any] = {
            "params": dict(trial.params),
            "distributions": {name: domain[name] for name in trial.params},
        }
        if trial.id in finals:
            result.append(create_trial(value=finals[trial.id], **common))
        elif trial.state is TrialState.DIVERGED:
            result.append(create_trial(value=bad, **common))
        elif trial.state in {TrialState.RUNNING, TrialState.WAITING}:
            result.append(create_trial(state=optuna.trial.TrialState.RUNNING, **common))
    return result
