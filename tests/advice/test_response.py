"""The response on surfaces whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from anon_tune.advice.response import FEWEST_TRIALS, respond, seed_deviation
from anon_tune.answer import Gamma
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.landscape import Landscape
from anon_tune.search.response import Response
from anon_tune.search.scale import Scale
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective
from tests.builders import trial
from tests.search.spaces import anon_space

SPACE = anon_space(
    {"gamma": {"low": -0.5, "high": 1.5}, "step_size": {"low": 0.1, "high": 10.0, "log": True}}
)
CHOICES = anon_space(
    {"gamma": {"choices": [1, 0, 0.5]}, "step_size": {"low": 0.1, "high": 10.0, "log": True}}
)
LOSS = Objective()

Cost = Callable[[float], float]


def sharp(gamma: float) -> float:
    return 1.5 * (gamma - 0.6) ** 2


def flat(gamma: float) -> float:
    return 0.0


def edge(gamma: float) -> float:
    return 0.6 * (1.5 - gamma) ** 2


def searched(
    cost: Cost, count: int = 30, noise: float = 0.03, space: Space = SPACE, seed: int = 0
) -> list[Trial]:
    """Trials of a search that has looked everywhere, and somewhat more at good step sizes."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        params = space.complete(rng.random(2).tolist(), {})
        off = math.log10(float(params["step_size"]))
        loss = math.exp(cost(float(params["gamma"])) + 0.5 * off**2 + noise * rng.normal())
        found.append(trial(number, value=loss, params=params))
    return found


def response(cost: Cost, objective: Objective = LOSS, space: Space = SPACE, **keys: object) -> Gamma:
    trials = searched(cost, space=space, **keys)  # type: ignore[arg-type]
    landscape = Landscape(space, trials, objective)
    return respond(landscape, space.parameters["gamma"], 0.5, None, Scale(objective))  # type: ignore[arg-type]


def test_a_sharp_optimum_is_found_and_the_others_are_priced():
    found = response(sharp)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.6 <= found.high
    assert found.high - found.low < 0.4
    assert found.enough
    (low, high), *_ = found.indistinguishable
    assert low <= 0.6 <= high
    sgd, adam = found.costs
    assert (sgd.gamma, adam.gamma) == (0.0, 1.0)
    assert sgd.cost == pytest.approx(math.expm1(sharp(0.0)), rel=0.35)
    assert adam.cost == pytest.approx(math.expm1(sharp(1.0)), rel=0.35)
    assert sgd.low < sgd.cost < sgd.high
    assert sgd.cost > adam.cost > 0.1


def test_a_flat_surface_is_called_flat():
    found = response(flat, noise=0.1)
    covered = sum(high - low for low, high in found.indistinguishable)
    assert covered > 0.8 * 2.0
    assert found.enough, "that nothing matters is an answer"


def test_an_optimum_at_the_end_of_the_range_is_within_the_interval():
    found = response(edge)
    assert found.high == 1.5


def test_the_curve_is_in_units_of_the_objective_and_bands_hold_one_another():
    curve = response(sharp).curve
    assert curve is not None
    assert len(curve.gamma) == 25
    for low, low50, median, high50, high in zip(
        curve.low, curve.low50, curve.median, curve.high50, curve.high, strict=True
    ):
        assert 0 < low <= low50 <= median <= high50 <= high
    nearest = int(np.argmin(np.abs(np.array(curve.gamma) - 0.6)))
    assert curve.median[nearest] == pytest.approx(1.0, rel=0.1)
    assert max(curve.flat) > 0.3
    assert curve.flat[0] < 0.05


def test_the_curve_of_an_accuracy_has_accuracies():
    objective = Objective(metric="accuracy", mode="max")
    trials = [
        trial(t.number, value=1 - 0.1 * (t.value or 0.0), params=t.params)
        for t in searched(sharp, noise=0.02)
    ]
    landscape = Landscape(SPACE, trials, objective)
    found = respond(landscape, SPACE.parameters["gamma"], None, None, Scale(objective))
    assert found.curve is not None
    assert max(found.curve.median) == pytest.approx(0.9, abs=0.02)
    assert all(low <= high for low, high in zip(found.curve.low, found.curve.high, strict=True))


def test_gammas_to_choose_from_are_the_only_ones():
    found = response(sharp, space=CHOICES)
    assert found.curve is not None
    assert found.curve.gamma == [0.0, 0.5, 1.0]
    assert (found.low, found.high) == (0.5, 0.5)


def test_without_a_margin_nothing_is_called_flat_but_one_run_is_still_one_run():
    found = response(sharp, Objective(scale="linear"))
    assert (found.practical, found.flat) == (None, [])
    assert found.indistinguishable


def test_the_same_trials_in_any_order_give_the_same_answer():
    trials = searched(sharp)
    one, other = (Landscape(SPACE, of, LOSS) for of in (trials, trials[::-1]))
    gamma = SPACE.parameters["gamma"]
    assert respond(one, gamma, 0.5, 0.1, Scale(LOSS)) == respond(other, gamma, 0.5, 0.1, Scale(LOSS))


def test_confirm_runs_and_trials_that_diverged_count():
    trials = searched(sharp, count=12)
    more = [
        trial(n, value=t.value, params=t.params, phase=Phase.CONFIRM, source=t.id, seed=n)
        for n, t in enumerate(trials[:3] * 3)
    ]
    lost = [trial(12 + n, TrialState.DIVERGED, params={"gamma": 1.4, "step_size": 9.0}) for n in range(3)]
    alone, *others = (
        Response(SPACE.parameters["gamma"], Landscape(SPACE, of, LOSS)).profiles
        for of in (trials, [*trials, *more], [*trials, *lost])
    )
    assert not any(np.array_equal(alone, other) for other in others)


@pytest.mark.parametrize("count", [0, 3, FEWEST_TRIALS - 1])
def test_with_few_trials_there_is_no_interval_but_a_note(count: int):
    found = response(sharp, count=count)
    assert (found.low, found.curve, found.enough) == (None, None, False)
    assert f"{count} trials of anon completed" in found.note


def test_a_fixed_gamma_has_no_response():
    landscape = Landscape(SPACE, searched(sharp), LOSS)
    assert respond(landscape, None, 0.5, None, Scale(LOSS)).note == "the space fixes gamma"


def confirmed(values: dict[str, list[float | None]]) -> list[Trial]:
    return [
        trial(
            n, TrialState.DIVERGED if value is None else TrialState.COMPLETE, value, phase=Phase.CONFIRM,
            source=source, seed=n,
        )
        for source, found in values.items()
        for n, value in enumerate(found)
    ]  # fmt: skip


def test_the_deviation_between_seeds_is_pooled_over_configurations():
    values = {"a": (0.0, 0.2, 0.4), "b": (1.0, 1.3, 1.6), "fell behind": (2.0, 4.0)}
    trials = confirmed({name: [math.exp(v) for v in logs] for name, logs in values.items()})
    expected = math.sqrt((0.04 * 2 + 0.09 * 2) / 4)
    assert seed_deviation(trials, Scale(LOSS)) == pytest.approx(expected)
    assert seed_deviation(confirmed({"a": [1.0], "b": [2.0, None]}), Scale(LOSS)) is None


def test_gaps_within_the_error_of_the_draws_are_closed():
    found = Response(SPACE.parameters["gamma"], Landscape(SPACE, searched(sharp), LOSS))
    # The gammas cost nothing in so many of 100 draws, and 1 in the others; something else costs nothing in all.
    counts = np.array([45, 60, 45, 55, 20, 70, 45, 10])
    found.profiles = (np.arange(100)[:, None] >= counts).astype(float)
    found.profiles = np.concatenate([found.profiles, np.zeros((100, 1))], axis=1)
    found.gammas = np.arange(9) / 10
    assert found.within(0.5) == [(0.1, 0.3), (0.5, 0.5), (0.8, 0.8)]


def test_the_interval_of_one_half_lies_in_the_wider_one():
    """Of draws in which the best gamma is spread, the shortest intervals of two levels need not be nested."""
    found = Response(SPACE.parameters["gamma"], Landscape(SPACE, searched(sharp), LOSS))
    found.gammas = np.array([0.0, 0.2, 0.6, 0.95])
    places = np.repeat(np.arange(4), [19, 30, 42, 9])
    found.profiles = (np.arange(4) != places[:, None]).astype(float)
    wide = found.interval(0.9)
    assert wide == (0.0, 0.6)
    assert found.interval(0.5) == (0.6, 0.95)
    assert found.interval(0.5, within=wide) == (0.2, 0.6)
