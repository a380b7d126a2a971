"""What a sampler is told, and what it suggests."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from anon_tune.records import Trial, TrialState
from anon_tune.search.study import STARTUP_TRIALS, distributions, suggest, told
from anon_tune.search_spaces import Space
from anon_tune.spec import Search
from tests.builders import trial

SPACE = Space.model_validate(
    {
        "optimizer": "anon",
        "summary": "x",
        "parameters": {
            "gamma": {"low": -0.5, "high": 1.5},
            "step_size": {"low": 0.01, "high": 10, "log": True},
            "delay": {"choices": [2, 4, 8]},
        },
        "fixed": {"beta3": 0.5, "decay": 0.0},
    }
)
DOMAIN = distributions(SPACE)


def at(
    number: int, state: TrialState = TrialState.COMPLETE, value: float | None = None, **keys: Any
) -> Trial:
    """A trial at a place of its own."""
    params = {
        "gamma": -0.5 + number / 32,
        "step_size": 0.01 * 1.1**number,
        "delay": [2.0, 4.0, 8.0][number % 3],
    }
    return trial(number, state, value, params=params, **keys)


def of(found: list[FrozenTrial]) -> list[tuple[str, float | None, float | None]]:
    """State, value and constraint of each."""
    return [
        (t.state.name, t.value if t.state.name == "COMPLETE" else None, t.constraints.get("diverged"))
        for t in found
    ]


def test_what_says_nothing_is_not_told():
    trials = [at(0, TrialState.FAILED), at(1, TrialState.CANCELLED), at(2, value=0.5)]
    for sampler in ("gp", "tpe", "random"):
        assert of(told(trials, DOMAIN, sampler, "min")) == [("COMPLETE", 0.5, -1.0)]


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_trials_without_an_end_keep_suggestions_apart(sampler: str):
    trials = [at(0, TrialState.RUNNING), at(1, TrialState.WAITING)]
    found = told(trials, DOMAIN, sampler, "min")
    assert [t.state for t in found] == [optuna.trial.TrialState.RUNNING] * 2
    assert [t.params for t in found] == [dict(t.params) for t in trials]


@pytest.mark.parametrize(("mode", "worst"), [("min", 0.9), ("max", 0.2)])
@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_divergence_is_a_violated_constraint_at_the_worst_finite_value(sampler: str, mode: str, worst: float):
    trials = [
        at(0, value=0.5),
        at(1, value=0.2),
        at(2, TrialState.DIVERGED, curve=[1e9, math.nan]),
        at(3, value=0.9),
    ]
    assert of(told(trials, DOMAIN, sampler, mode))[2] == ("COMPLETE", worst, 1.0)


@pytest.mark.parametrize(("mode", "worst"), [("min", 3.0), ("max", 0.1)])
def test_the_worst_value_looks_at_pruned_trials_too(mode: str, worst: float):
    trials = [
        at(0, value=0.5),
        at(1, TrialState.PRUNED, curve=[9.0, 3.0]),
        at(2, TrialState.PRUNED, curve=[0.1]),
        at(3, TrialState.PRUNED, curve=[math.nan]),
        at(4, TrialState.DIVERGED),
    ]
    assert of(told(trials, DOMAIN, "gp", mode))[4] == ("COMPLETE", worst, 1.0)


def test_without_any_value_divergence_is_told_all_the_same():
    assert of(told([at(0, TrialState.DIVERGED)], DOMAIN, "gp", "min")) == [("COMPLETE", 0.0, 1.0)]


def test_tpe_is_told_pruned_trials_with_their_reports():
    (found,) = told([at(0, TrialState.PRUNED, curve=[0.9, 0.8])], DOMAIN, "tpe", "min")
    assert found.state is optuna.trial.TrialState.PRUNED
    assert found.intermediate_values == {1: 0.9, 2: 0.8}


def test_gp_is_told_where_a_pruned_trial_would_have_ended():
    trials = [
        at(0, value=0.1, curve=[1.0, 0.7, 0.1]),  # from step 2 on it gained 0.6,
        at(1, value=0.3, curve=[1.0, 0.4, 0.3]),  # 0.1,
        at(2, value=0.2, curve=[1.0, 0.5, 0.2]),  # 0.3: the median
        at(3, TrialState.PRUNED, curve=[2.0, 0.9]),
    ]
    (*_, found) = told(trials, DOMAIN, "gp", "min")
    assert found.state is optuna.trial.TrialState.COMPLETE
    assert found.value == pytest.approx(0.9 - 0.3)
    assert found.constraints == {"diverged": -1.0}


@pytest.mark.parametrize("curve", [[], [1.0] * 7, [math.nan]], ids=["no report", "a step of no other", "NaN"])
def test_without_a_curve_to_go_by_gp_is_told_the_worst(curve: list[float]):
    trials = [at(0, value=0.4, curve=[1.0, 0.4]), at(1, value=1.5), at(2, TrialState.PRUNED, curve=curve)]
    assert of(told(trials, DOMAIN, "gp", "min"))[2] == ("COMPLETE", 1.5, -1.0)


def past(count: int, state: TrialState | None = None) -> list[Trial]:
    """Trials with a bowl around gamma 0.5, a third of them badly ended; or all in one state."""
    found = []
    for n in range(count):
        gamma = -0.5 + n / 32
        badly = (TrialState.DIVERGED, TrialState.PRUNED, TrialState.FAILED)[n // 3 % 3]
        end = state or (badly if n % 3 == 0 else TrialState.COMPLETE)
        value = (gamma - 0.5) ** 2 if end is TrialState.COMPLETE else None
        found.append(at(n, end, value, curve=[1.0, 0.5]))
    return found


@pytest.mark.parametrize(
    ("sampler", "mode"), [("gp", "max"), ("tpe", "min"), ("tpe", "max"), ("random", "min")]
)
def test_the_same_trials_give_the_same_suggestion(sampler: str, mode: str):
    trials = [*past(12), at(12, TrialState.RUNNING)]
    search = Search(sampler=sampler, seed=5)
    first, again = (suggest(SPACE, trials, 13, search, "anon", mode) for _ in range(2))
    assert first == again
    assert first not in [dict(t.params) for t in trials]
    assert first.keys() == SPACE.parameters.keys()
    assert all(DOMAIN[name]._contains(DOMAIN[name].to_internal_repr(value)) for name, value in first.items())


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.COMPLETE])
def test_a_search_goes_on_when_every_trial_ended_alike(sampler: str, state: TrialState):
    trials = past(STARTUP_TRIALS, state)
    point = suggest(SPACE, trials, STARTUP_TRIALS, Search(sampler=sampler), "anon", "min")
    assert point.keys() == SPACE.parameters.keys()


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_sampler_learns(sampler: str):
    """Told a bowl with its best at gamma 0.5, it looks nearer to it than chance (0.5 on average) would."""
    trials = [
        trial(n, value=(t - 0.5) ** 2, params={"gamma": t, "step_size": 0.01 * 1.3**n, "delay": 2.0})
        for n, t in enumerate([-0.4, -0.1, 0.1, 0.3, 0.6, 0.8, 1.0, 1.2, 1.4, 0.45, 0.55])
    ]
    points = [
        suggest(SPACE, trials, len(trials), Search(sampler=sampler, seed=seed), "anon", "min")["gamma"]
        for seed in range(2)
    ]
    assert sum(abs(gamma - 0.5) for gamma in points) / len(points) < 0.25


def test_arms_and_numbers_have_streams_of_their_own():
    search = Search(sampler="random")
    points = [
        suggest(SPACE, [], n, search, arm, "min")["gamma"] for n in range(3) for arm in ("anon", "adamw")
    ]
    assert len(set(points)) == len(points)
