"""Search policies that are compared: the project's own, switched off in parts, and what stock tools do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, create_trial
from ray.tune.schedulers.async_hyperband import _Bracket
from ray.tune.search.optuna import OptunaSearch

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.pruning import should_prune
from anon_tune.search.seeds import trial_seed
from anon_tune.search.study import Tell, distributions, suggest
from anon_tune.search.told import told
from anon_tune.search_spaces import Space
from anon_tune.spec import Search
from benchmarks.search.record import COORDINATES, FLOOR
from benchmarks.search.simulator import Policy
from benchmarks.search.surfaces import Surface

__all__ = ["POLICIES", "Ours", "Policy", "Stock"]

FIXED = {"floor": FLOOR}
SPACE = Space.model_validate(
    {
        "optimizer": "anon",
        "summary": "the recorded ranges, in the search's own coordinates",
        "parameters": {
            **{
                name: {"low": low, "high": high, "log": log} for name, (low, high, log) in COORDINATES.items()
            },
            "step_size": {"low": 0.03, "high": 30.0, "log": True},
        },
        "fixed": FIXED,
    }
)
RAW = Space.model_validate(
    {
        "optimizer": "anon",
        "summary": "the optimizer's own lr and weight decay, wide enough for both ends of gamma",
        "parameters": {
            **SPACE.model_dump()["parameters"],
            # The best lr at gamma 1.5 is 0.0005 on the smallest surface and 37 at gamma -0.5 on the largest.
            "step_size": {"low": 1e-4, "high": 50.0, "log": True},
            "decay": {"low": 1e-6, "high": 1.0, "log": True},
        },
        "fixed": FIXED,
    }
)


def new_trial(number: int, params: dict[str, Any], arguments: dict[str, Any], seed: int) -> Trial:
    """A RUNNING search trial of the arm anon."""
    return Trial(
        f"t{number:03d}", "j", "anon", Phase.SEARCH, number, trial_seed(seed, Phase.SEARCH, number),
        TrialState.RUNNING, params, arguments, attempts=1,
    )  # fmt: skip


class Ours:
    """The project's policy, as `search` has it.

    Args:
        space: What is searched.
        log_mean_sigma: From the probe; 0 makes the coordinates those of the optimizer itself (V = 1).
        search: Sampler, pruner, seed.
        tell: What the sampler is told.
    """

    def __init__(self, space: Space, log_mean_sigma: float, search: Search, tell: Tell = told) -> None:
        self.space, self._sigma, self._search, self._tell = space, log_mean_sigma, search, tell

    def suggest(self, trials: list[Trial]) -> Trial:
        """See Policy."""
        number = len(trials)
        params = suggest(self.space, trials, number, self._search, "anon", "min", self._tell)
        arguments = optimizer_arguments(self.space, params, self._sigma)
        return new_trial(number, params, arguments, self._search.seed)

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """See Policy."""
        return should_prune(self.space, trial, trials, self._search, "min")

    def ended(self, trial: Trial) -> None:
        """See Policy."""


class Stock:
    """Ray's OptunaSearch with its default sampler (TPE), stopped by the rules of Ray's ASHA; Ray's own code."""

    def __init__(self, space: Space, seed: int, epochs: int, grace: int, reduction: int) -> None:
        self.space, self._seed = space, seed
        self._searcher = OptunaSearch(space=distributions(space), metric="loss", mode="min", seed=seed)
        self._bracket = _Bracket(grace, epochs, reduction, 0)

    def suggest(self, trials: list[Trial]) -> Trial:
        """See Policy."""
        number = len(trials)
        params = dict(self._searcher.suggest(f"t{number:03d}"))
        return new_trial(number, params, optimizer_arguments(self.space, params, 0.0), self._seed)

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """See Policy."""
        last = trial.reports[-1]
        self._searcher.on_trial_result(trial.id, {"loss": last.value, "training_iteration": last.step})
        return self._bracket.on_result(_Named(trial.id), last.step, -last.value) == "STOP"

    def ended(self, trial: Trial) -> None:
        """See Policy."""
        value = trial.reports[-1].value
        self._searcher.on_trial_complete(
            trial.id, None if math.isnan(value) else {"loss": value}, error=math.isnan(value)
        )


@dataclasses.dataclass(frozen=True)
class _Named:
    trial_id: str


def _grace(surface: Surface) -> int:
    return max(1, surface.epochs // 4)


def _search(surface: Surface, seed: int, sampler: str = "gp", pruner: str = "none") -> Search:
    return Search.model_validate(
        {"sampler": sampler, "pruner": pruner, "seed": seed, "grace": _grace(surface)}
    )


def _ours(tell: Tell = told, **keys: str) -> Callable[[Surface, int], Policy]:
    return lambda surface, seed: Ours(SPACE, surface.log_mean_sigma, _search(surface, seed, **keys), tell)


def _raw(**keys: str) -> Callable[[Surface, int], Policy]:
    return lambda surface, seed: Ours(RAW, 0.0, _search(surface, seed, **keys))


def _without(*states: TrialState) -> Tell:
    """What the sampler is told, but for trials that ended so."""

    def tell(space: Space, trials: Sequence[Trial], *rest: Any) -> list[FrozenTrial]:
        return told(space, [trial for trial in trials if trial.state not in states], *rest)

    return tell


def _constrained(space: Space, trials: Sequence[Trial], *rest: Any) -> list[FrozenTrial]:
    """Diverged trials as violations of a constraint besides."""
    counted = [trial for trial in trials if told(space, [trial], *rest)]
    diverged = [trial.state is TrialState.DIVERGED for trial in counted]
    if not any(diverged):
        return told(space, trials, *rest)
    return [
        create_trial(
            state=trial.state,
            value=trial.value if trial.state is optuna.trial.TrialState.COMPLETE else None,
            params=trial.params,
            distributions=trial.distributions,
            constraints={"diverged": 1.0 if broken else -1.0} if trial.state.is_finished() else None,
        )
        for trial, broken in zip(told(space, trials, *rest), diverged, strict=True)
    ]


POLICIES: dict[str, tuple[Callable[[Surface, int], Policy], bool]] = {
    "ours": (_ours(), False),
    "random": (_raw(sampler="random"), False),
    "stock": (lambda surface, seed: Stock(RAW, seed, surface.epochs, _grace(surface), 3), False),
    "raw coordinates": (_raw(), False),
    "TPE for GP": (_ours(sampler="tpe"), True),
    "diverged not told": (_ours(_without(TrialState.DIVERGED)), True),
    "constraint": (_ours(_constrained), True),
    "asha": (_ours(pruner="asha"), True),
    "median": (_ours(pruner="median"), True),
    "median, pruned not told": (_ours(_without(TrialState.PRUNED), pruner="median"), True),
}
"""Name -> how it is made for a surface and a seed, and whether it is an ablation (ours with one part changed)."""
