"""Verdicts on two configurations: error rates and power.

A job is drawn, not run: three arms with three finalists each on three confirm seeds, and their verdict runs, as the
log losses of some law of noise. All of it goes through the product's own code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anon_tune.answer import Outcome
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.rounds import FIRST_ALPHA, Round, RoundsOfTwo
from anon_tune.search.scale import Scale
from anon_tune.spec import Objective

__all__ = ["LAWS", "Cell", "Tally", "simulate"]

ARMS = ("anon", "adamw", "sgd")
_FINALISTS, _CONFIRM = 3, 3

Noise = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Noise]
"""Noise of the arms on some seeds, shape (arms, seeds), with a standard deviation of 1 within each arm."""


def _scaled(*deviations: float) -> Draw:
    return lambda rng, n: np.array(deviations)[:, None] * rng.normal(size=(len(ARMS), n))


def _shared(correlation: float) -> Draw:
    own, common = math.sqrt(1 - correlation), math.sqrt(correlation)
    return lambda rng, n: own * rng.normal(size=(len(ARMS), n)) + common * rng.normal(size=n)


def _wild_seeds(rng: np.random.Generator, n: int) -> Noise:
    """One seed in ten is three times as noisy for all arms."""
    return rng.normal(size=(len(ARMS), n)) * np.where(rng.random(n) < 0.1, 3.0, 1.0) / math.sqrt(1.8)


def _wild_runs(rng: np.random.Generator, n: int) -> Noise:
    """One run in ten is three times as noisy."""
    wide = np.where(rng.random((len(ARMS), n)) < 0.1, 3.0, 1.0)
    return rng.normal(size=(len(ARMS), n)) * wide / math.sqrt(1.8)


def _skewed(rng: np.random.Generator, n: int) -> Noise:
    """Log-normal, with a long tail to the bad side."""
    shape = 0.5
    drawn = np.exp(shape * rng.normal(size=(len(ARMS), n)))
    mean, variance = math.exp(shape**2 / 2), (math.exp(shape**2) - 1) * math.exp(shape**2)
    return np.asarray((drawn - mean) / math.sqrt(variance))


LAWS: Mapping[str, Draw] = {
    "normal": _scaled(1.0, 1.0, 1.0),
    "Student's t, 3 degrees of freedom": lambda rng, n: rng.standard_t(3, (len(ARMS), n)) / math.sqrt(3),
    "log-normal": _skewed,
    "one baseline 3 times as noisy": _scaled(1.0, 3.0, 1.0),
    "Anon 3 times as noisy": _scaled(3.0, 1.0, 1.0),
    "wild seeds": _wild_seeds,
    "wild runs": _wild_runs,
    "0.8 of the variance from the seed": _shared(0.8),
}


@dataclass(frozen=True)
class Cell:
    """A simulated case.

    Attributes:
        law: Distribution of the noise.
        seeds: Most seeds of the verdict.
        shift: How much better Anon is, in seed deviations.
        ratio: Variance of the confirm runs over that of the verdict's.
        divergence: How often a verdict run diverges.
        practical: The smallest difference that matters, in seed deviations; 0: none.
    """

    law: str = "normal"
    seeds: int = 10
    shift: float = 0.0
    ratio: float = 1.0
    divergence: float = 0.0
    practical: float = 0.0


@dataclass(frozen=True)
class Tally:
    """Shares of jobs.

    Attributes:
        better: Anon is called better than one baseline or more.
        worse: Anon is called worse than one or more.
        first: It is called better than the first baseline.
        equal: It is called practically equal to the first baseline.
        seeds: Mean number of seeds until the first comparison was decided, or given up.
    """

    better: float
    worse: float
    first: float
    equal: float
    seeds: float


def simulate(cell: Cell, jobs: int, seed: int = 0) -> Tally:
    """Draw jobs and judge each."""
    rng = np.random.default_rng([seed, *map(ord, repr(cell))])
    better = worse = first = equal = used = 0
    for _ in range(jobs):
        found = [duel.judge() for duel in _job(cell, rng)]
        outcomes = [each.outcome for each in found]
        better += Outcome.BETTER in outcomes
        worse += Outcome.WORSE in outcomes
        first += outcomes[0] is Outcome.BETTER
        equal += outcomes[0] is Outcome.EQUAL
        used += found[0].seeds
    return Tally(*(count / jobs for count in (better, worse, first, equal, used)))


_DEVIATION = 0.05
"""Standard deviation of the log loss between seeds."""


def _job(cell: Cell, rng: np.random.Generator) -> Sequence[RoundsOfTwo]:
    draw = LAWS[cell.law]
    confirm = math.sqrt(cell.ratio) * draw(rng, _FINALISTS * _CONFIRM)
    verdict = draw(rng, cell.seeds)
    verdict[0] -= cell.shift
    lost = rng.random(verdict.shape) < cell.divergence
    trials, winners = [], {}
    for index, arm in enumerate(ARMS):
        winners[arm] = _trial(arm, Phase.SEARCH, 0, 0.0)
        for number in range(_FINALISTS * _CONFIRM):
            source = f"{arm}-{number // _CONFIRM}" if number >= _CONFIRM else winners[arm].id
            trials.append(_trial(arm, Phase.CONFIRM, number, confirm[index, number], source))
        for number in range(cell.seeds):
            value = None if lost[index, number] else verdict[index, number]
            trials.append(_trial(arm, Phase.VERDICT, number, value, winners[arm].id))
    practical = math.expm1(cell.practical * _DEVIATION) if cell.practical else 1e-9
    scale = Scale(Objective(practical=practical), [t.value for t in trials if t.value is not None])
    rounds = [Round(tuple(range(cell.seeds)), FIRST_ALPHA)]
    return [RoundsOfTwo(scale, trials, ("anon", other), winners, rounds, len(ARMS) - 1) for other in ARMS[1:]]


def _trial(arm: str, phase: Phase, number: int, noise: float | None, source: str | None = None) -> Trial:
    state = TrialState.DIVERGED if noise is None else TrialState.COMPLETE
    value = None if noise is None else math.exp(_DEVIATION * noise)
    return Trial(f"{arm}-{phase}-{number}", "j", arm, phase, number, number, state, {}, {}, source, value)
