"""Suggesting a configuration: an in-memory Optuna study, made of the trials for every ask.

Optuna stores no sampler, so one is made for each ask, seeded from (job seed, arm, trial number): the same trials
give the same suggestion before and after a crash.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from anon_tune.errors import InputError
from anon_tune.records import Trial, TrialState, objective_key
from anon_tune.search.seeds import sampler_seed
from anon_tune.search.told import told
from anon_tune.search_spaces import Choice, Range, Space
from anon_tune.spec import Search

__all__ = ["GP_TRIALS", "STARTUP_TRIALS", "Tell", "distributions", "sampler_of", "suggest"]

optuna.logging.set_verbosity(optuna.logging.ERROR)

STARTUP_TRIALS = 8
"""Trials of an arm placed on a Sobol sequence before a model is fitted (a power of two keeps it balanced)."""

GP_TRIALS = 300
"""Beyond so many trials of an arm TPE suggests; docs/performance.md has the times."""

_BEST_TOLD, _LATEST_TOLD = 100, 900
"""Trials that TPE is told; the rest are old and not good, which it would hardly weigh, and would cost time each.

TPE contrasts the best, of which it takes 25 at most, with the others, of which old ones weigh little.
"""

_TRIES = 100

Tell = Callable[[Space, Sequence[Trial], Mapping[str, BaseDistribution], str], list[FrozenTrial]]


def suggest(
    space: Space,
    trials: Sequence[Trial],
    number: int,
    search: Search,
    arm: str,
    mode: str,
    tell: Tell = told,
    tried: Callable[[Mapping[str, Any]], bool] | None = None,
) -> dict[str, Any]:
    """Return the coordinates of the arm's `number`-th search trial.

    First come the points to try first, then those of a Sobol sequence, then what the sampler suggests.

    Args:
        space: What the arm searches.
        trials: The arm's search trials so far, in the order of their numbers.
        number: The new trial's number.
        search: Sampler, seed, points to try first.
        arm: The arm's name, part of the seed.
        mode: "min" or "max".
        tell: What the sampler is told of the trials.
        tried: Whether one of the trials has a configuration, where it is known without looking at all of them.

    Raises:
        InputError: The space has no untried configuration left.
    """
    first = search.try_first.get(arm, ())
    for point in _candidates(space, trials, number, search, arm, mode, tell, first):
        if not (tried(point) if tried is not None else any(point == trial.params for trial in trials)):
            return point
    raise InputError(
        f"The space of arm {arm} has no untried configuration left after {len(trials)} trials. "
        "Widen it (search_spaces), or lower budget.trials."
    )


def sampler_of(space: Space, search: Search, trials: int) -> str:
    """Which sampler suggests after so many trials: `gp` gives way to `tpe` where it cannot follow.

    Optuna's GP models only the coordinates that all trials have, so conditional spaces are searched by TPE; and it
    takes about a second for a suggestion beyond GP_TRIALS.
    """
    if search.sampler == "gp" and (space.is_conditional or trials > GP_TRIALS):
        return "tpe"
    return search.sampler


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space's searched coordinates as Optuna distributions."""
    return {name: _distribution(domain) for name, domain in space.parameters.items()}


def _distribution(domain: Range | Choice) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.choices)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _candidates(
    space: Space,
    trials: Sequence[Trial],
    number: int,
    search: Search,
    arm: str,
    mode: str,
    tell: Tell,
    first: Sequence[Mapping[str, float | str]],
) -> Iterator[dict[str, Any]]:
    """The point that is wanted, then others in case it was tried before."""
    seed = sampler_seed(search.seed, arm, number)
    arm_seed = sampler_seed(search.seed, arm, -1)
    startup = number - len(first)
    name = sampler_of(space, search, len(trials))
    if name == "grid" and startup >= 0:
        yield from _in_random_order(list(space.on_grid(search.levels).points()), arm_seed)[startup:]
    elif startup < 0 or (name != "random" and startup < STARTUP_TRIALS):
        from scipy.stats import qmc  # takes seconds, which Ray's start can hide

        unit = qmc.Sobol(len(space.parameters), scramble=True, rng=arm_seed).random(STARTUP_TRIALS)
        unit[0] = 0.5  # the middle of the space: what its author would try first
        yield space.complete(unit[startup % STARTUP_TRIALS], first[number] if startup < 0 else {})
    elif name != "random":
        domain = distributions(space)
        known = _best_and_latest(trials, mode) if name == "tpe" else trials
        yield _ask(_sampler(name, space, seed), space, tell(space, known, domain, mode))
    for retry in range(_TRIES):
        yield _ask(optuna.samplers.RandomSampler(seed=(seed + retry) % 2**31), space, [])
    yield from space.points()  # a finite space with few left is not found by drawing


def _in_random_order(points: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [points[i] for i in np.random.default_rng(seed).permutation(len(points))]


def _best_and_latest(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """In the order of `trials`."""
    older = trials[: max(0, len(trials) - _LATEST_TOLD)]
    values = [
        (objective_key(trial.value, mode), index)
        for index, trial in enumerate(older)
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    best = sorted(index for _, index in heapq.nsmallest(_BEST_TOLD, values))
    return [*(older[index] for index in best), *trials[len(older) :]]


class _Past(InMemoryStorage):
    """A storage whose study begins with given trials: they are shared, where adding them would copy each."""

    def __init__(self, past: list[FrozenTrial]) -> None:
        super().__init__()
        self._past = past
        for number, trial in enumerate(past, 1):  # the one that is asked for is 0
            trial.number = number

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The past, then what was asked for since."""
        asked = super().get_all_trials(study_id, deepcopy, states)
        return [trial for trial in self._past if states is None or trial.state in states] + asked


def _sampler(name: str, space: Space, seed: int) -> optuna.samplers.BaseSampler:
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=0,
            multivariate=True,
            group=space.is_conditional,
            constant_liar=True,
        )


def _ask(sampler: optuna.samplers.BaseSampler, space: Space, past: list[FrozenTrial]) -> dict[str, Any]:
    study = optuna.create_study(storage=_Past(past), sampler=sampler)
    # Where no trial was feasible, every point is as bad to the GP, and the weights of its starts are 0 / 0.
    with np.errstate(invalid="ignore"):
        trial = study.ask(distributions(space) if not space.is_conditional else None)
        params: dict[str, Any] = dict(trial.params)
        # Those without a condition first: the others depend on them.
        for name, domain in sorted(space.parameters.items(), key=lambda item: bool(item[1].when)):
            if name not in params and space.active(name, params):
                params[name] = _suggested(trial, name, domain)
    return {name: float(value) if isinstance(value, int) else value for name, value in params.items()}


def _suggested(trial: optuna.Trial, name: str, domain: Range | Choice) -> Any:
    if isinstance(domain, Choice):
        return trial.suggest_categorical(name, domain.choices)
    if domain.integer:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
