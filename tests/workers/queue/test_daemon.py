"""The daemon on a real ledger, with small processes in place of those that train."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from anon_tune.errors import DependencyError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobRecord, JobState, WorkerKind
from anon_tune.workers.queue import daemon as daemon_module
from anon_tune.workers.queue import presence
from anon_tune.workers.queue.daemon import Daemon
from anon_tune.workers.queue.holder import this_process
from anon_tune.workers.queue.processes import DATABASE_AWAY, JobProcesses

_PATIENCE = 60.0

# Says that it works by storing a trial, and waits to be told what to do.
WORKS = """
import dataclasses, signal, sys, time
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, NewTrial, Phase
from anon_tune.workers.queue.processes import receive_lease

lease = receive_lease()
if lease is None:
    sys.exit()
ledger = Ledger.open(sys.argv[1])
lease = dataclasses.replace(lease, seconds=60.0)
ledger.leases.heartbeat(lease)

def give_back(*_):
    ledger.leases.release(lease, JobState.QUEUED, "told to stop")
    sys.exit(0)

signal.signal(signal.SIGTERM, {terminate})
number = len(ledger.jobs.get(lease.job, trials=True).trials)
{begin}
{end}
"""
BEGIN = 'ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, number, number, {}, {}))'
WAIT = "time.sleep(600)"
SUCCEED = "ledger.leases.release(lease, JobState.SUCCEEDED)"


class Recorded(JobProcesses):
    """Remembers the processes of each job."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self.of: defaultdict[str, list[subprocess.Popen[bytes]]] = defaultdict(list)

    def start(self, lease: Lease) -> subprocess.Popen[bytes]:
        process = super().start(lease)
        self.of[lease.job].append(process)
        return process


class Running:
    """A daemon in a thread, and the processes that it has started."""

    def __init__(self, ledger: Ledger, folder: Path, jobs: int = 1, **code: str) -> None:
        script = WORKS
        for name, text in {"begin": BEGIN, "end": WAIT, "terminate": "give_back", **code}.items():
            script = script.replace(f"{{{name}}}", text)

        started = Recorded([sys.executable, "-c", script, f"sqlite:///{folder / 'ledger.db'}"])
        self.processes = started.of
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=Daemon(ledger, started, "daemon", jobs).run, args=(self._stop,)
        )
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def run(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    monkeypatch.setattr(daemon_module, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(daemon_module, "_QUIET_SECONDS", 0.0)
    made: list[Running] = []

    def begin(jobs: int = 1, **code: str) -> Running:
        made.append(Running(ledger, tmp_path, jobs, **code))
        return made[-1]

    yield begin
    for running in made:
        running.stop()
        assert all(p.poll() is not None for found in running.processes.values() for p in found)


def submit(ledger: Ledger, count: int, priority: int = 0) -> list[str]:
    return [ledger.jobs.create("x", {}, {}, priority).id for _ in range(count)]


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true"
        time.sleep(0.05)


def works_on(ledger: Ledger, job: str) -> int:
    """Return the number of processes that have begun to work on the job."""
    return len(ledger.jobs.get(job, trials=True).trials)


def states(ledger: Ledger) -> list[JobState]:
    return [job.state for job in reversed(ledger.overviews.jobs())]


def test_a_queue_is_worked_off(ledger: Ledger, run: Callable[..., Running]):
    jobs = submit(ledger, 3)
    running = run(end=SUCCEED)
    until(lambda: states(ledger) == [JobState.SUCCEEDED] * 3)
    assert list(running.processes) == jobs
    assert all(len(found) == 1 for found in running.processes.values())


def test_no_more_jobs_at_once_than_allowed(ledger: Ledger, run: Callable[..., Running]):
    jobs = submit(ledger, 3)
    urgent = submit(ledger, 1, priority=1)
    running = run(jobs=2)
    until(lambda: all(works_on(ledger, job) for job in (*urgent, jobs[0])))
    assert [job.id for job in ledger.overviews.jobs() if job.state is JobState.QUEUED] == [jobs[2], jobs[1]]
    running.processes[jobs[0]][0].terminate()  # it gives the job back, which is the next again
    until(lambda: works_on(ledger, jobs[0]) == 2)
    assert set(running.processes) == {*urgent, jobs[0]}


def test_a_job_whose_process_is_killed_gets_another_at_once(ledger: Ledger, run: Callable[..., Running]):
    (job,) = submit(ledger, 1)
    running = run()
    until(lambda: works_on(ledger, job) == 1)
    first = ledger.jobs.get(job).lease
    assert first is not None
    running.processes[job][0].kill()
    until(lambda: works_on(ledger, job) == 2)
    second = ledger.jobs.get(job).lease
    assert second is not None
    assert second.heartbeat < first.expires, "nobody waited for the lease of a dead process to run out"
    assert second.token == first.token + 1


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_process_that_died_leaves_behind_ends(
    ledger: Ledger, run: Callable[..., Running], tmp_path: Path, killed: bool
):
    """The cause of death does not matter."""
    (job,) = submit(ledger, 1)
    started = tmp_path / "started"
    spawn = (
        "if number == 0:\n"
        "    import pathlib, subprocess\n"
        '    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
        f"    pathlib.Path({str(started)!r}).write_text(str(child.pid))\n"
    )
    running = run(begin=spawn + BEGIN, **({} if killed else {"end": "sys.exit(6)"}))
    until(lambda: works_on(ledger, job) >= 1)
    if killed:
        running.processes[job][0].kill()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(started.read_text())).wait(_PATIENCE)


def test_a_job_that_kills_its_process_again_and_again_is_paused(ledger: Ledger, run: Callable[..., Running]):
    (job,) = submit(ledger, 1)
    running = run(begin="", end="sys.exit(7)")
    until(lambda: ledger.jobs.get(job).state is JobState.PAUSED)
    assert len(running.processes[job]) == 3
    assert (
        ledger.jobs.get(job).reason == "its process ended 3 times without progress (exit code 7); see job.log"
    )
    ledger.jobs.resume(job)
    until(lambda: len(running.processes[job]) > 3)  # somebody has mended it, or hopes so


def test_a_job_whose_process_waits_for_the_database_is_never_paused(
    ledger: Ledger, run: Callable[..., Running]
):
    (job,) = submit(ledger, 1)
    running = run(begin="", end=f"sys.exit({DATABASE_AWAY})")
    until(lambda: len(running.processes[job]) > 4)


def test_deaths_count_only_while_the_job_does_not_get_on(ledger: Ledger, run: Callable[..., Running]):
    (job,) = submit(ledger, 1)
    trial = BEGIN.replace("ledger.trials.add", "trial = ledger.trials.add")
    begin = (
        trial
        + "\nledger.attempts.start(lease, trial.id); ledger.trials.report(lease, trial.id, 1, 1, 0.5, {})"
    )
    running = run(begin=begin, end="sys.exit(7)")
    until(lambda: len(running.processes[job]) > 4)


def test_what_is_stopped_is_queued_again(ledger: Ledger, run: Callable[..., Running]):
    jobs = submit(ledger, 2)
    running = run(jobs=2)
    until(lambda: all(works_on(ledger, job) for job in jobs))
    running.stop()
    found = [ledger.jobs.get(job) for job in jobs]
    assert {(job.state, job.reason, job.lease) for job in found} == {(JobState.QUEUED, "told to stop", None)}


def test_a_lease_that_is_not_given_back_is_taken(
    ledger: Ledger, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(daemon_module, "_RELEASE_SECONDS", 0.2)
    monkeypatch.setattr(daemon_module, "_EXIT_SECONDS", 0.2)
    (job,) = submit(ledger, 1)
    running = run(terminate="signal.SIG_IGN")
    until(lambda: works_on(ledger, job) == 1)
    running.stop()
    found: JobRecord = ledger.jobs.get(job)
    assert (found.state, found.reason, found.lease) == (JobState.QUEUED, "its worker was stopped", None)
    assert running.processes[job][0].poll() is not None


def test_a_process_that_cannot_be_started_pauses_its_job(ledger: Ledger):
    (job,) = submit(ledger, 1)
    stop = threading.Event()
    daemon = Daemon(ledger, JobProcesses(["/no/such/program"]), "daemon")
    thread = threading.Thread(target=daemon.run, args=(stop,))
    thread.start()
    until(lambda: ledger.jobs.get(job).state is JobState.PAUSED)
    assert thread.is_alive(), "it can keep no process ready either, and goes on"
    stop.set()
    thread.join()
    found = ledger.jobs.get(job)
    assert found.reason is not None
    assert "could not start" in found.reason


def test_two_daemons_share_a_queue(ledger: Ledger, run: Callable[..., Running]):
    jobs = submit(ledger, 6)
    both = [run(end=SUCCEED), run(end=SUCCEED)]
    until(lambda: states(ledger) == [JobState.SUCCEEDED] * 6)
    started = [job for running in both for job in running.processes]
    assert sorted(started) == sorted(jobs)


class Prepared(JobProcesses):
    """Counts how often one was to be got ready."""

    def __init__(self) -> None:
        super().__init__([])
        self.count = 0

    def prepare(self) -> None:
        self.count += 1


def test_a_process_is_got_ready_when_it_is_quiet_or_a_job_is_left_alone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    """A clock that is moved by hand: quiet is that no job was begun or left for some seconds."""
    now = [100.0]
    monkeypatch.setattr(daemon_module.time, "monotonic", lambda: now[0])
    prepared = Prepared()
    daemon = Daemon(ledger, prepared, "daemon")

    def after(seconds: float) -> int:
        now[0] += seconds
        daemon._claim()
        return prepared.count

    quiet = daemon_module._QUIET_SECONDS
    assert after(0.0) == 0
    assert after(quiet) == 1

    with ledger.transaction() as transaction:
        job = transaction.jobs.create("x", {}, {}).id
        held = transaction.leases.acquire(job, "another", 600.0)
    assert after(0.0) == 1, "somebody has just begun"
    assert after(quiet - 1) == 1
    assert after(1.0) == 2

    ledger.leases.release(held, JobState.PAUSED)
    held = ledger.leases.acquire(job, this_process(), 600.0)
    assert after(0.0) == 2
    assert after(quiet) == 2, "it is worked on here, with the cores that getting ready would take"
    ledger.leases.release(held, JobState.PAUSED)
    held = ledger.leases.acquire(job, "a third", 9.0)
    assert after(0.0) == 3, "its holder has missed a heartbeat: the job needs a process soon"
    ledger.leases.release(held, JobState.PAUSED)
    assert after(0.0) == 3
    assert after(quiet) == 4


def test_the_ledger_is_not_asked_where_no_process_is_lacking(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    processes = JobProcesses([], keep_ready=False)
    monkeypatch.setattr(ledger.leases, "statistics", lambda: pytest.fail("it was asked"))
    Daemon(ledger, processes, "daemon")._claim()


def test_nothing_is_claimed_while_a_process_gets_ready(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    processes = JobProcesses([])
    (job,) = submit(ledger, 1)
    daemon = Daemon(ledger, processes, "daemon")
    monkeypatch.setattr(processes, "is_preparing", lambda: True)
    daemon._claim()
    assert ledger.jobs.get(job).state is JobState.QUEUED


# The list of workers


def test_a_daemon_is_listed_with_its_jobs_until_it_stops(run: Callable[..., Running], ledger: Ledger):
    running = run(jobs=2)
    until(lambda: len(ledger.workers.all()) == 1)
    (job,) = submit(ledger, 1)
    until(lambda: ledger.workers.all()[0].jobs == (job,))
    (worker,) = ledger.workers.all()
    assert (worker.holder, worker.kind, worker.at_once) == ("daemon", WorkerKind.WORKER, 2)
    running.stop()
    assert ledger.workers.all() == []


def test_a_daemon_works_on_where_the_list_cannot_be_written(
    run: Callable[..., Running],
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """One line in the log, not one every five seconds."""

    def refuse(worker: object) -> None:
        raise DependencyError("The ledger cannot be written.")

    monkeypatch.setattr(ledger.workers, "heartbeat", refuse)
    monkeypatch.setattr(presence, "HEARTBEAT_SECONDS", 0.0)
    jobs = submit(ledger, 2)
    run(end=SUCCEED)
    until(lambda: states(ledger) == [JobState.SUCCEEDED] * len(jobs))
    assert caplog.text.count("The ledger cannot be written.") == 1
