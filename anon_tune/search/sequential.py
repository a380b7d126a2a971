"""Sequential comparison of two configurations on common seeds.

It is a paired t test with a moderated variance (Smyth 2004, doi 10.2202/1544-6115.1027): three differences alone
hardly determine the variance, so the confirm runs of both arms contribute. The looks share the error rate by a
spending function (Lan and DeMets 1983, doi 10.1093/biomet/70.3.659), so repeated looks do not raise it.
docs/advice.md has the simulated error rates and power.
"""

from __future__ import annotations

import dataclasses
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
from anon_tune.search.spread import confirm_runs, pooled

__all__ = ["ALPHA", "PENALTY", "InterimResult", "PairedTest", "levels", "looks", "outcome_of"]

ALPHA = 0.05
"""Error rate of all verdicts of a job together, two-sided."""

_LOOKS = (
    3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 80, 100, 125, 160, 200, 250, 320, 400, 500, 630, 800, 1000,
)  # fmt: skip
"""Numbers of seeds after which there is a look: a test whether the comparison is decided."""

_SPENDING = 2.0
"""Look n of N may have spent a share (n / N)^2 of the error rate."""

_MOST_PRIOR_FREEDOM = 4
"""Most degrees of freedom of the confirm runs: test data may be noisier than validation data."""

PENALTY = 3.0
"""A diverged run counts as so many seed deviations worse than the worst completed one."""

_MOST_SEEDS = 10_000

_FOUR_OF_FIVE = 0.84
"""A difference this many standard errors beyond the half-width has a power of 80%."""


Array = NDArray[np.float64]
_GRID = 801


@dataclass(frozen=True)
class InterimResult:
    """Two configurations after some seeds; differences are on the objective's scale, the first less the second.

    Attributes:
        outcome: Outcome for the first; None while undecided.
        seeds: Number of compared seeds.
        difference: Mean difference; None with fewer than two seeds.
        variance: Moderated variance of one difference.
        freedom: Its degrees of freedom.
        level: Two-sided level of the test.
        half: Half the width of the interval at this look.
        seeds_needed: About so many fresh seeds would decide it with a power of 80%; None if decided, or if too many.
        seeds_matter: False if the values of neither configuration differ between seeds, or the job states so: all
            runs of one count as one run. Then the outcome is None.
        of: All seeds of the test.
    """

    outcome: Outcome | None
    seeds: int
    difference: float | None = None
    variance: float = 0.0
    freedom: int = 0
    level: float = ALPHA
    half: float | None = None
    seeds_needed: int | None = None
    seeds_matter: bool = True
    of: tuple[int, ...] = ()


class PairedTest:
    """Comparison of the winners of two arms on the verdict's seeds.

    A diverged run counts as `PENALTY` seed deviations worse than the worst completed run of the two. So divergence
    counts against its configuration, and equal configurations stay equal. A seed on which a run failed for another
    reason is omitted.

    Args:
        scale: Scale of the objective.
        trials: All trials of the job.
        arms: The two arms.
        winners: By arm, the trial that represents its winner.
        seeds: Seeds, in the order in which they are run.
        alpha: Two-sided error rate of this comparison.
        following: Error rate of the next comparison, on new seeds, if this one is undecided.
        seeds_matter: False if the job states that seeds have no effect, so that nothing can be decided.

    Attributes:
        seeds: The argument `seeds`.
        looks: Numbers of seeds after which there is a look.
    """

    def __init__(
        self,
        scale: Scale,
        trials: Sequence[Trial],
        arms: tuple[str, str],
        winners: Mapping[str, Trial],
        seeds: Sequence[int],
        alpha: float,
        following: float,
        *,
        seeds_matter: bool = True,
    ) -> None:
        self._seeds_matter = seeds_matter
        self.seeds, self.looks = tuple(seeds), looks(len(seeds))
        runs = {
            (t.arm, t.seed): t
            for t in trials
            if t.phase is Phase.VERDICT and t.arm in arms and t.source == winners[t.arm].id
        }
        self._scale = scale
        self._levels, self._following = levels(len(seeds), alpha), following
        # Only the winners' runs: runs of other finalists may come later and would change earlier looks.
        self._confirm = [pooled(confirm_runs(trials, scale, of=winners[arm])) for arm in arms]
        self._found: dict[int, InterimResult] = {}
        self._runs = [[runs.get((arm, seed)) for seed in seeds] for arm in arms]

    def at(self, look: int) -> InterimResult:
        """Return the result of the first `look` seeds alone."""
        if look not in self._found:
            self._found[look] = self._at(look)
        return self._found[look]

    def _at(self, look: int) -> InterimResult:
        both = [runs[:look] for runs in self._runs]
        diverged = [[t is not None and t.state is TrialState.DIVERGED for t in runs] for runs in both]
        values = [
            [None if t is None or t.value is None else self._scale(t.value) for t in runs] for runs in both
        ]
        if not self._seeds_matter:
            return _as_one_run(values)
        noise = sum(v * freedom for v, freedom in self._confirm) / max(1, sum(f for _, f in self._confirm))
        completed = [[v for v in each if v is not None] for each in values]
        if not noise and any(completed) and all(map(_is_constant, completed, diverged)):
            return _as_one_run(values)
        first, second = diverged
        level = self._levels[self.looks.index(look)]
        for lost, others, outcome in ((first, values[1], Outcome.WORSE), (second, values[0], Outcome.BETTER)):
            # Fisher's exact test, if one always diverged and the other never.
            if all(lost) and None not in others and 2 / math.comb(2 * look, look) <= level:
                return InterimResult(outcome, look)
        found, freedom = pooled(completed)
        deviation = math.sqrt(found if freedom else noise)
        worst = max((v for each in completed for v in each), default=0.0) + PENALTY * deviation
        for each, lost in zip(values, diverged, strict=True):
            each[:] = [worst if gone else value for value, gone in zip(each, lost, strict=True)]
        differences = _differences(values)
        if len(differences) < 2:
            return InterimResult(None, len(differences))
        return self._tested(differences, look, any(first + second), noise)

    def _tested(self, differences: Sequence[float], look: int, diverged: bool, noise: float) -> InterimResult:
        mean, spread, count = fmean(differences), variance(differences), len(differences)
        # Confirm runs do not include the spread from divergence: a winner completed on all of them.
        freedom = 0 if diverged else min(sum(each for _, each in self._confirm), _MOST_PRIOR_FREEDOM)
        prior = sum(v if each else noise for v, each in self._confirm)
        total = freedom + count - 1
        moderated = (freedom * prior + (count - 1) * spread) / total
        if not moderated > (1e-9 * mean) ** 2:
            return InterimResult(None, count, mean)  # the two change alike with the seed
        level = self._levels[self.looks.index(look)]
        half = _half_width(moderated, total, count, level)
        outcome = outcome_of(mean, half, self._scale.practical)
        needed = None if outcome is not None else self._needed(mean, moderated, freedom)
        return InterimResult(outcome, count, mean, moderated, total, level, half, needed)

    def judge(self, most: int | None = None) -> InterimResult:
        """Return the result of the first look that decides the comparison, or of the last whose seeds have all ended.

        Args:
            most: The most seeds of a look.
        """
        found = InterimResult(None, 0)
        for look in self.looks:
            runs = [trial for of_arm in self._runs for trial in of_arm[:look]]
            ended = all(trial is not None and trial.is_finished for trial in runs)
            if not ended or (most is not None and look > most):
                break
            found = self.at(look)
            if found.outcome is not None:
                break
        return dataclasses.replace(found, of=self.seeds)

    def _needed(self, mean: float, moderated: float, freedom: int) -> int | None:
        """Return the number of fresh seeds for a power of 80%, if this is the true difference."""
        practical = self._scale.practical
        margin = max(abs(mean), practical - abs(mean) if practical is not None else 0.0)
        low, high = 2, _MOST_SEEDS
        while low < high:
            middle = (low + high) // 2
            reach = _half_width(moderated, freedom + middle - 1, middle, self._following)
            enough = reach + _FOUR_OF_FIVE * math.sqrt(moderated / middle) < margin
            low, high = (low, middle) if enough else (middle + 1, high)
        return low if low < _MOST_SEEDS else None


def _is_constant(completed: Sequence[float], diverged: Sequence[bool]) -> bool:
    """Whether a configuration had the same end on two seeds or more: one value, or divergence."""
    runs = len(completed) + sum(diverged)
    return runs > 1 and len(completed) in {0, runs} and len(set(completed)) < 2


def _as_one_run(values: Sequence[Sequence[float | None]]) -> InterimResult:
    """Return the result of two configurations whose values do not depend on the seed."""
    differences = _differences(values)
    mean = differences[0] if differences else None
    return InterimResult(None, len(differences), mean, seeds_matter=False)


def _differences(values: Sequence[Sequence[float | None]]) -> list[float]:
    """Return the differences on the seeds that both configurations completed."""
    return [a - b for a, b in zip(*values, strict=True) if a is not None and b is not None]


def outcome_of(difference: float, half: float, practical: float | None) -> Outcome | None:
    """Return the outcome for the first of two, where smaller is better; None if the interval leaves it open.

    Args:
        difference: The middle of the interval, the first less the second.
        half: Half its width.
        practical: The smallest difference that matters, if there is one.
    """
    if difference + half < 0:
        return Outcome.BETTER
    if difference - half > 0:
        return Outcome.WORSE
    if practical is not None and abs(difference) + half < practical:
        return Outcome.EQUAL
    return None


def looks(most: int) -> list[int]:
    """Return the numbers of seeds after which there is a look, up to `most`."""
    return [look for look in _LOOKS if look < most] + [most]


@lru_cache(maxsize=64)
def levels(most: int, alpha: float) -> tuple[float, ...]:
    """Return the two-sided level of the test at each look, for a total error rate of `alpha`.

    The function integrates the density of the sum of undecided normal differences from look to look. The levels are
    then used with Student's distribution.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm  # the import takes seconds, which Ray's start can hide

    times = np.array(looks(most)) / most
    spent = alpha * times**_SPENDING
    found: list[float] = []
    grid, density = np.zeros(1), np.ones(1)  # density of the sum at the previous look
    step, before, paid = 1.0, 0.0, 0.0
    for time, total in zip(times, spent, strict=True):
        width = math.sqrt(time - before)
        ways = grid / width, step * density  # distances to a bound, and the probability of each
        bound = brentq(_crossing, 0.0, 10.0, args=(*ways, width, total - paid))
        found.append(2 * float(norm.sf(bound / math.sqrt(time))))
        new = np.linspace(-bound, bound, _GRID)
        density = step * (norm.pdf((new[:, None] - grid[None]) / width) / width) @ density
        grid, step, before, paid = new, float(new[1] - new[0]), float(time), float(total)
    return tuple(found)


def _crossing(bound: float, starts: Array, weights: Array, width: float, owed: float) -> float:
    """Return the probability of a sum beyond a bound on either side, less the target."""
    from scipy.special import ndtr

    tails = ndtr(starts - bound / width) + ndtr(-bound / width - starts)
    return float((weights * tails).sum()) - owed


def _half_width(moderated: float, freedom: int, count: int, level: float) -> float:
    from scipy.stats import t as student

    return float(student.isf(level / 2, freedom)) * math.sqrt(moderated / count)
