"""The scale of an objective."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anon_tune.errors import SpecError
from anon_tune.search.scale import Scale
from anon_tune.spec import Objective
from tests import builders

ACCURACY = {"metric": "val_acc", "mode": "max"}
ALL = [{}, ACCURACY, {"scale": "linear"}, {"metric": "reward", "mode": "max"}]


@pytest.mark.parametrize(
    ("keys", "scale", "practical"),
    [
        ({}, "log", 0.01),
        ({"metric": "nll"}, "log", 0.01),
        (ACCURACY, "log_error", 0.01),
        ({"metric": "reward", "mode": "max"}, "linear", None),
        ({"scale": "linear"}, "linear", None),
        ({**ACCURACY, "scale": "linear", "practical": 0.002}, "linear", 0.002),
        ({"practical": 0.05}, "log", 0.05),
    ],
)
def test_the_scale_follows_from_metric_and_mode(keys: dict[str, object], scale: str, practical: float | None):
    found = Objective.model_validate(keys)
    assert (found.scale, found.practical) == (scale, practical)
    assert Objective.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"mode": "max", "scale": "log"}, "log is for mode min; for max use linear"),
        ({"scale": "log_error"}, "log_error is for mode max; for min use linear"),
        ({"practical": 0.0}, "practical"),
        ({"scale": "log2"}, "'log', 'log_error' or 'linear'"),
    ],
)
def test_an_impossible_scale_is_refused(keys: dict[str, object], said: str):
    with pytest.raises(SpecError, match=said):
        builders.spec(objective=keys)


@pytest.mark.parametrize(
    ("keys", "value", "untrained", "wrong"),
    [
        ({}, 0.1, True, False),
        ({}, 0.0, False, False),  # learnt by heart
        ({}, 0.0, True, True),
        ({}, -0.1, False, True),
        ({}, math.nan, True, False),  # it diverged
        (ACCURACY, 0.0, True, False),
        (ACCURACY, 1.0, False, False),
        (ACCURACY, 1.0, True, True),
        (ACCURACY, 97.0, False, True),  # per cent
        (ACCURACY, -0.1, False, True),
        ({"scale": "linear"}, -5.0, True, False),
    ],
)
def test_a_value_off_the_scale_is_named_with_a_way_out(
    keys: dict[str, object], value: float, untrained: bool, wrong: bool
):
    problem = Objective.model_validate(keys).problem_of(value, untrained=untrained)
    assert (problem is not None) == wrong
    if problem is not None:
        assert f"is {value:g}" in problem
        assert "scale: linear" in problem


@pytest.mark.parametrize("keys", ALL)
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=6))
@example(values=[5e-324, 0.0])  # half of the smallest number is 0
def test_better_values_are_never_larger_on_the_scale(keys: dict[str, object], values: list[float]):
    objective = Objective.model_validate(keys)
    scale = Scale(objective, values)
    best_first = sorted(values, reverse=objective.mode == "max")
    scaled = [scale(value) for value in best_first]
    assert all(math.isfinite(value) for value in scaled)
    assert all(a <= b for a, b in itertools.pairwise(scaled))


@pytest.mark.parametrize(("keys", "end"), [({}, 0.0), (ACCURACY, 1.0)])
def test_the_end_of_a_scale_counts_as_half_the_smallest_distance_that_was_seen(
    keys: dict[str, object], end: float
):
    scale = Scale(Objective.model_validate(keys), [0.25, 0.75, end, math.nan])
    assert scale(end) == pytest.approx(math.log(0.125))
