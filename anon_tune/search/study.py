"""Suggesting a configuration: an in-memory Optuna study, rebuilt from the trials for every ask.

Optuna stores no sampler, so one is made for each ask, seeded from (job seed, arm, trial number): the same trials
give the same suggestion before and after a crash.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial
from scipy.stats import qmc

from anon_tune.errors import InputError
from anon_tune.records import Trial, TrialState
from anon_tune.search.seeds import sampler_seed
from anon_tune.search_spaces import Choice, Range, Space
from anon_tune.spec import Search

__all__ = ["STARTUP_TRIALS", "distributions", "suggest", "told"]

optuna.logging.set_verbosity(optuna.logging.ERROR)

STARTUP_TRIALS = 8
"""Trials of an arm placed on a Sobol sequence before a model is fitted (a power of two keeps it balanced)."""

_TRIES = 100
_INFEASIBLE, _FEASIBLE = {"diverged": 1.0}, {"diverged": -1.0}


def suggest(
    space: Space, trials: Sequence[Trial], number: int, search: Search, arm: str, mode: str
) -> dict[str, Any]:
    """Return the coordinates of the arm's `number`-th search trial.

    Args:
        space: What the arm searches.
        trials: The arm's search trials so far, in the order of their numbers.
        number: The new trial's number.
        search: Sampler and seed.
        arm: The arm's name, part of the seed.
        mode: "min" or "max".

    Raises:
        InputError: The space has no untried configuration left.
    """
    domain = distributions(space)
    seed = sampler_seed(search.seed, arm, number)
    if search.sampler != "random" and number < STARTUP_TRIALS:
        point = _startup_point(space, number, sampler_seed(search.seed, arm, -1))
    else:
        point = _ask(_sampler(search.sampler, seed), domain, told(trials, domain, search.sampler, mode), mode)
    tried = {tuple(sorted(trial.params.items())) for trial in trials}
    for retry in range(_TRIES):
        if tuple(sorted(point.items())) not in tried:
            return point
        point = _ask(optuna.samplers.RandomSampler(seed=(seed + retry + 1) % 2**31), domain, [], mode)
    for untried in _all_points(space):  # a finite space with few left is not found by drawing
        if tuple(sorted(untried.items())) not in tried:
            return untried
    raise InputError(
        f"The space of arm {arm} has no untried configuration left after {len(trials)} trials. "
        "Widen it (search_spaces), or lower budget.trials."
    )


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space's searched coordinates as Optuna distributions."""
    return {
        name: FloatDistribution(domain.low, domain.high, log=domain.log)
        if isinstance(domain, Range)
        else CategoricalDistribution(domain.choices)
        for name, domain in space.parameters.items()
    }


def told(
    trials: Iterable[Trial], domain: dict[str, BaseDistribution], sampler: str, mode: str
) -> list[FrozenTrial]:
    """What a sampler is told of the past, as Optuna trials.

    - COMPLETE: its value.
    - DIVERGED: the worst finite value seen, and a violated constraint; so it repels the sampler and does not
      stretch the scale of the fit.
    - PRUNED: to `gp`, which reads no PRUNED trial, COMPLETE with a final value extrapolated from the completed
      curves; to `tpe`, PRUNED with its reports.
    - RUNNING and WAITING: RUNNING, so that concurrent suggestions keep apart.
    - FAILED and CANCELLED: nothing; they say nothing of the configuration's value.
    """
    trials = list(trials)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    finite = [trial.value for trial in complete if trial.value is not None]
    finite += [report.value for t in trials if t.state is TrialState.PRUNED for report in t.reports[-1:]]
    worst = (max if mode == "min" else min)((value for value in finite if math.isfinite(value)), default=0.0)
    result = []
    for trial in trials:
        common: dict[str, Any] = {"params": dict(trial.params), "distributions": domain}
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            result.append(create_trial(value=trial.value, constraints=_FEASIBLE, **common))
        elif trial.state is TrialState.DIVERGED:
            result.append(create_trial(value=worst, constraints=_INFEASIBLE, **common))
        elif trial.state is TrialState.PRUNED and sampler == "gp":
            value = _extrapolate(trial, complete, worst)
            result.append(create_trial(value=value, constraints=_FEASIBLE, **common))
        elif trial.state is TrialState.PRUNED:
            values = {report.step: report.value for report in trial.reports}
            state = optuna.trial.TrialState.PRUNED
            result.append(
                create_trial(state=state, intermediate_values=values, constraints=_FEASIBLE, **common)
            )
        elif trial.state in {TrialState.RUNNING, TrialState.WAITING}:
            result.append(create_trial(state=optuna.trial.TrialState.RUNNING, **common))
    return result


def _extrapolate(pruned: Trial, complete: Sequence[Trial], worst: float) -> float:
    """Its last report plus the median further change of the completed trials; the worst value without them."""
    if not pruned.reports:
        return worst
    last = pruned.reports[-1]
    changes = [
        trial.value - report.value
        for trial in complete
        for report in trial.reports
        if report.step == last.step and trial.value is not None and math.isfinite(report.value)
    ]
    return last.value + median(changes) if changes and math.isfinite(last.value) else worst


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
    if name == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True
        )
    return optuna.samplers.RandomSampler(seed=seed)


def _ask(
    sampler: optuna.samplers.BaseSampler,
    domain: dict[str, BaseDistribution],
    past: Iterable[FrozenTrial],
    mode: str,
) -> dict[str, Any]:
    study = optuna.create_study(sampler=sampler, direction="minimize" if mode == "min" else "maximize")
    for trial in past:
        study.add_trial(trial)
    # Where no trial was feasible, every point is as bad to the GP, and the weights of its starts are 0 / 0.
    with np.errstate(invalid="ignore"):
        return dict(study.ask(domain).params)


def _startup_point(space: Space, number: int, seed: int) -> dict[str, Any]:
    sobol = qmc.Sobol(len(space.parameters), scramble=True, rng=seed)
    unit = sobol.random(STARTUP_TRIALS)[number]
    return {
        name: _from_unit(domain, float(u))
        for (name, domain), u in zip(space.parameters.items(), unit, strict=True)
    }


def _all_points(space: Space) -> Iterator[dict[str, Any]]:
    """Every point of a space that has choices alone, in order; none of any other."""
    choices = [domain.choices for domain in space.parameters.values() if isinstance(domain, Choice)]
    if len(choices) == len(space.parameters):
        for values in itertools.product(*choices):
            yield dict(zip(space.parameters, values, strict=True))


def _from_unit(domain: Range | Choice, u: float) -> float:
    if isinstance(domain, Choice):
        return domain.choices[min(int(u * len(domain.choices)), len(domain.choices) - 1)]
    if domain.log:
        return float(math.exp(math.log(domain.low) + u * (math.log(domain.high) - math.log(domain.low))))
    return domain.low + u * (domain.high - domain.low)
