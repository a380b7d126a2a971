"""Which gammas do well: for now, those within one standard error of the best trial.

The standard error is that of one run: the standard deviation between seeds of the same configuration, pooled
over the finalists' confirm runs. It is not a confidence interval of the best gamma, and is labelled so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, variance
from typing import Any

from anon_tune.records import Phase, Trial, TrialState, objective_key

__all__ = ["FEWEST_TRIALS", "GammaSpread", "gamma_spread", "seed_deviation"]

FEWEST_TRIALS = 12
"""With fewer COMPLETE trials no spread is given."""


@dataclass(frozen=True)
class GammaSpread:
    """The gammas of the search trials within one standard error of the best.

    Attributes:
        mean: Mean of those gammas; None if no spread can be given.
        low: The lowest.
        high: The highest.
        best: Gamma of the best trial.
        within: How many trials are within one standard error.
        complete: How many COMPLETE trials there were to choose from.
        standard_error: Of one run, in units of the objective.
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
    found = [
        (objective_key(t.value, mode), float(t.hyperparameters["gamma"]))
        for t in trials
        if t.arm == "anon"
        and t.phase is Phase.SEARCH
        and t.state is TrialState.COMPLETE
        and t.value is not None
    ]
    error = seed_deviation([trial for trial in trials if trial.arm == "anon"])
    best = min(found, default=None)
    if len(found) < FEWEST_TRIALS or best is None:
        note = f"no spread: {len(found)} COMPLETE trials, fewer than {FEWEST_TRIALS}"
    elif len({gamma for _, gamma in found}) == 1:
        note = f"no spread: the space fixes gamma at {best[1]:g}"
    elif error is None:
        note = "no spread: no configuration was rerun on several seeds"
    else:
        within = [gamma for value, gamma in found if value <= best[0] + error]
        note = (
            f"gammas of the {len(within)} of {len(found)} COMPLETE trials within one standard error "
            f"({error:.2g}, of one run) of the best; not a confidence interval"
        )
        return GammaSpread(
            fmean(within), min(within), max(within), best[1], len(within), len(found), error, note
        )
    return GammaSpread(None, None, None, best[1] if best else None, 0, len(found), error, note)


def seed_deviation(trials: Sequence[Trial]) -> float | None:
    """Standard deviation between seeds of one configuration, pooled over the confirm runs; None without repeats."""
    runs: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.phase is Phase.CONFIRM and trial.state is TrialState.COMPLETE and trial.value is not None:
            runs[trial.source or ""].append(trial.value)
    repeated = [values for values in runs.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if freedom == 0:
        return None
    return math.sqrt(sum(variance(values) * (len(values) - 1) for values in repeated) / freedom)
