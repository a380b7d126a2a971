"""The data of charts, which is read once for all charts of a page."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from fastapi.concurrency import run_in_threadpool

from anon_tune.dashboards.charts import ChartData
from anon_tune.jobs.ledger import LedgerJobs

__all__ = ["ChartSource"]

_JOBS = 2
_POINTS = 100_000


class ChartSource:
    """Source of the data of charts: `app.state.chart_source`.

    It keeps the data of the jobs that were drawn last, until they change. Reading 5,000 trials with their curves
    takes half a second, and a page has several charts, which browsers request at the same time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, ChartData] = OrderedDict()
        self._reading = asyncio.Lock()

    async def data(self, jobs: LedgerJobs, job_id: str) -> ChartData:
        """Return the data of a job's charts, as it is now. Raises NotFoundError."""
        async with self._reading:  # whoever waits takes none of the service's few threads
            return await run_in_threadpool(self._read, jobs, job_id)

    def _read(self, jobs: LedgerJobs, job_id: str) -> ChartData:
        seen = jobs.job(job_id)
        kept = self._kept.pop(job_id, None)
        if kept is None or kept.job != seen:
            kept = ChartData(seen, jobs.list_trials(job_id), jobs.curves(job_id, _POINTS))
        self._kept[job_id] = kept
        if len(self._kept) > _JOBS:
            self._kept.popitem(last=False)
        return kept
