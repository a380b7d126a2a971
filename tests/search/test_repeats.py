"""Jobs in which each arm is searched several times (`search.repeats`)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anon_tune.errors import SpecError
from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Decision, Plan, next_trial
from anon_tune.search.rounds import rounds_of, search_round
from anon_tune.search.winners import searches, winner
from anon_tune.spec import spaces_of
from tests import builders
from tests.builders import begun, trial
from tests.search.simulation import Simulation
from tests.search.spaces import LINE
from tests.search.test_determinism import ending, few, worked_off
from tests.search.test_policy import outcomes, simulated

ARMS = ("anon", "sgd")
CONFIRM = {"finalists": 2, "seeds": 3, "verdict_seeds": 4}


def plan(
    repeats: int, sampler: str = "random", trials: int = 5, more: tuple[int, ...] = (), **keys: Any
) -> Plan:
    spec = builders.spec(
        budget={"trials": trials, "epochs": 6, "more_seeds": more},
        search={"sampler": sampler, "repeats": repeats, **keys},
        confirm=CONFIRM,
        arms=list(ARMS),
    )
    return Plan(spec, {"anon": LINE, "sgd": spaces_of(spec)["sgd"]}, log_mean_sigma=-9.0)


def finished(job: Plan, trials: list[Trial] | None = None) -> list[Trial]:
    """The job's trials at its end, run one at a time."""
    made = list(trials or ())
    while isinstance(new := next_trial(job, made), NewTrial):
        made.append(ending(new))
    assert new is Decision.DONE
    return made


def by_id(trials: list[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda t: t.id)


@pytest.mark.parametrize("sampler", ["random", "tpe", "botorch"])
def test_the_first_search_of_each_arm_is_that_of_a_job_with_one(sampler: str):
    one, several = finished(plan(1, sampler, 7)), finished(plan(3, sampler, 7))
    first = [t for t in several if t.repeat == 0 and t.phase is not Phase.VERDICT]
    assert by_id(first) == by_id([t for t in one if t.phase is not Phase.VERDICT])
    assert {t.repeat for t in one} == {0}


@settings(few, max_examples=3)
@given(slots=st.integers(2, 9), chance=st.integers(0, 2**32))
def test_the_same_trials_are_made_whatever_happens(slots: int, chance: int):
    job = plan(2, "tpe", 6)
    assert worked_off(job, slots, random.Random(chance), 0.05) == by_id(finished(job))


@simulated
@given(outcomes, st.integers(1, 4), st.integers(1, 6))
def test_budgets_are_exact_in_each_search(outcome: dict[str, Any], repeats: int, budget: int):
    job = plan(repeats, trials=budget)
    simulation = Simulation(job, **outcome)
    for now in simulation.run():
        started = [
            sum((t.phase, t.arm, t.repeat) == (Phase.SEARCH, arm, repeat) for t in now)
            for arm in ARMS
            for repeat in range(repeats)
        ]
        assert max(started) - min(started) <= 1
    assert set(started) == {budget}
    trials = simulation.trials
    planned = job.spec.planned_trials()
    assert all(sum(t.phase is phase for t in trials) <= most for phase, most in planned.items())
    assert len({t.id for t in trials}) == len(trials)
    made = sorted((t.arm, t.repeat, t.phase, t.number) for t in trials)
    for _, found in itertools.groupby(made, key=lambda key: key[:3]):
        numbers = [number for *_, number in found]
        assert numbers == list(range(len(numbers)))


def test_repeats_share_no_seed_and_arms_share_those_of_a_repeat():
    trials = finished(plan(3))
    for phase in (Phase.SEARCH, Phase.CONFIRM):
        seeds = {
            (arm, repeat): {t.seed for t in trials if (t.arm, t.repeat, t.phase) == (arm, repeat, phase)}
            for arm in ARMS
            for repeat in range(3)
        }
        for repeat in range(3):
            assert seeds["anon", repeat] == seeds["sgd", repeat]
        for one, other in itertools.combinations(range(3), 2):
            assert not seeds["anon", one] & seeds["anon", other]


def test_all_searches_share_the_start_points_and_then_differ():
    points = [{"gamma": 0.25}, {"gamma": 0.75}]
    trials = [t for t in finished(plan(2, "tpe", 6, try_first=points)) if t.phase is Phase.SEARCH]
    one, other = ([t.params for t in trials if t.arm == "anon" and t.repeat == repeat] for repeat in range(2))
    assert one[:2] == other[:2]
    assert all(a["gamma"] == b["gamma"] for a, b in zip(one[:2], points, strict=True))
    assert not any(point in other for point in one[3:])


def test_the_winner_of_each_search_is_tested_on_seeds_of_its_own():
    job = plan(3)
    trials = finished(job)
    rounds = {seed for each in rounds_of(job.spec) for seed in each.seeds}
    found = searches(job.spec, trials)
    assert [(each.arm, each.repeat) for each in found] == [(arm, r) for r in range(3) for arm in ARMS]
    for each in found:
        assert each.winner is not None
        assert each.winner == winner(trials, each.arm, "min", each.repeat)
        runs = [t for t in trials if t.phase is Phase.VERDICT and t.origin == each.winner.origin]
        assert set(each.round.seeds) <= {t.seed for t in runs}
        assert {t.repeat for t in runs} == {each.repeat}
        assert len(each.round.seeds) == job.spec.confirm.verdict_seeds
        assert not rounds & set(each.round.seeds)
    by_repeat = {repeat: {each.round for each in found if each.repeat == repeat} for repeat in range(3)}
    assert all(len(of_repeat) == 1 for of_repeat in by_repeat.values()), "arms are paired within a repeat"
    for arm in ARMS:
        best = winner(trials, arm, "min")
        assert best is not None
        compared = {t.origin for t in trials if t.seed in rounds and t.arm == arm}
        assert compared == {best.id}


def test_the_winner_of_an_arm_is_the_best_of_its_searches():
    first, second = trial(0, value=0.1), trial(0, value=0.5, repeat=1)
    assert first.id != second.id
    runs = [
        trial(n, value=value, phase=Phase.CONFIRM, source=of.id, seed=10 * of.repeat + n, repeat=of.repeat)
        for of, values in ((first, (0.4, 0.5)), (second, (0.3, 0.3)))
        for n, value in enumerate(values)
    ]
    made = [first, second, *runs]
    assert winner(made, "anon", "min") == second
    assert winner(made, "anon", "max") == first
    assert [winner(made, "anon", "min", repeat) for repeat in range(3)] == [first, second, None]


def test_a_winner_that_an_extension_brings_is_tested_on_other_seeds_at_the_level_of_the_extension():
    before = plan(2, trials=2)
    trials = finished(before)
    after = plan(2, trials=9, more=(4,))
    again = finished(after, trials)
    assert again[: len(trials)] == trials
    tested = {
        (each.arm, each.repeat): each for each in searches(before.spec, trials) if each.winner is not None
    }
    changed = 0
    for each in searches(after.spec, again):
        former = tested[each.arm, each.repeat]
        assert each.winner is not None
        if each.winner == former.winner:
            assert each.round == former.round
        else:
            changed += 1
            assert not set(each.round.seeds) & set(former.round.seeds)
            assert each.round.alpha < former.round.alpha
        runs = [t.seed for t in again if t.phase is Phase.VERDICT and t.origin == each.winner.origin]
        assert len(runs) == len(set(runs))
        assert set(each.round.seeds) <= set(runs)
    assert changed > 0


def test_each_extension_spends_its_own_error_rate():
    """The first brings another winner of one search, the second of another: each is tested in its own round."""
    old, new = [trial(0, repeat=r) for r in range(2)], [trial(1, repeat=r) for r in range(2)]
    made: list[Trial] = [*old, *new]

    def tested(job: Plan, of: Trial) -> float:
        found = search_round(job.spec, made, of)
        for seed in found.seeds:
            number = len(made)
            made.append(
                trial(number, phase=Phase.VERDICT, source=of.id, seed=seed, repeat=of.repeat, value=0.2)
            )
        assert search_round(plan(2, more=(4, 4, 4)).spec, made, of) == found, "and stays there"
        return found.alpha

    first, second, third = (each.alpha for each in rounds_of(plan(2, more=(4, 4)).spec))
    assert [tested(plan(2), of) for of in old] == [first, first]
    assert tested(plan(2, more=(4,)), new[0]) == second
    assert tested(plan(2, more=(4, 4)), new[1]) == third


def test_more_seeds_change_nothing_of_the_searches():
    trials = finished(plan(2))
    again = finished(plan(2, more=(4,)), trials)
    one, other = (searches(job.spec, made) for job, made in ((plan(2), trials), (plan(2, more=(4,)), again)))
    assert one == other


def test_a_search_without_a_winner_has_a_note():
    job = plan(2)
    trials: list[Trial] = []
    while isinstance(new := next_trial(job, trials), NewTrial):
        lost = new.arm == "anon" and new.repeat == 1
        made = begun(new, TrialState.DIVERGED if lost else TrialState.COMPLETE)
        trials.append(dataclasses.replace(made, value=None if lost else math.exp(new.seed % 7)))
    found = {(each.arm, each.repeat): each.winner is not None for each in searches(job.spec, trials)}
    assert found == {("anon", 0): True, ("sgd", 0): True, ("anon", 1): False, ("sgd", 1): True}


def test_the_number_of_trials_is_planned_before_the_job_starts():
    planned = plan(3).spec.planned_trials()
    arms, trials, finalists, seeds, verdict = 2, 5, 2, 3, 4
    assert planned == {
        Phase.SEARCH: 3 * arms * trials,
        Phase.CONFIRM: 3 * arms * finalists * seeds,
        Phase.VERDICT: arms * verdict + 3 * arms * verdict,
    }
    assert plan(1).spec.planned_trials()[Phase.VERDICT] == arms * verdict


def test_a_grid_is_not_repeated():
    with pytest.raises(SpecError, match=r"search\.repeats: a grid is the same in each repeat"):
        builders.spec(search={"sampler": "grid", "repeats": 2})
    with pytest.raises(SpecError, match="repeats"):
        builders.spec(search={"repeats": 0})
