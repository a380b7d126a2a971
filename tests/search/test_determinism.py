"""The same trials give the same decisions, in the process that made them and in a new one."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import math
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search import landscape, stop
from anon_tune.search.policy import Decision, Plan, next_trial
from anon_tune.search.pruning import should_prune
from anon_tune.spec import parse_spec, spaces_of
from tests import builders
from tests.builders import begun
from tests.search.simulation import ENDS, Simulation
from tests.search.spaces import LINE

SAMPLERS = ("botorch", "gp", "tpe", "random", "grid")
PRUNERS = ("asha", "median", "none")


def plan_of(sampler: str, pruner: str, seed: int, trials: int) -> Plan:
    search = {"sampler": sampler, "pruner": pruner, "seed": seed, "grace": 2, "reduction": 2, "levels": 3}
    spec = builders.spec(
        budget={"trials": trials, "epochs": 6},
        search=search,
        confirm={"finalists": 2, "seeds": 2, "verdict_seeds": 2},
        arms=["anon"],
    )
    return Plan(spec, spaces_of(spec), log_mean_sigma=-9.0)


def prunes(job: Plan, trials: list[Trial]) -> dict[str, bool]:
    """Whether each search trial would be stopped at its last report, were it still running."""
    search = [t for t in trials if t.phase is Phase.SEARCH and t.reports]
    return {
        t.id: should_prune(
            job.spaces[t.arm],
            t,
            [o for o in search if o.id != t.id],
            job.spec.search,
            job.spec.objective,
        )
        for t in search
    }


def check(job: Plan, outcome: dict[str, Any], changes: int) -> None:
    """Interrupt a job somewhere, and decide there once more from what a ledger would give back."""
    simulation = Simulation(job, **outcome)
    collections.deque(itertools.islice(simulation.run(), changes), maxlen=0)
    interrupted = list(simulation.trials)
    decided = next_trial(job, interrupted), prunes(job, interrupted)
    landscape.forget()
    rebuilt = Plan(
        parse_spec(job.spec.model_dump(mode="json")),
        spaces_of(job.spec),
        log_mean_sigma=job.log_mean_sigma,
    )
    again = random.Random(0).sample(interrupted, len(interrupted))
    assert (next_trial(rebuilt, again), prunes(rebuilt, again)) == decided


outcomes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "at_once": st.integers(2, 4),  # so that trials are RUNNING
        "ends": st.just((*ENDS, TrialState.COMPLETE, TrialState.COMPLETE)),
        "asks": st.booleans(),
    }
)
CHANGES = st.integers(1, 60)
"""The search is over after 40 of them or more, and the job after 57 or more."""
seeds = st.integers(0, 2**31 - 1)
few = settings(suppress_health_check=list(HealthCheck), max_examples=6)


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [
        # Each once in `make test`.
        pytest.param(sampler, pruner, marks=() if (row + column) % 3 == 0 else pytest.mark.slow)
        for row, sampler in enumerate(("tpe", "random", "grid"))
        for column, pruner in enumerate(PRUNERS)
    ],
)
@few
@given(outcome=outcomes, seed=seeds, changes=CHANGES)
def test_a_rebuilt_study_decides_the_same(
    sampler: str, pruner: str, outcome: dict[str, Any], seed: int, changes: int
):
    check(plan_of(sampler, pruner, seed, 20), outcome, changes)


@pytest.mark.parametrize("pruner", PRUNERS)
@settings(few, max_examples=2)
@given(outcome=outcomes, seed=seeds, changes=st.integers(18, 27))  # where the model suggests
def test_a_rebuilt_gaussian_process_decides_the_same(
    pruner: str, outcome: dict[str, Any], seed: int, changes: int
):
    check(plan_of("gp", pruner, seed, 12), outcome, changes)


# The order and the timing of endings, slots, kills


def ending(new: NewTrial) -> Trial:
    """How a trial ends: by its configuration and seed alone."""
    digest = int.from_bytes(
        hashlib.blake2b(repr((new.arm, new.seed, sorted(new.params.items()))).encode()).digest()[:8], "big"
    )
    chance = random.Random(digest)
    state = chance.choice([TrialState.DIVERGED, TrialState.FAILED, *[TrialState.COMPLETE] * 6])
    bowl = sum((float(value) - 0.3) ** 2 for value in new.params.values())
    value = (0.1 + bowl) * math.exp(0.1 * chance.gauss(0.0, 1.0)) if state is TrialState.COMPLETE else None
    reason = f"reason {digest}" if state is TrialState.FAILED else None
    return dataclasses.replace(begun(new, state), value=value, reason=reason, finished=builders.EPOCH)


def worked_off(job: Plan, slots: int, order: random.Random, kills: float) -> list[Trial]:
    """A job with so many slots, whose trials end in any order, and whose driver is killed now and then.

    A killed driver's running trials wait, and its successor has the trials back in any order.
    """
    trials: list[Trial] = []
    ends: dict[str, Trial] = {}
    while True:
        running = [i for i, t in enumerate(trials) if not t.is_finished]
        if order.random() < kills:
            order.shuffle(trials)
            landscape.forget()
            stop.forget()
            job = Plan(parse_spec(job.spec.model_dump(mode="json")), dict(job.spaces), job.log_mean_sigma)
            continue
        new = next_trial(job, trials) if len(running) < slots else Decision.WAIT
        if new is Decision.DONE:
            return sorted(trials, key=lambda t: t.id)
        if isinstance(new, NewTrial):
            trial = begun(new, order.choice([TrialState.RUNNING, TrialState.WAITING]))
            trials.append(trial)
            ends[trial.id] = ending(new)
        else:
            assert running, "WAIT with nothing to wait for"
            index = order.choice(running)
            trials[index] = ends[trials[index].id]


def job_of(sampler: str, trials: int, ends: str = "never") -> Plan:
    spec = builders.spec(
        budget={"trials": trials, "epochs": 6},
        search={"sampler": sampler, "levels": 3, "stop": ends},
        objective={"practical": 0.01 if ends == "never" else 0.2},
        confirm={"finalists": 2, "seeds": 3, "verdict_seeds": 2},
        arms=["anon", "sgd"],
    )
    return Plan(spec, {"anon": LINE, "sgd": spaces_of(spec)["sgd"]}, log_mean_sigma=-9.0)


@cache
def alone(sampler: str, trials: int, ends: str = "never") -> list[Trial]:
    """The job with one slot, never killed."""
    return worked_off(job_of(sampler, trials, ends), 1, random.Random(0), 0.0)


def same_whatever_happens(sampler: str, trials: int, slots: int, chance: int, ends: str = "never") -> None:
    job = job_of(sampler, trials, ends)
    assert worked_off(job, slots, random.Random(chance), 0.1) == alone(sampler, trials, ends)


@pytest.mark.parametrize("sampler", ["tpe", "random", pytest.param("grid", marks=pytest.mark.slow)])
@settings(few, max_examples=5)
@given(slots=st.integers(2, 9), chance=st.integers(0, 2**32))
def test_the_same_job_makes_the_same_trials_and_the_same_choices(sampler: str, slots: int, chance: int):
    same_whatever_happens(sampler, 9, slots, chance)


@pytest.mark.parametrize("sampler", ["botorch", "gp"])
@settings(few, max_examples=2)
@given(slots=st.integers(2, 9), chance=st.integers(0, 2**32))
def test_a_gaussian_process_makes_the_same_trials_too(sampler: str, slots: int, chance: int):
    same_whatever_happens(sampler, 9, slots, chance)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "tpe"])
@settings(few, max_examples=2)
@given(slots=st.integers(2, 9), chance=st.integers(0, 2**32))
def test_a_search_that_is_decided_ends_at_the_same_trial(sampler: str, slots: int, chance: int):
    same_whatever_happens(sampler, 28, slots, chance, "decided")


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_an_early_stopped_search_makes_the_first_trials_of_the_full_search(sampler: str):
    counts = {}
    for arm in ("anon", "sgd"):
        made, all_of_them = (
            [t for t in alone(sampler, 28, ends) if t.phase is Phase.SEARCH and t.arm == arm]
            for ends in ("decided", "never")
        )
        counts[arm] = len(made)
        assert made == all_of_them[: len(made)]
    assert 12 <= min(counts.values()) < 28, counts


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_larger_budget_changes_no_trial_of_the_search(sampler: str):
    small, large = (
        [t for t in alone(sampler, trials) if t.phase is Phase.SEARCH and t.number < 9] for trials in (9, 11)
    )
    assert small == large


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_the_interruptions_have_running_trials_and_decisions_of_both_kinds(pruner: str):
    """Of what the properties above are about, there is some."""
    job = plan_of("random", pruner, 0, 20)
    found: set[bool] = set()
    running = 0
    for now in Simulation(job, seed=1, at_once=3, ends=ENDS, asks=True).run():
        running = max(running, sum(t.state is TrialState.RUNNING for t in now))
        found |= set(prunes(job, list(now)).values())
    assert running == 3
    assert found == {True, False}
