"""Suggestion of a configuration by an in-memory Optuna study, which is rebuilt from the trials for every ask.

Suggestion n of a search is a function of the space, the seed, n, and the results of its trials up to the lag
(`lag.py`). Optuna stores no sampler, so one is made for each ask, seeded from (job seed, arm, trial number, repeat).
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from anon_tune.errors import InputError
from anon_tune.records import Trial, TrialState, objective_key
from anon_tune.search.botorch_sampler import BoTorchSampler
from anon_tune.search.distributions import distributions
from anon_tune.search.lag import as_known
from anon_tune.search.seeds import sampler_seed
from anon_tune.search.training_data import as_frozen_trials
from anon_tune.search_spaces import Choice, Range, Space
from anon_tune.spec import Objective, Search

__all__ = [
    "FEWEST_KNOWN",
    "GP_TRIALS",
    "STARTUP_TRIALS",
    "distributions",
    "learns",
    "sampler_of",
    "suggest",
]

optuna.logging.set_verbosity(optuna.logging.ERROR)

STARTUP_TRIALS = 4
"""Trials of an arm before a model is fitted: the start points, filled up with points of a Sobol sequence."""

FEWEST_KNOWN = 2
"""With fewer results than this, the Sobol sequence continues."""

GP_TRIALS = 300
"""Beyond so many trials of an arm, TPE replaces the Gaussian process; docs/performance.md has the times."""

_TPE_BEST, _TPE_LATEST = 100, 900
"""Number of trials that TPE learns from. The rest are old and not good: TPE would give them little weight, and each
takes time.

TPE contrasts the best trials, at most 25, with the others, among which old ones have little weight.
"""

_TRIES = 100


def suggest(
    space: Space,
    trials: Sequence[Trial],
    number: int,
    search: Search,
    arm: str,
    objective: Objective,
    lag: int = 0,
    tried: Callable[[Mapping[str, Any]], bool] | None = None,
    repeat: int = 0,
) -> dict[str, Any]:
    """Return the coordinates of the arm's `number`-th search trial.

    The start points come first (`search.try_first`, else the space's), then points of a Sobol sequence, then the
    sampler's suggestions.

    Args:
        space: The arm's search space.
        trials: The trials of the arm's search so far, in the order of their numbers.
        number: The new trial's number.
        search: Sampler, seed, points to try first.
        arm: The arm's name, part of the seed.
        objective: The job's objective.
        lag: How many trials before this one the suggestion does not learn from.
        tried: A faster test of whether a trial has a configuration than a pass over all trials.
        repeat: Number of the arm's search, part of the seed.

    Raises:
        InputError: The space has no untried configuration left.
    """
    for point in _Suggestion(space, trials, number, search, arm, objective, lag, repeat).candidates():
        if not (tried(point) if tried is not None else any(point == trial.params for trial in trials)):
            return point
    raise InputError(
        f"The space of arm {arm} has no untried configuration left after {len(trials)} trials. "
        "Widen it (search_spaces), or lower budget.trials."
    )


def learns(space: Space, search: Search, arm: str, number: int) -> bool:
    """Return whether the suggestion depends on the results of earlier trials."""
    if sampler_of(space, search, number) in {"random", "grid"}:
        return False
    return number >= max(STARTUP_TRIALS, len(_first_points(space, search, arm)))


def sampler_of(space: Space, search: Search, number: int) -> str:
    """Return the sampler that suggests trial `number`: TPE replaces a Gaussian process where that is unsuitable.

    A Gaussian process models only coordinates that all trials have, so TPE searches conditional spaces. Beyond
    GP_TRIALS a Gaussian process takes about a second per suggestion.
    """
    if search.sampler in {"botorch", "gp"} and (space.is_conditional or number > GP_TRIALS):
        return "tpe"
    return search.sampler


def _first_points(space: Space, search: Search, arm: str) -> Sequence[Mapping[str, float | str]]:
    """Return the user's start points, else the space's; baseline samplers use only the user's."""
    own = () if search.sampler in {"random", "grid"} else space.start_points
    return search.try_first.get(arm) or own


@dataclass(frozen=True)
class _Suggestion:
    """One call of `suggest`; the fields are its arguments."""

    space: Space
    trials: Sequence[Trial]
    number: int
    search: Search
    arm: str
    objective: Objective
    lag: int
    repeat: int

    def candidates(self) -> Iterator[dict[str, Any]]:
        """Yield the preferred point, then others in case it was tried before."""
        seed = self._seed(self.number)
        first = _first_points(self.space, self.search, self.arm)
        name = sampler_of(self.space, self.search, self.number)
        if self.number < len(first):
            yield self.space.complete(self._sobol(self.number), first[self.number])
        elif name == "grid":
            points = list(self.space.on_grid(self.search.levels).points())
            yield from _in_random_order(points, self._own_seed)[self.number - len(first) :]
        elif name != "random":
            past = self._past(name) if learns(self.space, self.search, self.arm, self.number) else []
            if sum(trial.state.is_finished() for trial in past) >= FEWEST_KNOWN:
                yield _ask(self._sampler(name, seed), self.space, past)
            elif self.number == len(first):
                yield self.space.complete([0.5] * len(self.space.parameters), {})
            else:
                yield self.space.complete(self._sobol(self.number), {})
        for retry in range(_TRIES):
            yield _ask(optuna.samplers.RandomSampler(seed=(seed + retry) % 2**31), self.space, [])
        yield from self.space.points()  # drawing rarely finds the last points of a finite space

    def _seed(self, number: int) -> int:
        return sampler_seed(self.search.seed, self.arm, number, self.repeat)

    @property
    def _own_seed(self) -> int:
        """Seed of the whole search."""
        return self._seed(-1)

    def _sobol(self, index: int) -> list[float]:
        """Return a point of the search's scrambled Sobol sequence, the same however many are drawn."""
        from scipy.stats import qmc  # the import takes seconds, which Ray's start can hide

        sequence = qmc.Sobol(len(self.space.parameters), scramble=True, rng=self._own_seed)
        points: list[list[float]] = sequence.random_base2(index.bit_length()).tolist()
        return points[index]

    def _past(self, name: str) -> list[FrozenTrial]:
        """Return the sampler's training data: the trials that it may learn from."""
        known: Sequence[Trial] = as_known(self.trials, self.number, self.lag)
        if name == "tpe":
            known = _best_and_latest(known, self.objective.mode)
        return as_frozen_trials(self.space, known, distributions(self.space), self.objective)

    def _sampler(self, name: str, seed: int) -> optuna.samplers.BaseSampler:
        if name == "botorch":
            return BoTorchSampler(self.space, distributions(self.space), seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of `group`
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=0,
                multivariate=True,
                group=self.space.is_conditional,
                constant_liar=True,
            )


def _in_random_order(points: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    return [points[i] for i in np.random.default_rng(seed).permutation(len(points))]


def _best_and_latest(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Return the best and the latest trials, in the order of `trials`."""
    older = trials[: max(0, len(trials) - _TPE_LATEST)]
    values = [
        (objective_key(trial.value, mode), index)
        for index, trial in enumerate(older)
        if trial.state is TrialState.COMPLETE and trial.value is not None
    ]
    best = sorted(index for _, index in heapq.nsmallest(_TPE_BEST, values))
    return [*(older[index] for index in best), *trials[len(older) :]]


class _Past(InMemoryStorage):
    """Storage of a study that begins with given trials, which it shares instead of copying."""

    def __init__(self, past: list[FrozenTrial]) -> None:
        super().__init__()
        self._past = past
        for number, trial in enumerate(past, 1):  # the trial of this ask has number 0
            trial.number = number

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[optuna.trial.TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the given trials, then those of this study."""
        asked = super().get_all_trials(study_id, deepcopy, states)
        return [trial for trial in self._past if states is None or trial.state in states] + asked


def _ask(sampler: optuna.samplers.BaseSampler, space: Space, past: list[FrozenTrial]) -> dict[str, Any]:
    study = optuna.create_study(storage=_Past(past), sampler=sampler)
    # Without a feasible trial, every point is equally bad to the GP, and the weights of its starts are 0 / 0.
    with np.errstate(invalid="ignore"):
        trial = study.ask(distributions(space) if not space.is_conditional else None)
        params: dict[str, Any] = dict(trial.params)
        # Coordinates without a condition come first: the others depend on them.
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
