"""What a job does next: search, confirm and verdict as one pure function of the trials so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from statistics import fmean

from anon_tune.records import NewTrial, Phase, Trial, TrialState, objective_key
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.history import History
from anon_tune.search.lag import may_start
from anon_tune.search.race import FEWEST_SEEDS, fallen_behind
from anon_tune.search.recommend import ranked
from anon_tune.search.seeds import trial_seed
from anon_tune.search.study import learns, suggest
from anon_tune.search_spaces import Space
from anon_tune.spec import JobSpec

__all__ = [
    "FAILURES_IN_A_ROW",
    "Plan",
    "Signal",
    "draws",
    "finalists",
    "next_trial",
    "repeated_failure",
    "winner",
]

FAILURES_IN_A_ROW = 3
"""So many trials that FAILED one after another for the same reason pause a job."""


class Signal(Enum):
    """What `next_trial` returns when there is no trial to add."""

    WAIT = "running trials must end first"
    DONE = "every phase is over"


@dataclass(frozen=True)
class Plan:
    """What a job's decisions depend on besides its trials.

    Attributes:
        spec: What the user asked for.
        spaces: By arm.
        log_mean_sigma: As the probe measured it.
        search_over: No further search trial is made, since the time for it is spent.
    """

    spec: JobSpec
    spaces: Mapping[str, Space]
    log_mean_sigma: float
    search_over: bool = False


def next_trial(plan: Plan, trials: Sequence[Trial] | History) -> NewTrial | Signal:
    """Return the next trial to add, WAIT while running trials decide what comes next, or DONE.

    In the search, the arm that has started the fewest trials is next, of those whose next trial has nothing to wait
    for (`lag.py`). Finalists are chosen when all search trials have ended, and a finalist falls behind after whole
    rounds of confirm seeds, so the order in which trials end changes nothing.
    """
    history = trials if isinstance(trials, History) else History(trials)
    arm = _searched_next(plan, history)
    if arm is not None:
        return _search_trial(plan, arm, history)
    for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT):
        new = _repeats(plan, phase, list(history.values())) if phase is not Phase.SEARCH else None
        if new is not None:
            return new
        if any(trial.phase is phase for trial in history.unfinished):
            return Signal.WAIT
    return Signal.DONE


def draws(plan: Plan, history: History) -> bool:
    """Whether `next_trial` draws a configuration, in a time that does not grow with the trials."""
    return plan.spec.search.sampler == "random" and _searched_next(plan, history) is not None


def finalists(plan: Plan, trials: Sequence[Trial], arm: str) -> list[Trial]:
    """The arm's search trials that are rerun on the confirm seeds, the most promising first."""
    search = [trial for trial in trials if trial.arm == arm and trial.phase is Phase.SEARCH]
    order = ranked(plan.spaces[arm], search, plan.spec.objective)
    return order[: plan.spec.confirm.finalists]


def winner(trials: Sequence[Trial], arm: str, mode: str) -> Trial | None:
    """The finalist with the best mean over its confirm seeds; None if none was rerun.

    One that did not complete on all of them comes last, and one that fell behind and was not rerun on all before
    it; among those that did not complete the order of the finalists stands.
    """
    by_id = {trial.id: trial for trial in trials}
    runs: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.arm == arm and trial.phase is Phase.CONFIRM and trial.source is not None:
            runs.setdefault(trial.source, []).append(trial)
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


def repeated_failure(trials: Sequence[Trial]) -> str | None:
    """The reason shared by the last three trials that ended, if all three FAILED for it."""
    ended = sorted(
        (trial for trial in trials if trial.is_finished and trial.finished is not None),
        key=lambda trial: (trial.finished, trial.id),
    )[-FAILURES_IN_A_ROW:]
    reasons = {trial.reason for trial in ended if trial.state is TrialState.FAILED}
    if (
        len(ended) == FAILURES_IN_A_ROW
        and len(reasons) == 1
        and all(t.state is TrialState.FAILED for t in ended)
    ):
        return reasons.pop()
    return None


def _searched_next(plan: Plan, history: History) -> str | None:
    """The arm whose search trial is next; None where the search is over, or running trials must end first."""
    if plan.search_over:
        return None
    started = {arm: history.count(Phase.SEARCH, arm) for arm in plan.spec.arms}
    open_arms = [
        arm
        for arm, number in started.items()
        if number < plan.spec.budget.trials and _may_start(plan, history, arm, number)
    ]
    return min(open_arms, key=started.__getitem__, default=None)


def _may_start(plan: Plan, history: History, arm: str, number: int) -> bool:
    if not learns(plan.spaces[arm], plan.spec.search, arm, number):
        return True
    unfinished = (t for t in history.unfinished if t.phase is Phase.SEARCH and t.arm == arm)
    return may_start(unfinished, number, plan.spec.lag)


def _search_trial(plan: Plan, arm: str, history: History) -> NewTrial:
    spec, space, trials = plan.spec, plan.spaces[arm], history.select(Phase.SEARCH, arm)
    number, tried = len(trials), partial(history.tried, Phase.SEARCH, arm)
    params = suggest(space, trials, number, spec.search, arm, spec.objective, spec.lag, tried=tried)
    return NewTrial(
        arm=arm,
        phase=Phase.SEARCH,
        number=number,
        seed=trial_seed(spec.search.seed, Phase.SEARCH, number),
        params=params,
        hyperparameters=optimizer_arguments(space, params, plan.log_mean_sigma),
    )


def _repeats(plan: Plan, phase: Phase, trials: Sequence[Trial]) -> NewTrial | None:
    """The next missing (configuration, seed) of a phase that reruns configurations, arms taking turns.

    Returns None if nothing is missing, or if a whole round of seeds must end before finalists can fall behind.
    """
    spec, mode = plan.spec, plan.spec.objective.mode
    if phase is Phase.CONFIRM:
        chosen = {arm: finalists(plan, trials, arm) for arm in spec.arms}
        seeds = spec.confirm.seeds
    else:
        best = {arm: winner(trials, arm, mode) for arm in spec.arms}
        chosen = {arm: [trial] if trial else [] for arm, trial in best.items()}
        seeds = spec.confirm.verdict_seeds
    races = phase is Phase.CONFIRM and spec.confirm.race
    sources = {trial.id for of_arm in chosen.values() for trial in of_arm}
    runs = [trial for trial in trials if trial.phase is phase and trial.source in sources]
    made = {(trial.source, trial.seed) for trial in runs}
    before: set[int] = set()  # seeds of earlier rounds
    behind: set[str] = set()
    for index in range(seeds):
        if races and index >= FEWEST_SEEDS:
            earlier = [trial for trial in runs if trial.seed in before]
            if not all(trial.is_finished for trial in earlier):
                return None
            behind |= fallen_behind(earlier, mode)
        seed = trial_seed(spec.search.seed, phase, index)
        before.add(seed)
        for rank in range(max((len(found) for found in chosen.values()), default=0)):
            for arm in spec.arms:
                source = chosen[arm][rank] if rank < len(chosen[arm]) else None
                if source is not None and source.id not in behind and (source.id, seed) not in made:
                    number = sum(trial.arm == arm and trial.phase is phase for trial in trials)
                    return NewTrial(
                        arm, phase, number, seed, source.params, source.hyperparameters, source.id
                    )
    return None
