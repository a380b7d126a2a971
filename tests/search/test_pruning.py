"""Early stopping: decisions from the reports alone are those of a study that never stopped."""

from __future__ import annotations

import dataclasses
import math
import random

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner

from anon_tune.records import Trial, TrialState
from anon_tune.search.pruning import should_prune
from anon_tune.spec import Search
from tests.builders import reports, trial

RUNNING = TrialState.RUNNING


def live_pruner(search: Search) -> optuna.pruners.BasePruner:
    if search.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=search.grace, reduction_factor=search.reduction)
    return MedianPruner(n_startup_trials=4, n_warmup_steps=search.grace)


def curve(rng: random.Random, length: int) -> list[float]:
    level, speed = rng.uniform(0.1, 2), rng.uniform(0.1, 1)
    values = [level * (1 + math.exp(-speed * step)) + rng.gauss(0, 0.1) for step in range(length)]
    if rng.random() < 0.2:  # it diverges somewhere
        values[rng.randrange(length) :] = [math.nan]
    return values


searches = st.builds(
    Search,
    pruner=st.sampled_from(["asha", "median"]),
    grace=st.integers(1, 4),
    reduction=st.integers(2, 4),
)


@settings(deadline=None, max_examples=40)
@given(
    searches, st.sampled_from(["min", "max"]), st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 14)
)
def test_decisions_are_those_of_a_live_study(search: Search, mode: str, seed: int, at_once: int, length: int):
    rng = random.Random(seed)
    live = optuna.create_study(
        pruner=live_pruner(search), direction="minimize" if mode == "min" else "maximize"
    )
    curves = [curve(rng, length) for _ in range(12)]
    asked: list[optuna.Trial] = []
    mirror: list[Trial] = []
    while len(asked) < len(curves) or any(t.state is RUNNING for t in mirror):
        running = [t.number for t in mirror if t.state is RUNNING]
        if len(running) < at_once and len(asked) < len(curves):
            asked.append(live.ask())
            mirror.append(trial(len(mirror), RUNNING))
            continue
        number = rng.choice(running)
        now = mirror[number]
        step = len(now.reports) + 1
        value = curves[number][step - 1]
        asked[number].report(value, step)
        now = dataclasses.replace(now, reports=reports(curves[number][:step]))
        # A trial that diverges ends there, and nobody asks.
        expected = not math.isnan(value) and asked[number].should_prune()
        if not math.isnan(value):
            assert should_prune(now, [t for t in mirror if t.number != number], search, mode) == expected
        if math.isnan(value):
            live.tell(asked[number], state=optuna.trial.TrialState.FAIL)
            now = dataclasses.replace(now, state=TrialState.DIVERGED)
        elif step == length:
            live.tell(asked[number], value)
            now = dataclasses.replace(now, state=TrialState.COMPLETE, value=value)
        elif expected:
            live.tell(asked[number], state=optuna.trial.TrialState.PRUNED)
            now = dataclasses.replace(now, state=TrialState.PRUNED)
        mirror[number] = now


def complete(number: int, values: list[float]) -> Trial:
    return trial(number, value=values[-1], curve=values)


@pytest.mark.parametrize("pruner", ["asha", "median"])
@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_the_worst_is_stopped_and_the_best_goes_on(pruner: str, mode: str, sign: float):
    search = Search(pruner=pruner, grace=2)
    others = [complete(n, [sign * (1 + n / 10)] * 9) for n in range(6)]
    best, worst = (trial(9, RUNNING, curve=[sign * level] * 2) for level in (0.5, 5.0))
    assert not should_prune(best, others, search, mode)
    assert should_prune(worst, others, search, mode)


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_nothing_is_stopped_before_its_grace(pruner: str):
    others = [complete(n, [1.0] * 9) for n in range(6)]
    for length in range(4):
        assert not should_prune(
            trial(9, RUNNING, curve=[9.0] * length), others, Search(pruner=pruner, grace=4), "min"
        )
    assert should_prune(trial(9, RUNNING, curve=[9.0] * 4), others, Search(pruner=pruner, grace=4), "min")


def test_no_pruner_stops_nothing():
    others = [complete(n, [1.0] * 9) for n in range(6)]
    assert not should_prune(trial(9, RUNNING, curve=[9.0] * 8), others, Search(pruner="none"), "min")


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
    assert should_prune(trial(9, RUNNING, curve=[5.0, 5.0, 5.0]), others, search, "min")
    assert not should_prune(trial(9, RUNNING, curve=[0.5, 0.5, 0.5]), others, search, "min")
