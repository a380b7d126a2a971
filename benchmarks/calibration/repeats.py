"""Verdicts on optimizers by several searches of each: error rates and power.

A job is put together from searches that were made once: each arm draws its searches from one pool (a bootstrap over
searches), and each winner some of its runs on fresh seeds. The arms are equal then, or differ by as much as one is
shifted. What is judged goes through the product's own test.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from anon_tune.advice.searches import Runs, compare_searches
from anon_tune.answer import Outcome
from anon_tune.search.rounds import FIRST_ALPHA
from anon_tune.search.winners import winner
from anon_tune.spec.sections import Confirm
from benchmarks.calibration.jobs import plan_of, run, searched
from benchmarks.search.surfaces import Surface

__all__ = ["Share", "Tuned", "deviations", "simulate", "tuned"]

_BASELINES = 2
_RUNS = 100
_TESTS = Confirm().verdict_seeds
_PRACTICAL = math.log(1.01)


@dataclass(frozen=True)
class Tuned:
    """One search and its winner.

    Attributes:
        true: The winner's log loss without noise.
        tests: Its log losses on fresh seeds; None where it diverged.
    """

    true: float
    tests: tuple[float | None, ...]


@dataclass(frozen=True)
class Share:
    """Shares of jobs.

    Attributes:
        wrong: Anon is called better or worse than one of two baselines or more.
        first: It is called better than the first baseline.
        equal: It is called practically equal to the first baseline.
    """

    wrong: float
    first: float
    equal: float


def tuned(surface: Surface, trials: int, seed: int, folder: Path) -> Tuned:
    """Search a surface, choose the winner as a job does, and test it."""
    warnings.simplefilter("ignore")
    plan = plan_of(surface, trials, seed)
    made = run(plan, surface, seed, searched(surface, trials, seed, folder))
    best = winner(made, "anon", plan.spec.objective.mode)
    if best is None:
        raise RuntimeError(f"search {seed} of {surface.name} has no winner")
    true = surface.final(best.hyperparameters)
    seeds = np.random.default_rng([seed, _RUNS]).integers(2**31, size=_RUNS)
    losses = [float(surface.curve(best.hyperparameters, int(each))[-1]) for each in seeds]
    return Tuned(math.log(true), tuple(math.log(loss) if math.isfinite(loss) else None for loss in losses))


def deviations(pool: Sequence[Tuned]) -> tuple[float, float]:
    """Return the standard deviations between searches: of the winners' losses, and of what their tests say."""
    true = stdev(each.true for each in pool)
    noise = fmean(np.var([v for v in each.tests if v is not None]) for each in pool)
    return true, math.sqrt(true**2 + noise / _TESTS)


def simulate(pool: Sequence[Tuned], repeats: int, shift: float, jobs: int) -> Share:
    """Draw jobs of three arms, of which Anon's log loss is lower by `shift`, and judge each."""
    rng = np.random.default_rng(repeats)
    wrong = first = equal = 0
    for _ in range(jobs):
        anon, *others = (_arm(pool, repeats, rng) for _ in range(1 + _BASELINES))
        anon = [[None if v is None else v - shift for v in runs] for runs in anon]
        outcomes = [
            compare_searches(anon, other, FIRST_ALPHA / _BASELINES, _PRACTICAL).outcome for other in others
        ]
        wrong += bool({Outcome.BETTER, Outcome.WORSE} & set(outcomes))
        first += outcomes[0] is Outcome.BETTER
        equal += outcomes[0] is Outcome.EQUAL
    return Share(wrong / jobs, first / jobs, equal / jobs)


def _arm(pool: Sequence[Tuned], repeats: int, rng: np.random.Generator) -> list[Runs]:
    found = [pool[int(index)] for index in rng.integers(len(pool), size=repeats)]
    return [[each.tests[int(i)] for i in rng.integers(_RUNS, size=_TESTS)] for each in found]
