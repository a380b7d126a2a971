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

__all__ = ["BOX", "BoTorchSampler"]

BOX: float | None = 0.3
"""Half the width of the box around the best point in which the next one is sought, as a share of each range.

Ten or twenty noisy values in five dimensions say little about the corners of the space; with the whole space to
choose from, most suggestions had a coordinate at a bound (docs/search.md). None: the whole space.
"""


class BoTorchSampler(optuna.samplers.BaseSampler):
    """Suggests by noisy expected improvement near the best point so far.

    The study must hold at least one COMPLETE trial. Its RUNNING trials count as pending.

    Args:
        space: The arm's space, without conditions.
        domain: Its coordinates as Optuna's distributions.
        seed: Of the draws by which the improvement is estimated.
        box: See BOX.
    """

    def __init__(
        self, space: Space, domain: Mapping[str, BaseDistribution], seed: int, box: float | None = BOX
    ) -> None:
        self._space, self._domain, self._seed, self._box = space, domain, seed, box

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all coordinates: they are suggested together."""
        return dict(self._domain)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the point to try next."""
        known = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        running = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        points, pending = self._points(known), self._points([t for t in running if t.number != trial.number])
        surrogate = Surrogate(points, np.array([t.value for t in known], dtype=float))
        low, high = self._bounds(points[int(surrogate.mean(points).argmin())])
        return self._space.at_unit(surrogate.suggest(pending, low, high, self._seed).tolist())

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

    def _bounds(self, best: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The box around the best point; a choice stays free, as no choice is nearer to it than another."""
        low, high = np.zeros(len(best)), np.ones(len(best))
        if self._box is not None:
            ranges = np.array(self._space.unit_is_range)
            low[ranges] = np.maximum(0.0, best[ranges] - self._box)
            high[ranges] = np.minimum(1.0, best[ranges] + self._box)
        return low, high
