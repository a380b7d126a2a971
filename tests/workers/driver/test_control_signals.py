"""Control signals and budgets of a running job, and the end of its process."""

from __future__ import annotations

import logging
import math
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anon_tune.advice.summary import summarize
from anon_tune.answer import Stopped
from anon_tune.ledger import Ledger
from anon_tune.ledger.trials import Trials
from anon_tune.records import ControlSignal, HeartbeatResponse, JobState, Phase, Trial, TrialState
from anon_tune.search.policy import Decision, Plan
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.driver.shutdown_request import ShutdownRequest
from anon_tune.workers.trial.checkpoints import checkpoint_name
from anon_tune.workers.trial.messages import Completed, Diverged
from tests.workers.runs import MODELLED, Held, begin, failure, plan, result, seen, started, stored


def response(
    job: Plan, spent: float = 0.0, request: ControlSignal | None = None, **budget: Any
) -> HeartbeatResponse:
    """Return a response of the ledger to a heartbeat."""
    return HeartbeatResponse(request, {**job.spec.budget.model_dump(), **budget}, spent)


def complete(run: JobRun, trial: Trial, value: float = 0.5) -> None:
    run.report(trial.id, result(4, value, Completed(value)))


def work_off(run: JobRun) -> None:
    while isinstance(found := run.next(), Trial):
        complete(run, found, 0.5 + 0.01 * found.number)
    assert found is Decision.DONE


@pytest.mark.parametrize("request_", ControlSignal)
def test_after_a_control_signal_no_trial_starts_and_running_ones_are_stored(
    ledger: Ledger, request_: ControlSignal
):
    job = plan()
    job_id, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job))
    run = JobRun(ledger, lease, job, renewal=renewal)
    first, lost = started(run), started(run)
    renewal.response = response(job, request=request_)
    assert run.stopping
    assert run.next() is Decision.DONE
    complete(run, first)
    run.lose(lost.id, "the worker process died")
    assert run.next() is Decision.DONE  # nor another attempt
    assert [t.state for t in stored(ledger, job_id)] == [TrialState.COMPLETE, TrialState.WAITING]


def test_a_larger_budget_is_searched_without_a_pause(ledger: Ledger):
    job = plan(2)
    job_id, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job))
    run = JobRun(ledger, lease, job, renewal=renewal)
    for _ in range(3):
        complete(run, started(run))
    renewal.response = response(job, trials=4)
    work_off(run)
    assert run.is_done()
    assert run.budget == {**job.spec.budget.model_dump(), "trials": 4}
    trials = stored(ledger, job_id)
    searched = Counter(t.arm for t in trials if t.phase is Phase.SEARCH)
    assert searched == dict.fromkeys(job.spec.arms, 4)


def test_a_larger_budget_after_the_end_is_seen(ledger: Ledger):
    job = plan(2)
    _, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job))
    run = JobRun(ledger, lease, job, renewal=renewal)
    work_off(run)
    assert run.is_done()
    renewal.response = response(job, trials=3)
    assert not run.is_done()
    assert started(run).phase is Phase.SEARCH


def test_a_suggestion_for_an_old_budget_is_dropped(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    held = Held(monkeypatch)
    job = plan(4, arms=["anon"], search=MODELLED)
    job_id, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job))
    with JobRun(ledger, lease, job, patience=0.0, renewal=renewal) as run:
        first = started(run)
        held.free.clear()
        assert run.next() is Decision.WAIT  # the second search trial is being found
        renewal.response = response(job, spent=9.0, time=5.0)
        assert run.next() is Decision.WAIT
        complete(run, first)
        held.free.set()
        assert started(run).phase is Phase.CONFIRM
    assert sum(t.phase is Phase.SEARCH for t in stored(ledger, job_id)) == 1


def test_time_that_is_spent_ends_the_search_and_not_the_job(ledger: Ledger):
    job = plan(4, arms=["anon", "sgd"])
    job_id, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job, spent=4.9, time=5.0))
    run = JobRun(ledger, lease, job, renewal=renewal)
    done, waits, runs = started(run), started(run), started(run)
    complete(run, done)
    run.lose(waits.id, "the worker process died")
    assert run.cut_short is None
    renewal.response = response(job, spent=5.0, time=5.0)
    assert run.next() is Decision.WAIT  # what runs may finish
    complete(run, runs)
    work_off(run)
    assert run.cut_short == "budget.time (5 s) was spent after 2 of 8 search trials"
    search = {t.id: t for t in stored(ledger, job_id) if t.phase is Phase.SEARCH}
    assert {t.id for t in search.values() if t.state is TrialState.COMPLETE} == {done.id, runs.id}
    assert search[waits.id].state is TrialState.CANCELLED
    assert search[waits.id].reason == "budget.time was spent"
    assert {t.phase for t in stored(ledger, job_id)} == {Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT}
    assert seen(stored(ledger, job_id)) == seen(run.trials)


def test_time_that_is_spent_after_the_search_changes_nothing(ledger: Ledger):
    job = plan(2)
    _, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job, time=5.0))
    run = JobRun(ledger, lease, job, renewal=renewal)
    for _ in range(6):
        complete(run, started(run))
    renewal.response = response(job, spent=99.0, time=5.0)
    work_off(run)
    assert run.cut_short is None


def test_a_search_that_ended_early_is_logged_and_was_not_cut_short(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
):
    """Nothing matters that is less than a factor of 100: with the trials to look at, the search is over."""
    search = {"sampler": "random", "stop": "decided"}
    job = plan(40, arms=["anon"], search=search, objective={"practical": 100.0})
    job_id, lease = begin(ledger, job)
    renewal = LeaseRenewal(ledger, lease, response(job))
    run = JobRun(ledger, lease, job, renewal=renewal)
    with caplog.at_level(logging.INFO):
        work_off(run)
    assert sum(t.phase is Phase.SEARCH for t in stored(ledger, job_id)) == 20
    assert "search 1 of anon ended after 20 of 40 trials (search.stop: decided)" in caplog.text
    answer = summarize(run.plan, run.trials)
    assert answer.stopped == [Stopped(arm="anon", trials=20, planned=40)]
    renewal.response = response(job, spent=9.0, time=5.0)
    assert run.is_done()
    assert run.cut_short is None
    renewal.response = response(job, trials=50)
    assert run.is_done()
    assert summarize(run.plan, run.trials).stopped == [Stopped(arm="anon", trials=20, planned=50)]


def test_the_end_of_what_a_worker_wrote_is_kept_with_its_attempt(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    died, failed, diverged = (started(run) for _ in range(3))
    run.lose(died.id, "the worker process died", "Segmentation fault")
    run.report(failed.id, failure(log="Traceback"))
    odd = result(1, math.nan, Diverged("diverged", "a warning"))
    run.report(diverged.id, odd)
    assert [(a.trial, a.outcome, a.log) for a in ledger.attempts.of_job(job_id)] == [
        (died.id, "LOST", "Segmentation fault"),
        (failed.id, "FAILED", "Traceback"),
        (diverged.id, "DIVERGED", "a warning"),
    ]


def test_an_interrupt_waits_for_a_report(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    job_id, lease = begin(ledger, plan())
    shutdown = ShutdownRequest()
    run = JobRun(ledger, lease, plan(), shutdown=shutdown)
    trial = started(run)
    store = Trials.report

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return store(*arguments)

    monkeypatch.setattr(Trials, "report", interrupted)
    with shutdown.signals(), pytest.raises(KeyboardInterrupt):
        run.guard(lambda: run.report(trial.id, result(1, 0.5)), otherwise=True)
    assert [report.step for report in stored(ledger, job_id)[0].reports] == [1]
    assert run.error is None


def test_a_process_that_is_to_end_lets_each_trial_write_a_checkpoint_first(ledger: Ledger, tmp_path: Path):
    job = plan(4, search={"sampler": "random", "pruner": "none"})
    job_id, lease = begin(ledger, job)
    shutdown = ShutdownRequest()
    run = JobRun(ledger, lease, job, shutdown=shutdown)
    first, second = started(run), started(run)
    with shutdown.signals(), shutdown.notice(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        assert run.next() is Decision.DONE
        assert not run.report(first.id, result(1, 0.5)), (
            "it was told to stop before it could go on from there"
        )
        name = checkpoint_name(first.id, 1, 2)
        assert run.report(first.id, result(2, 0.5, checkpoint=name))
        run.report(first.id, result(2, 0.5, checkpoint=name))  # as Tune repeats it
        assert not run.report(second.id, result(4, 0.5, Completed(0.5)))
    kept = stored(ledger, job_id)
    assert [(trial.state, len(trial.reports)) for trial in kept] == [
        (TrialState.RUNNING, 2),
        (TrialState.COMPLETE, 1),
    ]
    assert kept[0].checkpoints == (name,)
    ledger.leases.release(lease, JobState.PAUSED)
    again = started(JobRun(ledger, ledger.leases.acquire(job_id, "second", 60.0), job))
    assert (again.id, again.attempts, again.checkpoints) == (first.id, 2, (name,))
