"""The default sampler: BoTorch's Gaussian process and expected improvement behind Optuna's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from anon_tune.search.surrogate import Surrogate
from anon_tune.search_spaces import Space

__all__ = ["BoTorchSampler"]


class BoTorchSampler(optuna.samplers.BaseSampler):
    """Suggests by noisy expected improvement.

    The study must hold at least one COMPLETE trial. Its RUNNING trials count as pending.

    Args:
        space: The arm's space, without conditions.
        domain: Its coordinates as Optuna's distributions.
        seed: Seed of the draws that estimate the improvement.
    """

    def __init__(self, space: Space, domain: Mapping[str, BaseDistribution], seed: int) -> None:
        self._space, self._domain, self._seed = space, domain, seed

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all coordinates, which are suggested together."""
        return dict(self._domain)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the point to try next."""
        known = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        running = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        surrogate = Surrogate(self._points(known), np.array([t.value for t in known], dtype=float))
        pending = self._points([t for t in running if t.number != trial.number])
        return self._space.at_unit(surrogate.suggest(pending, self._seed).tolist())

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never called: `sample_relative` suggests every coordinate."""
        raise NotImplementedError(param_name)

    def _points(self, trials: list[FrozenTrial]) -> NDArray[np.float64]:
        return np.array([self._space.unit(trial.params) for trial in trials])
