"""The cost of customary values and of gammas outside [0, 1], on surfaces whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anon_tune.advice.importance import customary_values
from anon_tune.advice.response import respond
from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape
from anon_tune.search.scale import Scale
from anon_tune.spec import Objective
from tests.builders import trial
from tests.search.spaces import anon_space

SPACE = anon_space({"gamma": {"low": -0.5, "high": 1.5}, "beta3": {"low": 0.3, "high": 0.9}})
LOSS = Objective()


def landscape(gamma: float, beta3: float, rise: float = 4.0) -> Landscape:
    """Thirty places of a valley, with a noise of 2%."""
    rng = np.random.default_rng(0)
    trials: list[Trial] = []
    for number in range(30):
        params = SPACE.complete(rng.random(2).tolist(), {})
        off = (float(params["gamma"]) - gamma) ** 2 + rise * (float(params["beta3"]) - beta3) ** 2
        trials.append(trial(number, value=math.exp(off + 0.02 * rng.normal()), params=params))
    return Landscape(SPACE, trials, LOSS)


def test_a_customary_value_costs_what_it_is_off_the_best():
    (found,) = customary_values(landscape(0.5, 0.8), Scale(LOSS))
    assert (found.coordinate, found.value) == ("beta3", 0.5)
    assert 0 < found.cost.low < found.cost.high
    assert found.cost.low <= math.expm1(4.0 * 0.3**2) <= found.cost.high


def test_a_coordinate_without_effect_has_no_significant_cost():
    (found,) = customary_values(landscape(0.5, 0.8, rise=0.0), Scale(LOSS))
    assert found.cost.low <= 0 <= found.cost.high


@pytest.mark.parametrize(("best", "sign"), [(1.5, -1), (0.5, 1)])
def test_a_gamma_outside_matters_where_the_best_is_there(best: float, sign: int):
    found = respond(landscape(best, 0.5), SPACE.parameters["gamma"], best, None, Scale(LOSS)).outside
    assert found is not None
    assert found.low * sign > 0
    assert found.high * sign > 0
