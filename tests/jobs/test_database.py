"""Jobs whose PostgreSQL restarts while they run."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import ENDED, JobRecord, JobState
from anon_tune.workers.queue.holder import LEASE_SECONDS
from tests.databases import Server, bounce
from tests.jobs.conftest import Home, until

pytestmark = pytest.mark.slow

JOB = ("--set", "budget.trials=4", "--set", "budget.epochs=6", "--set", "search.sampler=random")
SHORT = ("--set", "confirm.finalists=1", "--set", "confirm.verdict_seeds=2", "--set", "arms=[anon, sgd]")


@dataclass(frozen=True)
class OnPostgresql(Home):
    """A home whose ledger is on a server of its own."""

    server: Path

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@/postgres?host={self.server}"

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "ANON_TUNE_DATABASE_URL": self.url}


@pytest.fixture
def home(postgresql_programs: Server) -> Iterator[OnPostgresql]:
    folder = Path(tempfile.mkdtemp(prefix="at"))
    with postgresql_programs("-c listen_addresses=''") as server:
        yield OnPostgresql(folder, server)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_worker_s_job_goes_on_when_its_database_restarts(home: OnPostgresql):
    """Nobody has to resume it, and no attempt is lost, unless a restart takes as long as a lease lasts."""
    ledger = Ledger.open(home.url)

    def job() -> JobRecord:
        return ledger.jobs.get(job_id, trials=True)

    def reports() -> int:
        return sum(len(trial.reports) for trial in job().trials)

    job_id = home.call("submit", home.spec(), *JOB, *SHORT).stdout.strip()
    worker, took = home.start("worker"), 0.0
    try:
        until(lambda: reports() > 3, worker)
        for _ in range(2):
            began = time.monotonic()
            bounce(home.server)
            took = max(took, time.monotonic() - began)
            before = reports()
            until(lambda before=before: reports() > before or job().state in ENDED, worker)
        until(lambda: job().state in ENDED, worker)
    finally:
        worker.terminate()
        said = worker.communicate(timeout=300)
    found = job()
    log = (home.folder / "jobs" / job_id / "job.log").read_text()
    assert found.state is JobState.SUCCEEDED, (found.reason, said, log)
    if took < LEASE_SECONDS / 3:
        assert {attempt.outcome for attempt in ledger.attempts.of_job(job_id)} == {"COMPLETE"}, log
    ledger.close()
