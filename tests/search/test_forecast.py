"""Where trials end, learnt from those that were run to the end."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anon_tune.records import Report, Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search.pruning import should_prune
from anon_tune.spec import Objective, Search
from tests.builders import EPOCH, trial
from tests.search.spaces import LINE

RUNNING = TrialState.RUNNING
LENGTH = 9
LINEAR = Objective(scale="linear")


def ended(number: int, curve: list[float], gamma: float = 0.5) -> Trial:
    return trial(number, value=curve[-1], curve=curve, params={"gamma": gamma})


def running(curve: list[float], gamma: float = 0.5, number: int = 99) -> Trial:
    return trial(number, RUNNING, curve=curve, params={"gamma": gamma})


@pytest.mark.parametrize(
    ("objective", "scaled"),
    [
        (Objective(), [math.log(0.5), math.log(0.1)]),
        (Objective(metric="accuracy", mode="max"), [math.log(0.5), math.log(0.9)]),
        (LINEAR, [0.5, 0.1]),
        (Objective(metric="reward", mode="max"), [-0.5, -0.1]),
    ],
    ids=["loss", "accuracy", "linear", "reward"],
)
def test_a_complete_trial_ends_at_its_value_on_the_scale(objective: Objective, scaled: list[float]):
    trials = [trial(n, value=value, curve=[0.7, 0.6]) for n, value in enumerate([0.5, 0.1])]
    forecast = Forecast(LINE, trials, objective)
    assert [forecast.final(t) for t in trials] == pytest.approx(scaled)


def test_the_end_of_the_scale_is_placed_by_what_was_seen():
    """A loss of 0 counts as half the smallest that any report has."""
    trials = [ended(0, [4.0, 2.0]), running([0.5]), trial(2, value=0.0)]
    assert Forecast(LINE, trials, Objective()).final(trials[2]) == pytest.approx(math.log(0.25))


def test_without_a_complete_trial_the_forecast_is_the_last_report():
    forecast = Forecast(LINE, [running([4.0, 3.0])], Objective())
    assert forecast.final(running([4.0, 3.0])) == math.log(3.0)
    assert forecast.final(running([4.0, 3.0]), step=1) == math.log(4.0)


@pytest.mark.parametrize("curve", [[], [math.nan], [1.0, math.inf]])
def test_a_trial_without_a_finite_report_says_nothing(curve: list[float]):
    assert Forecast(LINE, [ended(0, [4.0, 2.0])], Objective()).final(running(curve)) is None


def test_a_step_that_a_trial_did_not_reach_says_nothing():
    trials = [ended(0, [4.0, 2.0, 1.0])]
    assert Forecast(LINE, trials, Objective()).final(running([3.0]), step=2) is None


def test_with_few_complete_trials_the_forecast_is_the_median_change():
    trials = [ended(0, [1.0, -2.0]), ended(1, [1.0, 0.5]), ended(2, [1.0, 0.9])]
    assert Forecast(LINE, trials, LINEAR).final(running([5.0], gamma=1.0)) == pytest.approx(4.5)


def test_the_change_depends_on_the_place_in_the_space():
    trials = [ended(n, [2.0, 2.0 - g], gamma=g) for n, g in enumerate(np.linspace(0, 1, 40))]
    trials.append(ended(40, [0.0, 0.0], gamma=0.0))
    forecast = Forecast(LINE, trials, LINEAR)
    ends = [forecast.final(running([2.0], gamma=g)) for g in (0.1, 0.5, 0.9)]
    assert ends == pytest.approx([1.9, 1.5, 1.1], abs=0.1)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=12),
    st.floats(0, 1),
    st.floats(-1e6, 1e6),
    st.sampled_from(["min", "max"]),
)
def test_a_forecast_change_stays_within_the_observed_changes(
    past: list[tuple[float, float, float]], gamma: float, last: float, mode: str
):
    trials = [ended(n, [first, final], gamma=g) for n, (g, first, final) in enumerate(past)]
    new = running([last], gamma=gamma)
    forecast = Forecast(LINE, [*trials, new], Objective(mode=mode, scale="linear"))
    changes = [forecast.scaled(final) - forecast.scaled(first) for _, first, final in past]
    found = forecast.final(new)
    assert found is not None
    change = found - forecast.scaled(last)
    assert min(changes) - 1e-9 * abs(last) <= change + 1e-9
    assert change <= max(changes) + 1e-9 * abs(last) + 1e-9


@pytest.mark.parametrize("mode", ["min", "max"])
def test_numbers_that_overflow_are_not_an_error(mode: str):
    trials = [ended(n, [(-1.0) ** n * 1e307, 0.0, n / 10], gamma=n / 9) for n in range(9)]
    found = Forecast(LINE, trials, Objective(mode=mode, scale="linear")).final(running([1e307]))
    assert found is None or math.isfinite(found)


def at(steps: Mapping[int, float], plain: Trial) -> Trial:
    """A trial with reports at these steps."""
    return dataclasses.replace(plain, reports=tuple(Report(step, v, {}, EPOCH) for step, v in steps.items()))


def test_reports_may_leave_steps_out():
    """Between its reports a trial is compared by a value between theirs: here halfway, on the logarithm of steps."""
    sparse = dataclasses.replace(at({1: 8.0, 4: 1.0}, ended(0, [0.0])), value=-1.0)
    forecast = Forecast(LINE, [sparse], LINEAR)
    assert forecast.final(running([5.0, 5.0])) == pytest.approx(5.0 - (4.5 - -1.0))
    assert forecast.final(running([5.0, 5.0, 5.0, 5.0])) == pytest.approx(5.0 - 2.0)


def test_a_complete_trial_keeps_its_last_report():
    """It may have ended early, or its last report may lie before the end."""
    early = dataclasses.replace(at({10: 4.0, 90: 2.0}, ended(0, [0.0])), value=1.5)
    assert Forecast(LINE, [early], LINEAR).final(at({100: 3.0}, running([]))) == pytest.approx(2.5)
    running_still = at({10: 4.0, 90: 2.0}, running([], number=5))
    assert Forecast(LINE, [early], LINEAR).final(running_still, step=100) is None


def test_before_the_first_report_of_every_complete_trial_there_is_no_forecast():
    late = at({90: 2.0, 100: 1.0}, ended(0, [1.0]))
    assert Forecast(LINE, [late], LINEAR).final(at({10: 3.0}, running([]))) is None
    both = [late, at({5: 4.0, 100: 1.0}, ended(1, [1.0]))]
    assert Forecast(LINE, both, LINEAR).final(at({10: 3.0}, running([]))) is not None


def test_between_reports_nothing_is_assumed_of_a_value_that_is_not_finite():
    odd = at({10: 2.0, 50: math.nan, 100: 1.0}, ended(0, [1.0]))
    assert Forecast(LINE, [odd], LINEAR).final(at({20: 3.0}, running([]))) is None
    assert Forecast(LINE, [odd], LINEAR).final(at({10: 3.0}, running([]))) == pytest.approx(2.0)


def power_law(gamma: float, steps: Sequence[int], length: int = 2000) -> dict[int, float]:
    """A loss that falls as a power of the steps to 1 at the length, at a speed that depends on gamma."""
    return {step: (step / length) ** -(0.2 + 0.4 * gamma) for step in steps}


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_trials_that_report_at_other_steps_are_compared_at_equal_ones(pruner: str):
    """The same curve at other steps is not behind, and the same curve at three times the loss is."""
    rng = random.Random(0)
    past = [
        at(
            power_law(gamma, range(rng.choice([50, 90, 130]), 2001, rng.choice([150, 400]))),
            ended(n, [1.0], gamma),
        )
        for n, gamma in enumerate(rng.random() for _ in range(16))
    ]
    search = Search(pruner=pruner, grace=200)
    for last in (201, 333, 410, 701, 1333, 1990):
        good = at(power_law(0.5, range(101, last, 150)) | power_law(0.5, [last]), running([], number=40))
        forecast = Forecast(LINE, [*past, good], Objective())
        assert forecast.final(good) == pytest.approx(0.0, abs=0.05)
        assert not should_prune(LINE, good, past, search, Objective())
        bad = dataclasses.replace(
            good, reports=tuple(dataclasses.replace(r, value=3 * r.value) for r in good.reports)
        )
        assert should_prune(LINE, bad, past, Search(pruner="median", grace=200), Objective())


def test_a_rung_is_judged_among_the_trials_that_reached_it():
    """A running trial that has passed the rung counts with its newest report, if it is not yet as far."""
    ahead = [at({200: 1.0 + n / 10, 260: 1.0 + n / 10}, running([], number=20 + n)) for n in range(5)]
    behind = [at({150: 0.1}, running([], number=30 + n)) for n in range(5)]
    search = Search(pruner="asha", grace=200)
    worst, best = (at({100: v, 300: v}, running([], number=40)) for v in (9.0, 0.5))
    assert should_prune(LINE, worst, [*ahead, *behind], search, Objective())
    assert not should_prune(LINE, best, [*ahead, *behind], search, Objective())


# Curves that cross


def crossing(gamma: float, rng: random.Random, mode: str = "min") -> list[float]:
    """The higher gamma, the better in the beginning and the worse in the end."""
    curve = [
        math.exp(-gamma * (1 - step / 4) - step / 9 + rng.gauss(0, 0.02)) for step in range(1, LENGTH + 1)
    ]
    return curve if mode == "min" else [1 - value / 3 for value in curve]


@pytest.mark.parametrize("pruner", ["asha", "median"])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("seed", range(3))
def test_pruning_keeps_what_ends_best_where_curves_cross(pruner: str, mode: str, seed: int):
    rng = random.Random(seed)
    search = Search(pruner=pruner, grace=1, reduction=2)
    past = [ended(n, crossing(n / 11, rng, mode), gamma=n / 11) for n in range(12)]
    low, high = crossing(0.1, rng, mode), crossing(0.9, rng, mode)
    sign = 1.0 if mode == "min" else -1.0
    assert sign * (high[0] - low[0]) < 0 < sign * (high[-1] - low[-1])  # they cross

    slow, fast = running(low[:1], 0.1, 20), running(high[:1], 0.9, 21)
    assert not should_prune(LINE, slow, past, search, Objective(mode=mode))
    assert should_prune(LINE, fast, past, search, Objective(mode=mode))
    forecast = Forecast(LINE, [*past, slow, fast], Objective(mode=mode))
    ends = [forecast.final(slow), forecast.final(fast)]
    assert ends == pytest.approx([forecast.scaled(low[-1]), forecast.scaled(high[-1])], abs=0.35)

    if pruner == "median":
        return
    # By the reports alone it would be the other way round.
    unknown = [dataclasses.replace(t, state=TrialState.FAILED, value=None) for t in past]
    assert should_prune(LINE, slow, unknown, search, Objective(mode=mode))
    assert not should_prune(LINE, fast, unknown, search, Objective(mode=mode))
