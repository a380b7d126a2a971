"""Two optimizers by several searches of each, where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from anon_tune.advice.searches import Runs, compare_searches
from anon_tune.answer import Outcome
from anon_tune.search.rounds import FIRST_ALPHA

TESTS = 3
JOBS = 1000

Results = Callable[[np.random.Generator, int], np.ndarray]
"""What the searches of one optimizer come to, with a standard deviation of 1."""

LAWS: dict[str, Results] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Student's t, 3 degrees of freedom": lambda rng, n: rng.standard_t(3, n) / math.sqrt(3),
    "log-normal": lambda rng, n: (np.exp(0.5 * rng.normal(size=n)) - math.exp(0.125)) / 0.604,
    "one search in five stays in a worse valley": lambda rng, n: (rng.random(n) < 0.2) / 0.4,
}


def arm(
    rng: np.random.Generator,
    repeats: int,
    law: str = "normal",
    shift: float = 0.0,
    wide: float = 1.0,
    noise: float = 0.3,
    lost: float = 0.0,
) -> list[Runs]:
    results = shift + wide * LAWS[law](rng, repeats)
    tests = results[:, None] + noise * rng.normal(size=(repeats, TESTS))
    return [[None if rng.random() < lost else float(v) for v in runs] for runs in tests]


def outcomes(
    level: float, repeats: int, shift: float = 0.0, wide: float = 1.0, **of_both: Any
) -> list[Outcome | None]:
    """Of jobs whose first optimizer is better by `-shift`, and varies by `wide` times as much as the second."""
    rng = np.random.default_rng([repeats, *map(ord, repr((shift, wide, of_both)))])
    return [
        compare_searches(
            arm(rng, repeats, shift=shift, wide=wide, **of_both), arm(rng, repeats, **of_both), level
        ).outcome
        for _ in range(JOBS)
    ]


def wrong(found: Sequence[Outcome | None]) -> float:
    return sum(each is not None for each in found) / len(found)


def at_most(level: float) -> float:
    """What a share of JOBS is below in 49 of 50 simulations of a test that keeps its level."""
    return level + 2 * math.sqrt(level * (1 - level) / JOBS)


@pytest.mark.parametrize(
    "repeats", [2, 5, pytest.param(3, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("law", LAWS)
def test_equal_optimizers_are_rarely_called_different(law: str, repeats: int):
    assert wrong(outcomes(0.05, repeats, law=law)) <= at_most(0.05)


@pytest.mark.parametrize("repeats", [2, 5])
@pytest.mark.parametrize("wide", [0.2, 3.0])
def test_equal_optimizers_with_unequal_spread_are_rarely_called_different(wide: float, repeats: int):
    assert wrong(outcomes(0.05, repeats, wide=wide)) <= at_most(0.055)


@pytest.mark.parametrize("lost", [0.05, 0.2, 0.5])
def test_equal_optimizers_that_diverge_are_rarely_called_different(lost: float):
    assert wrong(outcomes(0.05, 5, lost=lost)) <= at_most(0.05)


def test_five_searches_find_a_difference_of_three_deviations():
    found = outcomes(FIRST_ALPHA / 2, 5, shift=-3.0, noise=0.0)
    assert found.count(Outcome.BETTER) / JOBS >= 0.8
    assert Outcome.WORSE not in found


def test_the_difference_is_that_of_the_means_and_the_interval_is_about_it():
    judged = compare_searches([[1.0, 3.0], [4.0], [3.5]], [[0.0], [1.0]], 0.05)
    assert judged.searches == (3, 2)
    assert judged.difference is not None
    assert judged.half is not None
    expected = stats.ttest_ind([2.0, 4.0, 3.5], [0.0, 1.0], equal_var=False).confidence_interval(0.95)
    assert judged.difference - judged.half == pytest.approx(expected.low)
    assert judged.difference + judged.half == pytest.approx(expected.high)


def test_searches_without_runs_are_left_out():
    judged = compare_searches([[1.0], [], [2.0]], [[1.0], [2.0], [3.0]], 0.05)
    assert judged.searches == (2, 3)
    assert judged.means == (1.5, 2.0)


def test_a_configuration_that_always_diverges_is_worse():
    rng = np.random.default_rng(0)
    lost = [[None] * TESTS for _ in range(5)]
    found = [compare_searches(lost, arm(rng, 5), FIRST_ALPHA / 2).outcome for _ in range(100)]
    assert found.count(Outcome.WORSE) >= 99
    assert compare_searches(arm(rng, 5), lost, FIRST_ALPHA / 2).outcome is Outcome.BETTER
    assert compare_searches(lost, lost, FIRST_ALPHA / 2).outcome is None


def test_too_few_searches_or_none_that_differ_decide_nothing():
    assert compare_searches([[1.0]], [[2.0], [2.1]], 0.05).outcome is None
    assert compare_searches([], [[2.0], [2.1]], 0.05).means is None
    same = compare_searches([[1.0], [1.0]], [[2.0], [2.0]], 0.05)
    assert (same.outcome, same.half) == (None, None)
    assert same.difference == -1.0


def test_a_difference_within_the_margin_is_practically_equal():
    rng = np.random.default_rng(1)
    one, other = arm(rng, 10, noise=0.0), arm(rng, 10, noise=0.0)
    assert compare_searches(one, other, 0.05, practical=5.0).outcome is Outcome.EQUAL
    assert compare_searches(one, other, 0.05, practical=0.1).outcome is None
