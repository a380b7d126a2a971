"""Forecast of the final value of a trial that was stopped or still runs, learnt from the completed trials.

Loss curves cross: early in training a high adaptivity leads, even if another is best in the end. Pruners and samplers
therefore use forecasts of the final value instead of the last report. A ridge regression on a trial's report at a
step, and on its place in the space, predicts how much its value still changes after that step.

Trials may report at different steps. They are compared at equal ones: between two reports a curve is straight over
the logarithm of the step, on the scale of the objective, as power laws are.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anon_tune.records import Trial, TrialState
from anon_tune.search.scale import Scale
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective

__all__ = ["Forecast"]

_FEWEST = 4
"""With fewer completed trials, the forecast is the median change."""

_SHRINKAGE = 0.3
"""Ridge penalty; coordinates are in [0, 1], and changes in natural logarithms on most scales."""


class Forecast:
    """Forecasts of the final values of one arm's trials, on the scale of the objective.

    Args:
        space: The arm's search space.
        trials: Its search trials so far.
        objective: The job's objective.
    """

    def __init__(self, space: Space, trials: Sequence[Trial], objective: Objective) -> None:
        self._space = space
        self._complete = [
            t
            for t in trials
            if t.state is TrialState.COMPLETE and t.value is not None and math.isfinite(t.value)
        ]
        seen = [report.value for trial in trials for report in trial.reports]
        self.scaled = Scale(objective, seen + [t.value for t in self._complete if t.value is not None])
        self._fits: dict[int, _Fit | None] = {}

    def final(self, trial: Trial, step: int | None = None) -> float | None:
        """Return a forecast of a trial's final value from its value at `step` (default: its last report).

        None if its value there is not known or not finite, or if no completed trial has reported so early.
        """
        if step is None:
            if trial.state is TrialState.COMPLETE and trial.value is not None:
                return self.scaled(trial.value)
            step = trial.reports[-1].step if trial.reports else 0
        now = self._at(trial, step)
        if now is None:
            return None
        fit = self._fit(step)
        if fit is None:
            return None if self._complete else now
        change = fit.intercept + float((self._features(trial, now) - fit.centre) @ fit.weights)
        # Never beyond the observed changes: a linear model extrapolates badly.
        return now + min(max(change, fit.low), fit.high)

    def error(self, step: int) -> float:
        """Return the standard deviation of the forecasts' error at a step; 0 with too few completed trials.

        Each completed trial is forecast from the others.
        """
        fit = self._fit(step)
        return fit.error if fit is not None else 0.0

    def _fit(self, step: int) -> _Fit | None:
        if step not in self._fits:
            seen = [(t, now) for t in self._complete if (now := self._at(t, step)) is not None]
            self._fits[step] = self._fitted(seen) if seen else None
        return self._fits[step]

    def _fitted(self, seen: Sequence[tuple[Trial, float]]) -> _Fit:
        """Return how the values of completed trials changed after a step."""
        changes = np.array([self.scaled(t.value) - now for t, now in seen if t.value is not None])
        features = np.array([self._features(t, now) for t, now in seen])
        centre, low, high = features.mean(axis=0), changes.min(), changes.max()
        if len(seen) < _FEWEST:
            return _Fit(float(np.median(changes)), centre, np.zeros(len(centre)), low, high, 0.0)
        centred, mean = features - centre, float(changes.mean())
        gram = centred.T @ centred + _SHRINKAGE * np.eye(len(centre))
        weights = np.linalg.solve(gram, centred.T @ (changes - mean))
        leverage = np.einsum("ij,ij->i", centred, np.linalg.solve(gram, centred.T).T) + 1 / len(seen)
        left_out = (changes - mean - centred @ weights) / (1 - np.minimum(leverage, 0.9))
        return _Fit(mean, centre, weights, low, high, float(np.sqrt(np.mean(left_out**2))))

    def _features(self, trial: Trial, now: float) -> NDArray[np.float64]:
        return np.array([*self._space.unit(trial.params), now])

    def _at(self, trial: Trial, step: int) -> float | None:
        """Return a trial's value at a step on the scale; None if it had not reported by then, or not finite.

        A completed trial keeps the value of its last report; one that has not come so far has no value.
        """
        after = bisect.bisect_left(trial.reports, step, key=lambda report: report.step)
        if after == len(trial.reports):
            ended = trial.state is TrialState.COMPLETE and after
            return self._finite(trial.reports[-1].value) if ended else None
        later = trial.reports[after]
        if later.step == step:
            return self._finite(later.value)
        if not after:
            return None
        earlier = trial.reports[after - 1]
        low, high = self._finite(earlier.value), self._finite(later.value)
        if low is None or high is None:
            return None
        share = math.log(step / earlier.step) / math.log(later.step / earlier.step)
        return low + share * (high - low)

    def _finite(self, value: float) -> float | None:
        return self.scaled(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class _Fit:
    """Change after a step: intercept + (features - centre) @ weights, clipped to the observed changes."""

    intercept: float
    centre: NDArray[np.float64]
    weights: NDArray[np.float64]
    low: float
    high: float
    error: float
