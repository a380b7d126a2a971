"""Two optimizers by several searches of each: a two-sample t test over the searches' results.

Each search has a seed of its own for all that it draws, and its winner is tested on fresh seeds of its own. So the
results differ by everything that would differ if somebody tuned the optimizer anew (Bouthillier et al. 2021,
arXiv 2103.03098), and their spread need not be guessed. docs/advice.md has the error rates and the power.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from anon_tune.answer import Outcome
from anon_tune.search.sequential import PENALTY, outcome_of
from anon_tune.search.spread import pooled

__all__ = ["Runs", "SearchesResult", "compare_searches"]

Runs = Sequence[float | None]
"""The winner of one search on its test seeds, on the objective's scale; None where it diverged."""


@dataclass(frozen=True)
class SearchesResult:
    """Two optimizers by their searches; differences are on the objective's scale, the first less the second.

    Attributes:
        outcome: Of the first; None while nothing is decided.
        searches: Compared, of each.
        means: Of each over its searches; None where no run completed, or no search has one.
        half: Half the width of the interval; None with fewer than two searches of one, or where all came to the same.
    """

    outcome: Outcome | None
    searches: tuple[int, int]
    means: tuple[float, float] | None = None
    half: float | None = None

    @property
    def difference(self) -> float | None:
        """The difference between the means."""
        return None if self.means is None else self.means[0] - self.means[1]


def compare_searches(
    first: Sequence[Runs], second: Sequence[Runs], level: float, practical: float | None = None
) -> SearchesResult:
    """Compare two optimizers by Welch's t test on the means of their searches' winners.

    A run that diverged counts as `PENALTY` deviations worse than the worst of both optimizers that completed, where
    the deviation is that of an optimizer's completed runs. So it is held against its optimizer, and equal optimizers
    stay equal.

    Args:
        first: Each search of the first optimizer; one without runs is left out.
        second: The same of the second.
        level: Of the test, two-sided.
        practical: The smallest difference that matters, on the scale.
    """
    both = [[runs for runs in searches if runs] for searches in (first, second)]
    counts = len(both[0]), len(both[1])
    complete = [[v for runs in searches for v in runs if v is not None] for searches in both]
    if not min(counts) or not any(complete):
        return SearchesResult(None, counts)
    worst = max(max(each) for each in complete if each) + PENALTY * math.sqrt(pooled(complete)[0])
    results = [[fmean(worst if v is None else v for v in runs) for runs in searches] for searches in both]
    means = fmean(results[0]), fmean(results[1])
    half = _half_width(results, level) if min(counts) > 1 else None
    if half is None:
        return SearchesResult(None, counts, means)
    return SearchesResult(outcome_of(means[0] - means[1], half, practical), counts, means, half)


def _half_width(results: Sequence[Sequence[float]], level: float) -> float | None:
    """Half the width of Welch's interval for the difference of two means; None where neither varies."""
    if not sum(map(variance, results)) > (1e-9 * max(abs(fmean(each)) for each in results)) ** 2:
        return None
    from scipy.stats import ttest_ind  # takes seconds, which Ray's start can hide

    # SciPy warns where all searches of one of them came to the same, which is no fault here.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        between = ttest_ind(*results, equal_var=False).confidence_interval(1.0 - level)
    return float(between.high - between.low) / 2
