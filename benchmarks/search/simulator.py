"""Search policies on surfaces, with several workers in virtual time: hours of training take milliseconds."""

from __future__ import annotations

import dataclasses
import datetime
import heapq
import itertools
import math
from collections.abc import Iterator
from typing import Any, Protocol

from anon_tune.records import Report, Trial, TrialState
from benchmarks.search.surfaces import Surface

__all__ = ["EPOCH", "Policy", "simulate"]

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class Policy(Protocol):
    """What chooses trials and stops them. `trials` are those made so far, as of now."""

    def suggest(self, trials: list[Trial]) -> Trial:
        """Return a new trial, RUNNING."""

    def stops(self, trial: Trial, trials: list[Trial]) -> bool:
        """Whether a trial shall stop after its last report."""

    def ended(self, trial: Trial) -> None:
        """A trial has ended."""


def simulate(
    surface: Surface, policy: Policy, *, trials: int, workers: int, seed: int
) -> Iterator[tuple[list[Trial], Trial, int]]:
    """Run a search; after each trial that ends, give all trials, the one that ended, and the epochs spent so far.

    One trial more than there are workers is asked for ahead, as the service and Ray Tune do.

    Args:
        surface: What is searched.
        policy: Who searches.
        trials: How many configurations are started.
        workers: How many are trained at a time.
        seed: Of the trials' noise.
    """
    made: dict[str, Trial] = {}
    curves: dict[str, Any] = {}
    waiting: list[str] = []
    running: list[tuple[float, int, str]] = []  # a heap of (when the next epoch is over, tie-break, trial)
    ties = itertools.count()
    now, spent, left = 0.0, 0, trials
    while True:
        while left and len(waiting) + len(running) <= workers:
            trial = policy.suggest(list(made.values()))
            made[trial.id], left = trial, left - 1
            waiting.append(trial.id)
            while waiting and len(running) < workers:
                first = waiting.pop(0)
                curves[first] = surface.curve(
                    made[first].hyperparameters, hash_seed(seed, made[first].number)
                )
                heapq.heappush(running, (now + 1.0, next(ties), first))
        if not running:
            return
        now, _, name = heapq.heappop(running)
        spent += 1
        trial = made[name]
        step = len(trial.reports) + 1
        value = float(curves[name][step - 1])
        time = EPOCH + datetime.timedelta(seconds=now)
        trial = dataclasses.replace(trial, reports=(*trial.reports, Report(step, value, {}, time)))
        state = None
        if not math.isfinite(value):
            state = TrialState.DIVERGED
        elif step == surface.epochs:
            state = TrialState.COMPLETE
        elif policy.stops(trial, [t for t in made.values() if t.id != name]):
            state = TrialState.PRUNED
        if state is None:
            made[name] = trial
            heapq.heappush(running, (now + 1.0, next(ties), name))
            continue
        final = value if state is TrialState.COMPLETE else None
        made[name] = trial = dataclasses.replace(trial, state=state, value=final, finished=time)
        policy.ended(trial)
        if waiting:
            first = waiting.pop(0)
            curves[first] = surface.curve(made[first].hyperparameters, hash_seed(seed, made[first].number))
            heapq.heappush(running, (now + 1.0, next(ties), first))
        yield list(made.values()), trial, spent


def hash_seed(seed: int, number: int) -> int:
    """The seed of a trial's noise."""
    return seed * 1_000_003 + number
