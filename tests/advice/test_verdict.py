"""Verdicts on configurations and on optimizers, from the trials of whole jobs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from anon_tune.advice.verdict import search_variance, verdicts
from anon_tune.answer import Comparison, Outcome
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.landscape import Landscape
from anon_tune.search.rounds import Round
from anon_tune.search.scale import Scale
from anon_tune.search.sequential import ALPHA
from anon_tune.search.winners import Searched
from anon_tune.spec import Objective
from tests.builders import trial
from tests.search.spaces import anon_space

SPACE = anon_space({"gamma": {"low": 0.0, "high": 1.0}})
SEEDS = range(10)


def searched(arm: str, noise: float, count: int = 12) -> list[Trial]:
    """A search of a valley whose floor is at gamma 0.5, at a log loss of 0."""
    rng = np.random.default_rng([len(arm), count])
    return [
        trial(
            n,
            value=math.exp(2.0 * (gamma - 0.5) ** 2 + noise * rng.normal()),
            arm=arm,
            params={"gamma": gamma},
        )
        for n, gamma in enumerate(np.linspace(0, 1, count).tolist())
    ]


def reruns(winner: Trial, shift: float, noise: float, lost: int) -> list[Trial]:
    rng = np.random.default_rng([9, len(winner.arm)])
    made = [
        trial(
            n,
            value=math.exp(noise * rng.normal()),
            arm=winner.arm,
            phase=Phase.CONFIRM,
            seed=50 + n,
            source=winner.id,
        )
        for n in range(3)
    ]
    for seed in SEEDS:
        value = math.exp(shift + noise * rng.normal())
        state = TrialState.DIVERGED if seed < lost else TrialState.COMPLETE
        made.append(
            trial(
                seed, state, None if seed < lost else value, arm=winner.arm, phase=Phase.VERDICT, seed=seed,
                source=winner.id,
            )
        )  # fmt: skip
    return made


def compare(
    shift: float, noise: float = 0.02, away: int = 0, lost: int = 0, practical: float = 0.01
) -> list[Comparison]:
    """Anon's log loss is `shift` over SGD's; its winner is `away` trials from the best."""
    found = {arm: searched(arm, noise) for arm in ("anon", "sgd")}
    winners = {arm: trials[6 + (away if arm == "anon" else 0)] for arm, trials in found.items()}
    again = [*reruns(winners["anon"], shift, noise, lost), *reruns(winners["sgd"], 0.0, noise, 0)]
    objective = Objective(practical=practical)
    landscapes = {arm: Landscape(SPACE, trials, objective) for arm, trials in found.items()}
    trials = [*found["anon"], *found["sgd"], *again]
    return verdicts(Scale(objective), trials, ["sgd"], winners, landscapes, [Round(tuple(SEEDS), ALPHA)])


@pytest.mark.parametrize(
    ("shift", "outcome"), [(-0.5, Outcome.BETTER), (0.5, Outcome.WORSE), (0.0, Outcome.UNDECIDED)]
)
def test_each_baseline_has_a_verdict_on_configurations_and_one_on_optimizers(shift: float, outcome: Outcome):
    found = compare(shift)
    assert [(each.baseline, each.of, each.outcome) for each in found] == [
        ("sgd", "configuration", outcome),
        ("sgd", "optimizer", outcome),
    ]


def test_differences_are_shares_of_the_baselines_loss():
    configuration, optimizer = compare(-0.5)
    assert configuration.difference == pytest.approx(math.expm1(-0.5), abs=0.03)
    assert configuration.low is not None
    assert configuration.high is not None
    assert configuration.low < configuration.difference < configuration.high < 0  # type: ignore[operator]
    assert configuration.level == 0.95
    assert optimizer.low is not None
    assert optimizer.low < configuration.low


def test_a_verdict_on_configurations_may_be_decided_while_the_optimizers_are_not():
    """The winner is far from the best of its space: another search would have found a better one."""
    configuration, optimizer = compare(0.15, away=4)
    assert configuration.outcome is Outcome.WORSE
    assert optimizer.outcome is Outcome.UNDECIDED


def test_equal_within_the_margin_is_practically_equal():
    configuration, _ = compare(0.0, noise=0.002, practical=0.05)
    assert configuration.outcome is Outcome.EQUAL


def test_an_undecided_verdict_has_the_detectable_difference():
    configuration, optimizer = compare(0.0)
    assert configuration.detectable is not None
    assert 0 < configuration.detectable < 0.1
    assert optimizer.detectable is not None
    assert optimizer.detectable > configuration.detectable


@pytest.mark.parametrize("practical", [0.01, 0.9])
def test_without_an_effect_of_the_seed_both_verdicts_are_undecided_and_say_why(practical: float):
    """Six seeds and more once made such a difference "worse", with an interval of width zero."""
    for found in compare(0.2, noise=0.0, practical=practical):
        assert (found.outcome, found.low, found.high, found.seeds) == (Outcome.UNDECIDED, None, None, 10)
        assert found.difference == pytest.approx(math.expm1(0.2))
        assert found.note.startswith("the seed has no effect")


def test_the_note_counts_diverged_runs():
    configuration, _ = compare(0.0, lost=2)
    assert "Anon diverged on 2 of 10 seeds" in configuration.note


def test_an_arm_without_a_winner_leaves_its_verdicts_undecided():
    trials = searched("anon", 0.02)
    objective = Objective()
    found = verdicts(
        Scale(objective),
        trials,
        ["sgd"],
        {"anon": trials[0]},
        {"anon": Landscape(SPACE, trials, objective)},
        SEEDS,
    )
    assert {each.outcome for each in found} == {Outcome.UNDECIDED}
    assert all("sgd found no configuration" in each.note for each in found)


def several(
    results: dict[str, list[float | TrialState | None]], alpha: float = ALPHA, spread: float = 0.001
) -> tuple[Comparison, Comparison]:
    """A comparison of arms whose searches' winners came to these mean log losses on two seeds, or ended so on one.

    None is for a search of which all trials diverged; `spread` is the distance of the two seeds from their mean.
    """
    trials: list[Trial] = []
    searches = []
    for arm, ends in results.items():
        for repeat, end in enumerate(ends):
            tests = Round((10 * repeat, 10 * repeat + 1), alpha)
            if end is None:
                trials.append(trial(0, TrialState.DIVERGED, arm=arm, repeat=repeat))
                searches.append(Searched(arm, repeat, None, tests))
                continue
            best = trial(0, value=1.0, arm=arm, repeat=repeat)
            trials.append(best)
            searches.append(Searched(arm, repeat, best, tests))
            for n, seed in enumerate(tests.seeds):
                lost = isinstance(end, TrialState) and n == 0
                state = end if isinstance(end, TrialState) and lost else TrialState.COMPLETE
                value = (
                    None
                    if lost
                    else math.exp((0.0 if isinstance(end, TrialState) else end) + (2 * n - 1) * spread)
                )
                trials.append(
                    trial(
                        n,
                        state,
                        value,
                        arm=arm,
                        phase=Phase.VERDICT,
                        seed=seed,
                        source=best.id,
                        repeat=repeat,
                    )
                )
    by_arm = {each.arm: each.winner for each in searches if each.winner is not None}
    winners = {arm: by_arm[arm] for arm in results if arm in by_arm}
    objective = Objective(practical=0.01)
    landscapes = {arm: Landscape(SPACE, [], objective) for arm in results}
    found = verdicts(
        Scale(objective), trials, ["sgd"], winners, landscapes, [Round((900, 901), ALPHA)], searches
    )
    configuration, optimizer = found
    return configuration, optimizer


def test_several_searches_measure_the_verdict_on_optimizers():
    _, found = several({"anon": [0.0, 0.01, -0.01], "sgd": [0.5, 0.51, 0.49]})
    assert (found.of, found.outcome) == ("optimizer", Outcome.BETTER)
    assert (found.searches, found.seeds) == (3, 6)
    assert found.difference == pytest.approx(math.expm1(-0.5))
    assert (found.anon, found.other) == (pytest.approx(1.0), pytest.approx(math.exp(0.5)))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high < 0
    assert found.note == "measured over 3 searches of each"


def test_searches_without_a_confirmed_configuration_count():
    _, found = several({"anon": [0.0, None, None, None, None], "sgd": [0.5, 0.51, 0.49, 0.5, 0.5]})
    assert found.seeds == 2
    assert found.note.startswith("4 of 5 searches of Anon found no configuration; measured over")
    configuration, found = several({"anon": [None] * 3, "sgd": [0.5, 0.51, 0.49]})
    assert configuration.outcome is Outcome.UNDECIDED
    assert found.outcome is Outcome.WORSE
    assert found.note.startswith("3 of 3 searches of Anon found no configuration")


def test_searches_with_a_large_spread_are_undecided():
    _, found = several({"anon": [0.0, 0.6, -0.4], "sgd": [0.5, 0.2, 0.9]})
    assert found.outcome is Outcome.UNDECIDED
    assert found.detectable is not None


def test_a_stricter_level_has_a_wider_interval():
    results: dict[str, list[float | TrialState | None]] = {"anon": [0.0, 0.1, -0.1], "sgd": [0.2, 0.3, 0.1]}
    _, wide = several(results, alpha=0.005)
    _, narrow = several(results)
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < narrow.low


def test_a_search_whose_winner_diverged_counts_against_its_optimizer_and_one_that_failed_for_nothing():
    _, diverged = several({"anon": [0.0, 0.1, TrialState.DIVERGED], "sgd": [0.0, 0.1, 0.0]})
    assert diverged.note == "Anon diverged on 1 of 6 seeds; measured over 3 searches of each"
    assert diverged.difference is not None
    assert diverged.difference > 0.04
    _, failed = several({"anon": [0.0, 0.1, TrialState.FAILED], "sgd": [0.0, 0.1, 0.0]})
    assert failed.note == "measured over 3 searches of each"
    assert failed.difference == pytest.approx(0.0, abs=1e-3)
    assert failed.seeds == 5


def test_without_an_effect_of_the_seed_several_searches_decide_nothing():
    results: dict[str, list[float | TrialState | None]] = {
        "anon": [0.0, 0.01, -0.01],
        "sgd": [0.5, 0.51, 0.49],
    }
    _, found = several(results, spread=0.0)
    assert (found.outcome, found.low, found.high) == (Outcome.UNDECIDED, None, None)
    assert found.difference == pytest.approx(math.expm1(-0.5))
    assert found.note.startswith("the seed has no effect")


def test_luck_grows_with_the_distance_of_the_winner_from_the_best():
    trials = searched("anon", 0.02)
    landscape = Landscape(SPACE, trials, Objective())
    found = [search_variance(landscape, trials[n]) for n in (6, 8, 11)]
    assert all(each is not None for each in found)
    assert found[0] < found[1] < found[2]  # type: ignore[operator]
    assert found[2] == pytest.approx((2 * 0.25) ** 2, rel=0.3)
    assert search_variance(Landscape(SPACE, trials[:3], Objective()), trials[0]) is None
