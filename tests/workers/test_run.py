"""One process's work on a job, with the real ledger and policy and without Ray: exact through any interruption."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anon_tune.errors import LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, Phase, Trial, TrialState
from anon_tune.search.policy import Plan, Signal, finalists
from anon_tune.spec import spaces_of
from anon_tune.workers.run import Run
from tests import builders

OVER = -1.0
"""A lease of so many seconds can be taken at once, as that of a killed process later."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def plan(trials: int = 4, **keys: Any) -> Plan:
    keys.setdefault("search", {"sampler": "random", "grace": 1, "reduction": 2})
    keys.setdefault("confirm", {"finalists": 1, "seeds": 2, "verdict_seeds": 2})
    spec = builders.spec(budget={"trials": trials, "epochs": 4}, **keys)
    return Plan(spec, spaces_of(spec), -9.0)


def begin(ledger: Ledger, job: Plan) -> tuple[str, Lease]:
    made = ledger.create_job("x", job.spec.model_dump(mode="json"), {})
    return made.id, ledger.acquire(made.id, "first", OVER)


def result(step: int, value: float, **keys: Any) -> dict[str, Any]:
    """A result as Tune hands it on."""
    return {"step": step, "value": value, "metrics/val_loss": value, "done": False, **keys}


def failure(reason: str = "no such file") -> dict[str, Any]:
    return {"done": True, "outcome": TrialState.FAILED, "reason": reason, "traceback": "..."}


def started(run: Run) -> Trial:
    found = run.next()
    assert isinstance(found, Trial)
    return found


def stored(ledger: Ledger, job_id: str) -> tuple[Trial, ...]:
    return ledger.job(job_id, trials=True).trials


def seen(trials: Any) -> list[tuple[Any, ...]]:
    return sorted((t.id, t.state, t.value, t.reason, t.attempts, len(t.reports)) for t in trials)


@pytest.mark.parametrize("seed", range(4))
def test_a_job_that_is_killed_again_and_again_is_exact(ledger: Ledger, seed: int):
    rng = random.Random(seed)
    job = plan()
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    steps: dict[str, int] = {}
    kills = 0
    while True:
        if kills < 12 and rng.random() < 0.08:  # kill -9: nothing is said to the ledger
            kills += 1
            lease = ledger.acquire(job_id, f"process {kills}", OVER)
            run, steps = Run(ledger, lease, job), {}
        found = run.next() if len(steps) < 2 else Signal.WAIT
        if found is Signal.DONE:
            break
        if isinstance(found, Trial):
            assert found.id not in steps
            steps[found.id] = 0
            continue
        trial_id = rng.choice(sorted(steps))
        steps[trial_id] += 1
        step, value = steps[trial_id], rng.uniform(0.1, 2)
        if rng.random() < 0.05:
            run.lose(trial_id, "the worker process died")
            del steps[trial_id]
            continue
        keys: dict[str, Any] = {}
        if rng.random() < 0.1:
            value, keys = math.nan, {"outcome": TrialState.DIVERGED, "reason": "diverged"}
        elif step == 4:
            keys = {"outcome": TrialState.COMPLETE, "final": value}
        if run.report(trial_id, result(step, value, **keys)) or keys:
            del steps[trial_id]
    assert kills
    assert not steps
    trials = stored(ledger, job_id)
    assert seen(trials) == seen(run.trials)
    assert all(t.is_finished for t in trials)
    for arm in job.spec.arms:
        of_arm = [t for t in trials if t.arm == arm]
        search = [t for t in of_arm if t.phase is Phase.SEARCH]
        assert [t.number for t in sorted(search, key=lambda t: t.number)] == [0, 1, 2, 3]
        assert len({tuple(sorted(t.params.items())) for t in search}) == 4
        repeats = 2 if finalists(trials, arm, 1, "min") else 0
        for phase in (Phase.CONFIRM, Phase.VERDICT):
            assert len({t.seed for t in of_arm if t.phase is phase}) == repeats
            assert sum(t.phase is phase for t in of_arm) == repeats


def test_what_runs_is_what_the_ledger_says(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    first, second = started(run), started(run)
    assert (first.arm, second.arm) == ("anon", "adamw")
    assert ledger.job(job_id).phase is Phase.SEARCH
    run.report(first.id, result(1, 0.5))
    run.report(first.id, result(2, math.inf, outcome=TrialState.DIVERGED, reason="diverged"))
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    assert [t.state for t in stored(ledger, job_id)] == [TrialState.DIVERGED, TrialState.RUNNING]
    assert not run.report(first.id, result(2, 9.0))  # Tune repeats itself
    assert stored(ledger, job_id)[0].reports[0].metrics == {"val_loss": 0.5}


def test_three_failures_for_one_reason_pause_the_job_and_a_resume_goes_on(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    for _ in range(3):
        run.report(started(run).id, failure())
    assert run.next() is Signal.DONE
    assert run.paused == "no such file"
    ledger.release(lease, JobState.PAUSED, run.paused)

    run = Run(ledger, ledger.acquire(job_id, "again", OVER), plan())
    for _ in range(3):
        run.report(started(run).id, failure())
    assert run.next() is Signal.DONE
    assert run.paused == "no such file"
    assert len(stored(ledger, job_id)) == 6


def test_what_was_given_out_before_the_third_failure_spends_no_budget_on_it(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    *failing, again, other, good = [started(run) for _ in range(6)]
    for trial in failing:
        run.report(trial.id, failure())
    assert run.paused == "no such file"
    run.report(again.id, failure())
    run.report(other.id, failure("another reason"))
    run.report(good.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
    assert run.next() is Signal.DONE
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    states = [t.state for t in run.trials]
    assert states[:3] == [TrialState.FAILED] * 3
    assert states[3:] == [TrialState.WAITING, TrialState.FAILED, TrialState.COMPLETE]


def test_a_worker_that_dies_gives_the_trial_another_attempt_but_not_for_ever(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    first = started(run)
    for attempt in (2, 3):
        run.lose(first.id, "the worker process died")
        again = started(run)
        assert (again.id, again.attempts) == (first.id, attempt)
    run.lose(first.id, "the worker process died")
    (trial,) = stored(ledger, job_id)
    assert trial.state is TrialState.FAILED
    assert trial.reason == "the worker process died (3 times)"
    run.lose(first.id, "once more")  # an ended trial cannot be lost
    assert stored(ledger, job_id) == (trial,)


def test_attempts_that_ended_with_their_driver_do_not_count_as_deaths(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    for _ in range(4):
        first = started(Run(ledger, lease, plan()))
        ledger.release(lease, JobState.PAUSED, "interrupted")
        lease = ledger.acquire(job_id, "again", OVER)
    run = Run(ledger, lease, plan())
    assert started(run).attempts == 5
    run.lose(first.id, "the worker process died")
    assert stored(ledger, job_id)[0].state is TrialState.WAITING


def test_an_attempt_that_begins_again_is_judged_by_the_steps_it_has_done(ledger: Ledger):
    """Its predecessor's later reports stand in the ledger, and say nothing of where it is now."""
    job = plan(8, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    for _ in range(2):
        trial = started(run)
        for step in range(1, 5):
            end = {"outcome": TrialState.COMPLETE, "final": 1.0} if step == 4 else {}
            run.report(trial.id, result(step, 1.0, **end))
    trial = started(run)
    assert not run.report(trial.id, result(1, 0.5))
    ledger.report(lease, trial.id, 1, 2, 9.0, {})  # and killed before it heard that it is pruned
    run = Run(ledger, ledger.acquire(job_id, "again", OVER), job)
    assert started(run).id == trial.id
    assert not run.report(trial.id, result(1, 0.5))
    assert run.report(trial.id, result(2, 9.0))
    assert next(t for t in stored(ledger, job_id) if t.id == trial.id).reason == "pruned after epoch 2"


def test_after_a_takeover_nothing_more_is_given_out(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    trial = started(run)
    ledger.acquire(job_id, "second", OVER)
    before = stored(ledger, job_id)
    assert run.guard(lambda: run.report(trial.id, result(1, 0.5)), otherwise=True)
    assert isinstance(run.error, LeaseLostError)
    assert run.guard(run.next, Signal.DONE) is Signal.DONE
    assert stored(ledger, job_id) == before
