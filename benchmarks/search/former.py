"""The search of commit 24c0adc, as a copy that changes of the product do not affect."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import create_trial
from scipy.stats import qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from anon_tune.records import Trial, TrialState
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.seeds import sampler_seed
from anon_tune.search.study import distributions
from anon_tune.search_spaces import Space
from benchmarks.search.simulator import new_trial

__all__ = ["Former", "former_space"]

_STARTUP = 8
_BAD = 0.9
_FEWEST = 5


def former_space(family: str) -> Space:
    """Return the space that a family had."""
    low, high = (-0.25, 1.75) if family == "transformer" else (-0.5, 1.5)
    return Space.model_validate(
        {
            "optimizer": "anon",
            "summary": "as at commit 24c0adc",
            "parameters": {
                "gamma": {"low": low, "high": high},
                "step_size": {"low": 0.03, "high": 30.0, "log": True},
                "beta3": {"low": 0.0, "high": 0.95},
                "delay": {"low": 1.1, "high": 8.0, "log": True},
                "decay": {"low": 1e-6, "high": 0.01, "log": True},
            },
            "fixed": {"floor": 0.03},
        }
    )


class Former:
    """The middle of a wide space, seven Sobol points, then Optuna's Gaussian process on all trials that ended."""

    starts = _STARTUP

    def __init__(self, family: str, log_mean_sigma: float, seed: int) -> None:
        self.space, self._sigma, self._seed = former_space(family), log_mean_sigma, seed

    def suggest(self, trials: list[Trial]) -> Trial:
        """See Policy."""
        number = len(trials)
        if number < _STARTUP:
            sobol = qmc.Sobol(
                len(self.space.parameters), scramble=True, rng=sampler_seed(self._seed, "anon", -1)
            )
            unit = sobol.random(_STARTUP)
            unit[0] = 0.5
            params = self.space.complete(unit[number], {})
        else:
            params = self._asked(trials, sampler_seed(self._seed, "anon", number))
        return new_trial(number, params, optimizer_arguments(self.space, params, self._sigma), self._seed)

    def _asked(self, trials: list[Trial], seed: int) -> dict[str, float | str]:
        """Ask the sampler. It gets log losses; a diverged trial counts as their 90% quantile."""
        domain = distributions(self.space)
        finals = {trial.id: math.log(trial.value) for trial in trials if trial.value is not None}
        bad = float(np.quantile(list(finals.values()), _BAD)) if finals else 0.0
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
        study = optuna.create_study(sampler=sampler)
        for trial in trials:
            value = finals.get(trial.id, bad)
            study.add_trial(create_trial(params=dict(trial.params), distributions=domain, value=value))
        with np.errstate(invalid="ignore"):
            return dict(study.ask(domain).params)

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """See Policy."""
        return False

    def ended(self, trial: Trial) -> None:
        """See Policy."""

    def recommended(self, trials: Sequence[Trial]) -> Mapping[str, Any] | None:
        """See Policy: by the posterior mean of a Gaussian process with one length."""
        found = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        if not found:
            return None
        values = np.array([math.log(trial.value) for trial in found if trial.value is not None])
        if len(found) >= _FEWEST and values.std() > 0:
            points = np.array([self.space.unit(trial.params) for trial in found])
            kernel = 1.0 * Matern(1.0, (0.3, 20.0), nu=2.5) + WhiteKernel(0.2, (0.01, 1.0))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                process = GaussianProcessRegressor(kernel).fit(
                    points, (values - values.mean()) / values.std()
                )
                values = process.predict(points)
        return found[int(np.argmin(values))].hyperparameters
