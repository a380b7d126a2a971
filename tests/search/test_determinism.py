"""The same trials give the same decisions, in the process that made them and in a new one."""

from __future__ import annotations

import collections
import itertools
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search import recommend
from anon_tune.search.policy import Plan, next_trial
from anon_tune.search.pruning import should_prune
from anon_tune.spec import parse_spec, spaces_of
from tests import builders
from tests.search.simulation import ENDS, Simulation

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
            job.spec.objective.mode,
        )
        for t in search
    }


def check(job: Plan, outcome: dict[str, Any], changes: int) -> None:
    """Interrupt a job somewhere, and decide there once more from what a ledger would give back."""
    simulation = Simulation(job, **outcome)
    collections.deque(itertools.islice(simulation.run(), changes), maxlen=0)
    interrupted = list(simulation.trials)
    decided = next_trial(job, interrupted), prunes(job, interrupted)
    recommend._posterior_mean.cache_clear()
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
few = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=6)


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
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
