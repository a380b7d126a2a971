"""The winner of an arm and, with `search.repeats`, of each of its searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from anon_tune.records import Phase, Trial, TrialState, objective_key
from anon_tune.search.rounds import FIRST_ALPHA, Round, search_round
from anon_tune.spec import JobSpec

__all__ = ["Searched", "searches", "winner"]


@dataclass(frozen=True)
class Searched:
    """One of the searches of an arm.

    Attributes:
        arm: Its name.
        repeat: Number of the search, from 0.
        winner: The trial that represents the winner; None if no configuration was rerun.
        round: Seeds on which the winner is tested.
    """

    arm: str
    repeat: int
    winner: Trial | None
    round: Round


def winner(trials: Sequence[Trial], arm: str, mode: str, repeat: int | None = None) -> Trial | None:
    """Return the first trial of the finalist with the best mean over its confirm seeds; None if none was rerun.

    Finalists that completed on all seeds come first, then those that fell behind and were not rerun on all, then
    those that did not complete on some. The last keep the order of the finalists.

    Args:
        trials: Trials of the job.
        arm: The arm's name.
        mode: "min" or "max".
        repeat: Number of the search whose finalists count; None: all searches.
    """
    by_id = {trial.id: trial for trial in trials}
    runs: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: (trial.repeat, trial.number)):
        if trial.arm == arm and trial.phase is Phase.CONFIRM and repeat in {None, trial.repeat}:
            runs.setdefault(trial.origin, []).append(trial)
    most = max(map(len, runs.values()), default=0)

    def key(source: str) -> tuple[bool, float]:
        values = [
            objective_key(t.value, mode)
            for t in runs[source]
            if t.state is TrialState.COMPLETE and t.value is not None
        ]
        if len(values) < len(runs[source]):
            return True, 0.0
        return False, fmean(values) if len(values) == most else math.inf

    first = min(runs, key=key, default=None)  # the first of equals
    return by_id[first] if first is not None else None


def searches(spec: JobSpec, trials: Sequence[Trial]) -> list[Searched]:
    """Return the searches of all arms, repeat by repeat; empty if each arm is searched once.

    The winner of a single search is the arm's winner, which the rounds of the verdict test.
    """
    if spec.search.repeats == 1:
        return []
    found = []
    for repeat in range(spec.search.repeats):
        for arm in spec.arms:
            best = winner(trials, arm, spec.objective.mode, repeat)
            tested = Round((), FIRST_ALPHA) if best is None else search_round(spec, trials, best)
            found.append(Searched(arm, repeat, best, tested))
    return found
