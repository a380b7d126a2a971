"""The final value of a trial, from its reports."""

from __future__ import annotations

import math

import pytest

from anon_tune.records import Report
from anon_tune.search.final import final_value
from anon_tune.spec import Objective
from tests import builders

LOSSES, TESTS = (4.0, 1.0, 2.0, 8.0), (5.0, 3.0, 2.0, 32.0)


def reports(values: tuple[float, ...], **tested: tuple[float | None, ...]) -> list[Report]:
    """One report after each epoch; a test value that is None was not measured."""
    return [
        Report(
            step, value, {name: of[step - 1] for name, of in tested.items() if of[step - 1]}, builders.EPOCH
        )  # type: ignore[misc]
        for step, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("of", "value", "tested"),
    [
        ("last", 8.0, 32.0),
        ("best", 1.0, 3.0),  # the epoch is chosen by the validation loss: 2.0 is the lowest test loss
        ("last 2", 4.0, 8.0),  # geometric, as all means of losses
        ("last 9", 64 ** (1 / 4), 960 ** (1 / 4)),
    ],
)
def test_the_reports_that_count_are_chosen_by_validation(of: str, value: float, tested: float):
    objective = Objective(of=of)
    found = reports(LOSSES, test_loss=TESTS)
    assert final_value(objective, found, tested=False) == pytest.approx(value)
    assert final_value(objective, found, tested=True) == pytest.approx(tested)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({"metric": "accuracy", "mode": "max", "of": "best"}, 0.96),
        ({"metric": "accuracy", "mode": "max", "of": "last 2"}, 0.92),  # errors of 4% and 16%
        ({"metric": "score", "mode": "max", "of": "last 2"}, 0.90),
    ],
)
def test_the_mean_is_on_the_scale_of_the_objective(keys: dict[str, str], value: float):
    assert final_value(Objective(**keys), reports((0.5, 0.96, 0.84)), tested=True) == pytest.approx(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("of", ["best", "last 3"])
def test_a_training_function_has_one_test_value_which_counts(of: str):
    found = reports(LOSSES, test_loss=(None, None, None, 7.0))
    assert final_value(Objective(of=of), found, tested=True) == 7.0


@pytest.mark.parametrize("of", ["best", "last", "last 3"])
def test_one_report_counts_as_it_is(of: str):
    assert final_value(Objective(of=of), reports((0.1,)), tested=False) == 0.1
    assert final_value(Objective(of=of), reports((math.nan,)), tested=False) is None
