"""The scale of a job's objective, on which smaller is better and equal differences count alike."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from statistics import fmean

from anon_tune.records import Trial
from anon_tune.spec import Objective

__all__ = ["Scale", "scale_of"]

_LARGEST, _LARGEST_LOG = 1e100, 700.0
"""Largest absolute value on the scale, so that squares stay finite."""


class Scale:
    """Conversion of an objective's values to its `scale` and back.

    A loss of 0, or an accuracy of 1, has no logarithm. It counts as half the smallest observed distance from there.

    Args:
        objective: The job's objective.
        seen: Measured values, which determine the ends of the scale.
    """

    def __init__(self, objective: Objective, seen: Iterable[float] = ()) -> None:
        self._objective = objective
        distances = (self._distance(value) for value in seen if math.isfinite(value))
        self._least = max(min((d for d in distances if d > 0), default=1.0) / 2, sys.float_info.min)

    def __call__(self, value: float) -> float:
        """Return a finite value of the objective on this scale."""
        distance = min(max(self._distance(value), -_LARGEST), _LARGEST)
        if self._objective.scale == "linear":
            return distance
        return math.log(max(distance, self._least))

    def value(self, scaled: float) -> float:
        """Return the objective's value at a place on this scale; the inverse of the call."""
        match self._objective.scale:
            case "log":
                return math.exp(scaled)
            case "log_error":
                return 1.0 - math.exp(scaled)
        return scaled if self._objective.mode == "min" else -scaled

    def difference(self, scaled: float) -> float:
        """Return a difference on this scale as reports show it: a share, or a number on the linear scale."""
        return scaled if self._objective.scale == "linear" else math.expm1(min(scaled, _LARGEST_LOG))

    def mean(self, values: Iterable[float]) -> float | None:
        """Return the mean on this scale as an objective value (geometric on log scales); None without values."""
        scaled = [self(value) for value in values]
        return self.value(fmean(scaled)) if scaled else None

    @property
    def practical(self) -> float | None:
        """The smallest difference that matters, on this scale; None if the user gave none."""
        given = self._objective.practical
        return given if given is None or self._objective.scale == "linear" else math.log1p(given)

    def _distance(self, value: float) -> float:
        match self._objective.scale:
            case "log":
                return value
            case "log_error":
                return 1.0 - value
        return value if self._objective.mode == "min" else -value


def scale_of(objective: Objective, trials: Iterable[Trial]) -> Scale:
    """Return the scale with ends from the final values of trials."""
    return Scale(objective, (trial.value for trial in trials if trial.value is not None))
