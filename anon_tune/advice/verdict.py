"""Is Anon better than each baseline? Paired differences on fresh seeds, on a split nothing was selected on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import fmean, stdev
from typing import Any

from anon_tune.records import Phase, Trial, TrialState

__all__ = ["CONFIDENCE", "Comparison", "Outcome", "compare", "verdict"]

CONFIDENCE = 0.95
_FEWEST_SEEDS = 5
_ROUNDING = 1e-9


class Outcome(StrEnum):
    """What the comparison says of Anon."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Comparison:
    """Anon against one baseline.

    Attributes:
        baseline: The other arm.
        outcome: Better or worse only if the interval leaves out 0 and the better one completed on every seed; no
            difference only if both did.
        anon: Mean test objective of Anon's winner over the seeds it completed; None if none.
        other: The same of the baseline's.
        difference: Mean of anon minus baseline over the seeds both completed.
        low: Lower end of its interval.
        high: Upper end.
        seeds: Seeds both completed.
        note: What limits the statement.
    """

    baseline: str
    outcome: Outcome
    anon: float | None
    other: float | None
    difference: float | None
    low: float | None
    high: float | None
    seeds: int
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def verdict(trials: Sequence[Trial], arms: Sequence[str], mode: str) -> list[Comparison]:
    """Compare Anon with every other arm, by the verdict trials of a job.

    Args:
        trials: All trials of a job.
        arms: Its arms.
        mode: "min" or "max".
    """
    baselines = [arm for arm in arms if arm != "anon"]
    of = {arm: [t for t in trials if t.phase is Phase.VERDICT and t.arm == arm] for arm in arms}
    return [compare(of["anon"], of[arm], arm, mode, comparisons=len(baselines)) for arm in baselines]


def compare(
    anon: Sequence[Trial], other: Sequence[Trial], baseline: str, mode: str, comparisons: int
) -> Comparison:
    """Return the comparison of two arms' verdict trials.

    The interval is Student's t for paired differences at 95%, Bonferroni-corrected over `comparisons`. It speaks of
    the seeds that both completed. So an arm that diverged or failed on any seed cannot be the better one, nor is it
    the same as one that did not: where the interval does not make it the worse one, the comparison is undecided.
    One that diverged on all is the worse one.
    """
    a, b = _values(anon), _values(other)
    shared = sorted(a.keys() & b.keys())
    means = (fmean(a.values()) if a else None, fmean(b.values()) if b else None)
    a_whole, b_whole = (len(v) == len(t) > 0 for v, t in ((a, anon), (b, other)))
    notes = [
        f"{name} {_losses(trials)}"
        for name, trials, whole in (("Anon", anon, a_whole), (baseline, other, b_whole))
        if not whole
    ]
    a_lost, b_lost = (len(t) > 0 and all(x.state is TrialState.DIVERGED for x in t) for t in (anon, other))
    if (a_whole and b_lost) or (b_whole and a_lost):
        # One completed on every seed and the other diverged on all: no interval is needed.
        outcome = Outcome.BETTER if a_whole else Outcome.WORSE
        return Comparison(baseline, outcome, *means, None, None, None, 0, "; ".join(notes))
    if len(shared) < 2:
        notes.append(f"{len(shared)} shared seeds are too few for an interval")
        return Comparison(
            baseline, Outcome.UNDECIDED, *means, None, None, None, len(shared), "; ".join(notes)
        )
    differences = [a[seed] - b[seed] for seed in shared]
    mean = fmean(differences)
    level = 1 - (1 - CONFIDENCE) / comparisons
    from scipy import stats  # takes seconds, which Ray's start can hide

    half = float(stats.t.ppf((1 + level) / 2, len(shared) - 1)) * stdev(differences) / math.sqrt(len(shared))
    if half < _ROUNDING * abs(mean) and 0.5 ** (len(shared) - 1) > 1 - level:
        # Counts, such as an accuracy's, do so easily. Then only the signs speak, and of so few they say nothing.
        notes.append(f"all {len(shared)} seeds differ by the same, too few of them to tell it from chance")
        return Comparison(
            baseline, Outcome.UNDECIDED, *means, mean, None, None, len(shared), "; ".join(notes)
        )
    low, high = mean - half, mean + half
    anon_lower, anon_higher = high < 0, low > 0
    better, worse = (anon_lower, anon_higher) if mode == "min" else (anon_higher, anon_lower)
    if better and a_whole:
        outcome = Outcome.BETTER
    elif worse and b_whole:
        outcome = Outcome.WORSE
    elif a_whole and b_whole:
        outcome = Outcome.NO_DIFFERENCE
    else:
        outcome = Outcome.UNDECIDED
        found = (
            "Anon did better" if better else f"{baseline} did better" if worse else "no difference is seen"
        )
        notes = [f"{found} on the {len(shared)} seeds that both completed, but {' and '.join(notes)}"]
    if len(shared) < _FEWEST_SEEDS:
        blind = ": small differences cannot be seen" if outcome is Outcome.NO_DIFFERENCE else ""
        notes.append(f"only {len(shared)} seeds{blind}")
    return Comparison(baseline, outcome, *means, mean, low, high, len(shared), "; ".join(notes))


def _losses(trials: Sequence[Trial]) -> str:
    """What became of the runs that did not complete: "diverged on 1 of 5 seeds"."""
    words = {TrialState.DIVERGED: "diverged", TrialState.FAILED: "failed"}
    lost = Counter(words.get(t.state, "did not complete") for t in trials if t.seed not in _values(trials))
    if not lost:
        return "has no run on fresh seeds"
    return " and ".join(f"{word} on {count} of {len(trials)} seeds" for word, count in sorted(lost.items()))


def _values(trials: Sequence[Trial]) -> dict[int, float]:
    return {t.seed: t.value for t in trials if t.state is TrialState.COMPLETE and t.value is not None}
