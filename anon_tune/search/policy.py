"""What a job does next: search, confirm and verdict as one pure function of the trials so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from anon_tune.records import NewTrial, Phase, Trial, TrialState, objective_key
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.seeds import trial_seed
from anon_tune.search.study import suggest
from anon_tune.search_spaces import Space
from anon_tune.spec import JobSpec

__all__ = ["Plan", "Signal", "finalists", "next_trial", "repeated_failure", "winner"]

_FAILURES_IN_A_ROW = 3


class Signal(Enum):
    """What `next_trial` returns when there is no trial to add."""

    WAIT = "running trials must end first"
    DONE = "every phase is over"


@dataclass(frozen=True)
class Plan:
    """What a job's decisions depend on besides its trials."""

    spec: JobSpec
    spaces: Mapping[str, Space]
    median_log_sigma: float


def next_trial(plan: Plan, trials: Sequence[Trial]) -> NewTrial | Signal:
    """Return the next trial to add, WAIT while running trials decide what comes next, or DONE.

    In the search, the arm that has started the fewest trials is next, so a job stopped at any moment leaves the
    arms within one trial of one another.
    """
    spec = plan.spec
    search = [trial for trial in trials if trial.phase is Phase.SEARCH]
    started = {arm: sum(trial.arm == arm for trial in search) for arm in spec.arms}
    arm = min(spec.arms, key=started.__getitem__)
    if started[arm] < spec.budget.trials:
        return _search_trial(plan, arm, [trial for trial in search if trial.arm == arm])
    for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT):
        of_phase = [trial for trial in trials if trial.phase is phase]
        new = _repeats(plan, phase, trials) if phase is not Phase.SEARCH else None
        if new is not None:
            return new
        if any(not trial.is_finished for trial in of_phase):
            return Signal.WAIT
    return Signal.DONE


def finalists(trials: Sequence[Trial], arm: str, count: int, mode: str) -> list[Trial]:
    """The arm's best COMPLETE search trials, best first."""
    found = [
        (objective_key(trial.value, mode), trial.number, trial)
        for trial in trials
        if trial.arm == arm and trial.phase is Phase.SEARCH
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    return [trial for _, _, trial in sorted(found, key=lambda item: item[:2])[:count]]


def winner(trials: Sequence[Trial], arm: str, count: int, mode: str) -> Trial | None:
    """The finalist with the best mean over its confirm seeds.

    A finalist that did not complete on every seed comes last, and among those the search's order stands; None if
    there is no finalist.
    """

    def mean(finalist: Trial) -> float:
        repeats = [t for t in trials if t.phase is Phase.CONFIRM and t.source == finalist.id]
        values = [
            objective_key(t.value, mode)
            if t.state is TrialState.COMPLETE and t.value is not None
            else math.inf
            for t in repeats
        ]
        return fmean(values) if values else math.inf

    return min(finalists(trials, arm, count, mode), key=mean, default=None)  # the first of equals: best first


def repeated_failure(trials: Sequence[Trial]) -> str | None:
    """The reason shared by the last three trials that ended, if all three FAILED for it."""
    ended = sorted(
        (trial for trial in trials if trial.is_finished and trial.finished is not None),
        key=lambda trial: (trial.finished, trial.id),
    )[-_FAILURES_IN_A_ROW:]
    reasons = {trial.reason for trial in ended if trial.state is TrialState.FAILED}
    if (
        len(ended) == _FAILURES_IN_A_ROW
        and len(reasons) == 1
        and all(t.state is TrialState.FAILED for t in ended)
    ):
        return reasons.pop()
    return None


def _search_trial(plan: Plan, arm: str, trials: Sequence[Trial]) -> NewTrial:
    spec, space, number = plan.spec, plan.spaces[arm], len(trials)
    ordered = sorted(trials, key=lambda trial: trial.number)
    params = suggest(space, ordered, number, spec.search, arm, spec.objective.mode)
    return NewTrial(
        arm=arm,
        phase=Phase.SEARCH,
        number=number,
        seed=trial_seed(spec.search.seed, Phase.SEARCH, number),
        params=params,
        hyperparameters=optimizer_arguments(space, params, plan.median_log_sigma),
    )


def _repeats(plan: Plan, phase: Phase, trials: Sequence[Trial]) -> NewTrial | None:
    """The next missing (configuration, seed) of a phase that reruns configurations, arms taking turns."""
    spec, mode = plan.spec, plan.spec.objective.mode
    if phase is Phase.CONFIRM:
        chosen = {arm: finalists(trials, arm, spec.confirm.finalists, mode) for arm in spec.arms}
        seeds = spec.confirm.seeds
    else:
        best = {arm: winner(trials, arm, spec.confirm.finalists, mode) for arm in spec.arms}
        chosen = {arm: [trial] if trial else [] for arm, trial in best.items()}
        seeds = spec.confirm.verdict_seeds
    made = {(trial.source, trial.seed) for trial in trials if trial.phase is phase}
    for index in range(seeds):
        seed = trial_seed(spec.search.seed, phase, index)
        for rank in range(max((len(found) for found in chosen.values()), default=0)):
            for arm in spec.arms:
                source = chosen[arm][rank] if rank < len(chosen[arm]) else None
                if source is not None and (source.id, seed) not in made:
                    number = sum(trial.arm == arm and trial.phase is phase for trial in trials)
                    return NewTrial(
                        arm, phase, number, seed, source.params, source.hyperparameters, source.id
                    )
    return None
