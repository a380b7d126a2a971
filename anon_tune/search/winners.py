"""The winner of an arm, and of each of its searches where it is searched several times (`search.repeats`)."""

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
        repeat: Which of its searches, from 0.
        winner: The trial that stands for the winner; None where no configuration was rerun.
        round: Seeds on which the winner is tested.
    """

    arm: str
    repeat: int
    winner: Trial | None
    round: Round


def winner(trials: Sequence[Trial], arm: str, mode: str, repeat: int | None = None) -> Trial | None:
    """Return the first trial of the finalist with the best mean over its confirm seeds; None if none was rerun.

    One that did not complete on all of them comes last, and one that fell behind and was not rerun on all before
    it; among those that did not complete the order of the finalists stands.

    Args:
        trials: Of the job.
        arm: The arm's name.
        mode: "min" or "max".
        repeat: Among the finalists of one search; None: among those of all.
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

    first = min(runs, key=key, default=None)  # of equals the first
    return by_id[first] if first is not None else None


def searches(spec: JobSpec, trials: Sequence[Trial]) -> list[Searched]:
    """Return the searches of all arms, repeat by repeat; none where each arm is searched once.

    The winner of a single search is the arm's, which the rounds of the verdict test.
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
