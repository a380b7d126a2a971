"""When a search ends before its budget."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest

from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.history import History
from anon_tune.search.landscape import Landscape
from anon_tune.search.policy import Decision, Plan, draws, next_trial, stopped
from anon_tune.search.stop import CHECKS, is_decided
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective
from tests import builders
from tests.builders import begun, trial
from tests.search.spaces import LINE, anon_space

LOSS = Objective()
PLANE = anon_space({"gamma": {"low": 0.0, "high": 1.0}, "step_size": {"low": 0.1, "high": 10.0, "log": True}})
SGD = Space.model_validate(
    {
        "optimizer": "sgd",
        "summary": "x",
        "parameters": {"lr": {"low": 0.01, "high": 1.0, "log": True}},
        "fixed": {"momentum": 0.9, "weight_decay": 0.0},
    }
)
CONDITIONAL = Space.model_validate(
    {
        "optimizer": "anon",
        "summary": "x",
        "parameters": {
            "gamma": {"low": 0.0, "high": 1.0},
            "delay_family": {"choices": ["geometric", "every"]},
            "delay": {"low": 1.1, "high": 4.0, "when": {"delay_family": "geometric"}},
            "delay_period": {"low": 1, "high": 9, "integer": True, "when": {"delay_family": "every"}},
        },
        "fixed": {"step_size": 1.0, "beta3": 0.5, "decay": 0.0},
    }
)


def searched(
    count: int, noise: float = 0.0, best: float = 0.6, space: Space = PLANE, seed: int = 0
) -> list[Trial]:
    """Trials anywhere on a bowl over the unit cube whose lowest point is at `best` in every direction."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        params = space.complete(rng.random(len(space.parameters)).tolist(), {})
        bowl = sum((u - best) ** 2 for u in space.unit(params))
        found.append(trial(number, value=math.exp(bowl + noise * rng.normal()), params=params))
    return found


def ends(trials: Sequence[Trial], number: int, most: int, space: Space = PLANE, lag: int = 4) -> bool:
    return is_decided(space, trials, number, most, lag, LOSS)


def test_the_checks_are_every_four_trials_and_few_in_a_long_search():
    assert CHECKS[:8] == (12, 16, 20, 24, 28, 32, 36, 40)
    assert CHECKS[-2] < 10_000 <= CHECKS[-1]
    assert len(CHECKS) < 40
    assert all(4 <= later - earlier <= max(4, earlier / 5) for earlier, later in itertools.pairwise(CHECKS))


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_gain_of_endless_trials_is_that_of_the_lowest_point_of_every_draw(noise: float):
    landscape = Landscape(PLANE, searched(12, noise), LOSS)
    points = landscape.low_points(96, landscape.mean)[0]
    in_the_end = landscape.mean(points).min() - landscape.draw(points, 4096).min(axis=1).mean()
    assert landscape.gain(10**9) == pytest.approx(in_the_end, rel=0.1)


def test_more_trials_promise_more_and_noise_takes_it_away():
    quiet = Landscape(PLANE, searched(12), LOSS)
    gains = [quiet.gain(count) for count in (1, 4, 16, 64, 10**9)]
    assert gains[0] > 0
    assert gains == sorted(gains)
    noisy = Landscape(PLANE, searched(60, 0.2), LOSS)
    assert noisy.gain(1) < 0.1 * noisy.gain(10**9)


def test_a_search_ends_when_the_lowest_point_is_known():
    trials = searched(24)
    found = [number for number in CHECKS if number <= 24 and ends(trials, number, 60)]
    assert found
    assert found == [number for number in CHECKS if found[0] <= number <= 24]
    assert found[0] > CHECKS[0]  # before the first check there is none to compare gammas with


def test_a_check_ignores_trials_within_the_lag():
    trials = searched(24)
    number, lag = 24, 6
    assert ends(trials, number, 60, lag=lag)
    hidden = [dataclasses.replace(t, state=TrialState.RUNNING, value=None) for t in trials[number - lag :]]
    assert ends([*trials[: number - lag], *hidden], number, 60, lag=lag)
    assert not ends(trials, number, 60, lag=20)


def test_a_larger_budget_asks_for_more():
    trials = searched(20, 0.1, space=SGD)
    landscape = Landscape(SGD, trials[:16], LOSS)
    objective = Objective(practical=math.expm1((landscape.gain(1) + landscape.gain(100)) / 2))
    assert is_decided(SGD, trials, 20, 21, 4, objective)
    assert not is_decided(SGD, trials, 20, 120, 4, objective)


def test_changed_good_gammas_are_not_stable():
    """The first trials say that low gammas are best, and those since then that high ones are."""
    before, since = searched(12, best=0.1), searched(40, best=0.9, seed=1)
    moved = [*before, *(dataclasses.replace(t, number=n) for n, t in enumerate(since[:28], 12))]
    settled = [dataclasses.replace(t, number=n) for n, t in enumerate([*since, *since][:40])]
    practical = Objective(practical=100.0)  # so that the gain never matters
    assert not is_decided(PLANE, moved, 20, 60, 4, LOSS)
    assert is_decided(PLANE, settled, 20, 60, 4, practical)


def test_a_baseline_has_no_gamma_to_be_stable():
    assert ends(searched(12, space=SGD), 12, 13, SGD)


def test_a_search_without_a_landscape_continues():
    assert not ends(searched(40, space=CONDITIONAL), 40, 60, CONDITIONAL)
    level = [dataclasses.replace(t, value=0.5) for t in searched(40)]
    assert not ends(level, 40, 60)
    failed = [dataclasses.replace(t, state=TrialState.FAILED, value=None) for t in searched(40)]
    assert not ends(failed, 40, 60)


# In a job


def plan(trials: int = 60, objective: Mapping[str, float] | None = None, **search: object) -> Plan:
    spec = builders.spec(
        budget={"trials": trials, "epochs": 9},
        objective=objective or {},
        search={"sampler": "random", "stop": "decided", "lag": 4, **search},
        confirm={"finalists": 2, "seeds": 2, "verdict_seeds": 2},
        arms=["anon"],
    )
    return Plan(spec, {"anon": LINE}, log_mean_sigma=-9.0)


def worked_off(job: Plan, trials: Sequence[Trial] = ()) -> list[Trial]:
    """The job, one trial after another, on a bowl without noise."""
    made = list(trials)
    while isinstance(new := next_trial(job, made), NewTrial):
        value = math.exp(sum((u - 0.4) ** 2 for u in LINE.unit(new.params)))
        made.append(dataclasses.replace(begun(new, TrialState.COMPLETE), value=value))
    assert new is Decision.DONE
    return made


@cache
def decided(trials: int = 60) -> list[Trial]:
    return worked_off(plan(trials))


def search_of(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.phase is Phase.SEARCH]


def test_a_job_ends_its_search_and_goes_on_to_confirm_and_verdict():
    job, trials = plan(), decided()
    count = len(search_of(trials))
    assert CHECKS[0] < count < 60
    assert count in CHECKS
    assert stopped(job, trials) == {("anon", 0): count}
    assert {t.phase for t in trials} == {Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT}
    assert search_of(worked_off(plan(stop="never")))[:count] == search_of(trials)
    assert stopped(plan(stop="never"), trials) == {}


def test_a_check_waits_for_the_trials_that_it_looks_at():
    job = plan()
    made = search_of(decided())
    ended = made[: CHECKS[0]]
    running = [dataclasses.replace(t, state=TrialState.RUNNING, value=None) for t in ended[CHECKS[0] - 5 :]]
    assert next_trial(job, [*ended[: CHECKS[0] - 5], *running]) is Decision.WAIT
    new = next_trial(job, [*ended[: CHECKS[0] - 4], *running[1:]])
    assert isinstance(new, NewTrial)
    assert new.number == CHECKS[0]


def test_a_stop_check_is_not_a_quick_draw():
    assert draws(plan(stop="never"), History())
    assert not draws(plan(), History())


def test_points_of_the_user_are_tried_before_a_search_may_end():
    count = len(search_of(decided()))
    points = [{"gamma": n / 49} for n in range(count + 5)]
    assert len(search_of(worked_off(plan(try_first=points)))) >= count + 5


@pytest.mark.parametrize("trials", [11, 12, 14])
def test_a_budget_is_never_exceeded(trials: int):
    made = decided(trials)
    assert len(search_of(made)) <= trials
    assert stopped(plan(trials), made) in ({}, {("anon", 0): len(search_of(made))})


def test_an_extended_job_checks_again_with_the_remaining_trials():
    """What matters is between what four trials promise and what thousands do."""
    landscape = Landscape(LINE, search_of(decided())[:12], LOSS)
    few, many = landscape.gain(4), landscape.gain(10_000 - 16)
    assert few < many
    objective = {"practical": math.expm1((few + many) / 2)}
    small = worked_off(plan(20, objective=objective))
    assert len(search_of(small)) == 16
    larger = worked_off(plan(10_000, objective=objective), small)
    assert len(search_of(larger)) > 16
    assert search_of(larger) == search_of(worked_off(plan(10_000, objective=objective)))
