"""Comparing two configurations on common seeds, looked at again and again until it is decided.

By a paired t test whose variance is moderated (Smyth 2004, doi 10.2202/1544-6115.1027): of three differences alone
hardly anything is known of it, and the confirm runs of both arms say more. The looks share the error rate by a
spending function (Lan and DeMets 1983, doi 10.1093/biomet/70.3.659), so that looking often does not raise it.
docs/advice.md has the error rates and the power that were simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, variance

import numpy as np
from numpy.typing import NDArray

from anon_tune.answer import Outcome
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.scale import Scale

__all__ = ["ALPHA", "Duel", "Judgement", "levels", "looks"]

ALPHA = 0.05
"""Error rate of all verdicts of a job together, two-sided."""

_LOOKS = (3, 4, 5, 6, 8, 10)
"""Seeds after which it is looked whether a comparison is decided."""

_SPENDING = 2.0
"""By look n of N a share (n / N)^2 of the error rate is spent."""

_MOST_PRIOR_FREEDOM = 4
"""Degrees of freedom that the confirm runs count for at most: test data may be noisier than validation data."""

_PENALTY = 3.0
"""Seed deviations by which a run that diverged counts as worse than the worst that completed."""

_MOST_SEEDS = 10_000

Array = NDArray[np.float64]
_GRID = 801


@dataclass(frozen=True)
class Judgement:
    """Two configurations after some seeds; differences are on the objective's scale, the first less the second.

    Attributes:
        outcome: Of the first; None while nothing is decided.
        seeds: That were compared.
        difference: None for fewer than two seeds.
        variance: Of one difference, moderated.
        freedom: Its degrees of freedom.
        level: Of the test, two-sided.
        half: Half the width of the interval, by which it was looked.
        seeds_needed: About so many would decide it; None where it is decided, or where too many were needed.
    """

    outcome: Outcome | None
    seeds: int
    difference: float | None = None
    variance: float = 0.0
    freedom: int = 0
    level: float = ALPHA
    half: float | None = None
    seeds_needed: int | None = None


class Duel:
    """The winners of two arms on the verdict's seeds.

    A run that diverged counts as `_PENALTY` seed deviations worse than the worst run of the two that completed. So it
    is held against its configuration, and equal configurations stay equal. A seed on which a run failed for another
    reason says nothing, and is left out.

    Args:
        scale: Of the objective.
        trials: All trials of the job.
        arms: The two.
        winners: By arm, the trial that stands for its winner.
        seeds: Of the verdict, in the order in which they are run.
        comparisons: How many the job has, which share its error rate.
    """

    def __init__(
        self,
        scale: Scale,
        trials: Sequence[Trial],
        arms: tuple[str, str],
        winners: Mapping[str, Trial],
        seeds: Sequence[int],
        comparisons: int,
    ) -> None:
        runs = {
            (t.arm, t.seed): t
            for t in trials
            if t.phase is Phase.VERDICT and t.arm in arms and t.source == winners[t.arm].id
        }
        self._seeds = len(seeds)
        self._practical = scale.practical
        self._levels = levels(self._seeds, ALPHA / comparisons)
        noise = [_within(trials, arm, scale) for arm in arms]
        freedom = sum(each for _, each in noise)
        pooled = sum(v * each for v, each in noise) / freedom if freedom else 0.0
        values = {key: scale(t.value) for key, t in runs.items() if t.value is not None}
        deviation = _deviation(
            [[v for (arm, _), v in values.items() if arm == each] for each in arms], pooled
        )
        lost = max(values.values(), default=0.0) + _PENALTY * deviation
        diverged = {key for key, trial in runs.items() if trial.state is TrialState.DIVERGED}
        # Confirm runs know nothing of the spread that comes from diverging: a winner completed on all of them.
        self._prior = (
            sum(v if each else pooled for v, each in noise),
            0 if diverged else min(freedom, _MOST_PRIOR_FREEDOM),
        )
        self.decides = deviation > 0 or not diverged
        values |= dict.fromkeys(diverged, lost)
        self._ended = [all((a, s) in runs and runs[a, s].is_finished for a in arms) for s in seeds]
        self._differences = [
            values[arms[0], seed] - values[arms[1], seed] if all((a, seed) in values for a in arms) else None
            for seed in seeds
        ]

    def at(self, look: int) -> Judgement:
        """Return what is known after the first `look` seeds, whichever were decided before."""
        found = [d for d in self._differences[:look] if d is not None]
        if len(found) < 2:
            return Judgement(None, len(found))
        mean, spread = fmean(found), variance(found)
        prior, freedom = self._prior
        total = freedom + len(found) - 1
        moderated = (freedom * prior + (len(found) - 1) * spread) / total
        level = self._levels[looks(self._seeds).index(look)]
        if not moderated > (1e-9 * mean) ** 2 or not self.decides:
            return Judgement(None, len(found), mean)  # the seed changes nothing: as good as one run
        half = _half(moderated, total, len(found), level)
        outcome = self._outcome(mean, half)
        needed = None if outcome is not None else self._needed(mean, moderated, freedom, level)
        return Judgement(outcome, len(found), mean, moderated, total, level, half, needed)

    def judge(self, most: int | None = None) -> Judgement:
        """Return what is known at the first look that decides it, or at the last whose seeds have all ended.

        Args:
            most: Later looks than after so many seeds are not taken.
        """
        found = Judgement(None, 0)
        for look in looks(self._seeds):
            if not all(self._ended[:look]) or (most is not None and look > most):
                break
            found = self.at(look)
            if found.outcome is not None:
                break
        return found

    def _outcome(self, mean: float, half: float) -> Outcome | None:
        if mean + half < 0:
            return Outcome.BETTER
        if mean - half > 0:
            return Outcome.WORSE
        if self._practical is not None and abs(mean) + half < self._practical:
            return Outcome.EQUAL
        return None

    def _needed(self, mean: float, moderated: float, freedom: int, level: float) -> int | None:
        """The number of seeds at which this difference would be decided, were it the true one."""
        margins = [abs(mean)] + ([self._practical - abs(mean)] if self._practical is not None else [])
        low, high = 2, _MOST_SEEDS
        while low < high:
            middle = (low + high) // 2
            enough = _half(moderated, freedom + middle - 1, middle, level) < max(margins)
            low, high = (low, middle) if enough else (middle + 1, high)
        return low if low < _MOST_SEEDS else None


def looks(most: int) -> list[int]:
    """Return after how many seeds it is looked, of `most` at most."""
    return [look for look in _LOOKS if look < most] + [most]


@lru_cache(maxsize=64)
def levels(most: int, alpha: float) -> tuple[float, ...]:
    """Return the two-sided level of the test at each look, so that all together err with a probability of `alpha`.

    By integrating the density of the sum of normal differences that have not been decided, from look to look. The
    levels are then used with Student's distribution.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm  # takes seconds, which Ray's start can hide

    times = np.array(looks(most)) / most
    spent = alpha * times**_SPENDING
    found: list[float] = []
    grid, density = np.zeros(1), np.ones(1)  # of the sum at the look before
    step, before, paid = 1.0, 0.0, 0.0
    for time, total in zip(times, spent, strict=True):
        width = math.sqrt(time - before)
        ways = grid / width, step * density  # to get across a bound, and how likely each is
        bound = brentq(_crossing, 0.0, 10.0, args=(*ways, width, total - paid))
        found.append(2 * float(norm.sf(bound / math.sqrt(time))))
        new = np.linspace(-bound, bound, _GRID)
        density = step * (norm.pdf((new[:, None] - grid[None]) / width) / width) @ density
        grid, step, before, paid = new, float(new[1] - new[0]), float(time), float(total)
    return tuple(found)


def _crossing(bound: float, starts: Array, weights: Array, width: float, owed: float) -> float:
    """The probability of a sum beyond a bound on either side, less what it should be."""
    from scipy.special import ndtr

    tails = ndtr(starts - bound / width) + ndtr(-bound / width - starts)
    return float((weights * tails).sum()) - owed


def _half(moderated: float, freedom: int, count: int, level: float) -> float:
    from scipy.stats import t as student

    return float(student.isf(level / 2, freedom)) * math.sqrt(moderated / count)


def _within(trials: Sequence[Trial], arm: str, scale: Scale) -> tuple[float, int]:
    """Variance between seeds of a configuration, pooled over an arm's confirm runs, and its degrees of freedom."""
    runs: dict[str, list[float]] = {}
    for trial in trials:
        if trial.arm == arm and trial.phase is Phase.CONFIRM and trial.value is not None:
            runs.setdefault(trial.origin, []).append(scale(trial.value))
    repeated = [values for values in runs.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(variance(values) * (len(values) - 1) for values in repeated)
    return (squares / freedom if freedom else 0.0), freedom


def _deviation(groups: Sequence[Sequence[float]], otherwise: float) -> float:
    """Standard deviation within groups; of fewer than two values each, the root of another variance."""
    repeated = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    squares = sum(variance(values) * (len(values) - 1) for values in repeated)
    return math.sqrt(squares / freedom if freedom else otherwise)
