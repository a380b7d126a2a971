"""Search policies on surfaces, one trial after another: hours of training take milliseconds."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from anon_tune.records import Phase, Report, Trial, TrialState
from anon_tune.search.seeds import trial_seed
from anon_tune.search_spaces import Space
from benchmarks.search.surfaces import Surface

__all__ = ["EPOCH", "Policy", "new_trial", "simulate"]

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Policy(Protocol):
    """A way to search: it chooses trials, stops them, and recommends one. `trials` are those made so far."""

    @property
    def space(self) -> Space:
        """The searched space."""

    @property
    def starts(self) -> int:
        """Number of trials before the first that a model suggests."""

    def suggest(self, trials: list[Trial]) -> Trial:
        """Return a new trial, RUNNING."""

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """Return whether a trial shall stop after its last report."""

    def ended(self, trial: Trial) -> None:
        """Take note that a trial has ended."""

    def recommended(self, trials: Sequence[Trial]) -> Mapping[str, Any] | None:
        """Return the arguments of the optimizer that it recommends; None while no trial is COMPLETE."""


def simulate(
    surface: Surface, policy: Policy, *, trials: int, seed: int
) -> Iterator[tuple[list[Trial], int]]:
    """Run a search; after each trial, yield all trials so far and the epochs spent.

    Args:
        surface: The surface to search.
        policy: The search policy.
        trials: Number of configurations.
        seed: Seed of the trials' noise; the n-th trial has the same noise in every search with this seed.
    """
    made: list[Trial] = []
    spent = 0
    for number in range(trials):
        trial = policy.suggest(list(made))
        curve = surface.curve(trial.hyperparameters, seed * 1_000_003 + number)
        while not trial.is_finished:
            spent += 1
            step, value = len(trial.reports) + 1, float(curve[len(trial.reports)])
            time = EPOCH + datetime.timedelta(seconds=spent)
            trial = dataclasses.replace(trial, reports=(*trial.reports, Report(step, value, {}, time)))
            state = TrialState.RUNNING
            if not math.isfinite(value):
                state = TrialState.DIVERGED
            elif step == surface.epochs:
                state = TrialState.COMPLETE
            elif policy.stops(trial, made):
                state = TrialState.PRUNED
            final = value if state is TrialState.COMPLETE else None
            trial = dataclasses.replace(trial, state=state, value=final)
        policy.ended(trial)
        made.append(dataclasses.replace(trial, finished=trial.reports[-1].time))
        yield list(made), spent


def new_trial(number: int, params: Mapping[str, Any], arguments: Mapping[str, Any], seed: int) -> Trial:
    """Return a RUNNING search trial of the arm anon."""
    return Trial(
        f"t{number:03d}", "j", "anon", Phase.SEARCH, number, trial_seed(seed, Phase.SEARCH, number),
        TrialState.RUNNING, params, arguments, attempts=1,
    )  # fmt: skip
