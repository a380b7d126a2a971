"""The benchmark of the search (benchmarks/search): its surfaces, its simulator and the search it compares with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anon_tune.search.coordinates import optimizer_arguments
from benchmarks.search.former import Former, former_space
from benchmarks.search.interpolation import Process, capped
from benchmarks.search.record import COORDINATES
from benchmarks.search.simulator import simulate
from benchmarks.search.slots import LAWS, NO_LIMIT, plan, simulate_slots
from benchmarks.search.surfaces import Recorded, Simulated, load_surfaces

FORMULAS = [surface for surface in load_surfaces().values() if isinstance(surface, Simulated)]
RECORDED = [surface for surface in load_surfaces().values() if isinstance(surface, Recorded)]


def optimum(surface: Simulated) -> dict[str, float]:
    """Search coordinates of a formula's best configuration."""
    names = ("beta3", "delay", "decay")
    others = {}
    for name, u in zip(names, surface.best_others, strict=True):
        low, high, log = COORDINATES[name]
        others[name] = low * (high / low) ** u if log else low + u * (high - low)
    return {"gamma": surface.best_gamma, "step_size": surface.best_step, **others}


def arguments(surface: Simulated | Recorded, point: dict[str, float]) -> dict:
    return optimizer_arguments(former_space("default"), point, surface.log_mean_sigma)


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda surface: surface.name)
@pytest.mark.parametrize("seed", range(6))
def test_a_formula_is_best_at_its_optimum(formula: Simulated, seed: int) -> None:
    surface = formula.instance(seed)
    best = optimum(surface)
    assert surface.final(arguments(surface, best)) == pytest.approx(surface.best)
    for name, change in {
        "gamma": 0.2,
        "step_size": 0.1 * best["step_size"],
        "beta3": -0.2,
        "delay": 1.0,
    }.items():
        for sign in (-1, 1):
            moved = {**best, name: best[name] + sign * change}
            assert surface.final(arguments(surface, moved)) > surface.best


def test_the_same_seed_gives_the_same_instance() -> None:
    for formula in FORMULAS:
        assert formula.instance(3) == formula.instance(3)
    asymmetric = load_surfaces()["asym"]
    assert asymmetric.instance(0) != asymmetric.instance(1)


def test_the_loss_rises_faster_on_one_side_and_ends_in_a_cliff() -> None:
    surface = load_surfaces()["asym"].instance(0)
    assert isinstance(surface, Simulated)
    best = optimum(surface)
    # Along the ridge, where the step size moves with gamma.
    at = [
        surface.final(
            arguments(
                surface,
                {**best, "gamma": best["gamma"] + off, "step_size": best["step_size"] * 10 ** (0.25 * off)},
            )
        )
        for off in (-0.3, 0.3)
    ]
    assert math.log(at[1] / surface.best) > 5 * math.log(at[0] / surface.best)
    assert surface.final(arguments(surface, {**best, "step_size": 2.1 * best["step_size"]})) == math.inf


@pytest.mark.parametrize("surface", RECORDED, ids=lambda surface: surface.name)
def test_units_of_a_recording_and_of_the_search(surface: Recorded) -> None:
    """A recorded point, written as arguments of the optimizer, is found at its place again."""
    for unit in surface.unit[:5]:
        point = {}
        for u, (name, (low, high, log)) in zip(unit, COORDINATES.items(), strict=True):
            point[name] = low * (high / low) ** u if log else low + u * (high - low)
        searched = surface.in_search(unit[None])[0]
        for column, name in {1: "step_size", 4: "decay"}.items():
            low, high, _ = COORDINATES[name]
            point[name] = low * (high / low) ** searched[column]
        assert surface.place(arguments(surface, point)) == pytest.approx(unit, abs=1e-9)


def test_gammas_beyond_the_recording_count_as_its_last() -> None:
    surface = RECORDED[0]
    common = {"step_size": 1.0, "beta3": 0.5, "delay": 2.0, "decay": 1e-3}
    places = [surface.place(arguments(surface, {"gamma": gamma, **common})) for gamma in (1.5, 1.7)]
    assert places[0] == pytest.approx(places[1])


def test_the_gaussian_process_follows_its_data() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((80, 2))
    losses = np.sin(3 * points[:, :1]) + 0.3 * points[:, 1:] + np.array([[0.5, 0.0]])  # two epochs
    process = Process(points, losses, restarts=0)
    asked = rng.random((20, 2))
    truth = np.sin(3 * asked[:, 0]) + 0.3 * asked[:, 1]
    low = truth < losses[:, -1].min() + 0.8
    assert process.predict(asked)[low, 1] == pytest.approx(truth[low], abs=0.05)
    assert process.predict(asked)[low, 0] == pytest.approx(truth[low] + 0.5, abs=0.05)


def test_losses_are_capped_by_epoch() -> None:
    assert capped(np.array([[1.0, 0.0], [1.5, 3.0]])).tolist() == [[1.0, 0.0], [1.5, 1.0]]


def test_a_search_is_reproducible_and_recommends_a_complete_trial() -> None:
    surface = load_surfaces()["simulated, gamma* 1.1"]

    def searched() -> list:
        policy = Former("default", surface.log_mean_sigma, seed=2)
        *_, (trials, spent) = simulate(surface, policy, trials=10, seed=2)
        assert spent == sum(len(trial.reports) for trial in trials)
        assert policy.recommended(trials) in [
            trial.hyperparameters for trial in trials if trial.value is not None
        ]
        return trials

    first = searched()
    assert [trial.value for trial in first] == [trial.value for trial in searched()]
    assert first[0].params == former_space("default").complete([0.5] * 5, {})


def test_slots_do_not_idle_where_all_trials_take_as_long() -> None:
    for arms in (("anon", "adamw", "sgd"), ("anon",)):
        idle, _, length = simulate_slots(plan(arms), 4, LAWS["equal"], seed=0)
        assert idle == 0
        assert length == 5 * len(arms)


def test_slots_idle_while_a_straggler_is_waited_for() -> None:
    waiting, free = (
        np.mean([simulate_slots(plan(("anon",), lag), 4, LAWS["stragglers"], seed)[0] for seed in range(5)])
        for lag in (2, NO_LIMIT)
    )
    assert waiting > 0.1
    assert free == pytest.approx(0.0)
