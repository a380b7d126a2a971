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


def test_domains_and_conditions_in_words():
    assert WHOLE.text == "1 to 10, whole, log"
    assert Range(low=-0.5, high=1.5).text == "-0.5 to 1.5"
    assert Choice(choices=("geometric", "every")).text == "geometric, every"
    when = {"delay_family": ["every", "geometric"], "gamma": 1}
    conditional = Choice.model_validate({"choices": [1, 2], "when": when})
    assert conditional.condition == "delay_family is every or geometric and gamma is 1"
    assert WHOLE.condition == ""


@pytest.mark.parametrize(("written", "value"), [("1e-3", 1e-3), (2, 2.0), ("every", "every"), (0.5, 0.5)])
def test_a_value_is_parsed_as_a_number_if_possible(written: object, value: float | str):
    assert TypeAdapter(Value).validate_python(written) == value


@pytest.mark.parametrize("written", [True, None, [1], {"a": 1}])
def test_values_must_be_numbers_or_names(written: object):
    with pytest.raises(ValidationError, match="expected a number or a name"):
        TypeAdapter(Value).validate_python(written)


RANGES = st.builds(
    lambda low, width, log, integer: (
        Range(low=1 + math.floor(low), high=2 + math.floor(low) + math.floor(width), log=log, integer=True)
        if integer
        else Range(low=1e-3 + low, high=1e-3 + low + width, log=log)
    ),
    st.floats(0, 100),
    st.floats(0.01, 100),
    st.booleans(),
    st.booleans(),
)


@given(RANGES, st.floats(0, 1))
def test_a_fraction_of_a_range_and_back(domain: Range, u: float):
    value = domain.at(u)
    assert domain.problem(value) is None
    if not domain.integer:
        assert domain.fraction(value) == pytest.approx(u, abs=1e-9)
    assert domain.at(domain.fraction(value)) == pytest.approx(value, rel=1e-12)
    assert (domain.at(0.0), domain.at(1.0)) == pytest.approx((domain.low, domain.high), rel=1e-12)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), RANGES)
def test_fractions_keep_the_order(us: list[float], domain: Range):
    low, high = sorted(us)
    assert domain.at(low) <= domain.at(high)


def test_a_fraction_of_a_list_of_choices():
    choice = Choice(choices=("a", "b", "c"))
    assert [choice.at(u) for u in (0.0, 0.3, 0.4, 0.6, 0.7, 1.0)] == ["a", "a", "b", "b", "c", "c"]
