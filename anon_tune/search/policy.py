"""The next trial of a job: search, confirm and verdict as one pure function of the trials so far."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.history import History
from anon_tune.search.lag import may_start
from anon_tune.search.landscape import Landscape
from anon_tune.search.race import FEWEST_SEEDS, fallen_behind
from anon_tune.search.recommend import ranked, recommended
from anon_tune.search.rounds import RoundsOfTwo, first_seeds, rounds_of
from anon_tune.search.scale import scale_of
from anon_tune.search.seeds import trial_seed
from anon_tune.search.stop import CHECKS, is_decided
from anon_tune.search.study import learns, suggest
from anon_tune.search.winners import searches, winner
from anon_tune.search_spaces import Space
from anon_tune.spec import JobSpec

__all__ = [
    "FAILURES_IN_A_ROW",
    "Configuration",
    "Decision",
    "Plan",
    "draws",
    "finalists",
    "next_trial",
    "repeated_failure",
    "stopped",
]

_NEAR = 0.01
"""In the unit cube of the space."""

FAILURES_IN_A_ROW = 3
"""Number of consecutive trials that FAILED for the same reason and so pause the job."""


class Decision(Enum):
    """Result of `next_trial` when there is no trial to add."""

    WAIT = "running trials must end first"
    DONE = "every phase is over"


@dataclass(frozen=True)
class Plan:
    """Everything that a job's decisions depend on, apart from its trials.

    Attributes:
        spec: The job.
        spaces: The search space of each arm.
        log_mean_sigma: Gradient scale from the probe.
        search_over: Whether the time for the search is spent, so that it makes no more trials.
    """

    spec: JobSpec
    spaces: Mapping[str, Space]
    log_mean_sigma: float
    search_over: bool = False


def next_trial(plan: Plan, trials: Sequence[Trial] | History) -> NewTrial | Decision:
    """Return the next trial to add, WAIT while running trials decide what comes next, or DONE.

    An arm may be searched several times (`search.repeats`). Among the searches whose next trial need not wait
    (`lag.py`), the one that has started the fewest trials is next. With `search.stop: decided` a search may have no
    next trial (`stop.py`). Finalists are chosen after all search trials have ended, and a finalist is dropped only
    after whole rounds of confirm seeds, so the order in which trials end changes nothing.
    """
    history = trials if isinstance(trials, History) else History(trials)
    search = _searched_next(plan, history)
    if search is not None:
        return _search_trial(plan, *search, history)
    if any(trial.phase is Phase.SEARCH for trial in history.unfinished):
        return Decision.WAIT
    made = list(history.values())
    for phase, following in ((Phase.CONFIRM, _confirm), (Phase.VERDICT, _verdict)):
        new = following(plan, made)
        if new is not None:
            return new
        if any(trial.phase is phase for trial in history.unfinished):
            return Decision.WAIT
    return Decision.DONE


def draws(plan: Plan, history: History) -> bool:
    """Whether `next_trial` draws a configuration at random, in a time that does not grow with the trials."""
    drawn = plan.spec.search.sampler == "random" and plan.spec.search.stop == "never"
    return drawn and _searched_next(plan, history) is not None


def stopped(plan: Plan, trials: Sequence[Trial] | History) -> dict[tuple[str, int], int]:
    """Return the number of trials of each search that `search.stop` ended early, by arm and repeat."""
    history = trials if isinstance(trials, History) else History(trials)
    made = {each: history.count(Phase.SEARCH, *each) for each in _every_search(plan.spec)}
    return {each: number for each, number in made.items() if _is_stopped(plan, history, *each, number)}


@dataclass(frozen=True)
class Configuration:
    """A configuration that is rerun.

    Attributes:
        params: Search coordinates.
        hyperparameters: Arguments of the optimizer.
        origin: Id of the first trial with this configuration; None if there is none yet.
        repeat: The search that it comes from.
    """

    params: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    origin: str | None
    repeat: int

    @classmethod
    def of(cls, trial: Trial) -> Configuration:
        """Return the configuration of a trial."""
        return cls(trial.params, trial.hyperparameters, trial.origin, trial.repeat)


def finalists(plan: Plan, trials: Sequence[Trial], arm: str, repeat: int = 0) -> list[Configuration]:
    """Return the finalists of one of the arm's searches, the most promising first.

    The first is the most promising one by the landscape, tried or not (`recommend.py`); the others were tried.
    """
    space = plan.spaces[arm]
    own = sorted((t for t in trials if t.arm == arm and t.repeat == repeat), key=lambda trial: trial.number)
    search = [trial for trial in own if trial.phase is Phase.SEARCH]
    landscape = Landscape(space, search, plan.spec.objective)
    chosen = [Configuration.of(trial) for trial in ranked(landscape)]
    params = recommended(landscape)
    if params is not None:
        reruns = [trial for trial in own if trial.phase is Phase.CONFIRM]
        found = next((t for t in [*search, *reruns] if _is_near(space, t.params, params)), None)
        first = (
            Configuration(params, optimizer_arguments(space, params, plan.log_mean_sigma), None, repeat)
            if found is None
            else Configuration.of(found)
        )
        chosen = [first, *(each for each in chosen if each.origin != first.origin)]
    return chosen[: min(plan.spec.confirm.finalists, plan.spec.budget.trials)]


def repeated_failure(trials: Sequence[Trial]) -> str | None:
    """Return the reason for which the last three ended trials all FAILED, if there is one."""
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


def _searched_next(plan: Plan, history: History) -> tuple[str, int] | None:
    """Return the arm and repeat of the next search trial; None if none is left or running trials must end first."""
    if plan.search_over:
        return None
    spec = plan.spec
    started = {each: history.count(Phase.SEARCH, *each) for each in _every_search(spec)}
    open_ones = [
        each
        for each, number in started.items()
        if number < spec.budget.trials and _may_start(plan, history, *each, number)
    ]
    return min(open_ones, key=started.__getitem__, default=None)


def _every_search(spec: JobSpec) -> list[tuple[str, int]]:
    """Return every arm and repeat."""
    return [(arm, repeat) for repeat in range(spec.search.repeats) for arm in spec.arms]


def _may_start(plan: Plan, history: History, arm: str, repeat: int, number: int) -> bool:
    checked = _is_checked(plan, arm, number)
    if not checked and not learns(plan.spaces[arm], plan.spec.search, arm, number):
        return True
    known = _is_known(plan, history, arm, repeat, number)
    return known and not _is_stopped(plan, history, arm, repeat, number)


def _is_known(plan: Plan, history: History, arm: str, repeat: int, number: int) -> bool:
    """Whether all trials that a decision about trial `number` depends on have ended."""
    search = (Phase.SEARCH, arm, repeat)
    unfinished = (t for t in history.unfinished if (t.phase, t.arm, t.repeat) == search)
    return may_start(unfinished, number, plan.spec.lag)


def _is_checked(plan: Plan, arm: str, number: int) -> bool:
    """Whether an arm's search may end after so many trials; never before the user's own points were tried."""
    search = plan.spec.search
    return search.stop == "decided" and number in CHECKS and number >= len(search.try_first.get(arm, ()))


def _is_stopped(plan: Plan, history: History, arm: str, repeat: int, number: int) -> bool:
    spec = plan.spec
    if number >= spec.budget.trials or not _is_checked(plan, arm, number):
        return False
    if not _is_known(plan, history, arm, repeat, number):
        return False
    search = history.select(Phase.SEARCH, arm, repeat)
    return is_decided(plan.spaces[arm], search, number, spec.budget.trials, spec.lag, spec.objective)


def _search_trial(plan: Plan, arm: str, repeat: int, history: History) -> NewTrial:
    spec, space, trials = plan.spec, plan.spaces[arm], history.select(Phase.SEARCH, arm, repeat)
    number, tried = len(trials), partial(history.tried, Phase.SEARCH, arm, repeat)
    params = suggest(
        space, trials, number, spec.search, arm, spec.objective, spec.lag, tried=tried, repeat=repeat
    )
    return NewTrial(
        arm=arm,
        phase=Phase.SEARCH,
        number=number,
        seed=trial_seed(spec.search.seed, Phase.SEARCH, number, repeat),
        params=params,
        hyperparameters=optimizer_arguments(space, params, plan.log_mean_sigma),
        repeat=repeat,
    )


def _is_near(space: Space, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations are the same, up to what a fit on another machine may differ by."""
    pairs = zip(space.unit(one), space.unit(other), strict=True)
    return all(abs(a - b) < _NEAR for a, b in pairs)


def _confirm(plan: Plan, trials: Sequence[Trial]) -> NewTrial | None:
    """Return the next confirm trial, from the first repeat that has one now, or None."""
    found = (_confirmed(plan, trials, repeat) for repeat in range(plan.spec.search.repeats))
    return next((new for new in found if new is not None), None)


def _confirmed(plan: Plan, trials: Sequence[Trial], repeat: int) -> NewTrial | None:
    """Return the next confirm trial of a repeat, with arms taking turns.

    Returns None if none is missing, or if a whole round of seeds must end before finalists can be dropped.
    """
    spec, trials = plan.spec, [trial for trial in trials if trial.repeat == repeat]
    chosen = {arm: finalists(plan, trials, arm, repeat) for arm in spec.arms}
    origins = {each.origin for of_arm in chosen.values() for each in of_arm}
    runs = [trial for trial in trials if trial.phase is Phase.CONFIRM and trial.origin in origins]
    before: set[int] = set()  # seeds of earlier rounds
    behind: set[str] = set()
    for index in range(spec.confirm.seeds):
        if spec.confirm.race and index >= FEWEST_SEEDS:
            earlier = [trial for trial in runs if trial.seed in before]
            if not all(trial.is_finished for trial in earlier):
                return None
            behind |= fallen_behind(earlier, spec.objective.mode)
        seed = trial_seed(spec.search.seed, Phase.CONFIRM, index, repeat)
        before.add(seed)
        for rank in range(max((len(found) for found in chosen.values()), default=0)):
            for arm in spec.arms:
                each = chosen[arm][rank] if rank < len(chosen[arm]) else None
                if each is not None and each.origin not in behind and not _is_made(runs, each, seed):
                    return _rerun(Phase.CONFIRM, trials, arm, seed, each)
    return None


def _verdict(plan: Plan, trials: Sequence[Trial]) -> NewTrial | None:
    """Return the next verdict trial: first winners of searches, then of arms, by seed, with arms taking turns.

    Returns None if none is missing, if everything is decided, or if the seeds before a look must end first.
    """
    spec = plan.spec
    best = {
        arm: found for arm in spec.arms if (found := winner(trials, arm, spec.objective.mode)) is not None
    }
    runs = {(t.origin, t.seed): t for t in trials if t.phase is Phase.VERDICT}
    for each in searches(spec, trials):
        for seed in each.round.seeds:
            if each.winner is not None and (each.winner.origin, seed) not in runs:
                return _rerun(Phase.VERDICT, trials, each.arm, seed, Configuration.of(each.winner))
    for wanted in _wanted(plan, trials, best):
        for seed, arm in wanted:
            if (best[arm].origin, seed) not in runs:
                return _rerun(Phase.VERDICT, trials, arm, seed, Configuration.of(best[arm]))
        if not all(runs[best[arm].origin, seed].is_finished for seed, arm in wanted):
            return None
    return None


def _wanted(
    plan: Plan, trials: Sequence[Trial], best: Mapping[str, Trial]
) -> Iterator[list[tuple[int, str]]]:
    """Yield the required seeds, each with an arm, look by look and in the order in which they are run."""
    spec, rounds = plan.spec, rounds_of(plan.spec)
    place = {seed: index for index, seed in enumerate(seed for each in rounds for seed in each.seeds)}
    baselines = [arm for arm in spec.arms if arm != "anon"]
    scale = scale_of(spec.objective, trials)
    pairs = {
        arm: RoundsOfTwo(scale, trials, ("anon", arm), best, rounds, len(baselines))
        for arm in baselines
        if arm in best and "anon" in best
    }
    compared = {"anon", *pairs} if pairs else set()
    alone = {
        (seed, arm)
        for arm in best.keys() - compared
        for seed in first_seeds(rounds, trials, {arm: best[arm]})
    }
    for look in itertools.count():
        found = alone if look == 0 else set()
        for arm, two in pairs.items():
            found = found | set(itertools.product(two.wanted(look), ("anon", arm)))
        if not found:
            return
        yield sorted(found, key=lambda each: (place[each[0]], spec.arms.index(each[1])))


def _is_made(runs: Sequence[Trial], each: Configuration, seed: int) -> bool:
    return any(trial.origin == each.origin and trial.seed == seed for trial in runs)


def _rerun(phase: Phase, trials: Sequence[Trial], arm: str, seed: int, each: Configuration) -> NewTrial:
    number = sum((t.arm, t.phase, t.repeat) == (arm, phase, each.repeat) for t in trials)
    return NewTrial(arm, phase, number, seed, each.params, each.hyperparameters, each.origin, each.repeat)
