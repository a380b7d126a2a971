"""The refresh steps."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anon_tune.errors import HyperparameterError
from anon_tune.optim import Delay


def refreshes(delay: Delay, until: int) -> list[int]:
    return [t for t in range(1, until + 1) if delay.is_refresh(t)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2.0, [1, 2, 4, 8, 16, 32, 64]),
        (2, [1, 2, 4, 8, 16, 32, 64]),
        ("2", [1, 2, 4, 8, 16, 32, 64]),
        ("geometric:3", [1, 3, 9, 27, 81]),
        ("geometric:1.5", [1, 2, 3, 4, 6, 8, 12, 18, 26, 39, 58, 87]),
        ("polynomial:2", [1, 4, 9, 16, 25, 36, 49, 64, 81, 100]),
        ("polynomial:1", list(range(1, 101))),
        ("every:10", [1, 11, 21, 31, 41, 51, 61, 71, 81, 91]),
        ("every:1", list(range(1, 101))),
        ("steps:1,3,9", [1, 3, 9]),
        ([1, 3, 9], [1, 3, 9]),
        ((1,), [1]),
    ],
)
def test_families(value, expected):
    assert refreshes(Delay.parse(value), 100) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(1.0, 0.5, -2, math.nan, math.inf, True, None),
        *("", "two", "every", "every:0", "every:2.5", "every:inf", "polynomial:0.5", "weekly:3"),
        *("geometric:", "steps:", "steps:1,x"),
        *([], [2, 4], [1, 1], [1, 5, 3], [1, 2.5]),
    ],
)
def test_invalid_delays_are_refused(value):
    with pytest.raises(HyperparameterError):
        Delay.parse(value)


def test_after_the_end_of_a_list_there_is_no_refresh():
    delay = Delay.parse([1, 3, 9])
    assert [delay.next_after(t) for t in (0, 1, 2, 3, 8, 9, 100)] == [1, 3, 3, 9, 9, None, None]
    assert delay.at_or_before(1000) == 9
    assert delay.count(1000) == 3


def test_windows_add_up_to_the_last_refresh():
    delay = Delay.parse("geometric:1.3")
    assert [delay.window(t) for t in (1, 2, 3, 4, 5)] == [1, 1, 1, 1, 0 if not delay.is_refresh(5) else 1]
    assert sum(delay.window(t) for t in range(1, 500)) == delay.at_or_before(499)


delays = st.one_of(
    st.one_of(st.floats(1.001, 50), st.floats(-9, -1).map(lambda e: 1 + 10**e)).map(
        lambda b: Delay("geometric", b)
    ),
    st.floats(1, 6).map(lambda p: Delay("polynomial", p)),
    st.integers(1, 500).map(lambda k: Delay("every", k)),
    st.sets(st.integers(2, 10_000), max_size=20).map(lambda s: Delay("steps", steps=(1, *sorted(s)))),
)


@given(delays)
def test_a_delay_round_trips_through_text(delay):
    assert Delay.parse(str(delay)) == delay


@given(delays, st.integers(1, 10**7))
def test_neighbouring_refresh_steps_agree(delay, t):
    last, following = delay.at_or_before(t), delay.next_after(t)
    assert 1 <= last <= t
    assert delay.is_refresh(last)
    assert delay.is_refresh(t) == (last == t)
    if following is not None:
        assert following > t
        assert delay.is_refresh(following)
        assert delay.at_or_before(following - 1) == last
        assert delay.window(following) == following - last


@given(delays, st.integers(0, 3000))
def test_count_is_the_number_of_refreshes(delay, t):
    assert delay.count(t) == len(refreshes(delay, t))


@pytest.mark.parametrize("base", [1.0 + 2**-52, 1.0000001, 1.00001, 1.001])
def test_count_looks_at_few_powers_for_bases_close_to_one(monkeypatch, base):
    looked = []
    value = Delay._value
    monkeypatch.setattr(Delay, "_value", lambda self, n: looked.append(n) or value(self, n))
    assert Delay("geometric", base).count(900) == 900
    assert len(looked) < 1000


@pytest.mark.parametrize("text", ["polynomial:2000", "geometric:1e308", "polynomial:1e308"])
def test_steps_beyond_all_floats_never_come(text):
    delay = Delay.parse(text)
    assert refreshes(delay, 1000) == [1]
    assert delay.next_after(1) is None
    assert delay.count(10**7) == 1
