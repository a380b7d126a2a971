"""Cost of `search.stop: decided`: the same searches, ended by several rules and not at all."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from rich.table import Table

from anon_tune.advice.summary import summarize
from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape
from anon_tune.search.policy import Plan
from anon_tune.search.scale import Scale
from anon_tune.search.stop import CHECKS, is_decided
from anon_tune.spec import SMALLEST_LAG
from benchmarks.calibration.jobs import plan_of, run, searched
from benchmarks.calibration.surfaces import SHAPES, surface
from benchmarks.search.surfaces import Simulated

__all__ = ["RULES", "Ending", "endings", "table_of"]

WORST = 3.0

_BACK = 2
"""Checks before, with whose recommendations today's is compared."""

Rule = Callable[[Plan, Sequence[Trial], int, int], bool]
"""From a plan, a search, a number of trials and the budget to whether the search ends there."""


@dataclass(frozen=True)
class Ending:
    """A job whose search was ended.

    Attributes:
        trials: Number of trials of its search.
        regret: The log of the winner's loss without noise over the best there is.
        holds: Whether the 90% interval holds the best gamma; None on a surface on which all are best.
        width: Width of that interval.
    """

    trials: int
    regret: float
    holds: bool | None
    width: float


def _decided(plan: Plan, search: Sequence[Trial], number: int, budget: int) -> bool:
    spec = plan.spec
    return is_decided(plan.spaces["anon"], search, number, budget, spec.lag, spec.objective)


def _gain_alone(plan: Plan, search: Sequence[Trial], number: int, budget: int) -> bool:
    landscape = _landscape(plan, search, number)
    return landscape.is_known and landscape.gain(budget - number) < _practical(plan)


def _no_progress(plan: Plan, search: Sequence[Trial], number: int, budget: int) -> bool:
    """Whether today's landscape expects of the last recommendations about as much as of the present one."""
    place = CHECKS.index(number)
    earlier = [_landscape(plan, search, n) for n in CHECKS[max(0, place - _BACK) : place]]
    if len(earlier) < _BACK or not all(each.is_known for each in earlier):
        return False
    landscape = _landscape(plan, search, number)
    places = np.array([each.place(each.lowest()) for each in (*earlier, landscape)])
    *before, now = landscape.mean(places)
    return bool(max(before) - now < _practical(plan))


RULES: Mapping[str, Rule] = {
    "decided": _decided,
    "the gain alone": _gain_alone,
    "no progress in two checks": _no_progress,
}


def endings(key: tuple[str, float, tuple[int, ...], int, Path]) -> dict[tuple[str, int], Ending]:
    """Search once, and return how the job ends by each rule, and by none (""), for each budget."""
    shape, deviation, budgets, seed, folder = key
    warnings.simplefilter("ignore")
    known, most = surface(shape, deviation, seed), max(budgets)
    search = searched(known, most, seed, folder / f"{shape}, lag {SMALLEST_LAG}", SMALLEST_LAG)
    plan = plan_of(known, most, seed, lag=SMALLEST_LAG)
    ended = cache(lambda trials: _ended(known, plan, search[:trials], seed))
    found = {("", budget): ended(budget) for budget in budgets}
    for name, rule in RULES.items():
        for budget in budgets:
            checks = (number for number in CHECKS if number < budget)
            found[name, budget] = ended(next((n for n in checks if rule(plan, search, n, budget)), budget))
    return found


def table_of(found: Mapping[tuple[str, float, int], Mapping[tuple[str, int], Ending]], budget: int) -> Table:
    """Return the savings and costs of the rules at a budget, over jobs by shape, deviation and seed."""
    table = Table(title=f"searches of up to {budget} trials, {len(found)} jobs; ended by a rule / not")
    for title in ("surface", "trials", "regret", "difference", "90% interval holds", "median width"):
        table.add_column(title)
    for shape in SHAPES:
        jobs = [ended for key, ended in found.items() if key[0] == shape]
        table.add_row(shape, *_cells([(ended["decided", budget], ended["", budget]) for ended in jobs]))
    for name in RULES:
        pairs = [(ended[name, budget], ended["", budget]) for ended in found.values()]
        table.add_row(f"all, {name}", *_cells(pairs))
    return table


def _cells(pairs: Sequence[tuple[Ending, Ending]]) -> list[str]:
    more = np.array([one.regret - other.regret for one, other in pairs])
    error = more.std(ddof=1) / math.sqrt(len(more)) if len(more) > 1 else math.nan
    both = list(zip(*pairs, strict=True))
    regrets = [np.mean([each.regret for each in of]) for of in both]
    held = [[each.holds for each in of if each.holds is not None] for of in both]
    return [
        f"{np.mean([one.trials for one, _ in pairs]):.1f}",
        f"{regrets[0]:.4f} / {regrets[1]:.4f}",
        f"{more.mean():+.4f} ± {error:.4f}",
        " / ".join(f"{np.mean(of):.0%}" if of else "-" for of in held),
        " / ".join(f"{np.nanmedian([each.width for each in of]):.2f}" for of in both),
    ]


def _ended(known: Simulated, plan: Plan, search: Sequence[Trial], seed: int) -> Ending:
    """Return the job from the end of its search on."""
    budget = plan.spec.budget.model_copy(update={"trials": len(search)})
    short = dataclasses.replace(plan, spec=plan.spec.model_copy(update={"budget": budget}))
    answer = summarize(short, run(short, known, seed, search))
    gamma, winner = answer.gamma, answer.winners.get("anon")
    final = known.final(winner.hyperparameters) if winner is not None else math.inf
    regret = min(math.log(final / known.best), WORST)
    if gamma.low is None or gamma.high is None:
        return Ending(len(search), regret, False, math.nan)
    step = 2.0 / 48 / 2
    holds = gamma.low - step <= known.best_gamma <= gamma.high + step
    has_optimum = known.below > 0
    return Ending(len(search), regret, holds if has_optimum else None, gamma.high - gamma.low)


def _landscape(plan: Plan, search: Sequence[Trial], number: int) -> Landscape:
    return Landscape(plan.spaces["anon"], search[: max(0, number - plan.spec.lag)], plan.spec.objective)


def _practical(plan: Plan) -> float:
    found = Scale(plan.spec.objective).practical
    if found is None:
        raise ValueError("the jobs of the calibration are on a log scale")
    return found
