"""Comparison of two optimizers by several searches of each: a two-sample t test over the searches' results.

Each search has its own seed for all random draws, and its winner is tested on its own fresh seeds. So the results
vary by everything that would vary if somebody tuned the optimizer again (Bouthillier et al. 2021, arXiv 2103.03098),
and their spread is measured. docs/advice.md has the error rates and the power.
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
"""Results of one search's winner on its test seeds, on the objective's scale; None where it diverged."""


@dataclass(frozen=True)
class SearchesResult:
    """Two optimizers by their searches; differences are on the objective's scale, the first less the second.

    Attributes:
        outcome: Outcome for the first; None while undecided.
        searches: Number of compared searches of each.
        means: Mean of each over its searches; None if no run completed.
        half: Half the width of the interval; None with fewer than two searches of either, or without any variation.
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

    A diverged run counts as `PENALTY` deviations worse than the worst completed run of both optimizers, where the
    deviation is that of an optimizer's completed runs. So divergence counts against its optimizer, and equal
    optimizers stay equal.

    Args:
        first: The searches of the first optimizer; those without runs are omitted.
        second: The searches of the second.
        level: Two-sided level of the test.
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
    """Return half the width of Welch's interval for the difference of two means; None if neither varies."""
    if not sum(map(variance, results)) > (1e-9 * max(abs(fmean(each)) for each in results)) ** 2:
        return None
    from scipy.stats import ttest_ind  # the import takes seconds, which Ray's start can hide

    # SciPy warns if all searches of one of them have the same result, which is fine here.
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        between = ttest_ind(*results, equal_var=False).confidence_interval(1.0 - level)
    return float(between.high - between.low) / 2
