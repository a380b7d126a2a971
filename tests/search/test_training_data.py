"""What a sampler is told of each trial."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from anon_tune.records import Trial, TrialState
from anon_tune.search.study import distributions
from anon_tune.search.training_data import as_frozen_trials
from anon_tune.search_spaces import load_space
from anon_tune.spec import Objective
from tests.builders import trial
from tests.search.spaces import LINE

DOMAIN = distributions(LINE)
LINEAR = Objective(scale="linear")


def at(
    number: int, state: TrialState = TrialState.COMPLETE, value: float | None = None, **keys: object
) -> Trial:
    """A trial at a place of its own."""
    return trial(number, state, value, params={"gamma": number / 32}, **keys)  # type: ignore[arg-type]


def tell(trials: list[Trial], objective: Objective = LINEAR) -> list[FrozenTrial]:
    return as_frozen_trials(LINE, trials, DOMAIN, objective)


def of(found: list[FrozenTrial]) -> list[tuple[str, float | None]]:
    """State and value of each."""
    return [(t.state.name, t.value if t.state.name == "COMPLETE" else None) for t in found]


def test_trials_without_information_are_not_training_data():
    trials = [at(0, TrialState.FAILED, curve=[0.1]), at(1, TrialState.CANCELLED), at(2, value=-0.5)]
    assert of(tell(trials)) == [("COMPLETE", -0.5)]


def test_trials_without_an_end_keep_suggestions_apart():
    trials = [at(0, TrialState.RUNNING, curve=[0.5]), at(1, TrialState.WAITING)]
    found = tell(trials)
    assert [t.state for t in found] == [optuna.trial.TrialState.RUNNING] * 2
    assert [t.params for t in found] == [dict(t.params) for t in trials]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_complete_trial_has_its_value_with_smaller_being_better(mode: str):
    """Losses by their logarithm: among them differences are factors."""
    (low, high) = tell([at(0, value=0.2), at(1, value=0.8)], Objective(mode=mode))
    expected = [math.log(0.2), math.log(0.8)] if mode == "min" else [-0.2, -0.8]
    assert [low.value, high.value] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "bad"), [("min", 0.2 * math.log(0.5) + 0.8 * math.log(0.9)), ("max", 0.2 * -0.5 + 0.8 * -0.2)]
)
def test_a_diverged_trial_has_a_bad_value(mode: str, bad: float):
    """Nine in ten are below: of three values a point between the second and the third."""
    trials = [
        at(0, value=0.5),
        at(1, value=0.2),
        at(2, TrialState.DIVERGED, curve=[1e9, math.nan]),
        at(3, value=0.9),
    ]
    found = of(tell(trials, Objective(mode=mode)))
    assert found[2] == ("COMPLETE", pytest.approx(bad))


def test_the_bad_value_is_recomputed_as_trials_come():
    trials = [at(0, TrialState.DIVERGED), at(1, value=-1.0)]
    assert of(tell(trials))[0] == ("COMPLETE", -1.0)
    assert of(tell([*trials, at(2, value=3.0)]))[0] == ("COMPLETE", pytest.approx(2.6))
    assert of(tell(trials[:1])) == [("COMPLETE", 0.0)]  # without any value it is told all the same


def test_a_pruned_trial_has_its_forecast_value():
    trials = [
        at(0, value=-0.1, curve=[1.0, 0.7, -0.1]),  # from step 2 on it gained 0.8,
        at(1, value=0.3, curve=[1.0, 0.4, 0.3]),  # 0.1,
        at(2, value=0.2, curve=[1.0, 0.5, 0.2]),  # 0.3: the median
        at(3, TrialState.PRUNED, curve=[2.0, 0.9]),
        at(4, TrialState.DIVERGED),
    ]
    found = tell(trials)
    assert found[3].state is optuna.trial.TrialState.COMPLETE
    assert found[3].value == pytest.approx(0.9 - 0.3)
    assert found[4].value == pytest.approx(0.3 + 0.7 * (0.6 - 0.3))  # of it too


@pytest.mark.parametrize("curve", [[], [math.nan], [0.5, math.inf]], ids=["no report", "NaN", "inf"])
def test_a_pruned_trial_without_a_finite_report_is_omitted(curve: list[float]):
    trials = [at(0, value=-0.4, curve=[1.0, -0.4]), at(1, TrialState.PRUNED, curve=curve)]
    assert of(tell(trials)) == [("COMPLETE", -0.4)]


STATES = st.sampled_from(list(TrialState))
CURVES = st.lists(st.sampled_from([0.1, 1.0, -1.0, 1e300, math.nan, math.inf, -math.inf]), max_size=4)


@given(st.lists(st.tuples(STATES, CURVES, st.floats(-1e6, 1e6)), max_size=8), st.sampled_from(["min", "max"]))
def test_training_data_is_finite_and_leaves_no_trial_running(
    drawn: list[tuple[TrialState, list[float], float]], mode: str
):
    trials = [
        at(n, state, value if state is TrialState.COMPLETE else None, curve=curve)
        for n, (state, curve, value) in enumerate(drawn)
    ]
    found = tell(trials, Objective(mode=mode))
    for t in found:
        assert t.state is optuna.trial.TrialState.RUNNING or math.isfinite(t.value)
    unfinished = [dict(t.params) for t in trials if not t.is_finished]
    assert [t.params for t in found if t.state is optuna.trial.TrialState.RUNNING] == unfinished


def test_a_trial_of_a_conditional_space_has_only_its_own_coordinates():
    space = load_space("delays")
    common = {"gamma": 0.0, "step_size": 1.0, "beta3": 0.5, "decay": 1e-3}
    points = [
        {**common, "delay_family": "every", "delay_period": 10.0},
        {**common, "delay_family": "geometric", "delay": 2.0},
    ]
    trials = [trial(n, value=1.0, params=point) for n, point in enumerate(points)]
    found = as_frozen_trials(space, trials, distributions(space), Objective())
    assert [t.params for t in found] == points
    assert [t.distributions.keys() for t in found] == [point.keys() for point in points]
