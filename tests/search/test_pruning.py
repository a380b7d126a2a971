"""Early stopping: decisions from the reports alone, as a study that never stopped would make them."""

from __future__ import annotations

import dataclasses
import math
import random

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import SuccessiveHalvingPruner

from anon_tune.records import Trial, TrialState
from anon_tune.search.pruning import NEVER_STOPPED, should_prune
from anon_tune.spec import Objective, Search
from tests.builders import reports, trial
from tests.search.spaces import LINE

RUNNING = TrialState.RUNNING


def curve(rng: random.Random, length: int) -> list[float]:
    level, speed = rng.uniform(0.1, 2), rng.uniform(0.1, 1)
    values = [level * (1 + math.exp(-speed * step)) + rng.gauss(0, 0.1) for step in range(length)]
    if rng.random() < 0.2:  # it diverges somewhere
        values[rng.randrange(length) :] = [math.nan]
    return values


def of_one_shape(rng: random.Random, shape: list[int], mode: str) -> list[float]:
    """The shape at a level of its own, times which (losses) or to which (scores) it is."""
    level = rng.randint(1, 64) / 32
    values = [level * 2.0**step if mode == "min" else level + step for step in shape]
    if rng.random() < 0.2:  # it diverges somewhere
        values[rng.randrange(len(shape)) :] = [math.nan]
    return values


searches = st.builds(
    Search,
    pruner=st.just("asha"),
    grace=st.integers(1, 4),
    reduction=st.integers(2, 4),
)


@settings(max_examples=80)
@given(
    searches,
    st.sampled_from(["min", "max"]),
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(1, 14),
    st.booleans(),
)
def test_decisions_are_those_of_a_live_study(
    search: Search, mode: str, seed: int, at_once: int, length: int, one_shape: bool
):
    """Where all curves have one shape, or none is complete, the forecasts have the order of the reports."""
    rng = random.Random(seed)
    shape = [rng.randint(-2, 2) for _ in range(length)]
    end = TrialState.COMPLETE if one_shape else TrialState.FAILED
    pruner = SuccessiveHalvingPruner(min_resource=search.grace, reduction_factor=search.reduction)
    live = optuna.create_study(pruner=pruner, direction="minimize" if mode == "min" else "maximize")
    curves = [of_one_shape(rng, shape, mode) if one_shape else curve(rng, length) for _ in range(12)]
    asked: list[optuna.Trial] = []
    mirror: list[Trial] = []
    while len(asked) < len(curves) or any(t.state is RUNNING for t in mirror):
        running = [place for place, t in enumerate(mirror) if t.state is RUNNING]
        if len(running) < at_once and len(asked) < len(curves):
            asked.append(live.ask())
            number = NEVER_STOPPED + len(mirror)  # those before are never stopped
            mirror.append(trial(number, RUNNING, params={"gamma": rng.random()}))
            continue
        place = rng.choice(running)
        now = mirror[place]
        step = len(now.reports) + 1
        value = curves[place][step - 1]
        asked[place].report(value, step)
        now = dataclasses.replace(now, reports=reports(curves[place][:step]))
        # A trial that diverges ends there, and nobody asks.
        expected = not math.isnan(value) and asked[place].should_prune()
        if not math.isnan(value):
            others = [*mirror[:place], *mirror[place + 1 :]]
            assert should_prune(LINE, now, others, search, Objective(mode=mode)) == expected
        if math.isnan(value):
            live.tell(asked[place], state=optuna.trial.TrialState.FAIL)
            now = dataclasses.replace(now, state=TrialState.DIVERGED)
        elif step == length:
            live.tell(asked[place], value)
            now = dataclasses.replace(now, state=end, value=value if end is TrialState.COMPLETE else None)
        elif expected:
            live.tell(asked[place], state=optuna.trial.TrialState.PRUNED)
            now = dataclasses.replace(now, state=TrialState.PRUNED)
        mirror[place] = now


def complete(number: int, values: list[float]) -> Trial:
    return trial(number, value=values[-1], curve=values)


@pytest.mark.parametrize("pruner", ["asha", "median"])
@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_pruning_stops_the_worst_and_keeps_the_best(pruner: str, mode: str, sign: float):
    search = Search(pruner=pruner, grace=2)
    others = [complete(n, [sign * (1 + n / 10)] * 9) for n in range(6)]
    best, worst = (trial(9, RUNNING, curve=[sign * level] * 2) for level in (0.5, 5.0))
    assert not should_prune(LINE, best, others, search, Objective(mode=mode))
    assert should_prune(LINE, worst, others, search, Objective(mode=mode))


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_nothing_is_stopped_before_its_grace(pruner: str):
    others = [complete(n, [1.0] * 9) for n in range(6)]
    for length in range(4):
        young = trial(9, RUNNING, curve=[9.0] * length)
        assert not should_prune(LINE, young, others, Search(pruner=pruner, grace=4), Objective())
    old = trial(9, RUNNING, curve=[9.0] * 4)
    assert should_prune(LINE, old, others, Search(pruner=pruner, grace=4), Objective())


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_the_first_trials_are_run_to_their_end(pruner: str):
    """What is learnt from survivors alone favours their like."""
    others = [complete(n, [1.0] * 9) for n in range(20, 40)]
    for number in range(NEVER_STOPPED + 1):
        bad = trial(number, RUNNING, curve=[9.0] * 4)
        stopped = should_prune(LINE, bad, others, Search(pruner=pruner, grace=4), Objective())
        assert stopped == (number == NEVER_STOPPED)


def test_no_pruner_stops_nothing():
    others = [complete(n, [1.0] * 9) for n in range(6)]
    assert not should_prune(
        LINE, trial(9, RUNNING, curve=[9.0] * 8), others, Search(pruner="none"), Objective()
    )


@pytest.mark.parametrize("pruner", ["asha", "median"])
@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.COMPLETE])
def test_trials_that_ended_badly_stop_no_decision(pruner: str, state: TrialState):
    """Among them trials whose last value is NaN, and trials without any report."""
    others = [
        trial(0, state, curve=[1.0, math.nan]),
        trial(1, state, curve=[math.nan]),
        trial(2, state),
        *(complete(n, [1.0] * 9) for n in range(3, 8)),
    ]
    search = Search(pruner=pruner, grace=1)
    assert should_prune(LINE, trial(9, RUNNING, curve=[5.0, 5.0, 5.0]), others, search, Objective())
    assert not should_prune(LINE, trial(9, RUNNING, curve=[0.5, 0.5, 0.5]), others, search, Objective())
