"""Pooling of best gammas over jobs by random effects, with the spread between jobs shrunk towards a usual one.

Job i has its own best gamma, theta_i ~ N(mu, tau^2), and estimates it with a standard deviation of s_i. The aim is
the next job's best gamma. Few jobs do not determine tau, so it is shrunk: a spread of `USUAL_SPREAD` counts for
`_PRIOR_FREEDOM` degrees of freedom. tau solves

    3 * 0.4^2 / tau^2 + sum_i (m_i - mu)^2 / (s_i^2 + tau^2) = 3 + k - 1

which is the moment equation of Paule and Mandel with three more observations; with s_i = 0 it is the mode of the
conjugate prior. docs/advice.md has the coverage of the interval for the next job's best gamma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["USUAL_SPREAD", "Location", "Pooled", "located", "pool"]

USUAL_SPREAD = 0.4
"""Standard deviation of the best gamma between jobs, before any is known."""

_PRIOR_FREEDOM = 3
_BROAD = 0.1
"""Probability that the next job is unrelated to the others; any gamma of the range may then be best."""

_NORMAL_90 = 1.6449
_LEAST_DEVIATION = 0.05
"""Smallest standard deviation of one job's best gamma: the distance between two gammas of its curve."""

_STEPS = 60
_CELLS = 400

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Location:
    """The best gamma of one job: an estimate and its standard deviation (infinite if the job is uninformative)."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Pooled:
    """Predictive distribution of the next job's best gamma.

    Attributes:
        mean: Mean of the jobs' best gammas.
        error: Standard deviation of that mean.
        spread: Standard deviation between jobs, shrunk.
        freedom: Degrees of freedom of Student's t.
        weights: Share of each job in the mean.
    """

    mean: float
    error: float
    spread: float
    freedom: int
    weights: tuple[float, ...]

    def interval(self, level: float, low: float, high: float) -> tuple[float, float]:
        """Return the equal-tailed interval that holds the next job's best gamma.

        Args:
            level: The probability.
            low: Lower end of the searched range; a best gamma below it counts as this end.
            high: Upper end.
        """
        from scipy.special import stdtr  # a slow import, which other commands do not need

        at = np.linspace(low, high, _CELLS + 1)
        scale = math.hypot(self.error, self.spread)
        below = (1 - _BROAD) * stdtr(self.freedom, (at - self.mean) / scale)
        below += _BROAD * (at - low) / (high - low)
        left = int(np.searchsorted(below, (1 - level) / 2, side="right")) - 1
        right = int(np.searchsorted(below, (1 + level) / 2))
        return float(at[max(left, 0)]), float(at[min(right, _CELLS)])


def located(low: float, high: float, bottom: float, top: float) -> Location:
    """Return a job's estimate without the information that the searched range alone gives.

    A search's interval is narrower than the range even if the trials carry no information. That part of its precision
    is removed; the rest comes from the trials.

    Args:
        low: Lower end of the 90% interval that holds the job's best gamma.
        high: Upper end.
        bottom: Lower end of the searched range.
        top: Upper end.
    """
    middle, deviation = (low + high) / 2, max((high - low) / (2 * _NORMAL_90), _LEAST_DEVIATION)
    of_range = 12 / (top - bottom) ** 2
    own = 1 / deviation**2 - of_range
    if own <= 0:
        return Location(middle, math.inf)
    mean = (middle / deviation**2 - of_range * (bottom + top) / 2) / own
    return Location(min(max(mean, bottom), top), 1 / math.sqrt(own))


def pool(jobs: Sequence[Location]) -> Pooled | None:
    """Return the pooled distribution of the jobs; None if none of them carries information."""
    telling = [job for job in jobs if math.isfinite(job.deviation)]
    if not telling:
        return None
    means = np.array([job.mean for job in telling])
    squares = np.array([job.deviation**2 for job in telling])
    freedom = _PRIOR_FREEDOM + len(telling) - 1
    least, most = 1e-8, USUAL_SPREAD**2 + float(np.ptp(means)) ** 2 + 1e-8
    for _ in range(_STEPS):  # the left side falls as tau grows
        middle = math.sqrt(least * most)
        found = _PRIOR_FREEDOM * USUAL_SPREAD**2 / middle + _dispersion(means, squares + middle)
        least, most = (middle, most) if found > freedom else (least, middle)
    weights = 1 / (squares + most)
    shares = iter((weights / weights.sum()).tolist())
    return Pooled(
        mean=float(np.average(means, weights=weights)),
        error=1 / math.sqrt(float(weights.sum())),
        spread=math.sqrt(most),
        freedom=freedom,
        weights=tuple(next(shares) if math.isfinite(job.deviation) else 0.0 for job in jobs),
    )


def _dispersion(means: Array, variances: Array) -> float:
    mean = np.average(means, weights=1 / variances)
    return float(((means - mean) ** 2 / variances).sum())
