"""The queue, what users ask of a job, and the time spent on it, on every kind of database."""

from __future__ import annotations

import itertools
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from anon_tune.errors import ConflictError, LeaseHeldError, LeaseLostError, NotFoundError, TransitionError
from anon_tune.ledger import Lease, LeaseStatistics, Ledger
from anon_tune.records import ENDED, ControlSignal, JobState, NewTrial, Phase, TrialState
from tests.ledger.test_ledger import LONG, OVER, TOGETHER, at_once, new_trial

BUDGET = {"trials": 4, "epochs": 2, "time": None}


def submit(ledger: Ledger, priority: int = 0, **budget: Any) -> str:
    return ledger.jobs.create("x", {"budget": {**BUDGET, **budget}}, {}, priority).id


def claimed(ledger: Ledger, seconds: float = LONG) -> str | None:
    lease = ledger.leases.claim("me", seconds)
    return None if lease is None else lease.job


# The queue


def test_claims_follow_priority_then_age(ledger: Ledger):
    low, first, second, high = (submit(ledger, priority) for priority in (-1, 0, 0, 5))
    assert [claimed(ledger) for _ in range(5)] == [high, first, second, low, None]


def test_a_job_that_is_created_and_taken_in_one_transaction_is_not_claimed(ledger: Ledger):
    """As `anon-tune run` makes it."""
    with ThreadPoolExecutor(1) as pool:
        with ledger.transaction() as transaction:
            job = transaction.jobs.create("x", {"budget": BUDGET}, {}).id
            meanwhile = pool.submit(claimed, ledger)  # on sqlite it waits for this transaction
            lease = transaction.leases.acquire(job, "maker", LONG)
        assert meanwhile.result() is None
    assert lease == Lease(job, "maker", 1, LONG)
    assert ledger.jobs.get(job).state is JobState.RUNNING
    assert claimed(ledger) is None


def test_a_claim_is_a_lease_like_any_other(ledger: Ledger):
    job = submit(ledger)
    lease = ledger.leases.claim("worker", LONG)
    assert lease == Lease(job, "worker", 1, LONG)
    ledger.trials.add(lease, new_trial())
    assert ledger.jobs.get(job).state is JobState.RUNNING
    with pytest.raises(LeaseHeldError, match="worker"):
        ledger.leases.acquire(job, "other", LONG)


def test_a_job_whose_holder_died_keeps_its_place(ledger: Ledger):
    job, later = submit(ledger), submit(ledger)
    dead = ledger.leases.claim("dead", OVER)
    assert dead is not None
    trial = ledger.trials.add(dead, new_trial()).id
    ledger.attempts.start(dead, trial)
    assert [claimed(ledger), claimed(ledger)] == [job, later]
    with pytest.raises(LeaseLostError):
        ledger.leases.heartbeat(dead)
    (found,) = ledger.jobs.get(job, trials=True).trials
    assert (found.state, found.attempts) == (TrialState.WAITING, 1)


@pytest.mark.parametrize("state", [JobState.PAUSED, *sorted(ENDED)])
def test_paused_and_ended_jobs_are_not_claimed(ledger: Ledger, state: JobState):
    job = submit(ledger)
    ledger.leases.release(ledger.leases.acquire(job, "me", LONG), state)
    assert claimed(ledger) is None


def test_lease_statistics_change_with_every_takeover_and_release(ledger: Ledger):
    def known(statistics: LeaseStatistics) -> tuple[int, int]:
        return statistics.takeovers, statistics.running

    seen = [ledger.leases.statistics()]
    assert seen[0].seconds == math.inf
    submit(ledger)
    assert ledger.leases.statistics() == seen[0], "nobody works on it"
    lease = ledger.leases.claim("me", LONG)
    assert lease is not None
    seen.append(ledger.leases.statistics())
    assert 0 < seen[-1].seconds <= LONG
    assert seen[-1].holders == {"me"}
    other = ledger.leases.acquire(submit(ledger), "you", OVER)
    seen.append(ledger.leases.statistics())
    assert seen[-1].seconds <= OVER, "of the one that runs out first"
    ledger.leases.heartbeat(lease)
    assert known(ledger.leases.statistics()) == known(seen[-1])
    ledger.leases.acquire(other.job, "a third", LONG)
    seen.append(ledger.leases.statistics())
    ledger.leases.release(lease, JobState.PAUSED)
    seen.append(ledger.leases.statistics())
    submit(ledger)
    lease = ledger.leases.claim("me", LONG)
    seen.append(ledger.leases.statistics())
    assert lease is not None
    ledger.leases.release(lease, JobState.PAUSED)
    ledger.leases.acquire(submit(ledger), "you", LONG)
    seen.append(ledger.leases.statistics())
    assert all(known(before) != known(after) for before, after in itertools.pairwise(seen))


def test_threads_that_claim_together_get_different_jobs(ledger: Ledger):
    jobs = {submit(ledger, priority) for priority in (0, 1, 0, 1, 2)}
    found = at_once(lambda index: claimed(ledger))
    assert sorted(filter(None, found)) == sorted(jobs)
    assert found.count(None) == len(found) - len(jobs)


_barrier: Any = None


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _drain(url: str) -> list[str]:
    ledger = Ledger.open(url)
    _barrier.wait()
    found = []
    while (job := claimed(ledger)) is not None:
        found.append(job)
    ledger.close()
    return found


def test_processes_that_drain_a_queue_get_each_job_once(database_url: str, ledger: Ledger):
    jobs = [submit(ledger) for _ in range(40)]
    for job in jobs[::4]:
        ledger.leases.acquire(job, "dead", OVER)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(TOGETHER)
    with ProcessPoolExecutor(TOGETHER, context, initializer=_meet, initargs=(barrier,)) as pool:
        drained = [pool.submit(_drain, database_url) for _ in range(TOGETHER)]
        got = [future.result() for future in drained]
    assert sorted(job for found in got for job in found) == sorted(jobs)


# Requests


def test_a_control_signal_reaches_the_holder(ledger: Ledger):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", LONG)
    assert ledger.leases.heartbeat(lease).request is None
    assert ledger.jobs.pause(job) is JobState.RUNNING
    assert ledger.jobs.pause(job) is JobState.RUNNING  # asking twice is asking
    assert ledger.leases.heartbeat(lease).request is ControlSignal.PAUSE
    assert ledger.jobs.get(job).requested is ControlSignal.PAUSE
    assert ledger.jobs.cancel(job) is JobState.RUNNING
    assert ledger.leases.heartbeat(lease).request is ControlSignal.CANCEL
    with pytest.raises(ConflictError, match="being cancelled"):
        ledger.jobs.pause(job)
    assert ledger.leases.heartbeat(lease).request is ControlSignal.CANCEL


ASK: dict[ControlSignal, Callable[[Ledger, str], JobState]] = {
    ControlSignal.PAUSE: lambda ledger, job: ledger.jobs.pause(job),
    ControlSignal.CANCEL: lambda ledger, job: ledger.jobs.cancel(job),
}
ANSWER = {ControlSignal.PAUSE: JobState.PAUSED, ControlSignal.CANCEL: JobState.CANCELLED}


@pytest.mark.parametrize("request_", ControlSignal)
@pytest.mark.parametrize("left", [JobState.QUEUED, JobState.PAUSED, *sorted(ENDED)])
def test_no_request_is_forgotten_by_the_holder(ledger: Ledger, request_: ControlSignal, left: JobState):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", LONG)
    ASK[request_](ledger, job)
    expected = left if left in ENDED else ANSWER[request_]
    assert ledger.leases.release(lease, left, "its own") is expected
    found = ledger.jobs.get(job)
    assert (found.state, found.requested, found.lease) == (expected, None, None)
    assert (found.finished is not None) == (expected in ENDED)
    assert found.reason == ("its own" if expected is left else f"{request_} requested")


@pytest.mark.parametrize("request_", ControlSignal)
def test_no_request_is_forgotten_where_the_holder_died(ledger: Ledger, request_: ControlSignal):
    job, next_one = submit(ledger), submit(ledger)
    lease = ledger.leases.acquire(job, "dead", LONG)
    ASK[request_](ledger, job)
    ledger.leases.heartbeat(Lease(job, "dead", lease.token, OVER))
    assert claimed(ledger) == next_one
    assert ledger.jobs.get(job).state is ANSWER[request_]
    with pytest.raises(LeaseLostError):
        ledger.leases.heartbeat(lease)


@pytest.mark.parametrize("request_", ControlSignal)
@pytest.mark.parametrize("before", [JobState.QUEUED, JobState.PAUSED, "left behind"])
def test_a_job_without_a_holder_changes_at_once(ledger: Ledger, request_: ControlSignal, before: JobState):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", OVER)
    for number in range(3):
        ledger.trials.add(lease, new_trial(number))
    trials = [trial.id for trial in ledger.jobs.get(job, trials=True).trials]
    for trial in trials[:2]:
        ledger.attempts.start(lease, trial)
    ledger.trials.finish(lease, trials[0], TrialState.COMPLETE, 0.5)
    if before != "left behind":
        ledger.leases.release(lease, before)
    if before is ANSWER[request_]:
        with pytest.raises(TransitionError, match=f"is {before}: there is nothing to {request_}"):
            ASK[request_](ledger, job)
        return
    assert ASK[request_](ledger, job) is ANSWER[request_]
    found = ledger.jobs.get(job, trials=True)
    rest = TrialState.CANCELLED if request_ is ControlSignal.CANCEL else TrialState.WAITING
    assert found.state is ANSWER[request_]
    assert [trial.state for trial in found.trials] == [TrialState.COMPLETE, rest, rest]
    assert all((trial.finished is not None) == trial.is_finished for trial in found.trials)
    with pytest.raises(LeaseLostError):
        ledger.leases.heartbeat(lease)
    assert claimed(ledger) is None


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_control_signals_to_an_ended_job_are_refused(ledger: Ledger, ended: JobState):
    job = submit(ledger)
    ledger.leases.release(ledger.leases.acquire(job, "me", LONG), ended)
    before = ledger.jobs.get(job)
    for ask in (ledger.jobs.pause, ledger.jobs.cancel, ledger.jobs.resume):
        with pytest.raises(TransitionError, match=str(ended)):
            ask(job)
    assert ledger.jobs.get(job) == before


def test_control_signals_to_an_unknown_job_are_refused(ledger: Ledger):
    jobs = ledger.jobs
    for ask in (jobs.pause, jobs.cancel, jobs.resume, jobs.extend, ledger.attempts.of_job):
        with pytest.raises(NotFoundError, match="nothere"):
            ask("nothere")


@pytest.mark.parametrize("left_behind", [False, True])
def test_resume_queues_a_paused_job(ledger: Ledger, left_behind: bool):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", OVER)
    if not left_behind:
        ledger.leases.release(lease, JobState.PAUSED, "interrupted")
    assert ledger.jobs.resume(job) is JobState.QUEUED
    assert ledger.jobs.get(job).reason is None
    with pytest.raises(TransitionError, match="QUEUED; only a PAUSED"):
        ledger.jobs.resume(job)
    assert claimed(ledger) == job
    with pytest.raises(LeaseHeldError, match="nothing to resume"):
        ledger.jobs.resume(job)


def test_acquire_withdraws_a_pending_control_signal(ledger: Ledger):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "dead", LONG)
    ledger.jobs.cancel(job)
    ledger.leases.heartbeat(Lease(job, "dead", lease.token, OVER))
    assert ledger.leases.heartbeat(ledger.leases.acquire(job, "me", LONG)).request is None


def test_a_concurrent_cancel_and_release_leave_the_job_cancelled(ledger: Ledger):
    for _ in range(10):
        job = submit(ledger)
        lease = ledger.leases.acquire(job, "me", LONG)

        def call(index: int, job: str = job, lease: Lease = lease) -> JobState:
            return ledger.jobs.cancel(job) if index else ledger.leases.release(lease, JobState.PAUSED)

        released, asked = at_once(call, 2)
        # Whichever came first, the job is CANCELLED: asked of the holder, or of nobody.
        assert asked in {JobState.RUNNING, JobState.CANCELLED}
        assert released in {JobState.PAUSED, JobState.CANCELLED}
        assert ledger.jobs.get(job).state is JobState.CANCELLED


# More budget


def test_a_job_that_has_succeeded_is_queued_with_more_trials(ledger: Ledger):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", LONG)
    trial = ledger.trials.add(lease, new_trial()).id
    ledger.attempts.start(lease, trial)
    ledger.trials.finish(lease, trial, TrialState.COMPLETE, 0.5)
    ledger.jobs.update(lease, phase=Phase.VERDICT, result={"verdict": []})
    ledger.leases.release(lease, JobState.SUCCEEDED, "well", BUDGET)
    done = ledger.jobs.get(job, trials=True)
    assert ledger.jobs.extend(job, 6) is JobState.QUEUED
    found = ledger.jobs.get(job, trials=True)
    assert found.spec == {"budget": {**BUDGET, "trials": 6}}
    assert (found.state, found.finished, found.reason) == (JobState.QUEUED, None, None)
    assert (found.trials, found.result, found.started) == (done.trials, done.result, done.started)
    assert claimed(ledger) == job


def test_an_extended_running_job_gets_the_new_budget(ledger: Ledger):
    job = submit(ledger, time=60.0)
    lease = ledger.leases.acquire(job, "me", LONG)
    assert ledger.leases.heartbeat(lease).budget == {**BUDGET, "time": 60.0}
    assert ledger.jobs.extend(job, 5, 90.0) is JobState.RUNNING
    assert ledger.leases.heartbeat(lease).budget == {**BUDGET, "trials": 5, "time": 90.0}


@pytest.mark.parametrize("ending", [JobState.SUCCEEDED, JobState.FAILED])
def test_a_budget_that_was_raised_before_the_end_is_spent(ledger: Ledger, ending: JobState):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.jobs.extend(job, 5)
    assert ledger.leases.release(lease, ending, None, BUDGET) is JobState.QUEUED
    lease = ledger.leases.acquire(job, "me", LONG)
    assert ledger.leases.release(lease, ending, None, {**BUDGET, "trials": 5}) is ending


@pytest.mark.parametrize(("trials", "time"), [(4, None), (1, None), (None, 60.0), (9, 59.0)])
def test_a_budget_is_only_raised(ledger: Ledger, trials: int | None, time: float | None):
    job = submit(ledger, time=60.0)
    before = ledger.jobs.get(job)
    with pytest.raises(ConflictError, match="it is the new total"):
        ledger.jobs.extend(job, trials, time)
    assert ledger.jobs.get(job) == before


CONFIRM = {"verdict_seeds": 3}


def test_more_seeds_are_a_round_of_their_own(ledger: Ledger):
    job = ledger.jobs.create("x", {"budget": BUDGET, "confirm": CONFIRM}, {}).id
    with pytest.raises(ConflictError, match="has not reached its verdict"):
        ledger.jobs.extend(job, seeds=8)
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.trials.add(lease, NewTrial("anon", Phase.VERDICT, 0, 7, {"gamma": 0.5}, {}))
    ledger.leases.release(lease, JobState.SUCCEEDED)
    assert ledger.jobs.extend(job, seeds=8) is JobState.QUEUED
    assert ledger.jobs.extend(job, seeds=10) is JobState.QUEUED
    assert ledger.jobs.get(job).spec["budget"] == {**BUDGET, "more_seeds": [5, 2]}
    with pytest.raises(ConflictError, match=r"has 10 verdict seeds\. Give --seeds at least 12"):
        ledger.jobs.extend(job, seeds=10)


@pytest.mark.parametrize("phase", list(Phase))
def test_more_trials_bring_verdict_seeds_where_some_were_used(ledger: Ledger, phase: Phase):
    """They may change a winner, which is then tested on seeds of its own."""
    job = ledger.jobs.create("x", {"budget": BUDGET, "confirm": CONFIRM}, {}).id
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.trials.add(lease, NewTrial("anon", phase, 0, 7, {"gamma": 0.5}, {}))
    ledger.jobs.extend(job, 9)
    assert ledger.jobs.get(job).spec["budget"].get("more_seeds") == ([3] if phase is Phase.VERDICT else None)


def test_time_without_limit_is_not_raised(ledger: Ledger):
    with pytest.raises(ConflictError, match="no limit on its budget"):
        ledger.jobs.extend(submit(ledger), time=60.0)


@pytest.mark.parametrize("ended", [JobState.FAILED, JobState.CANCELLED])
def test_a_failed_or_cancelled_job_is_not_extended(ledger: Ledger, ended: JobState):
    job = submit(ledger)
    ledger.leases.release(ledger.leases.acquire(job, "me", LONG), ended)
    with pytest.raises(TransitionError, match="cannot be extended"):
        ledger.jobs.extend(job, 9)


def test_more_trials_without_time_for_them_are_refused(ledger: Ledger):
    job = submit(ledger, time=1e-9)
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.leases.heartbeat(lease)
    ledger.leases.release(lease, JobState.SUCCEEDED)
    assert ledger.jobs.get(job).spent > 1e-9
    with pytest.raises(ConflictError, match=r"budget.time .* is used up"):
        ledger.jobs.extend(job, 9)
    assert ledger.jobs.extend(job, 9, 60.0) is JobState.QUEUED


# Time


def test_time_spent_adds_up_over_all_holders(ledger: Ledger):
    job = submit(ledger)
    seen = [ledger.jobs.get(job).spent]
    for holder, end in (("first", None), ("second", JobState.PAUSED), ("third", JobState.SUCCEEDED)):
        lease = ledger.leases.acquire(job, holder, OVER)
        begun = ledger.jobs.get(job)
        assert begun.spent == seen[-1], (
            "nothing between two stretches counts, nor what a killed holder did last"
        )
        for _ in range(2):
            seen.append(ledger.leases.heartbeat(lease).spent)
        found = ledger.jobs.get(job)
        assert found.lease is not None
        assert begun.lease is not None
        stretch = (found.lease.heartbeat - begun.lease.heartbeat).total_seconds()
        assert seen[-1] - begun.spent == pytest.approx(stretch)
        if end is not None:
            ledger.leases.release(lease, end)
            seen.append(ledger.jobs.get(job).spent)
    assert seen == sorted(seen)
    assert seen[0] == 0.0


# Attempts


def test_attempts_keep_their_logs(ledger: Ledger):
    job = submit(ledger)
    lease = ledger.leases.acquire(job, "me", LONG)
    first, second = (ledger.trials.add(lease, new_trial(number)).id for number in range(2))
    ledger.attempts.start(lease, first)
    ledger.attempts.lose(lease, first, "the worker process died", "Segmentation fault\n")
    ledger.attempts.start(lease, second)
    ledger.trials.finish(
        lease, second, TrialState.FAILED, None, "ValueError: no", "Traceback\nValueError: no\n"
    )
    ledger.attempts.start(lease, first)
    found = ledger.attempts.of_job(job)
    assert [(a.trial, a.number, a.outcome, a.reason, a.log) for a in found] == [
        (first, 1, "LOST", "the worker process died", "Segmentation fault\n"),
        (second, 1, "FAILED", "ValueError: no", "Traceback\nValueError: no\n"),
        (first, 2, None, None, None),
    ]
    assert all((a.finished is None) == (a.outcome is None) for a in found)
    assert ledger.attempts.of_job(job, first) == [found[0], found[2]]
    with pytest.raises(NotFoundError, match=f"anon-tune trials {job}"):
        ledger.attempts.of_job(job, "another")
