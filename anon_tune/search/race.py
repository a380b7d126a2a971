"""Racing: a finalist that is clearly behind after some of its confirm seeds is not rerun on the others.

With three seeds no rank test decides anything (Wilcoxon's smallest p is 0.125). But all finalists of all arms run on
the same seeds, and the noise that remains after the effects of finalist and seed can be pooled over the arms. A
paired, one-sided t test with that pooled deviation compares a finalist with its arm's leader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anon_tune.records import Phase, Trial, TrialState, objective_key

__all__ = ["FEWEST_SEEDS", "fallen_behind"]

_CONFIDENCE = 0.95
FEWEST_SEEDS = 2
"""Number of seeds on which every finalist is rerun."""

_FEWEST_FREEDOM = 3


def fallen_behind(trials: Sequence[Trial], mode: str) -> set[str]:
    """Return the ids of the finalists that need no further confirm seeds: clearly behind, or not COMPLETE on one.

    Args:
        trials: All trials of a job; only its confirm trials are used.
        mode: "min" or "max".
    """
    runs: dict[str, dict[str, dict[int, float]]] = {}
    broken: set[str] = set()
    for trial in sorted(trials, key=lambda trial: trial.id):  # floating-point sums depend on the order
        if trial.phase is not Phase.CONFIRM or not trial.is_finished:
            continue
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            of_arm = runs.setdefault(trial.arm, {})
            of_arm.setdefault(trial.origin, {})[trial.seed] = objective_key(trial.value, mode)
        else:
            broken.add(trial.origin)
    whole = [
        {source: values for source, values in of_arm.items() if source not in broken}
        for of_arm in runs.values()
    ]
    deviation, freedom = _noise(whole)
    if freedom < _FEWEST_FREEDOM:
        return broken
    from scipy.stats import t as student

    limit = float(student.ppf(_CONFIDENCE, freedom)) * deviation * math.sqrt(2.0)
    behind = set(broken)
    for of_arm in whole:
        for source, values in of_arm.items():
            for other, others in of_arm.items():
                common = values.keys() & others.keys()
                if other == source or len(common) < FEWEST_SEEDS:
                    continue
                difference = float(np.mean([values[seed] - others[seed] for seed in sorted(common)]))
                if difference > 0 and difference > limit / math.sqrt(len(common)):
                    behind.add(source)
    return behind


def _noise(arms: Sequence[dict[str, dict[int, float]]]) -> tuple[float, int]:
    """Return a run's standard deviation after the effects of finalist and seed, and its degrees of freedom."""
    squares, freedom = 0.0, 0
    for of_arm in arms:
        if len(of_arm) < 2:
            continue
        seeds = set.intersection(*(set(values) for values in of_arm.values()))
        if len(seeds) < FEWEST_SEEDS:
            continue
        table = np.array([[values[seed] for seed in sorted(seeds)] for values in of_arm.values()])
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        squares += float((rest**2).sum())
        freedom += (table.shape[0] - 1) * (table.shape[1] - 1)
    return (math.sqrt(squares / freedom) if freedom else 0.0), freedom
