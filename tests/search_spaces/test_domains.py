"""One coordinate's domain: what is in it, and how it is said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from anon_tune.search_spaces import Choice, Range, Value

WHOLE = Range(low=1, high=10, log=True, integer=True)


@given(st.floats(-100, 100) | st.integers(-100, 100))
def test_a_range_holds_what_is_between_its_ends(value: float):
    assert (Range(low=1, high=10).problem(value) is None) == (1 <= value <= 10)
    assert (WHOLE.problem(value) is None) == (1 <= value <= 10 and value == int(value))


def test_sizes():
    assert WHOLE.size == 10
    assert Range(low=1, high=10).size == math.inf
    assert Choice(choices=(1, 2, 4)).size == 3


def test_how_they_are_said():
    assert WHOLE.text == "1 to 10, whole, log"
    assert Range(low=-0.5, high=1.5).text == "-0.5 to 1.5"
    assert Choice(choices=("geometric", "every")).text == "geometric, every"
    when = {"delay_family": ["every", "geometric"], "gamma": 1}
    conditional = Choice.model_validate({"choices": [1, 2], "when": when})
    assert conditional.condition == "delay_family is every or geometric and gamma is 1"
    assert WHOLE.condition == ""


@pytest.mark.parametrize(("written", "value"), [("1e-3", 1e-3), (2, 2.0), ("every", "every"), (0.5, 0.5)])
def test_a_value_is_a_number_where_it_can_be_one(written: object, value: float | str):
    assert TypeAdapter(Value).validate_python(written) == value


@pytest.mark.parametrize("written", [True, None, [1], {"a": 1}])
def test_a_value_is_nothing_else(written: object):
    with pytest.raises(ValidationError, match="expected a number or a name"):
        TypeAdapter(Value).validate_python(written)
