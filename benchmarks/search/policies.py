"""Search policies to compare: the product's, the product's without single ingredients, and those of stock tools."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from anon_tune.advice.start import first_points
from anon_tune.records import Trial
from anon_tune.search import study
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.landscape import Landscape
from anon_tune.search.recommend import ranked, recommended
from anon_tune.search.study import distributions, suggest
from anon_tune.search_spaces import Space, load_space
from anon_tune.spec import SMALLEST_LAG, Objective, Search
from benchmarks.search.former import Former, former_space
from benchmarks.search.record import FLOOR
from benchmarks.search.simulator import Policy, new_trial
from benchmarks.search.surfaces import Surface

__all__ = ["POLICIES", "Entry", "Ours", "Policy", "Random", "Stock"]

RAW = Space.model_validate(
    {
        "optimizer": "anon",
        "summary": "the optimizer's own lr and weight decay, wide enough for both ends of gamma",
        "parameters": {
            "gamma": {"low": -0.5, "high": 1.5},
            # The best lr at gamma 1.5 is 0.0005 on the smallest surface and 37 at gamma -0.5 on the largest.
            "step_size": {"low": 1e-4, "high": 50.0, "log": True},
            "beta3": {"low": 0.0, "high": 0.95},
            "delay": {"low": 1.1, "high": 8.0, "log": True},
            "decay": {"low": 1e-6, "high": 1.0, "log": True},
        },
        "fixed": {"floor": FLOOR},
    }
)
"""The space of `random` and `stock`, which do not know the gradient scale."""


class Ours:
    """The product's policy.

    Args:
        space: The searched space, with its start points.
        log_mean_sigma: From the probe.
        seed: Seed of the search.
        sampler: `search.sampler`.
        startup: Trials before a model is fitted; the product's number by default.
        lag: How many trials before a new one it does not learn from.
    """

    def __init__(
        self,
        space: Space,
        log_mean_sigma: float,
        seed: int,
        *,
        sampler: str = "botorch",
        startup: int = study.STARTUP_TRIALS,
        lag: int = SMALLEST_LAG,
    ) -> None:
        self.space, self._sigma, self._startup, self._lag = space, log_mean_sigma, startup, lag
        self._search = Search.model_validate({"sampler": sampler, "seed": seed})

    @property
    def starts(self) -> int:
        """See Policy."""
        return max(self._startup, self._lag + study.FEWEST_KNOWN)

    def suggest(self, trials: list[Trial]) -> Trial:
        """See Policy."""
        number = len(trials)
        with mock.patch.object(study, "STARTUP_TRIALS", self._startup):
            params = suggest(self.space, trials, number, self._search, "anon", Objective(), self._lag)
        arguments = optimizer_arguments(self.space, params, self._sigma)
        return new_trial(number, params, arguments, self._search.seed)

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """See Policy."""
        return False

    def ended(self, trial: Trial) -> None:
        """See Policy."""

    def recommended(self, trials: Sequence[Trial]) -> Mapping[str, Any] | None:
        """See Policy: the first of the finalists that the product would confirm."""
        landscape = Landscape(self.space, trials, Objective())
        params = recommended(landscape)
        if params is not None:
            return optimizer_arguments(self.space, params, self._sigma)
        order = ranked(landscape)
        return order[0].hyperparameters if order else None


class Random(Ours):
    """Random search in the optimizer's own coordinates."""

    def __init__(self, seed: int) -> None:
        super().__init__(RAW, 0.0, seed, sampler="random", startup=0, lag=0)

    def recommended(self, trials: Sequence[Trial]) -> Mapping[str, Any] | None:
        """See Policy: the best value that was seen."""
        return _best_seen(trials)


class Stock:
    """Ray's OptunaSearch with its default sampler (TPE), stopped by the rules of Ray's ASHA; Ray's own code."""

    space = RAW
    starts = 10
    """Random trials of Optuna's TPE sampler."""

    def __init__(self, seed: int, epochs: int) -> None:
        self._seed = seed
        self._searcher = OptunaSearch(space=distributions(RAW), metric="loss", mode="min", seed=seed)
        self._scheduler = ASHAScheduler(
            metric="loss", mode="min", grace_period=max(1, epochs // 4), max_t=epochs, reduction_factor=3
        )
        self._tunes: dict[str, TuneTrial] = {}

    def suggest(self, trials: list[Trial]) -> Trial:
        """See Policy."""
        number = len(trials)
        params = dict(self._searcher.suggest(f"t{number:03d}"))
        return new_trial(number, params, optimizer_arguments(RAW, params, 0.0), self._seed)

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """See Policy."""
        result = {"loss": trial.reports[-1].value, "training_iteration": trial.reports[-1].step}
        self._searcher.on_trial_result(trial.id, result)
        if trial.id not in self._tunes:
            self._tunes[trial.id] = TuneTrial("t", trial_id=trial.id, stub=True)
            self._scheduler.on_trial_add(None, self._tunes[trial.id])
        decision: str = self._scheduler.on_trial_result(None, self._tunes[trial.id], result)
        return decision == ASHAScheduler.STOP

    def ended(self, trial: Trial) -> None:
        """See Policy."""
        value = trial.reports[-1].value
        self._searcher.on_trial_complete(
            trial.id, None if math.isnan(value) else {"loss": value}, error=math.isnan(value)
        )

    def recommended(self, trials: Sequence[Trial]) -> Mapping[str, Any] | None:
        """See Policy: the best value that was seen, as these tools do."""
        return _best_seen(trials)


def _best_seen(trials: Sequence[Trial]) -> Mapping[str, Any] | None:
    complete = [(trial.value, trial.number) for trial in trials if trial.value is not None]
    return trials[min(complete)[1]].hyperparameters if complete else None


Make = Callable[[Surface, int], Policy]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A policy of the benchmark.

    Attributes:
        make: From a surface and a seed to the policy.
        ablation: Whether it is the product's without one ingredient; run on some of the surfaces.
        trials: Number of trials of a search.
        share: Share of the seeds for which it runs.
    """

    make: Make
    ablation: bool = False
    trials: int = 20
    share: float = 1.0


def _product_space(surface: Surface) -> Space:
    return load_space(surface.space).for_family(surface.space)


def _ours(change: Callable[[Space, str], Space] = lambda space, family: space, **options: Any) -> Make:
    """Return the product's policy with another space, or other keyword arguments of `Ours`."""
    return lambda surface, seed: Ours(
        change(_product_space(surface), surface.space), surface.log_mean_sigma, seed, **options
    )


def _without_start(space: Space, family: str) -> Space:
    return space.model_copy(update={"start": {}})


def _wide(space: Space, family: str) -> Space:
    return space.model_copy(update={"parameters": former_space(family).parameters})


def _advised(choose: Callable[[list[float]], float]) -> Make:
    """Return the product's policy with advice: the gamma that `choose` selects by its lowest loss over step sizes."""

    def make(surface: Surface, seed: int) -> Policy:
        space = _product_space(surface)
        lowest = {gamma: _lowest(surface, space, gamma) for gamma in np.linspace(-0.25, 1.5, 15).tolist()}
        wanted = choose(list(lowest.values()))
        gamma = next(gamma for gamma, loss in lowest.items() if loss == wanted)
        return Ours(first_points(space, gamma), surface.log_mean_sigma, seed)

    return make


def _lowest(surface: Surface, space: Space, gamma: float) -> float:
    point = {**space.start_points[0], "gamma": gamma}
    steps = np.geomspace(0.1, 15.0, 16).tolist()
    finals = (
        surface.final(optimizer_arguments(space, {**point, "step_size": step}, surface.log_mean_sigma))
        for step in steps
    )
    return min(finals)


POLICIES: Mapping[str, Entry] = {
    "ours": Entry(_ours()),
    "former": Entry(lambda surface, seed: Former(surface.space, surface.log_mean_sigma, seed)),
    "random": Entry(lambda surface, seed: Random(seed), trials=60, share=0.5),
    "stock": Entry(lambda surface, seed: Stock(seed, surface.epochs), trials=60, share=0.5),
    "no anchors": Entry(_ours(_without_start), ablation=True),
    "Optuna's GP": Entry(_ours(sampler="gp"), ablation=True),
    "TPE": Entry(_ours(sampler="tpe"), ablation=True),
    "wide ranges": Entry(_ours(_wide), ablation=True),
    "no lag": Entry(_ours(lag=0), ablation=True),
    "eight start points": Entry(_ours(startup=8), ablation=True),
    "right advice": Entry(_advised(min), ablation=True),
    "wrong advice": Entry(_advised(max), ablation=True),
}
"""By name. `random` and `stock` are for the epochs to the target: they rarely reach it in 20 trials."""
