"""Trials that the sampler sees as RUNNING are those that a process works on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from typing import Any

import optuna
import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import Phase, Trial
from anon_tune.search.policy import Plan
from anon_tune.search.pruning import NEVER_STOPPED
from anon_tune.search.study import distributions
from anon_tune.search.training_data import as_frozen_trials
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.trial.messages import Completed, Diverged, Failed, StepResult
from tests.workers.runs import OVER, begin, failure, plan, result, started, stored


def told_running(job: Plan, trials: Any, arm: str) -> list[dict[str, Any]]:
    """Points that the sampler sees as RUNNING."""
    search = [t for t in trials if t.arm == arm and t.phase is Phase.SEARCH]
    space = job.spaces[arm]
    found = as_frozen_trials(space, search, distributions(space), job.spec.objective)
    return [t.params for t in found if t.state is optuna.trial.TrialState.RUNNING]


ENDINGS: dict[str, list[StepResult]] = {
    "complete": [
        result(1, 0.5),
        result(4, 0.4, Completed(0.4)),
    ],
    "NaN": [result(1, math.nan, Diverged("diverged"))],
    "inf": [result(1, 0.5), result(2, math.inf, Diverged("diverged"))],
    "-inf": [result(1, -math.inf, Diverged("diverged"))],
    "NaN at the end": [result(4, 0.4, Diverged("diverged"))],
    "exception": [failure("its own")],
    "exception later": [result(1, 0.5), failure("its own")],
}


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trial_that_ended_in_any_way_runs_no_more(ledger: Ledger, ending: str, sampler: str):
    job = plan(12, arms=["anon"], search={"sampler": sampler, "grace": 1, "pruner": "none"})
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    for number in range(9):  # the last suggestion is made with a model
        first = started(run)
        assert told_running(job, run.trials, "anon") == [dict(first.params)]
        for reported in ENDINGS[ending]:
            if isinstance(reported.outcome, Diverged | Failed):
                ended = dataclasses.replace(reported.outcome, reason=f"reason {number}")
                reported = dataclasses.replace(reported, outcome=ended)
            run.report(first.id, reported)
        assert told_running(job, run.trials, "anon") == []
        assert told_running(job, stored(ledger, job_id), "anon") == []
    assert run.running == 0
    assert started(run).number == 9


def test_a_report_that_is_not_finite_is_no_end_by_itself(ledger: Ledger):
    """The trial says that it diverged; until then it runs, and is pruned by nobody."""
    for pruner in ("asha", "median"):
        job = plan(9, arms=["anon"], search={"sampler": "random", "grace": 1, "pruner": pruner})
        _, lease = begin(ledger, job)
        run = JobRun(ledger, lease, job)
        for _ in range(NEVER_STOPPED):
            good = started(run)
            run.report(good.id, result(1, 0.5))
            run.report(good.id, result(4, 0.5, Completed(0.5)))
        odd = started(run)
        assert not run.report(odd.id, result(1, math.nan))
        assert run.running == 1
        run.report(odd.id, result(1, math.nan, Diverged("diverged")))
        assert run.running == 0


def test_the_last_death_of_a_worker_ends_its_trial_for_the_sampler(ledger: Ledger):
    job = plan(8, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    lost, other = started(run), started(run)
    for _ in range(2):
        run.lose(lost.id, "the worker process died")
        # It waits, and is the next to be given out: its place is still taken.
        assert told_running(job, run.trials, "anon") == [dict(lost.params), dict(other.params)]
        assert started(run).id == lost.id
    run.lose(lost.id, "the worker process died")
    assert told_running(job, run.trials, "anon") == [dict(other.params)]
    assert told_running(job, stored(ledger, job_id), "anon") == [dict(other.params)]
    assert started(run).id not in (lost.id, other.id)


def test_after_a_takeover_what_ran_is_given_out_again_before_anything_new(ledger: Ledger):
    job = plan(8, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    before = [started(run) for _ in range(3)]
    run.report(before[1].id, result(4, 0.5, Completed(0.5)))
    run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), job)
    assert run.running == 0
    again = [started(run) for _ in range(2)]
    assert [t.id for t in again] == [before[0].id, before[2].id]
    assert told_running(job, run.trials, "anon") == [dict(t.params) for t in again]
    assert started(run).number == 3


@pytest.mark.parametrize("seed", range(3))
def test_the_sampler_sees_exactly_the_started_trials_as_running(ledger: Ledger, seed: int):
    """With workers that die, values that are no numbers, exceptions and takeovers in between."""
    rng = random.Random(seed)
    job = plan(12, search={"sampler": "random", "grace": 1, "reduction": 2, "seed": seed}, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run, out = JobRun(ledger, lease, job), dict[str, int]()
    waiting: set[str] = set()
    for change in range(120):
        happens = rng.random()
        if happens < 0.05:
            lease = ledger.leases.acquire(job_id, f"process {change}", OVER)
            waiting |= set(out)
            run, out = JobRun(ledger, lease, job), {}
        elif len(out) < 3 and isinstance(found := run.next(), Trial):
            out[found.id] = 0
            waiting -= {found.id}
        elif out:
            trial_id = rng.choice(sorted(out))
            step = out[trial_id] = out[trial_id] + 1
            ended = True
            if happens < 0.2:
                run.lose(trial_id, "the worker process died")
                waiting |= {t.id for t in run.trials if t.id == trial_id and not t.is_finished}
            elif happens < 0.3:
                run.report(trial_id, failure(f"reason {change}"))
            elif happens < 0.4:
                odd = rng.choice([math.nan, math.inf])
                run.report(trial_id, result(step, odd, Diverged("diverged")))
            elif step == 4:
                run.report(trial_id, result(4, 0.5, Completed(0.5)))
            else:
                ended = run.report(trial_id, result(step, rng.uniform(0.1, 2)))
            if ended:
                del out[trial_id]
        for trials in (run.trials, stored(ledger, job_id)) if change % 4 == 0 else (run.trials,):
            by_id = {t.id: t for t in trials}
            expected = [
                dict(t.params) for t in by_id.values() if t.phase is Phase.SEARCH and t.id in {*out, *waiting}
            ]
            assert sorted(map(str, told_running(job, trials, "anon"))) == sorted(map(str, expected))
        assert run.running == len(out)


@pytest.mark.parametrize("sampler", ["gp", "grid"])
def test_points_to_try_first_are_tried_once_however_often_the_job_is_killed(ledger: Ledger, sampler: str):
    points = [{"gamma": 0.5, "step_size": 1.0}, {"gamma": 0.0}]
    job = plan(6, arms=["anon"], search={"sampler": sampler, "levels": 3, "try_first": points})
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    firsts = []
    for kill in range(6):
        found = started(run)
        with contextlib.suppress(IndexError):
            assert found.params.items() >= points[found.number].items()
        firsts.append(found.number)
        if kill % 2:
            run.report(found.id, result(4, 0.5, Completed(0.5)))
        run = JobRun(ledger, ledger.leases.acquire(job_id, f"process {kill}", OVER), job)
    assert firsts == [0, 0, 1, 1, 2, 2]
    assert not any(t.params.items() >= point.items() for t in stored(ledger, job_id)[2:] for point in points)
