"""Trials that run for too long, with the real ledger and without Ray: FAILED, and the search goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Trial, TrialState
from anon_tune.search.policy import Decision
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.trial.messages import Completed
from tests.workers.runs import OVER, begin, failure, plan, result, seen, started, stored

LIMITED = {"trial_time": "5s"}
REASON = "ran for more than 5 s (budget.trial_time) and was stopped."
BY_MEDIAN = "ran for more than 10 minutes and ten times the median of its arm's trials"


def asked(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.end")}


def complete(run: JobRun, trial: Trial, *seconds: float) -> None:
    """Have a trial report epochs that took so long, and end."""
    for step, each in enumerate(seconds, 1):
        end = Completed(0.5) if step == len(seconds) else None
        run.report(trial.id, result(step, 0.5, end, epoch_seconds=each))


def test_a_trial_that_hangs_is_failed_at_its_first_attempt_and_others_go_on(ledger: Ledger, tmp_path: Path):
    job = plan(budget=LIMITED)
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    hung, other = started(run), started(run)
    assert not run.end_if_overdue(hung.id, 5.0)
    assert not asked(tmp_path)
    assert run.end_if_overdue(hung.id, 5.1)
    assert asked(tmp_path) == {f"{hung.id}.1.end"}
    (tmp_path / f"{hung.id}.1.end").unlink()
    assert run.end_if_overdue(hung.id, 6.1)
    assert asked(tmp_path) == {f"{hung.id}.1.end"}, "it is asked for until it is done"

    run.lose(hung.id, "the worker process died", "Thread training: ...")
    assert not asked(tmp_path)
    assert not run.end_if_overdue(hung.id, 7.1)
    first, second = stored(ledger, job_id)
    assert (first.state, first.attempts) == (TrialState.FAILED, 1)
    assert str(first.reason).startswith(REASON)
    (attempt,) = ledger.attempts.of_job(job_id, hung.id)
    assert (attempt.outcome, attempt.reason, attempt.log) == ("FAILED", first.reason, "Thread training: ...")
    assert (second.id, second.state) == (other.id, TrialState.RUNNING)
    assert started(run).id not in {hung.id, other.id}
    assert seen(stored(ledger, job_id)) == seen(run.trials)


@pytest.mark.parametrize("killed", [False, True])
def test_by_default_the_limit_follows_the_arms_complete_trials(ledger: Ledger, tmp_path: Path, killed: bool):
    job = plan(6, arms=["anon", "adamw"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    given = [started(run) for _ in range(8)]
    anon, adamw = ([trial for trial in given if trial.arm == arm] for arm in ("anon", "adamw"))
    assert not run.end_if_overdue(anon[0].id, 1e9), "nobody knows what it takes"
    complete(run, adamw[0], 1.0)
    assert not run.end_if_overdue(anon[0].id, 1e9), "other arms may be faster"
    run.report(anon[1].id, failure())
    assert not run.end_if_overdue(anon[0].id, 1e9)
    complete(run, anon[2], 20.0, 50.0)
    if killed:
        run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), job, folder=tmp_path)
        assert started(run).id == anon[0].id
        assert started(run).id == adamw[1].id
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    assert {t.id: t.seconds for t in stored(ledger, job_id)} == {t.id: t.seconds for t in run.trials}
    assert not run.end_if_overdue(anon[0].id, 700.0)
    assert not run.end_if_overdue(adamw[1].id, 600.0), "ten minutes at least"
    assert run.end_if_overdue(anon[0].id, 700.1)
    assert run.end_if_overdue(adamw[1].id, 600.1)
    run.lose(anon[0].id, "the worker process died")
    (reason,) = (trial.reason for trial in run.trials if trial.id == anon[0].id)
    assert str(reason).startswith(BY_MEDIAN)


def test_three_in_a_row_pause_the_job_whatever_the_median_is_by_then(ledger: Ledger, tmp_path: Path):
    """A trial that hangs beside the third gets another attempt once the job is resumed."""
    job = plan(6, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    quick, *hung, slow = (started(run) for _ in range(6))
    complete(run, quick, 1.0)
    assert run.end_if_overdue(hung[0].id, 1e9)
    complete(run, slow, 500.0)
    for trial in hung:
        assert run.end_if_overdue(trial.id, 1e9)
    for trial in hung:
        run.lose(trial.id, "the worker process died")
    assert str(run.paused).startswith(BY_MEDIAN)
    assert run.next() is Decision.DONE
    *failed, waiting = (next(t for t in stored(ledger, job_id) if t.id == trial.id) for trial in hung)
    assert {trial.state for trial in failed} == {TrialState.FAILED}
    assert waiting.state is TrialState.WAITING
    assert not asked(tmp_path)


def test_a_trial_that_ends_by_itself_after_all_is_what_it_says(ledger: Ledger, tmp_path: Path):
    """But for an error, which comes of the end of its processes."""
    job = plan(budget=LIMITED)
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    good, bad = started(run), started(run)
    for trial in (good, bad):
        assert run.end_if_overdue(trial.id, 6.0)
    complete(run, good, 1.0)
    run.report(bad.id, failure("DataLoader worker exited unexpectedly"))
    assert not asked(tmp_path)
    first, second = stored(ledger, job_id)
    assert (first.state, first.reason) == (TrialState.COMPLETE, None)
    assert second.state is TrialState.FAILED
    assert str(second.reason).startswith(REASON)


def test_end_requests_of_a_killed_driver_are_withdrawn(ledger: Ledger, tmp_path: Path):
    job = plan(budget=LIMITED)
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    trial = started(run)
    assert run.end_if_overdue(trial.id, 6.0)
    run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), job, folder=tmp_path)
    assert not asked(tmp_path)
    assert (started(run).id, run.end_if_overdue(trial.id, 1.0)) == (trial.id, False)
    run.lose(trial.id, "the worker process died")
    assert started(run).attempts == 3, "a death like any other"


def test_a_larger_budget_leaves_the_limit_as_it_was(ledger: Ledger, tmp_path: Path):
    job = plan(2, budget={**LIMITED, "time": "1h"})
    job_id, lease = begin(ledger, job)
    lease = ledger.leases.acquire(job_id, "again", 60.0)
    renewal = LeaseRenewal(ledger, lease)
    renewal.renew()
    run = JobRun(ledger, lease, job, renewal=renewal, folder=tmp_path)
    trial = started(run)
    assert ledger.jobs.extend(job_id, trials=3, time=7200.0) is JobState.RUNNING
    renewal.renew()
    started(run)
    assert dict(run.budget) == {**job.spec.budget.model_dump(mode="json"), "trials": 3, "time": 7200.0}
    assert not run.end_if_overdue(trial.id, 5.0)
    assert run.end_if_overdue(trial.id, 5.1)
