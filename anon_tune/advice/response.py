"""The response: the cost of each gamma with all other coordinates at their best, and its uncertainty.

It is computed by joint draws from the arm's landscape (`search/landscape.py`). Each draw is a plausible surface. Its
lowest value at each gamma is the profile, the minimum of the profile is at the best gamma, and the cost of a gamma is
its distance from that minimum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from anon_tune.advice.importance import interval
from anon_tune.answer import Cost, Curve, Gamma, Interval
from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape
from anon_tune.search.response import GAMMAS, Response
from anon_tune.search.scale import Scale
from anon_tune.search.spread import confirm_runs, pooled
from anon_tune.search_spaces import Choice, Range

__all__ = ["FEWEST_TRIALS", "LEVEL", "respond", "seed_deviation"]

FEWEST_TRIALS = 8
"""The fewest COMPLETE trials from which the response is estimated."""

LEVEL = 0.9
"""Probability with which the best gamma lies in its interval."""

_EACH = 2
"""The curve contains every second gamma at which the response is computed."""

_FEWEST_FREEDOM = 4
"""The fewest degrees of freedom with which Anon's own confirm runs give the deviation between seeds."""

_MOST_OF_THE_RANGE = 0.75
_ALL_OF_THE_RANGE = 0.8

_CUSTOMARY = (0.0, 1.0)
"""The gammas of SGD and of Adam."""


def respond(
    landscape: Landscape,
    gamma: Range | Choice | None,
    best: float | None,
    deviation: float | None,
    scale: Scale,
) -> Gamma:
    """Return which gammas do well.

    Args:
        landscape: Landscape of the arm anon.
        gamma: The searched range or choices of gamma; None if gamma is fixed.
        best: Gamma of the recommended configuration.
        deviation: Result of `seed_deviation`; None: the landscape's noise.
        scale: Scale of the objective.
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
        found = f"{landscape.complete} trials of anon completed"
        return unknown.model_copy(update={"note": f"{found}; an interval takes {FEWEST_TRIALS}"})
    if landscape.is_level:
        return unknown.model_copy(update={"note": "all trials of anon have the same value"})
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
    """Return the standard deviation between seeds of one configuration of Anon, on a scale, from the confirm runs.

    Finalists that fell behind are excluded: one that is close to divergence varies far more than a configuration that
    anybody would use. If Anon has few runs, those of all arms are pooled. None if no configuration was COMPLETE on
    two seeds.
    """
    arms = sorted({trial.arm for trial in trials})
    for chosen, fewest in ((["anon"], _FEWEST_FREEDOM), (arms, 1)):
        found, freedom = pooled(
            runs for arm in chosen for runs in _not_behind(confirm_runs(trials, scale, arm))
        )
        if freedom >= fewest:
            return math.sqrt(found)
    return None


def _not_behind(runs: Sequence[list[float]]) -> list[list[float]]:
    """Return the finalists of an arm that ran on all of its confirm seeds."""
    most = max(map(len, runs), default=0)
    return [each for each in runs if len(each) == most]


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
    """Return the cost of the best gamma outside [0, 1] over the best one inside, each at its expected minimum."""
    low, high = _CUSTOMARY
    within = (found.gammas >= low) & (found.gammas <= high)
    if within.all() or not within.any():
        return None
    expected = found.expected.mean(axis=0)
    best = [int(np.where(part, expected, np.inf).argmin()) for part in (~within, within)]
    return interval(found.expected[:, best[0]] - found.expected[:, best[1]], scale)


def _curve(found: Response, margin: float | None, scale: Scale) -> Curve:
    each = slice(None, None, _EACH if len(found.gammas) == GAMMAS else 1)
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
