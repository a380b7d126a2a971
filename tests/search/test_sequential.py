"""Two configurations on common seeds: what is decided, when, and how often wrongly."""

from __future__ import annotations

import math
from typing import Any

import pytest

from anon_tune.answer import Outcome
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.scale import Scale
from anon_tune.search.sequential import ALPHA, InterimResult, PairedTest, levels, looks
from anon_tune.spec import Objective
from benchmarks.calibration.configurations import Cell, simulate
from tests.builders import trial

WINNERS = {arm: trial(0, value=1.0, arm=arm) for arm in ("anon", "sgd")}
NOISE = [0.02, -0.03, 0.01, 0.0, -0.01, 0.03, -0.02, 0.01, -0.02, 0.01]


def runs(arm: str, values: list[float | TrialState | None]) -> list[Trial]:
    """Verdict runs by log loss: None is one that diverged."""
    made = []
    for seed, value in enumerate(values):
        state = TrialState.DIVERGED if value is None else TrialState.COMPLETE
        state = value if isinstance(value, TrialState) else state
        loss = math.exp(value) if isinstance(value, float) else None
        made.append(trial(seed, state, loss, arm=arm, phase=Phase.VERDICT, seed=seed, source=WINNERS[arm].id))
    return made


def confirm(deviation: float) -> list[Trial]:
    """Three confirm runs of each winner."""
    return [
        trial(
            n,
            value=math.exp(deviation * off),
            arm=arm,
            phase=Phase.CONFIRM,
            seed=100 + n,
            source=WINNERS[arm].id,
        )
        for arm in WINNERS
        for n, off in enumerate((-1.0, 0.0, 1.0))
    ]


def judge(
    anon: list[float | TrialState | None],
    sgd: list[float | TrialState | None],
    seeds: int = 10,
    deviation: float = 0.02,
    practical: float = 0.01,
) -> InterimResult:
    trials = [*runs("anon", anon), *runs("sgd", sgd), *(confirm(deviation) if deviation else [])]
    scale = Scale(Objective(practical=practical))
    return PairedTest(scale, trials, ("anon", "sgd"), WINNERS, range(seeds), ALPHA, ALPHA / 10).judge()


def shifted(by: float, count: int = 10, sign: float = 1.0) -> list[float | TrialState | None]:
    return [by + sign * each for each in NOISE[:count]]


def test_looks_are_after_few_seeds_and_at_the_end():
    assert looks(10) == [3, 4, 5, 6, 8, 10]
    assert looks(5) == [3, 4, 5]
    assert looks(2) == [2]
    assert looks(30)[-3:] == [20, 25, 30]


def test_one_look_has_the_whole_error_rate_and_several_share_it():
    assert levels(3, 0.025) == pytest.approx((0.025,))
    found = levels(10, 0.025)
    assert sum(found) > 0.025 > max(found)
    # With these the six looks err together in 2.51% of two million simulated sums of normal differences.
    assert found == pytest.approx((0.00225, 0.00266, 0.00380, 0.00523, 0.01058, 0.01617), abs=1e-5)


def test_a_large_difference_is_decided_at_the_first_look():
    better = judge(shifted(-0.5, 3), shifted(0.0, 3, -1.0))
    assert (better.outcome, better.seeds) == (Outcome.BETTER, 3)
    worse = judge(shifted(0.5, 3), shifted(0.0, 3, -1.0))
    assert (worse.outcome, worse.seeds) == (Outcome.WORSE, 3)
    assert better.difference == pytest.approx(-worse.difference, abs=0.05)  # type: ignore[operator]


def test_a_look_waits_for_all_its_seeds():
    running = [*shifted(-0.5, 2), TrialState.RUNNING]
    assert judge(running, shifted(0.0, 3)).seeds == 0
    assert judge(shifted(-0.5, 3), shifted(0.0, 2)).seeds == 0


def test_equal_means_an_interval_within_the_margin_and_a_wide_one_is_undecided():
    equal = judge(shifted(0.0), shifted(0.001, sign=-1.0), practical=0.2)
    assert equal.outcome is Outcome.EQUAL
    open_ = judge(shifted(0.0), shifted(0.001, sign=-1.0), practical=0.001)
    assert open_.outcome is None
    assert open_.half is not None
    assert open_.half > 0.001
    assert open_.seeds_needed is None or open_.seeds_needed > 10


def test_the_seeds_that_would_decide_it_do_so():
    first = judge(shifted(-0.015), shifted(0.0, sign=-1.0), deviation=0.03)
    assert first.outcome is None
    assert first.seeds_needed is not None
    assert 10 < first.seeds_needed < 100
    many = -(-first.seeds_needed // 10)
    anon, sgd = shifted(-0.015) * many, shifted(0.0, sign=-1.0) * many
    assert judge(anon, sgd, seeds=10 * many, deviation=0.03).outcome is Outcome.BETTER


def test_a_diverged_run_counts_against_its_configuration():
    whole = judge(shifted(-0.02), shifted(0.0, sign=-1.0), deviation=0.01)
    lost = judge([None, *shifted(-0.02)[1:]], shifted(0.0, sign=-1.0), deviation=0.01)
    assert lost.difference is not None
    assert whole.difference is not None
    assert lost.difference > whole.difference
    assert judge([None] * 10, shifted(0.0)).outcome is Outcome.WORSE
    assert judge(shifted(0.0), [None] * 10).outcome is Outcome.BETTER
    assert judge([None] * 10, [None] * 10).outcome is None


def test_later_seeds_do_not_change_a_decided_comparison():
    first = judge(shifted(-0.5, 3), shifted(0.0, 3, -1.0))
    for later in ([None] * 7, [9.0] * 7, [TrialState.FAILED] * 7):
        assert judge([*shifted(-0.5, 3), *later], shifted(0.0, 10, -1.0)) == first


def test_a_run_that_failed_says_nothing():
    found = judge([TrialState.FAILED, *shifted(-0.5, 3)[1:]], shifted(0.0, 3, -1.0), seeds=3)
    assert found.seeds == 2
    assert judge([TrialState.FAILED] * 3, shifted(0.0, 3), seeds=3).seeds == 0


@pytest.mark.parametrize("seeds", [3, 6, 10, 100])
def test_without_an_effect_of_the_seed_the_verdict_is_undecided_whatever_the_number_of_runs(seeds: int):
    found = judge([0.1] * seeds, [0.2] * seeds, seeds=seeds, deviation=0.0)
    assert (found.outcome, found.half, found.difference) == (None, None, pytest.approx(-0.1))
    assert not found.seeds_matter
    lost = judge([None] * seeds, [0.2] * seeds, seeds=seeds, deviation=0.0)
    assert (lost.outcome, lost.difference, lost.seeds_matter) == (None, None, False)


@pytest.mark.parametrize(
    ("anon", "sgd", "deviation"),
    [
        pytest.param([0.1] * 10, shifted(0.2), 0.0, id="the seed changes the other one"),
        pytest.param([0.1] * 10, [0.2] * 10, 0.02, id="the seed changes confirm runs"),
        pytest.param([0.1] * 9 + [None], [0.2] * 10, 0.0, id="one run diverged"),
        pytest.param([None] * 10, [None] * 10, 0.0, id="no run completed"),
        pytest.param([0.1] + [TrialState.FAILED] * 9, [0.2] * 10, 0.0, id="one run alone"),
    ],
)
def test_the_seed_has_an_effect_unless_all_runs_are_the_same(anon: Any, sgd: Any, deviation: float):
    assert judge(anon, sgd, deviation=deviation).seeds_matter


def test_without_confirm_runs_the_comparison_is_students_t_test():
    """Differences -0.1, -0.2, -0.3: mean -0.2, standard error 0.1 / sqrt(3), t at 97.5% with two degrees 4.3027."""
    found = judge([-0.1, -0.2, -0.3], [0.0, 0.0, 0.0], seeds=3, deviation=0.0)
    assert found.difference == pytest.approx(-0.2)
    assert found.half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), abs=1e-4)
    assert found.outcome is None


@pytest.mark.parametrize(
    "law",
    [
        "normal",
        *(pytest.param(law, marks=pytest.mark.slow) for law in ("log-normal", "Anon 3 times as noisy")),
    ],
)
def test_equal_configurations_are_rarely_called_different(law: str):
    """At most 2.7% of jobs are said to have a better Anon; of 300, 16 or more would be a chance of 1 in 200."""
    found = simulate(Cell(law, seeds=10), jobs=300)
    assert found.better <= 15 / 300
    assert found.worse <= 15 / 300


def test_ten_seeds_detect_a_difference_of_two_deviations():
    """In 90% at least; of 100, fewer than 80 would be a chance of 1 in 1000."""
    found = simulate(Cell(shift=2.0), jobs=100)
    assert found.first >= 0.8
    assert found.seeds < 8.5
