"""The response: what each gamma costs with all other coordinates at their best, and how sure that is.

By joint draws from the arm's landscape (`search/landscape.py`): each draw is a surface that the trials allow. Its
lowest value at each gamma is the profile, the lowest of these is at the best gamma, and what a gamma is above that is
its cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from anon_tune.advice.importance import interval
from anon_tune.answer import Cost, Curve, Gamma, Interval
from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape
from anon_tune.search.scale import Scale
from anon_tune.search.spread import confirm_runs, pooled
from anon_tune.search_spaces import Choice, Range

__all__ = ["FEWEST_TRIALS", "LEVEL", "Response", "respond", "seed_deviation"]

FEWEST_TRIALS = 8
"""The response is estimated from at least so many COMPLETE trials."""

LEVEL = 0.9
"""Probability with which the best gamma lies in its interval."""

_DRAWS = 256
_GAMMAS, _EACH = 49, 2
"""The response is computed at so many gammas of a range, and each second one is in the curve."""

_POINTS = 24
"""Places of the other coordinates that are looked at for each gamma."""

_FEWEST_FREEDOM = 4
"""With fewer degrees of freedom Anon's own confirm runs do not tell the deviation between seeds."""

_MOST_OF_THE_RANGE = 0.75
_ALL_OF_THE_RANGE = 0.8

_CUSTOMARY = (0.0, 1.0)
"""The gammas of SGD and of Adam."""

Array = NDArray[np.float64]


class Response:
    """The response of one arm, by draws.

    Args:
        gamma: What is searched of gamma.
        landscape: Of the arm; it must be known.

    Attributes:
        gammas: Shape (g,), ascending.
        profiles: The lowest value at each gamma on the objective's scale, shape (draws, g).
        expected: The value at each gamma where the lowest is expected, shape (draws, g): unlike the minimum of each
            draw it is not too low.
    """

    def __init__(self, gamma: Range | Choice, landscape: Landscape) -> None:
        if isinstance(gamma, Choice):
            self.gammas = np.sort([float(value) for value in gamma.choices])
        else:
            self.gammas = np.unique([gamma.at(u) for u in np.linspace(0.0, 1.0, _GAMMAS)])
        points = landscape.low_points(_POINTS, landscape.mean, "gamma", self.gammas.tolist())
        drawn = landscape.draw(points.reshape(-1, points.shape[-1]), _DRAWS)
        drawn = drawn.reshape(_DRAWS, len(self.gammas), -1)
        self.profiles: Array = drawn.min(axis=2)
        self.expected: Array = drawn[:, :, 0]

    @property
    def costs(self) -> Array:
        """The difference between each gamma and the best one in the same draw, shape (draws, g)."""
        found: Array = self.profiles - self.profiles.min(axis=1, keepdims=True)
        return found

    def interval(self, level: float, within: tuple[float, float] | None = None) -> tuple[float, float]:
        """Return the shortest interval that holds the best gamma with a probability of `level`.

        The shortest of half the draws need not lie in the shortest of 90%; with `within`, a wider one, it does.
        """
        best = np.sort(self.gammas[self.profiles.argmin(axis=1)])
        held = math.ceil(level * len(best))
        if within is not None:
            best = best[(best >= within[0]) & (best <= within[1])]
        widths = best[held - 1 :] - best[: len(best) - held + 1]
        first = int(widths.argmin())
        return float(best[first]), float(best[first + held - 1])

    def within(self, margin: float) -> list[tuple[float, float]]:
        """Return the ranges of gammas that cost less than `margin`, each with a probability of one half or more."""
        inside = (self.costs < margin).mean(axis=0) >= 0.5
        ends = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
        return [(float(self.gammas[a]), float(self.gammas[b - 1])) for a, b in ends.reshape(-1, 2)]

    def share(self, ranges: Sequence[tuple[float, float]]) -> float:
        """Return how much of the gammas lies in some ranges."""
        inside = [any(low <= gamma <= high for low, high in ranges) for gamma in self.gammas]
        return float(np.mean(inside))


def respond(
    landscape: Landscape,
    gamma: Range | Choice | None,
    best: float | None,
    deviation: float | None,
    scale: Scale,
) -> Gamma:
    """Return which gammas do well.

    Args:
        landscape: Of the arm anon.
        gamma: What its space searches of gamma; None where that is fixed.
        best: Gamma of the recommended configuration.
        deviation: As `seed_deviation`; the landscape's noise where that is None.
        scale: Of the objective.
    """
    margin = scale.practical
    unknown = Gamma(
        best=best,
        trials=landscape.complete,
        practical=None if margin is None else scale.difference(margin),
        note="the space fixes gamma",
    )
    if gamma is None:
        return unknown
    if landscape.complete < FEWEST_TRIALS:
        found = f"{landscape.complete} trials of anon were completed"
        return unknown.model_copy(
            update={"note": f"{found}; it takes {FEWEST_TRIALS} to say how sure this is"}
        )
    if landscape.is_level:
        return unknown.model_copy(update={"note": "all trials of anon came to the same value"})
    response = Response(gamma, landscape)
    seeds = landscape.noise if deviation is None else deviation
    low, high = response.interval(LEVEL)
    low50, high50 = response.interval(0.5, within=(low, high))
    alike = response.within(seeds)
    everywhere = response.share(alike) >= _ALL_OF_THE_RANGE
    return Gamma(
        best=best,
        low=low,
        high=high,
        low50=low50,
        high50=high50,
        level=LEVEL,
        flat=response.within(margin) if margin is not None else [],
        indistinguishable=alike,
        costs=list(_costs(response, scale)),
        outside=_outside(response, scale),
        curve=_curve(response, margin, scale),
        practical=unknown.practical,
        deviation=scale.difference(seeds),
        enough=everywhere or response.share([(low, high)]) <= _MOST_OF_THE_RANGE,
        trials=landscape.complete,
        note="by a Gaussian process over all trials of anon",
    )


def seed_deviation(trials: Sequence[Trial], scale: Scale) -> float | None:
    """Standard deviation between seeds of one configuration of Anon, on a scale, by the confirm runs.

    Where Anon has few of them, those of all arms are pooled. None where no configuration was COMPLETE on two seeds.
    """
    for arm, fewest in (("anon", _FEWEST_FREEDOM), (None, 1)):
        found, freedom = pooled(confirm_runs(trials, scale, arm))
        if freedom >= fewest:
            return math.sqrt(found)
    return None


def _costs(found: Response, scale: Scale) -> Iterator[Cost]:
    best = int(found.expected.mean(axis=0).argmin())
    for gamma in _CUSTOMARY:
        nearest = int(np.abs(found.gammas - gamma).argmin())
        if nearest == best or not found.gammas[0] <= gamma <= found.gammas[-1]:
            continue
        costs = found.expected[:, nearest] - found.expected[:, best]
        low, middle, high = (scale.difference(float(q)) for q in np.quantile(costs, [0.05, 0.5, 0.95]))
        yield Cost(gamma=gamma, cost=middle, low=low, high=high)


def _outside(found: Response, scale: Scale) -> Interval | None:
    """What the best gamma outside [0, 1] costs over the best within, each where the lowest is expected."""
    low, high = _CUSTOMARY
    within = (found.gammas >= low) & (found.gammas <= high)
    if within.all() or not within.any():
        return None
    expected = found.expected.mean(axis=0)
    best = [int(np.where(part, expected, np.inf).argmin()) for part in (~within, within)]
    return interval(found.expected[:, best[0]] - found.expected[:, best[1]], scale)


def _curve(found: Response, margin: float | None, scale: Scale) -> Curve:
    each = slice(None, None, _EACH if len(found.gammas) == _GAMMAS else 1)
    bands = np.quantile(found.expected[:, each], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    values = np.sort([[scale.value(each) for each in band] for band in bands], axis=0)
    flat = (found.costs[:, each] < (margin or 0.0)).mean(axis=0)
    low, low50, median, high50, high = values.tolist()
    return Curve(
        gamma=found.gammas[each].tolist(),
        median=median,
        low=low,
        high=high,
        low50=low50,
        high50=high50,
        flat=flat.tolist(),
    )
