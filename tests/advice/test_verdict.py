"""Better, worse, or no difference: paired t intervals, and what forbids a statement."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from anon_tune.advice.verdict import Outcome, compare, verdict
from anon_tune.records import Phase, Trial, TrialState
from tests.builders import trial

BETTER, WORSE = Outcome.BETTER, Outcome.WORSE
NO_DIFFERENCE, UNDECIDED = Outcome.NO_DIFFERENCE, Outcome.UNDECIDED

# Two-sided 95% points of Student's t, from tables: by degrees of freedom, and at 97.5% for two comparisons.
T_95 = {1: 12.706, 2: 4.303, 4: 2.776}
T_975 = {2: 6.205, 4: 3.495}


def runs(arm: str, *values: float | None) -> list[Trial]:
    """Verdict trials with seeds 0, 1, ...; None is a run that diverged."""
    return [
        trial(
            seed,
            TrialState.COMPLETE if value is not None else TrialState.DIVERGED,
            value,
            arm=arm,
            phase=Phase.VERDICT,
            seed=seed,
        )
        for seed, value in enumerate(values)
    ]


def test_the_interval_is_students_over_paired_differences():
    """Differences -3, -1, -2: mean -2, deviation 1, so the half width is t / sqrt(3)."""
    found = compare(runs("anon", 1, 5, 2), runs("sgd", 4, 6, 4), "sgd", "min", comparisons=1)
    half = T_95[2] / math.sqrt(3)
    assert found.difference == pytest.approx(-2)
    assert (found.low, found.high) == pytest.approx((-2 - half, -2 + half), abs=1e-3)
    assert found.outcome is NO_DIFFERENCE  # -2 + 2.48 is above 0
    assert (found.anon, found.other, found.seeds) == (pytest.approx(8 / 3), pytest.approx(14 / 3), 3)


def test_several_baselines_widen_the_interval():
    trials = [*runs("anon", 1, 5, 2), *runs("sgd", 4, 6, 4), *runs("adamw", 4, 6, 4)]
    sgd, adamw = verdict(trials, ["anon", "sgd", "adamw"], "min")
    assert (sgd.baseline, adamw.baseline) == ("sgd", "adamw")
    assert sgd.high - sgd.low == pytest.approx(2 * T_975[2] / math.sqrt(3), abs=1e-3)


@pytest.mark.parametrize(
    ("differences", "outcome"),
    [
        ((-3, -4, -3, -4, -3), BETTER),
        ((3, 4, 3, 4, 3), WORSE),
        ((-3, 4, -3, 4, -3), NO_DIFFERENCE),
        ((0, 0, 0, 0, 0), NO_DIFFERENCE),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_difference_counts_only_if_its_interval_leaves_out_0(
    differences: tuple[float, ...], outcome: Outcome, mode: str
):
    sign = 1 if mode == "min" else -1
    other = (10.0, 20.0, 30.0, 40.0, 50.0)  # seeds differ far more than arms: pairing takes it out
    anon = [value + sign * difference for value, difference in zip(other, differences, strict=True)]
    found = compare(runs("anon", *anon), runs("sgd", *other), "sgd", mode, comparisons=2)
    assert found.outcome is outcome
    assert found.note == ""


def test_it_hinges_on_the_tables_value():
    """Five differences with mean m and deviation 1 decide at m = t / sqrt(5), and not just below."""
    shape = np.array([-1, -1, 0, 1, 1]) / 1.0
    shape /= shape.std(ddof=1)
    edge = T_95[4] / math.sqrt(5)
    for factor, outcome in ((0.99, NO_DIFFERENCE), (1.01, WORSE)):
        found = compare(
            runs("anon", *(shape + factor * edge)), runs("sgd", *[0.0] * 5), "sgd", "min", comparisons=1
        )
        assert found.outcome is outcome


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_arm_that_diverged_on_a_seed_is_not_better(mode: str):
    good, bad = (1.0, 10.0) if mode == "min" else (10.0, 1.0)
    strong = [good, good + 0.01, good - 0.01, good]
    weak = [bad] * 5
    hurt = compare(runs("anon", *strong, None), runs("sgd", *weak), "sgd", mode, comparisons=1)
    assert hurt.outcome is UNDECIDED
    assert hurt.seeds == 4
    seen = (
        "Anon did better on the 4 seeds that both completed, but Anon diverged on 1 of 5 seeds; only 4 seeds"
    )
    assert hurt.note == seen
    # Nor is the baseline: Anon is not worse than what diverges.
    mirrored = compare(runs("anon", *weak), runs("sgd", *strong, None), "sgd", mode, comparisons=1)
    assert mirrored.outcome is UNDECIDED
    assert mirrored.note == seen.replace("Anon", "sgd")
    # The other way about it is as clear as it was.
    assert compare(runs("anon", *weak), runs("sgd", *strong), "sgd", mode, comparisons=1).outcome is WORSE
    worse = compare(runs("anon", *weak[:4], None), runs("sgd", *strong, good), "sgd", mode, comparisons=1)
    assert worse.outcome is WORSE


def test_arms_of_which_one_diverged_are_not_called_the_same():
    """What the seeds that both completed show is not all that was measured."""
    alike = [1.0, 2.0, 1.0, 2.0]
    found = compare(
        runs("anon", *alike, None), runs("sgd", 1.1, 1.9, 1.1, 1.9, 1.5), "sgd", "min", comparisons=1
    )
    assert found.low < 0 < found.high
    assert found.outcome is UNDECIDED
    assert found.note.startswith(
        "no difference is seen on the 4 seeds that both completed, but Anon diverged on 1 of 5"
    )


def test_what_became_of_the_other_runs_is_told():
    mixed = runs("anon", 1.0, 2.0, 1.0, None, None)
    mixed[4] = dataclasses.replace(mixed[4], state=TrialState.FAILED)
    found = compare(mixed, runs("sgd", *[1.5] * 5), "sgd", "min", comparisons=1)
    assert "Anon diverged on 1 of 5 seeds and failed on 1 of 5 seeds" in found.note
    assert "Anon has no run on fresh seeds" in compare([], runs("sgd", 1.0, 1.0), "sgd", "min", 1).note


@pytest.mark.parametrize(
    ("anon", "other", "seeds"),
    [((1.0,), (9.0,), 1), ((1.0, None), (9.0, 9.0), 1), ((None, None), (1.0, None), 0), ((), (), 0)],
)
def test_fewer_than_two_shared_seeds_decide_nothing(
    anon: tuple[float | None, ...], other: tuple[float | None, ...], seeds: int
):
    found = compare(runs("anon", *anon), runs("sgd", *other), "sgd", "min", comparisons=1)
    assert (found.outcome, found.seeds) == (UNDECIDED, seeds)
    assert (found.difference, found.low, found.high) == (None, None, None)
    assert f"{seeds} shared seed" in found.note


def test_an_arm_that_completes_on_no_seed_is_worse_than_one_that_completes_on_all():
    lost = compare(runs("anon", None, None), runs("sgd", 1.0, 1.0), "sgd", "min", comparisons=1)
    assert (lost.outcome, lost.low, lost.high, lost.seeds) == (WORSE, None, None, 0)
    assert lost.note == "Anon diverged on 2 of 2 seeds"
    won = compare(runs("anon", 1.0, 1.0), runs("sgd", None, None), "sgd", "max", comparisons=1)
    assert won.outcome is BETTER
    assert won.note == "sgd diverged on 2 of 2 seeds"


@pytest.mark.parametrize(
    ("seeds", "outcome"), [(2, UNDECIDED), (3, UNDECIDED), (5, UNDECIDED), (6, BETTER), (10, BETTER)]
)
def test_equal_differences_have_no_interval_of_width_0(seeds: int, outcome: Outcome):
    """As accuracies have easily: on 3 seeds all of one sign come by chance one time in four."""
    other = [(300 + seed) / 360 for seed in range(seeds)]
    anon = [(302 + seed) / 360 for seed in range(seeds)]
    found = compare(runs("anon", *anon), runs("sgd", *other), "sgd", "max", comparisons=1)
    assert found.outcome is outcome
    assert found.difference == pytest.approx(2 / 360)
    assert (found.low is None) == (outcome is UNDECIDED)


def test_an_arm_whose_runs_failed_is_not_judged_by_it():
    failed = [dataclasses.replace(t, state=TrialState.FAILED) for t in runs("anon", None, None)]
    found = compare(failed, runs("sgd", 1.0, 1.0), "sgd", "min", comparisons=1)
    assert found.outcome is UNDECIDED


def test_few_seeds_are_said_so():
    few = compare(runs("anon", 1, 2, 3), runs("sgd", 1, 2, 4), "sgd", "min", comparisons=1)
    assert "only 3 seeds" in few.note


def test_only_verdict_trials_count():
    trials = [
        *runs("anon", 5, 6, 7),
        *runs("sgd", 5, 6, 7.5),
        trial(0, value=0.0, phase=Phase.CONFIRM, seed=0),
        trial(1, value=0.0, seed=1),
    ]
    (found,) = verdict(trials, ["anon", "sgd"], "min")
    assert found.anon == 6


def test_a_job_of_anon_alone_has_no_verdict():
    assert verdict(runs("anon", 1, 2), ["anon"], "min") == []


@pytest.mark.parametrize("seeds", [3, 5])
def test_without_a_difference_one_is_seldom_claimed(seeds: int):
    """The chance of any false claim, over two baselines that share Anon's runs, stays at 5%."""
    rng = np.random.default_rng(0)
    jobs = 1500
    claims = 0
    for _ in range(jobs):
        effect = rng.normal(0, 3, seeds)  # of a seed, the same in every arm
        anon, sgd, adamw = effect + rng.normal(0, 1, (3, seeds))
        trials = [*runs("anon", *anon), *runs("sgd", *sgd), *runs("adamw", *adamw)]
        found = verdict(trials, ["anon", "sgd", "adamw"], "min")
        claims += any(comparison.outcome in {BETTER, WORSE} for comparison in found)
    noise = math.sqrt(0.05 * 0.95 / jobs)
    assert 0.03 < claims / jobs < 0.05 + 3 * noise


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_holds_the_true_difference(seeds: int):
    rng = np.random.default_rng(1)
    jobs, true, held = 1500, -0.7, 0
    for _ in range(jobs):
        effect = rng.normal(0, 3, seeds)
        anon, sgd = effect + true + rng.normal(0, 1, seeds), effect + rng.normal(0, 1, seeds)
        found = compare(runs("anon", *anon), runs("sgd", *sgd), "sgd", "min", comparisons=1)
        held += found.low < true < found.high
    assert held / jobs == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / jobs))


def test_a_comparison_is_plain_values():
    found = compare(runs("anon", 1, 2), runs("sgd", 1, 3), "sgd", "min", comparisons=1).as_dict()
    assert found["baseline"] == "sgd"
    assert found["outcome"] == "no difference"
