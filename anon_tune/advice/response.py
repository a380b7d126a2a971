"""Which gammas do well: for now, those of the trials within one standard error of the chosen configuration.

The chosen one is judged by its mean over the confirm seeds, since the best value of many noisy trials is better than
what it stands for. A trial is one run and that mean is one of n, so the standard error of their difference is
sqrt(1 + 1/n) times the standard deviation between seeds of one configuration. That is pooled over the confirm runs
of all arms: those of one arm alone are too few to tell it. The spread is not a confidence interval of the best gamma,
and is labelled so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, variance
from typing import Any

from anon_tune.records import Phase, Trial, TrialState, objective_key
from anon_tune.search.policy import winner

__all__ = ["FEWEST_TRIALS", "GammaSpread", "gamma_spread", "seed_deviation"]

FEWEST_TRIALS = 12
"""With fewer COMPLETE trials no spread is given."""


@dataclass(frozen=True)
class GammaSpread:
    """The gammas of the search trials that do as well as the chosen configuration, as far as can be told.

    Attributes:
        mean: Mean of those gammas; None if no spread can be given.
        low: The lowest.
        high: The highest.
        best: Gamma of the chosen configuration, or of the best trial where none was confirmed.
        within: How many trials are within one standard error of the chosen configuration, itself included.
        complete: How many COMPLETE trials there were to choose from.
        standard_error: Of the difference between a trial and that configuration, in units of the objective.
        note: What this is, or why there is none.
    """

    mean: float | None
    low: float | None
    high: float | None
    best: float | None
    within: int
    complete: int
    standard_error: float | None
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def gamma_spread(trials: Sequence[Trial], mode: str) -> GammaSpread:
    """Return the spread of good gammas among the arm `anon`'s COMPLETE search trials.

    Args:
        trials: All trials of a job.
        mode: "min" or "max".
    """
    found = {
        t.id: (objective_key(t.value, mode), float(t.hyperparameters["gamma"]))
        for t in trials
        if t.arm == "anon"
        and t.phase is Phase.SEARCH
        and t.state is TrialState.COMPLETE
        and t.value is not None
    }
    chosen = winner(trials, "anon", mode)
    best = found[chosen.id][1] if chosen else None
    broken = {t.source for t in trials if t.phase is Phase.CONFIRM and t.state is not TrialState.COMPLETE}
    runs = [] if chosen is None or chosen.id in broken else _confirm_runs(trials).get(chosen.id, [])
    deviation = seed_deviation(trials)

    def none(why: str) -> GammaSpread:
        return GammaSpread(None, None, None, best, 0, len(found), None, f"no spread: {why}")

    if len(found) < FEWEST_TRIALS:
        return none(f"{len(found)} COMPLETE trials, fewer than {FEWEST_TRIALS}")
    if len({gamma for _, gamma in found.values()}) == 1:
        return none(f"the space fixes gamma at {best:g}")
    if chosen is None or not runs or deviation is None:
        return none("no configuration was rerun on several seeds")
    mean = objective_key(fmean(runs), mode)
    error = deviation * math.sqrt(1 + 1 / len(runs))
    within = [gamma for trial, (value, gamma) in found.items() if trial == chosen.id or value <= mean + error]
    which = f"within one standard error ({error:.2g}) of the chosen one's confirmed mean"
    if len(within) > 1:
        note = (
            f"gammas of the {len(within)} of {len(found)} COMPLETE trials {which}; not a confidence interval"
        )
    else:
        note = (
            f"no other of {len(found)} COMPLETE trials is {which}: how wide the good range is cannot be told"
        )
    return GammaSpread(fmean(within), min(within), max(within), best, len(within), len(found), error, note)


def seed_deviation(trials: Sequence[Trial]) -> float | None:
    """Standard deviation between seeds of one configuration, pooled over the confirm runs; None without repeats."""
    repeated = [values for values in _confirm_runs(trials).values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if freedom == 0:
        return None
    return math.sqrt(sum(variance(values) * (len(values) - 1) for values in repeated) / freedom)


def _confirm_runs(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Values of the confirm runs by the trial whose configuration they repeat."""
    runs: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.phase is Phase.CONFIRM and trial.state is TrialState.COMPLETE and trial.value is not None:
            runs[trial.source or ""].append(trial.value)
    return runs
