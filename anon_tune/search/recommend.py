"""Which configuration to recommend: the best by a smoothed value, not the luckiest of many noisy ones.

A Gaussian process over the search coordinates, with a noise term, is fitted to the COMPLETE trials; its posterior
mean at a trial's own place borrows from the neighbours what one seed cannot tell.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective

__all__ = ["ranked"]

_FEWEST = 5
"""With fewer COMPLETE trials the values themselves count."""

_MOST = 300
"""Only the best by value are smoothed: the time grows with their cube (2 s for 300, minutes for 2,000)."""


def ranked(space: Space, trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """COMPLETE trials of one arm, best first.

    Args:
        space: What the arm searches.
        trials: The arm's search trials; those that did not complete are left out.
        objective: What they are judged by.
    """
    found = [t for t in trials if t.state is TrialState.COMPLETE and t.value is not None]
    scaled = Forecast(space, found, objective).scaled
    values = {t.number: scaled(t.value) for t in found if t.value is not None}
    complete = sorted(found, key=lambda trial: (values[trial.number], trial.number))
    best, rest = complete[:_MOST], complete[_MOST:]
    if len(best) >= _FEWEST:
        points = tuple(tuple(space.unit(trial.params)) for trial in best)
        means = _posterior_mean(points, tuple(values[trial.number] for trial in best))
        order = sorted(range(len(best)), key=lambda i: (means[i], best[i].number))
        best = [best[i] for i in order]
    return best + rest


@lru_cache(maxsize=16)  # asked again for every rerun of the finalists
def _posterior_mean(points: tuple[tuple[float, ...], ...], values: tuple[float, ...]) -> tuple[float, ...]:
    """At each point, given a noisy value there and at all others."""
    # Imported here: scikit-learn takes a second, and only a finished search needs it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    observed = np.array(values)
    if observed.std() == 0:
        return values
    # One length for all coordinates, and not a short one: with a length each, tens of noisy values are taken for
    # a rough surface without noise, and the luckiest is chosen again.
    kernel = 1.0 * Matern(1.0, (0.3, 20.0), nu=2.5) + WhiteKernel(0.2, (0.01, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the length or the noise at its bound
        process = GaussianProcessRegressor(kernel).fit(points, (observed - observed.mean()) / observed.std())
        return tuple(float(mean) for mean in process.predict(points))
