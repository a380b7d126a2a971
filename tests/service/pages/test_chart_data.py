"""The data of charts is read once for the charts of a page, and anew once the job has changed."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio.to_thread
import pytest

from anon_tune.dashboards.charts import ChartData
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.service.pages.chart_data import ChartSource
from anon_tune.settings import Settings
from anon_tune.views import TrialView
from tests.service.pages.test_job import submit, train


def read(source: ChartSource, jobs: LedgerJobs, job: str) -> ChartData:
    """Read in a thread of its own: a browser of other tests may have a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, source.data(jobs, job)).result()


def test_charts_of_a_page_share_one_read_and_wait_without_a_thread(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, jobs, job = ChartSource(), LedgerJobs(ledger, settings), submit(ledger)
    begun, may_end, reads = threading.Event(), threading.Event(), []

    def list_trials(job_id: str) -> list[TrialView]:
        reads.append(job_id)
        begun.set()
        assert may_end.wait(60)
        return []

    async def page() -> list[ChartData]:
        charts = [asyncio.ensure_future(source.data(jobs, job)) for _ in range(9)]
        await asyncio.to_thread(begun.wait, 60)
        busy = anyio.to_thread.current_default_thread_limiter().borrowed_tokens
        may_end.set()
        found = await asyncio.gather(*charts)
        assert busy == 1
        return found

    monkeypatch.setattr(jobs, "list_trials", list_trials)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(asyncio.run, page()).result()
    assert reads == [job]
    assert len({id(each) for each in found}) == 1


def test_the_data_of_a_job_is_kept_until_it_changes(ledger: Ledger, settings: Settings) -> None:
    source, jobs, job = ChartSource(), LedgerJobs(ledger, settings), submit(ledger)
    lease = ledger.leases.acquire(job, "worker", 3600.0)
    first = read(source, jobs, job)
    assert read(source, jobs, job) is first
    trial = train(ledger, lease, 0, 0.5)
    second = read(source, jobs, job)
    assert [each.id for each in second.trials] == [trial]
    assert list(second.curves[trial].steps) == [1, 2]


def test_only_the_jobs_that_were_drawn_last_are_kept(ledger: Ledger, settings: Settings) -> None:
    source, jobs = ChartSource(), LedgerJobs(ledger, settings)
    first, second, third = (submit(ledger) for _ in range(3))
    seen = {job: read(source, jobs, job) for job in (first, second)}
    assert read(source, jobs, first) is seen[first]  # used last, so the second goes
    read(source, jobs, third)
    assert read(source, jobs, first) is seen[first]
    assert read(source, jobs, second) is not seen[second]
