"""What is suggested: points to try first, Sobol points, then what a sampler or a grid says."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

from anon_tune.errors import InputError
from anon_tune.records import Trial, TrialState
from anon_tune.search import study
from anon_tune.search.study import GP_TRIALS, STARTUP_TRIALS, distributions, sampler_of, suggest
from anon_tune.search.training_data import as_frozen_trials
from anon_tune.search_spaces import Space, load_space
from anon_tune.spec import Objective, Search
from tests.builders import trial
from tests.search.spaces import LINE, MIXED, anon_space

DOMAIN = distributions(MIXED)
DELAYS = load_space("delays")
LEARNING = ("botorch", "gp", "tpe")
SAMPLERS = (*LEARNING, "random", "grid")


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
    ("sampler", "mode"),
    [("botorch", "min"), ("gp", "max"), ("tpe", "min"), ("tpe", "max"), ("random", "min")],
)
def test_the_same_trials_give_the_same_suggestion(sampler: str, mode: str):
    trials = [*past(12), at(12, TrialState.RUNNING)]
    search = Search(sampler=sampler, seed=5)
    first, again = (suggest(MIXED, trials, 13, search, "anon", Objective(mode=mode)) for _ in range(2))
    assert first == again
    assert first not in [dict(t.params) for t in trials]
    assert first.keys() == MIXED.parameters.keys()
    assert all(DOMAIN[name]._contains(DOMAIN[name].to_internal_repr(value)) for name, value in first.items())


@pytest.mark.parametrize("sampler", [*LEARNING, "random"])
@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.COMPLETE])
def test_a_search_goes_on_when_every_trial_ended_alike(sampler: str, state: TrialState):
    trials = past(STARTUP_TRIALS, state)
    point = suggest(MIXED, trials, STARTUP_TRIALS, Search(sampler=sampler), "anon", Objective())
    assert point.keys() == MIXED.parameters.keys()


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_sampler_learns(sampler: str):
    """Told a bowl with its best at gamma 0.5, it looks nearer to it than chance (0.5 on average) would."""
    trials = [
        trial(n, value=(t - 0.5) ** 2, params={"gamma": t, "step_size": 0.01 * 1.3**n, "delay": 2.0})
        for n, t in enumerate([-0.4, -0.1, 0.1, 0.3, 0.6, 0.8, 1.0, 1.2, 1.4, 0.45, 0.55])
    ]
    points = [
        suggest(MIXED, trials, len(trials), Search(sampler=sampler, seed=seed), "anon", Objective())["gamma"]
        for seed in range(2)
    ]
    assert sum(abs(gamma - 0.5) for gamma in points) / len(points) < 0.25


def test_arms_and_numbers_have_streams_of_their_own():
    search = Search(sampler="random")
    points = [
        suggest(MIXED, [], n, search, arm, Objective())["gamma"]
        for n in range(3)
        for arm in ("anon", "adamw")
    ]
    assert len(set(points)) == len(points)


def search_of(
    space: Space, search: Search, count: int, outcome: Any = None, arm: str = "anon", mode: str = "min"
) -> list[Trial]:
    """So many trials as they are suggested, each COMPLETE with the outcome of its parameters."""
    trials: list[Trial] = []
    for number in range(count):
        params = suggest(space, trials, number, search, arm, Objective(mode=mode))
        trials.append(trial(number, value=outcome(params) if outcome else 1.0, params=params, arm=arm))
    return trials


# What comes back from badly behaved trials


@pytest.mark.parametrize("sampler", LEARNING)
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "trials",
    [
        [at(0, value=0.5)],
        [at(n, value=0.5) for n in range(9)],
        [at(n, TrialState.DIVERGED, curve=[math.inf]) for n in range(9)],
        [at(n, TrialState.PRUNED, curve=[1.0, math.nan]) for n in range(9)],
        [*(at(n, value=1.0 + n, curve=[1e300, math.nan, 1.0]) for n in range(8)), at(8, TrialState.RUNNING)],
        [at(n, value=(-1.0) ** n * 1e300, curve=[1e307, -1e307]) for n in range(9)],
        [*(at(n, value=0.0) for n in range(8)), at(8, TrialState.PRUNED, curve=[-math.inf])],
        [at(n, value=math.nan if n % 2 else 1.0 + n) for n in range(9)],
    ],
    ids=["one", "equal", "all inf", "pruned at NaN", "huge", "huge of both signs", "-inf", "NaN as a value"],
)
def test_no_report_makes_a_sampler_fail(sampler: str, mode: str, trials: list[Trial]):
    search = Search(sampler=sampler)
    point = suggest(MIXED, trials, STARTUP_TRIALS + 1, search, "anon", Objective(mode=mode))
    assert MIXED.problems_of(point) == []
    assert point.keys() == MIXED.parameters.keys()
    assert point not in [t.params for t in trials]


# Conditional spaces


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_a_conditional_space_a_point_has_what_exists_there(sampler: str):
    trials = search_of(DELAYS, Search(sampler=sampler, levels=3), 20, lambda p: 1.0 + p["gamma"] ** 2)
    families = set()
    for t in trials:
        assert t.params.keys() == {n for n in DELAYS.parameters if DELAYS.active(n, t.params)}
        assert DELAYS.problems_of(t.params) == []
        families.add(t.params["delay_family"])
        if "delay_period" in t.params:
            assert t.params["delay_period"].is_integer()
    assert families == {"geometric", "polynomial", "every"}


def test_a_gaussian_process_gives_way_to_tpe_where_it_cannot_follow():
    for name in ("botorch", "gp"):
        search = Search(sampler=name)
        assert sampler_of(MIXED, search, GP_TRIALS) == name
        assert sampler_of(MIXED, search, GP_TRIALS + 1) == "tpe"
        assert sampler_of(DELAYS, search, 0) == "tpe"
    for sampler in ("tpe", "random", "grid"):
        for space in (MIXED, DELAYS):
            assert sampler_of(space, Search(sampler=sampler), GP_TRIALS + 1) == sampler


@pytest.mark.parametrize("count", [12, GP_TRIALS + 1])
def test_tpe_suggests_in_place_of_gp(count: int):
    trials = [trial(n, value=1.0 + n % 7, params={"gamma": n / 400}) for n in range(count)]
    by_gp, by_tpe = (
        suggest(LINE, trials, count, Search(sampler=s), "anon", Objective()) for s in ("gp", "tpe")
    )
    assert (by_gp == by_tpe) == (count > GP_TRIALS)


# A grid

GRIDS = [
    (LINE, 4, 4),
    (MIXED, 3, 3 * 3 * 3),
    (anon_space({"gamma": {"choices": [0, 1]}, "step_size": {"low": 1, "high": 4, "log": True}}), 3, 6),
    (anon_space({"gamma": {"low": 1, "high": 3, "integer": True}}), 5, 3),  # five levels are three numbers
    (DELAYS, 2, 2**3 * 2**1 * 3 * 2),
]


@pytest.mark.parametrize(("space", "levels", "size"), GRIDS, ids=["line", "mixed", "log", "whole", "delays"])
def test_a_grid_has_every_point_once(space: Space, levels: int, size: int):
    size = min(size, 40)
    trials = search_of(space, Search(sampler="grid", levels=levels), size)
    points = {tuple(sorted(t.params.items())) for t in trials}
    assert len(points) == size
    assert points <= {tuple(sorted(point.items())) for point in space.on_grid(levels).points()}
    for name, domain in space.parameters.items():
        if size < 40 and hasattr(domain, "low"):
            found = {t.params[name] for t in trials if name in t.params}
            assert (min(found), max(found)) == (domain.low, domain.high)


def test_the_order_of_a_grid_is_by_chance_and_of_the_seed_and_the_arm():
    orders = {
        (seed, arm): tuple(
            t.params["gamma"]
            for t in search_of(LINE, Search(sampler="grid", levels=9, seed=seed), 9, arm=arm)
        )
        for seed in range(3)
        for arm in ("anon", "adamw")
    }
    assert len({tuple(sorted(order)) for order in orders.values()}) == 1
    assert len(set(orders.values())) == 6
    assert all(order not in (tuple(sorted(order)), tuple(sorted(order))[::-1]) for order in orders.values())


def test_beyond_a_grid_of_a_finite_space_nothing_is_left():
    space = anon_space({"gamma": {"choices": [0, 1, 2]}})
    trials = search_of(space, Search(sampler="grid"), 3)
    with pytest.raises(InputError, match="no untried configuration left after 3 trials"):
        suggest(space, trials, 3, Search(sampler="grid"), "anon", Objective())


# Points to try first


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_points_to_try_first_come_first_and_once(sampler: str):
    points = [
        {"gamma": 0.25, "step_size": 0.1, "delay": 4.0},
        {"gamma": 1.5, "step_size": 10.0, "delay": 2.0},  # on the grid
    ]
    search = Search(sampler=sampler, levels=2, try_first={"anon": points, "adamw": [{"lr": 1.0}]})
    trials = search_of(MIXED, search, 12, lambda p: 1.0 + p["gamma"] ** 2)
    assert [t.params for t in trials[:2]] == points
    assert all(t.params not in points for t in trials[2:])
    assert len({tuple(sorted(t.params.items())) for t in trials}) == 12


def test_points_to_try_first_take_no_place_of_the_grid():
    points = [{"gamma": 0.3}, {"gamma": 1.0}]
    search = Search(sampler="grid", levels=5, try_first={"anon": points})
    trials = search_of(LINE, search, 6)
    assert [t.params for t in trials[:2]] == points
    assert sorted(t.params["gamma"] for t in trials[2:]) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.FAILED, TrialState.DIVERGED])
def test_a_point_is_not_tried_again_after_a_restart(sampler: str, state: TrialState):
    points = [{"gamma": 0.25}, {"gamma": 0.75}]
    search = Search(sampler=sampler, try_first={"anon": points})
    trials = [trial(0, state, params=points[0])]
    assert suggest(LINE, trials, 1, search, "anon", Objective()) == points[1]
    trials.append(trial(1, state, params=points[1]))
    assert suggest(LINE, trials, 2, search, "anon", Objective()) not in points


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_missing_coordinates_of_a_point_are_filled_in(sampler: str):
    search = Search(sampler=sampler, seed=3, try_first={"anon": [{"gamma": 0.25}, {"gamma": 0.5}]})
    first = suggest(MIXED, [], 0, search, "anon", Objective())
    assert first == suggest(MIXED, [], 0, search, "anon", Objective())
    assert first["gamma"] == 0.25
    assert first.keys() == MIXED.parameters.keys()
    assert MIXED.problems_of(first) == []
    second = suggest(MIXED, [trial(0, params=first)], 1, search, "anon", Objective())
    assert second["gamma"] == 0.5
    assert second["step_size"] != first["step_size"]
    other = suggest(MIXED, [], 0, search.model_copy(update={"seed": 4}), "anon", Objective())
    assert other["step_size"] != first["step_size"]


def test_a_partial_point_of_a_conditional_space_gets_the_coordinates_of_its_family():
    search = Search(try_first={"anon": [{"delay_family": "every"}]})
    point = suggest(DELAYS, [], 0, search, "anon", Objective())
    assert point.keys() == {"gamma", "step_size", "beta3", "delay_family", "delay_period", "decay"}
    assert DELAYS.problems_of(point) == []
    assert point["delay_period"].is_integer()


# Points to start from

STARTED = MIXED.model_copy(update={"start": {"default": ({"gamma": 0.0}, {"gamma": 1.0, "step_size": 1.0})}})


@pytest.mark.parametrize("sampler", ["botorch", "gp", "tpe"])
def test_points_to_try_first_replace_the_spaces_own(sampler: str):
    own = search_of(STARTED, Search(sampler=sampler), STARTUP_TRIALS)
    assert [t.params["gamma"] for t in own[:3]] == [0.0, 1.0, 0.5]  # then the middle
    given = Search(sampler=sampler, try_first={"anon": [{"gamma": 0.25}]})
    users = search_of(STARTED, given, STARTUP_TRIALS)
    assert [t.params["gamma"] for t in users[:2]] == [0.25, 0.5]
    assert all(t.params["gamma"] not in (0.0, 1.0) for t in users)
    nothing = Search(sampler=sampler, try_first={"anon": []})
    assert [t.params for t in search_of(STARTED, nothing, STARTUP_TRIALS)] == [t.params for t in own]


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_baseline_samplers_ignore_the_start_points_of_the_space(sampler: str):
    plain, started = (
        search_of(space, Search(sampler=sampler, levels=3), STARTUP_TRIALS) for space in (MIXED, STARTED)
    )
    assert [t.params for t in started] == [t.params for t in plain]


@pytest.mark.parametrize("sampler", LEARNING)
def test_with_few_results_the_sobol_sequence_continues(sampler: str):
    """With a lag of 4, trials 4 and 5 know of one result at most."""
    search = Search(sampler=sampler)
    trials = search_of(MIXED, search, 6)
    hidden = suggest(MIXED, trials[:5], 5, search, "anon", Objective(), lag=4)
    assert hidden == suggest(MIXED, past(5), 5, search, "anon", Objective(), lag=4)
    assert hidden != trials[5].params


@pytest.mark.parametrize("sampler", LEARNING)
def test_results_within_the_lag_are_not_learnt_from(sampler: str):
    search = Search(sampler=sampler)
    trials = past(12, TrialState.COMPLETE)
    point = suggest(MIXED, trials, 12, search, "anon", Objective(), lag=4)
    for state in TrialState:
        other = [*trials[:8], *(dataclasses.replace(t, state=state, value=0.0) for t in trials[8:])]
        assert suggest(MIXED, other, 12, search, "anon", Objective(), lag=4) == point
    changed = [*(dataclasses.replace(t, value=-(t.value or 0.0)) for t in trials[:8]), *trials[8:]]
    assert suggest(MIXED, changed, 12, search, "anon", Objective(), lag=4) != point


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 1), st.integers(1, 3))
def test_no_configuration_is_ever_repeated(seed: int, firsts: int):
    space = anon_space({"gamma": {"choices": [0, 1, 2]}, "delay": {"low": 2, "high": 4, "integer": True}})
    points = [{"gamma": float(n), "delay": 3.0} for n in range(firsts)]
    for sampler in ("random", "tpe", "grid"):
        trials = search_of(space, Search(sampler=sampler, seed=seed, try_first={"anon": points}), 9)
        found = sorted((t.params["gamma"], t.params["delay"]) for t in trials)
        assert found == list(itertools.product([0.0, 1.0, 2.0], [2.0, 3.0, 4.0]))


def test_tpe_learns_from_the_best_and_the_latest_of_many(monkeypatch: pytest.MonkeyPatch):
    count, best = 1500, 7
    trials = [at(n % 60, value=1.0 - (n == best)) for n in range(count)]
    trials = [dataclasses.replace(t, number=n) for n, t in enumerate(trials)]
    heard: list[Trial] = []

    def tell(space: Space, told_of: Sequence[Trial], *rest: Any) -> list[FrozenTrial]:
        heard.extend(told_of)
        return as_frozen_trials(space, told_of, *rest)

    monkeypatch.setattr(study, "as_frozen_trials", tell)
    suggest(MIXED, trials, count, Search(sampler="tpe"), "anon", Objective())
    numbers = [t.number for t in heard]
    assert len(numbers) == 1000
    assert numbers == sorted(numbers)
    assert best in numbers
    assert set(range(count - 900, count)) <= set(numbers)
