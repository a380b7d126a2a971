"""Errors of the costs of customary values and of gammas outside [0, 1], on surfaces with a known answer."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anon_tune.advice.importance import customary_values
from anon_tune.advice.response import respond
from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape
from anon_tune.search.policy import Plan
from anon_tune.search.scale import scale_of
from anon_tune.search_spaces import Range, Space
from benchmarks.calibration.jobs import plan_of, run, searched
from benchmarks.calibration.surfaces import surface
from benchmarks.search.record import COORDINATES
from benchmarks.search.surfaces import Simulated

__all__ = ["CASES", "Judged", "judge"]

OTHERS = ("beta3", "delay", "decay")

CASES: Mapping[str, tuple[str, float]] = {
    "mild, the others do nothing": ("mild", 0.0),
    "sharp, the others do nothing": ("sharp", 0.0),
    "nothing but the step size matters": ("flat", 0.0),
    "cliff, the others do nothing": ("cliff", 0.0),
    "mild, the others matter": ("mild", 1.0),
}
"""Shape over gamma, and how fast the log loss rises with the squared distance to the best beta3, delay and decay."""

_PLACES = 41


@dataclass(frozen=True)
class Judged:
    """A statement about one job, as a difference in the log loss.

    Attributes:
        about: `outside`, or the coordinate whose customary value it is about.
        low: Lower end of its interval.
        high: Upper end of its interval.
        true: The true value.
        seconds: Time of all statements on the customary values of its job.
    """

    about: str
    low: float
    high: float
    true: float
    seconds: float


def judge(key: tuple[str, float, int, int, Path]) -> list[Judged]:
    """Run a job, and return its statements beside the true values."""
    case, deviation, trials, seed, folder = key
    warnings.simplefilter("ignore")
    shape, rise = CASES[case]
    known = dataclasses.replace(
        surface(shape, deviation, seed), name=f"{case}, {deviation:g}", others=(rise, rise, rise)
    )
    plan = plan_of(known, trials, seed)
    ended = run(plan, known, seed, searched(known, trials, seed, folder / case))
    return _statements(known, plan, ended)


def _statements(known: Simulated, plan: Plan, trials: Sequence[Trial]) -> list[Judged]:
    space, scale = plan.spaces["anon"], scale_of(plan.spec.objective, trials)
    landscape = Landscape(space, trials, plan.spec.objective)
    landscape.bounds()  # the fit, which the search has already made
    began = time.process_time()
    customary = list(customary_values(landscape, scale))
    seconds = time.process_time() - began
    outside = respond(landscape, space.parameters["gamma"], None, None, scale).outside
    found = [
        (each.coordinate, each.cost, _kept(known, OTHERS.index(each.coordinate), space, each.value))
        for each in customary
    ]
    if outside is not None:
        found.append(("outside", outside, _cost_outside(known)))
    return [
        Judged(what, math.log1p(its.low), math.log1p(its.high), true, seconds) for what, its, true in found
    ]


def _kept(known: Simulated, index: int, space: Space, value: float) -> float:
    """Return the cost of a customary value when all else is tuned: only its own term of the formula is left."""
    domain = space.parameters[OTHERS[index]]
    if not isinstance(domain, Range):
        raise TypeError(f"{OTHERS[index]} is not a range")
    place = _place(OTHERS[index], value)
    ends = [_place(OTHERS[index], end) for end in (domain.low, domain.high)]
    best = float(np.clip(known.best_others[index], min(ends), max(ends)))
    rise, target = known.others[index], known.best_others[index]
    return rise * ((place - target) ** 2 - (best - target) ** 2)


def _place(name: str, value: float) -> float:
    low, high, log = COORDINATES[name]
    return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)


def _cost_outside(known: Simulated) -> float:
    """Return the log of the lowest loss outside [0, 1] over the lowest within, all else at its best."""

    def excess(gamma: float) -> float:
        away = gamma - known.best_gamma
        rise = (known.below if away < 0 else known.above) * away**2
        return min(rise, known.second_cost + known.above * (gamma - known.second_gamma) ** 2)

    within = min(map(excess, np.linspace(0.0, 1.0, _PLACES)))
    outside = min(map(excess, [*np.linspace(-0.5, 0.0, _PLACES)[:-1], *np.linspace(1.0, 1.5, _PLACES)[1:]]))
    return outside - within
