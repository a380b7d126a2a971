"""The data of charts is read once for the charts of a page, and anew once the job has changed."""

from __future__ import annotations

from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.service.pages.chart_data import ChartSource
from anon_tune.settings import Settings
from tests.service.pages.test_job import submit, train


def test_the_data_of_a_job_is_kept_until_it_changes(ledger: Ledger, settings: Settings) -> None:
    source, jobs, job = ChartSource(), LedgerJobs(ledger, settings), submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    first = source.data(jobs, job)
    assert source.data(jobs, job) is first
    trial = train(ledger, lease, 0, 0.5)
    second = source.data(jobs, job)
    assert [each.id for each in second.trials] == [trial]
    assert list(second.curves[trial].steps) == [1, 2]


def test_only_the_jobs_that_were_drawn_last_are_kept(ledger: Ledger, settings: Settings) -> None:
    source, jobs = ChartSource(), LedgerJobs(ledger, settings)
    first, second, third = (submit(ledger) for _ in range(3))
    seen = {job: source.data(jobs, job) for job in (first, second)}
    assert source.data(jobs, first) is seen[first]  # used last, so the second goes
    source.data(jobs, third)
    assert source.data(jobs, first) is seen[first]
    assert source.data(jobs, second) is not seen[second]
