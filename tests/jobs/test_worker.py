"""Jobs that a worker takes from the queue, and what users ask of them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest
import sqlalchemy as sa

from anon_tune.ledger import open_database
from anon_tune.ledger.database import write
from anon_tune.ledger.tables import JOBS
from anon_tune.records import ENDED, FINISHED, JobRecord, JobState, Phase, TrialState
from anon_tune.search.rounds import rounds_of
from anon_tune.spec import stored_spec
from anon_tune.workers.queue import processes as processes_module
from anon_tune.workers.queue.processes import JobProcesses
from tests.jobs.conftest import Home, descendants, until

pytestmark = pytest.mark.slow

SMALL = ("--set", "budget.trials=3", "--set", "confirm.finalists=1", "--set", "search.sampler=random")
LONG = ("--set", "budget.trials=500", "--set", "budget.epochs=6", *SMALL[2:])


@pytest.fixture
def workers(home: Home) -> Iterator[list[subprocess.Popen[str]]]:
    """Those that a test starts; each is stopped, and nothing of it stays."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    left = descendants(process)
    process.terminate()
    _, message = process.communicate(timeout=300)
    assert process.returncode == 0, message
    _, alive = psutil.wait_procs(left, timeout=300)
    assert not alive


def job_of(home: Home, job_id: str) -> JobRecord:
    return home.ledger.jobs.get(job_id, trials=True)


def submit(home: Home, *overrides: str) -> str:
    done = home.call("submit", home.spec(), *overrides)
    assert done.returncode == 0, done.stderr
    job_id = done.stdout.strip()
    assert home.ledger.jobs.get(job_id).state is JobState.QUEUED
    return job_id


def ended(home: Home, job_id: str) -> int:
    return sum(trial.is_finished for trial in job_of(home, job_id).trials)


def assert_whole(job: JobRecord, trials: int) -> None:
    """The job has its budget to the trial, and each arm a winner that was tested on whole rounds of seeds."""
    assert job.state is JobState.SUCCEEDED
    assert all(trial.state in FINISHED - {TrialState.CANCELLED} for trial in job.trials)
    search = Counter(trial.arm for trial in job.trials if trial.phase is Phase.SEARCH)
    assert search == dict.fromkeys(("anon", "adamw", "sgd"), trials)
    assert job.result is not None
    rounds = [set(each.seeds) for each in rounds_of(stored_spec(job.spec))]
    for winner in job.result["winners"].values():
        tested = set(map(int, winner["test"]["seeds"]))
        assert tested, "a winner was not tested"
        assert tested == set[int]().union(*(seeds for seeds in rounds if seeds <= tested))
    for trial in job.trials:
        assert [report.step for report in trial.reports] == list(range(1, len(trial.reports) + 1))


def test_a_worker_goes_through_its_queue(home: Home, workers: list[subprocess.Popen[str]]) -> None:
    """One job is cancelled, the next interrupted with its worker, finished by another, and then given more."""
    long, small = submit(home, *LONG, "--priority", "1"), submit(home, *SMALL)
    first = home.start("worker")
    workers.append(first)
    until(lambda: ended(home, long) >= 3, first)
    assert job_of(home, small).state is JobState.QUEUED
    assert home.json("cancel", long) == {"id": long, "state": "RUNNING", "requested": "cancel"}
    until(lambda: job_of(home, long).state in ENDED, first)
    cancelled = job_of(home, long)
    assert cancelled.state is JobState.CANCELLED
    assert all(trial.is_finished for trial in cancelled.trials)
    assert {t.state for t in cancelled.trials} >= {TrialState.COMPLETE, TrialState.CANCELLED}
    again = home.call("cancel", long)
    assert (again.returncode, again.stdout) == (4, "")

    until(lambda: ended(home, small) >= 2, first)
    stop(first)
    left = job_of(home, small)
    assert (left.state, left.reason, left.lease) == (JobState.QUEUED, "interrupted", None)
    done = {trial.id: trial.attempts for trial in left.trials if trial.is_finished}

    second = home.start("worker")
    workers.append(second)
    until(lambda: job_of(home, small).state in ENDED, second)
    whole = job_of(home, small)
    assert_whole(whole, 3)
    assert {t.id: t.attempts for t in whole.trials if t.id in done} == done, "a finished trial was run again"

    assert home.json("extend", small, "--trials", "5")["state"] == "QUEUED"
    until(lambda: job_of(home, small).state in ENDED, second)
    larger = job_of(home, small)
    assert_whole(larger, 5)
    before = {trial.id: trial for trial in whole.trials}
    kept = [trial for trial in larger.trials if trial.id in before]
    assert len(kept) == len(before)
    assert all((t.value, t.attempts, t.finished) == (b.value, b.attempts, b.finished)
               for t in kept for b in [before[t.id]])  # fmt: skip


def test_a_job_is_run_by_the_process_that_was_kept_ready(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in home.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes_module, "_LOAD_SECONDS", 300.0)
    processes = JobProcesses(home.command("job-process", str(os.getpid())))
    processes.prepare()
    assert processes.is_preparing()
    limit = time.monotonic() + 300
    while processes.is_preparing():
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert not processes.lacks_one
    (folder,) = (home.folder / "ray").glob("*/ray")
    job_id = submit(home, *SMALL, "--priority", "9")
    lease = home.ledger.leases.claim("kept", 60.0)
    assert lease is not None
    assert lease.job == job_id
    process = processes.start(lease)
    assert process.wait(300) == 0
    assert_whole(job_of(home, job_id), 3)
    log = (home.folder / "jobs" / job_id / "job.log").read_text()
    assert "Ray started" not in log, "it had been, before the job was there"
    assert not folder.exists()


def test_run_follows_control_signals_and_its_time_budget(home: Home) -> None:
    """In the foreground: a pause lets running trials finish; time that is spent ends the search, not the job."""
    process = home.start("run", home.spec(), *LONG, "--set", "budget.time=1h")
    job_id = ""

    def begun() -> bool:
        nonlocal job_id
        running = [job.id for job in home.ledger.overviews.jobs() if job.state is JobState.RUNNING]
        job_id = running[0] if running else ""
        return bool(running) and ended(home, job_id) >= 1

    until(begun, process)
    assert home.call("pause", job_id).stdout.startswith(f"Job {job_id} will be PAUSED once")
    out, message = process.communicate(timeout=300)
    assert process.returncode == 1, message
    paused = job_of(home, job_id)
    assert (paused.state, paused.reason) == (JobState.PAUSED, "pause requested")
    assert f"anon-tune resume {job_id}" in out
    assert {t.state for t in paused.trials} <= {*FINISHED, TrialState.WAITING}

    assert paused.spent > 0
    engine = open_database(f"sqlite:///{home.folder / 'ledger.db'}")
    with write(engine) as connection:
        connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(spent=3600.0))
    engine.dispose()
    done = home.call("run", "--resume", job_id)
    assert done.returncode == 0, done.stderr
    job = job_of(home, job_id)
    assert job.spent > 3600
    assert job.reason is not None
    said = re.fullmatch(r"budget\.time \(3600 s\) was spent after (\d+) of 1500 search trials", job.reason)
    assert said is not None
    search = [t for t in job.trials if t.phase is Phase.SEARCH]
    assert int(said[1]) == sum(t.state is not TrialState.CANCELLED for t in search) < 1500
    assert job.reason in done.stdout
    assert job.result is not None
    assert all(winner["test"]["seeds"] for winner in job.result["winners"].values())
