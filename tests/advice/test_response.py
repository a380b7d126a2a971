"""The spread of good gammas, and when there is none."""

from __future__ import annotations

import math

import pytest

from anon_tune.advice.response import FEWEST_TRIALS, gamma_spread, seed_deviation
from anon_tune.records import Phase, Trial, TrialState
from tests.builders import trial


def searched(values: list[float], *, arm: str = "anon", start: int = 0) -> list[Trial]:
    """COMPLETE search trials with gamma 0, 0.1, 0.2, ..."""
    return [
        trial(n, value=value, arm=arm, hyperparameters={"gamma": (n - start) / 10})
        for n, value in enumerate(values, start)
    ]


def confirmed(*runs: list[float | None], arm: str = "anon", first: int = 2) -> list[Trial]:
    """Confirm trials of the search trials from number `first` on, each on some seeds."""
    found = []
    for number, values in enumerate(runs, first):
        for value in values:
            state = TrialState.DIVERGED if value is None else TrialState.COMPLETE
            source = f"j-{arm}-s{number:03d}"
            found.append(trial(len(found), state, value, arm=arm, phase=Phase.CONFIRM, source=source))
    return found


VALUES = [1.0, 0.5, 0.3, 0.35, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_the_gammas_within_one_standard_error_of_the_chosen_one(mode: str, sign: float):
    """Confirm runs at 0.2, 0.3, 0.4 have mean 0.3 and deviation 0.1; 0.3 + 0.1 * sqrt(4/3) is 0.415."""
    repeats = confirmed([sign * 0.2, sign * 0.3, sign * 0.4])
    found = gamma_spread([*searched([sign * value for value in VALUES]), *repeats], mode)
    assert found.standard_error == pytest.approx(0.1 * math.sqrt(4 / 3))
    assert (found.low, found.high, found.best) == (0.2, 0.3, 0.2)
    assert found.mean == pytest.approx(0.25)
    assert (found.within, found.complete) == (2, 12)
    assert "not a confidence interval" in found.note
    assert "2 of 12 COMPLETE trials within one standard error" in found.note


def test_a_lucky_best_trial_does_not_narrow_the_spread():
    """What was found at 0.3 on its own seed is at 0.5 on others."""
    found = gamma_spread([*searched(VALUES), *confirmed([0.4, 0.5, 0.6])], "min")
    assert (found.within, found.low, found.high) == (5, 0.1, 0.5)


def test_the_chosen_one_completed_on_every_seed():
    found = gamma_spread([*searched(VALUES), *confirmed([0.1, 0.2, None], [0.3, 0.35, 0.4])], "min")
    assert found.best == 0.3


def test_a_chosen_one_that_stands_alone_gives_no_width():
    found = gamma_spread([*searched([9.0, 9.0, *VALUES[2:3], *[9.0] * 9]), *confirmed([0.3, 0.31])], "min")
    assert (found.within, found.low, found.high) == (1, found.best, found.best)
    assert "no other of 12" in found.note
    assert "cannot be told" in found.note


def test_below_twelve_complete_trials_there_is_none():
    repeats = confirmed([0.2, 0.3, 0.4])
    many = [trial(n, TrialState.PRUNED, hyperparameters={"gamma": 9.0}) for n in range(20, 40)]
    found = gamma_spread([*searched(VALUES[: FEWEST_TRIALS - 1]), *many, *repeats], "min")
    assert FEWEST_TRIALS == 12
    assert (found.mean, found.low, found.high) == (None, None, None)
    assert (found.best, found.complete, found.within) == (0.2, 11, 0)
    assert "no spread: 11 COMPLETE trials" in found.note


def test_without_repeats_there_is_none():
    found = gamma_spread([*searched(VALUES), *confirmed([0.3], [0.4, None])], "min")
    assert found.low is None
    assert found.standard_error is None
    assert "no configuration was rerun" in found.note


def test_of_a_fixed_gamma_there_is_none():
    """So that it does not pass for what the job found out."""
    trials = [trial(n, value=value, hyperparameters={"gamma": 0.5}) for n, value in enumerate(VALUES)]
    found = gamma_spread([*trials, *confirmed([0.2, 0.3])], "min")
    assert (found.mean, found.best) == (None, 0.5)
    assert found.note == "no spread: the space fixes gamma at 0.5"


def test_without_trials_there_is_none():
    found = gamma_spread([], "min")
    assert (found.best, found.complete) == (None, 0)


def test_other_arms_tell_the_noise_and_no_gamma():
    repeats = confirmed([0.2, 0.3, 0.4])
    alone = gamma_spread([*searched(VALUES), *repeats], "min")
    searches = searched([0.0] * 12, arm="adamw")
    assert gamma_spread([*searched(VALUES), *repeats, *searches], "min") == alone
    noisy = confirmed([0.0, 0.4, 0.8], arm="adamw")
    found = gamma_spread([*searched(VALUES), *repeats, *searches, *noisy], "min")
    assert found.standard_error == pytest.approx(math.sqrt((0.01 + 0.16) / 2) * math.sqrt(4 / 3))
    assert found.within > alone.within


def test_the_deviation_between_seeds_is_pooled():
    """Variances 0.01 on two degrees of freedom and 0.02 on one: pooled 0.04 / 3."""
    assert seed_deviation(confirmed([0.2, 0.3, 0.4], [1.0, 1.2, None], [5.0])) == pytest.approx(
        math.sqrt(0.04 / 3)
    )


def test_a_spread_is_plain_values():
    found = gamma_spread([*searched(VALUES), *confirmed([0.2, 0.4])], "min").as_dict()
    assert {"mean", "low", "high", "best", "note"} <= found.keys()
