"""The landscape of an arm: an estimate of its objective over its space.

It is the surrogate of the search, fitted to the search trials and to the reruns of finalists. The reruns have other
seeds, which shows how large the noise is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search.surrogate import Surrogate
from anon_tune.search_spaces import Choice, Range, Space
from anon_tune.spec import Objective

__all__ = ["FEWEST_TRIALS", "Landscape"]

FEWEST_TRIALS = 5
"""The fewest COMPLETE search trials of a landscape."""

_MOST = 300
"""The most trials that are fitted, because the time grows with the cube: half of them the best by value, the others
spread evenly over the remaining values."""

_FAR, _FAR_FROM_MEDIAN = 1.2, 3.0
"""Values that are worse than the best by more than this are clipped: a cliff would stretch the scale of the fit. On a
linear scale the limit is this many times the median's distance from the best."""

_SOBOL, _MOVED, _SPREADS = 128, 16, (0.15, 0.05)
"""The search for low points starts with so many points of a Sobol sequence and all tried points. It then draws so
many around each of the best, at these standard deviations in the unit cube."""

_FOLLOWED = 8

_GAIN_POINTS = 96
"""Number of low points among which the gain of further trials is computed."""

_CAUTION = 2.0
"""Posterior standard deviations that `bound` adds to the mean."""

Points = NDArray[np.float64]


class Landscape:
    """A Gaussian process over the unit cube of an arm's space; small is good.

    Args:
        space: The arm's search space.
        trials: Trials of one of the arm's searches or of all, with the reruns of finalists in the confirm phase.
        objective: The job's objective.

    Attributes:
        space: The arm's search space.
        by_value: The COMPLETE search trials, best first.
        trials: The search trials that the fit uses, in the order of their searches and numbers.
        points: Their places in the unit cube, shape (n, d).
    """

    def __init__(self, space: Space, trials: Sequence[Trial], objective: Objective) -> None:
        self.space = space
        self._columns = _columns(space)
        self._choices = [
            self._columns[name] for name, domain in space.parameters.items() if isinstance(domain, Choice)
        ]
        search = sorted((t for t in trials if t.phase is Phase.SEARCH), key=_place_in_job)
        forecast = Forecast(space, search, objective)
        ends = ((trial.id, forecast.final(trial)) for trial in search if _tells(trial))
        finals = {id_: final for id_, final in ends if final is not None and math.isfinite(final)}
        known = [t for t in search if t.id in finals or t.state is TrialState.DIVERGED]
        complete = [(forecast.scaled(t.value), t) for t in search if t.value is not None]
        self.by_value = [t for _, t in sorted(complete, key=lambda pair: (pair[0], _place_in_job(pair[1])))]
        worst = _worst(list(finals.values()), objective)
        values = [min(finals.get(trial.id, worst), worst) for trial in known]
        kept = _kept(values)
        self.trials = [known[i] for i in kept]
        self.points = np.array([space.unit(trial.params) for trial in self.trials])
        confirm = sorted((t for t in trials if t.phase is Phase.CONFIRM), key=_place_in_job)
        reruns = [(t, forecast.scaled(t.value)) for t in confirm if t.value is not None]
        reruns += [(t, worst) for t in confirm if t.state is TrialState.DIVERGED]
        self._data = (
            (*map(tuple, self.points.tolist()), *(tuple(space.unit(t.params)) for t, _ in reruns)),
            (*(values[i] for i in kept), *(min(value, worst) for _, value in reruns)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Landscape) and (self._data, self.space) == (other._data, other.space)

    def __hash__(self) -> int:
        return hash(self._data)

    @property
    def complete(self) -> int:
        """The number of COMPLETE search trials."""
        return len(self.by_value)

    @property
    def is_level(self) -> bool:
        """Whether all trials have the same value."""
        return len(set(self._data[1])) <= 1

    @property
    def is_known(self) -> bool:
        """Whether there are enough trials for a fit."""
        return self.complete >= FEWEST_TRIALS

    def place(self, params: Mapping[str, Any]) -> list[float]:
        """Return the place of a configuration in the unit cube."""
        return self.space.unit(params)

    @property
    def noise(self) -> float:
        """Standard deviation between seeds, from the fit."""
        return self._surrogate.noise

    @cached_property
    def _surrogate(self) -> Surrogate:
        return _fitted(*self._data)

    def bounds(self) -> tuple[float, ...]:
        """Return `bound` at the places of the trials."""
        return _bounds(self)

    def mean(self, points: Points) -> Points:
        """Return the expected objective at points (m, d), shape (m,)."""
        return self._surrogate.at(points)[0]

    def bound(self, points: Points) -> Points:
        """Return upper bounds of the objective at points (m, d), each with a probability of about 98%, shape (m,)."""
        mean, deviation = self._surrogate.at(points)
        return mean + _CAUTION * deviation

    def gain(self, trials: int) -> float:
        """Return the amount by which further trials are expected to lower the lowest expected objective."""
        return _gain(self, trials)

    def draw(self, points: Points, count: int) -> Points:
        """Return joint draws of the objective without noise at points (m, d), shape (count, m)."""
        return self._surrogate.draw(points, count, seed=0)

    def lowest(self) -> dict[str, Any]:
        """Return the configuration whose `bound` is lowest, tried or not."""
        return self.space.at_unit(_lowest(self))

    def low_points(
        self,
        count: int,
        judge: Callable[[Points], Points],
        name: str = "",
        values: Sequence[float] = (),
    ) -> Points:
        """Return points where `mean` or `bound` is low, the lowest first, shape (1, count, d).

        Args:
            count: The number of points.
            judge: `mean` or `bound`.
            name: A coordinate to hold fixed; there are `count` points for each of its values then.
            values: The g values of that coordinate; the shape is (g, count, d) then.
        """
        column = self._columns.get(name, slice(0))
        held = np.array([_place(self.space.parameters[name], value) for value in values]).reshape(
            max(1, len(values)), -1
        )
        rng = np.random.default_rng(0)
        dimension = self.points.shape[1]

        def allowed(points: Points) -> Points:
            for choice in self._choices:
                chosen = points[..., choice].argmax(axis=-1)
                points[..., choice] = np.eye(choice.stop - choice.start)[chosen]
            points[..., column] = held[:, None]
            return points

        start = np.concatenate([np.unique(self.points, axis=0), _sobol(dimension)])
        points = allowed(np.repeat(start[None], len(held), axis=0))
        for spread in _SPREADS:
            best = _best_of(points, _FOLLOWED, judge)
            moved = best[:, :, None] + spread * rng.normal(size=(*best.shape[:2], _MOVED, dimension))
            around = np.clip(moved.reshape(len(held), -1, dimension), 0.0, 1.0)
            points = np.concatenate([points, allowed(around)], axis=1)
        return _best_of(points, count, judge)


def _place_in_job(trial: Trial) -> tuple[int, int]:
    return trial.repeat, trial.number


def _columns(space: Space) -> dict[str, slice]:
    """Return each coordinate's columns in the unit cube: a choice has one for each of its values."""
    found, start = {}, 0
    for name, domain in space.parameters.items():
        stop = start + (len(domain.choices) if isinstance(domain, Choice) else 1)
        found[name] = slice(start, stop)
        start = stop
    return found


def _place(domain: Range | Choice, value: float) -> list[float]:
    if isinstance(domain, Choice):
        return [float(choice == value) for choice in domain.choices]
    return [domain.fraction(value)]


def _best_of(points: Points, count: int, judge: Callable[[Points], Points]) -> Points:
    values = judge(points.reshape(-1, points.shape[-1])).reshape(points.shape[:2])
    order = np.argsort(values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(points, order[:, :, None], axis=1)


def _kept(values: Sequence[float]) -> list[int]:
    """Return the indices of the trials that are fitted, in order."""
    order = np.argsort(values, kind="stable")
    if len(order) > _MOST:
        others = np.linspace(_MOST // 2, len(order) - 1, _MOST - _MOST // 2).round().astype(int)
        order = order[[*range(_MOST // 2), *others]]
    return sorted(order.tolist())


def _worst(values: list[float], objective: Objective) -> float:
    """Return the value at which bad values are clipped, which is also that of diverged trials."""
    if not values:
        return 0.0
    best, median = min(values), float(np.median(values))
    if objective.scale != "linear":
        return best + _FAR
    return best + _FAR_FROM_MEDIAN * (median - best) if median > best else max(values)


def _tells(trial: Trial) -> bool:
    return trial.state in {TrialState.COMPLETE, TrialState.PRUNED}


# Every rerun of a finalist asks for the fits of all searches again.
_MEMORY = 128


@lru_cache(maxsize=_MEMORY)
def _lowest(landscape: Landscape) -> tuple[float, ...]:
    return tuple(landscape.low_points(1, landscape.bound)[0, 0].tolist())


@lru_cache(maxsize=_MEMORY)
def _bounds(landscape: Landscape) -> tuple[float, ...]:
    return tuple(landscape.bound(landscape.points).tolist())


@lru_cache(maxsize=_MEMORY)
def _gain(landscape: Landscape, trials: int) -> float:
    return landscape._surrogate.gain(landscape.low_points(_GAIN_POINTS, landscape.mean)[0], trials)


@lru_cache(maxsize=_MEMORY)
def _fitted(points: tuple[tuple[float, ...], ...], values: tuple[float, ...]) -> Surrogate:
    return Surrogate(np.array(points), np.array(values))


def forget() -> None:
    """Clear the cache of fits; for tests, which check that a new fit gives the same."""
    for cached in (_lowest, _bounds, _gain, _fitted):
        cached.cache_clear()


@lru_cache(maxsize=8)
def _sobol(dimension: int) -> Points:
    from scipy.stats import qmc  # the import takes seconds, which Ray's start can hide

    found: Points = qmc.Sobol(dimension, rng=0).random(_SOBOL)
    return found
