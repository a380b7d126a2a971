"""Rounds of verdict seeds: which are run, what decides, and how often it is wrong over all of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from anon_tune.advice.summary import summarize
from anon_tune.answer import Outcome
from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Plan, next_trial
from anon_tune.search.rounds import Round, RoundsOfTwo, rounds_of
from anon_tune.search.scale import Scale
from anon_tune.search.sequential import ALPHA
from anon_tune.spec import Objective, spaces_of
from tests import builders
from tests.builders import begun, trial

WINNERS = {arm: trial(0, value=1.0, arm=arm) for arm in ("anon", "sgd")}
OBJECTIVE = Objective(practical=1e-9)


def test_each_round_has_seeds_and_a_level_of_its_own():
    rounds = rounds_of(builders.spec(budget={"trials": 4, "epochs": 9, "more_seeds": [5, 7, 9]}))
    assert [len(each.seeds) for each in rounds] == [10, 5, 7, 9]
    assert len({seed for each in rounds for seed in each.seeds}) == 31
    assert [each.alpha for each in rounds] == pytest.approx([0.04, 0.005, 0.0025, 0.00125])


def test_the_levels_of_all_rounds_stay_within_the_error_rate_however_many_there_are():
    rounds = rounds_of(builders.spec(budget={"trials": 4, "epochs": 9, "more_seeds": [2] * 100}))
    assert sum(each.alpha for each in rounds) < 1.0001 * ALPHA


def verdict(arm: str, seed: int, log_loss: float, source: Trial | None = None) -> Trial:
    source = source or WINNERS[arm]
    value = math.exp(log_loss)
    return trial(seed, value=value, arm=arm, phase=Phase.VERDICT, seed=seed, source=source.id)


def two(trials: list[Trial], *rounds: Round, comparisons: int = 1) -> RoundsOfTwo:
    scale = Scale(OBJECTIVE, [t.value for t in trials if t.value is not None])
    return RoundsOfTwo(scale, trials, ("anon", "sgd"), WINNERS, rounds, comparisons)


FIRST, SECOND = Round((0, 1, 2), 0.04), Round((10, 11, 12), 0.005)
NOISE = (0.01, -0.01, 0.0)


def runs(each: Round, shift: float) -> list[Trial]:
    pairs = zip(each.seeds, NOISE, strict=True)
    return [
        v for seed, off in pairs for v in (verdict("anon", seed, shift + off), verdict("sgd", seed, off / 2))
    ]


def test_a_second_round_is_judged_by_its_seeds_alone():
    """The first leaves it open; pooled with the second, whose difference is as small, it would still be open."""
    undecided = two(runs(FIRST, 0.0), FIRST, SECOND)
    assert undecided.judge().outcome is None
    assert undecided.wanted(1) == SECOND.seeds
    decided = two([*runs(FIRST, 0.0), *runs(SECOND, -0.9)], FIRST, SECOND)
    found = decided.judge()
    assert (found.outcome, found.seeds) == (Outcome.BETTER, 3)
    assert found.difference == pytest.approx(-0.9, abs=0.02)


def test_a_decided_comparison_needs_no_more_seeds():
    assert list(two(runs(FIRST, -0.9), FIRST, SECOND).wanted(1)) == []


def test_without_a_decisive_round_the_narrowest_interval_is_reported():
    wide = [
        verdict(arm, seed, 5 * off) for seed, off in zip(SECOND.seeds, NOISE, strict=True) for arm in ("sgd",)
    ]
    wide += [verdict("anon", seed, -9 * off) for seed, off in zip(SECOND.seeds, NOISE, strict=True)]
    found = two([*runs(FIRST, 0.0), *wide], FIRST, SECOND).judge()
    assert found == two(runs(FIRST, 0.0), FIRST, SECOND).judge()


def test_a_new_winner_is_tested_on_unused_seeds():
    former = trial(1, value=1.0)
    spent = [*(verdict("anon", seed, 0.0, former) for seed in FIRST.seeds)]
    spent += [verdict("sgd", seed, 0.5) for seed in FIRST.seeds]
    assert two(spent, FIRST, SECOND).wanted(0) == SECOND.seeds
    assert two([*spent, *runs(SECOND, -0.9)], FIRST, SECOND).judge().outcome is Outcome.BETTER


@pytest.mark.slow
def test_equal_winners_are_rarely_called_different_after_any_number_of_extensions():
    """Five extensions, each asked for because the ones before left it open; two-sided 5% is what is allowed."""
    rng = np.random.default_rng(4)
    counts = itertools.accumulate([10, 10, 20, 10, 30, 10], initial=0)
    alphas = [
        each.alpha
        for each in rounds_of(builders.spec(budget={"trials": 4, "epochs": 9, "more_seeds": [9] * 5}))
    ]
    rounds = [
        Round(tuple(range(start, end)), alpha)
        for (start, end), alpha in zip(itertools.pairwise(counts), alphas, strict=True)
    ]
    jobs, wrong = 400, 0
    for _ in range(jobs):
        trials = [verdict(arm, s, 0.05 * rng.normal()) for s in range(90) for arm in ("anon", "sgd")]
        wrong += two(trials, *rounds).judge().outcome is not None
    assert wrong / jobs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / jobs)


def finished(job: Plan, trials: list[Trial], loss: Callable[[NewTrial], float]) -> list[Trial]:
    """The job's trials at its end, run one at a time."""
    made = list(trials)
    while isinstance(new := next_trial(job, made), NewTrial):
        made.append(dataclasses.replace(begun(new, TrialState.COMPLETE), value=math.exp(loss(new))))
    return made


def extended(trials: int = 2, more: tuple[int, ...] = (), **keys: object) -> Plan:
    confirm = {"finalists": 1, "seeds": 3, "verdict_seeds": 4}
    budget = {"trials": trials, "epochs": 9, "more_seeds": more}
    spec = builders.spec(
        budget=budget, confirm=confirm, search={"sampler": "random"}, objective={"practical": 1e-6}, **keys
    )
    return Plan(spec, spaces_of(spec), -9.0)


def noise(new: NewTrial) -> float:
    return 0.01 * math.sin(new.seed % 1000 + len(new.arm))


def test_more_seeds_are_run_where_the_comparison_is_open():
    def loss(new: NewTrial) -> float:
        return noise(new) + (0.5 if new.arm == "sgd" else 0.0)

    before = finished(extended(), [], loss)
    after = finished(extended(more=(6,)), before, loss)
    assert after[: len(before)] == before
    added = [each for each in after[len(before) :] if each.phase is Phase.VERDICT]
    assert len(added) == len(after) - len(before)
    # Anon has beaten sgd after three seeds, and is as good as adamw.
    assert {each.arm for each in added} == {"anon", "adamw"}
    assert {each.seed for each in added} == set(rounds_of(extended(more=(6,)).spec)[1].seeds)


def test_an_arm_without_a_baseline_is_run_on_the_seeds_of_the_first_look():
    made = finished(extended(arms=["anon"]), [], noise)
    assert sum(each.phase is Phase.VERDICT for each in made) == 3


def lost(arm: str, seed: int) -> Trial:
    return trial(seed, TrialState.DIVERGED, arm=arm, phase=Phase.VERDICT, seed=seed, source=WINNERS[arm].id)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_divergence_decides_no_more_often_in_the_small_rounds_of_an_extension(share: float):
    rng = np.random.default_rng(8)
    levels = rounds_of(builders.spec(budget={"trials": 4, "epochs": 9, "more_seeds": [2] * 5}))
    starts = [0, 10, 12, 14, 16, 18, 20]
    rounds = [
        Round(tuple(range(start, end)), each.alpha)
        for (start, end), each in zip(itertools.pairwise(starts), levels, strict=True)
    ]
    jobs, wrong = 300, 0
    for _ in range(jobs):
        trials = [
            lost(arm, seed) if rng.random() < share else verdict(arm, seed, 0.05 * rng.normal())
            for seed in range(20)
            for arm in ("anon", "sgd")
        ]
        wrong += two(trials, *rounds).judge().outcome is not None
    assert wrong / jobs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / jobs)


def test_a_configuration_that_always_diverges_is_worse_by_fishers_test_if_the_seed_has_an_effect():
    noisy = [confirmed(WINNERS["anon"].id, number, off) for number, off in enumerate((-0.1, 0.1))]

    def judged(
        count: int, other: Callable[[str, int], Trial], more: Sequence[Trial] = noisy
    ) -> Outcome | None:
        trials = [run for seed in range(count) for run in (lost("anon", seed), other("sgd", seed))]
        return two([*trials, *more], Round(tuple(range(count)), 0.04)).judge().outcome

    assert judged(3, lambda arm, seed: verdict(arm, seed, 0.0)) is None
    assert judged(8, lambda arm, seed: verdict(arm, seed, 0.0)) is Outcome.WORSE
    assert judged(8, lambda arm, seed: verdict(arm, seed, 0.0), more=[]) is None

    def failed(arm: str, seed: int) -> Trial:
        return dataclasses.replace(lost(arm, seed), state=TrialState.FAILED)

    assert judged(8, failed) is None


def test_confirm_runs_of_other_finalists_change_nothing_that_was_looked_at():
    differences = (-0.4, -0.405, -0.395, 0.4)
    runs = [verdict("sgd", seed, 0.0) for seed in range(4)]
    runs += [verdict("anon", seed, off) for seed, off in enumerate(differences)]
    runs += [confirmed(WINNERS["anon"].id, number, off) for number, off in enumerate((-0.3, 0.0, 0.3))]
    later = [confirmed("another", 3 + number, 0.001 * number) for number in range(9)]
    each = Round((0, 1, 2, 3), 0.04)
    assert two(runs, each).judge() == two([*runs, *later], each).judge()


def confirmed(source: str, number: int, log_loss: float) -> Trial:
    return trial(number, value=math.exp(log_loss), phase=Phase.CONFIRM, seed=100 + number, source=source)


def test_with_fixed_seeds_every_finalist_and_winner_runs_once_and_nothing_is_decided():
    def loss(new: NewTrial) -> float:
        return 0.5 if new.arm == "sgd" else 0.0

    job = extended(seeds="fixed")
    made = finished(job, [], loss)
    assert Counter(each.phase for each in made) == job.spec.planned_trials()
    assert job.spec.planned_trials()[Phase.VERDICT] == len(job.spec.arms)
    assert finished(extended(more=(6,), seeds="fixed"), made, loss) == made, "more seeds would be the same"
    verdict = summarize(job, made).verdict
    assert len(verdict) == 4
    for each in verdict:
        assert (each.outcome, each.low, each.high) == (Outcome.UNDECIDED, None, None)
    for each in verdict:
        if each.of == "configuration":
            assert each.note.startswith("the job states `seeds: fixed`: one run of each was compared")
            assert each.difference == pytest.approx(0.0 if each.baseline == "adamw" else math.expm1(-0.5))


def test_an_arm_that_is_compared_with_nothing_has_three_verdict_seeds():
    spec = builders.spec(budget={"trials": 4, "epochs": 9}, search={"sampler": "random"}, arms=["anon"])
    made = finished(Plan(spec, spaces_of(spec), -9.0), [], noise)
    assert [each.phase for each in made].count(Phase.VERDICT) == 3
    assert spec.planned_trials()[Phase.VERDICT] == 3


def test_with_fixed_seeds_several_searches_decide_nothing():
    search = {"sampler": "random", "repeats": 3}
    spec = builders.spec(
        budget={"trials": 2, "epochs": 9}, search=search, seeds="fixed", arms=["anon", "sgd"]
    )
    job = Plan(spec, spaces_of(spec), -9.0)
    made = finished(job, [], lambda new: noise(new) + (0.5 if new.arm == "sgd" else 0.0))
    assert sum(each.phase is Phase.VERDICT for each in made) <= spec.planned_trials()[Phase.VERDICT]
    for each in summarize(job, made).verdict:
        assert (each.outcome, each.low, each.high) == (Outcome.UNDECIDED, None, None)
        assert each.note.startswith("the job states `seeds: fixed`")
