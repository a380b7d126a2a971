"""The composition root around a job."""

from __future__ import annotations

import importlib
import io
import logging
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from anon_tune import api
from anon_tune.errors import ConflictError, InputError
from anon_tune.jobs.ledger import LedgerJobs, open_ledger
from anon_tune.ledger import Lease, Ledger
from anon_tune.ledger.leases import Leases
from anon_tune.records import JobState, WorkerKind
from anon_tune.settings import Settings
from anon_tune.spec import spaces_of
from anon_tune.workers.driver import cluster
from anon_tune.workers.queue import processes
from anon_tune.workers.queue.holder import this_process
from tests import builders


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    return Settings.from_environment()


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


def test_a_run_is_listed_as_long_as_it_works(settings: Settings, ledger: Ledger):
    lease = api.start_job(ledger, builders.spec())
    with api._seen(ledger, settings, lease):
        (worker,) = ledger.workers.all()
        assert (worker.kind, worker.holder, worker.jobs) == (WorkerKind.RUN, this_process(), (lease.job,))
    assert ledger.workers.all() == []


@pytest.mark.usefixtures("own_temporary_folder")
def test_what_drivers_left_of_jobs_that_have_ended_is_deleted(settings: Settings, ledger: Ledger):
    left = {}
    for state in (JobState.SUCCEEDED, JobState.CANCELLED, JobState.FAILED, JobState.PAUSED, JobState.RUNNING):
        job_id = ledger.jobs.create(state.value, {}, {}).id
        lease = ledger.leases.acquire(job_id, "me", 60.0)
        if state is not JobState.RUNNING:
            ledger.leases.release(lease, state)
        left[job_id] = state in {JobState.PAUSED, JobState.RUNNING}
    left[uuid.uuid4().hex[:6]] = True  # of a ledger that is elsewhere
    for job_id in left:
        settings.checkpoints(job_id).mkdir(parents=True)
        (settings.job_folder(job_id) / "job.log").touch()
    abandoned = settings.ray_temp("killed")
    abandoned.mkdir(parents=True)
    LedgerJobs(ledger, settings).remove_leftovers()
    assert not abandoned.exists()
    assert {job_id: settings.checkpoints(job_id).exists() for job_id in left} == left
    assert all((settings.job_folder(job_id) / "job.log").exists() for job_id in left)


def test_a_log_that_the_disk_does_not_take_says_nothing_in_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "job.log").symlink_to("/dev/full")
    with api._log_file(tmp_path):
        logging.getLogger("anon_tune.test").warning("lost")
    assert capsys.readouterr() == ("", "")
    (tmp_path / "job.log").unlink()
    with api._log_file(tmp_path):
        logging.getLogger("anon_tune.test").warning("kept")
    assert "WARNING anon_tune.test kept" in (tmp_path / "job.log").read_text()


def _die_before_the_lease(url: str) -> None:
    """In a process of its own: be killed when the job is stored and the lease is to be taken."""
    Leases.acquire = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    api.start_job(Ledger.open(url), builders.spec())


def test_a_job_whose_process_is_killed_before_it_has_the_lease_was_never_there(database_url: str):
    ledger = Ledger.open(database_url)
    process = multiprocessing.get_context("spawn").Process(target=_die_before_the_lease, args=(database_url,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert ledger.overviews.jobs() == []
    lease = api.start_job(ledger, builders.spec())
    (job,) = ledger.overviews.jobs()
    assert (job.id, job.state, lease.token) == (lease.job, JobState.RUNNING, 1)
    assert job.lease is not None
    assert (job.lease.holder, job.lease.alive) == (this_process(), True)
    assert ledger.leases.claim("a worker", 15.0) is None
    ledger.close()


SCRIPT = """
from anon_tune import tune


def train(context):
    raise AssertionError


tune(train, trials=1)
"""


@pytest.mark.parametrize(
    "run",
    [
        lambda script: importlib.import_module(script.stem),  # as workers do
        lambda script: runpy.run_path(str(script), run_name="__mp_main__"),  # as multiprocessing.spawn does
    ],
)
def test_a_script_without_a_guard_is_told_at_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[Path], object]
):
    script = tmp_path / "script_without_guard.py"
    script.write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match='Put the call under `if __name__ == "__main__":`'):
        run(script)
    assert LedgerJobs(open_ledger(settings), settings).jobs() == []


def stored(ledger: Ledger, state: JobState, **keys: Any) -> str:
    """A job of a training function in a state, with 4 trials of each arm."""
    spec = builders.spec(task="mine:train", data=None, model=None, folder="/mine", **keys)
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    job = ledger.jobs.create("mine", spec.model_dump(mode="json"), spaces).id
    ledger.leases.release(ledger.leases.acquire(job, "me", 60.0), state)
    return job


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.SUCCEEDED])
def test_more_trials_beside_resume_extend_the_job(settings: Settings, ledger: Ledger, state: JobState):
    job, jobs = stored(ledger, state), LedgerJobs(ledger, settings)
    assert api._job_to_resume(jobs, ledger, "mine", "mine:train", 9) == job
    assert ledger.jobs.get(job).spec["budget"]["trials"] == 9
    assert api.acquire(ledger, job).job == job


@pytest.mark.parametrize("trials", [None, 4])
def test_without_more_trials_a_job_is_resumed_as_it_is(
    settings: Settings, ledger: Ledger, trials: int | None
):
    job = stored(ledger, JobState.PAUSED)
    before = ledger.jobs.get(job)
    assert api._job_to_resume(LedgerJobs(ledger, settings), ledger, job, "mine:train", trials) == job
    assert ledger.jobs.get(job) == before


def test_fewer_trials_beside_resume_are_refused(settings: Settings, ledger: Ledger):
    job = stored(ledger, JobState.PAUSED)
    with pytest.raises(ConflictError, match="has 4 trials per arm, and trials=3 is fewer"):
        api._job_to_resume(LedgerJobs(ledger, settings), ledger, job, "mine:train", 3)


def test_an_interrupt_while_mlflow_catches_up_does_not_lose_the_result(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    job = stored(ledger, JobState.PAUSED)
    lease = ledger.leases.acquire(job, "me", 60.0)
    settings.job_folder(job).mkdir(parents=True)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with socket.create_server(("127.0.0.1", 0)) as silent:  # an MLflow that takes the connection, and no more
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

        def interrupt() -> None:
            with silent.accept()[0]:
                os.kill(os.getpid(), signal.SIGINT)
                ended.wait()

        ended = threading.Event()
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            with api._projector(settings, lease):
                ledger.leases.release(lease, JobState.SUCCEEDED)
            assert started[0].poll() is None, "it goes on"
        finally:
            ended.set()
            thread.join()
            started[0].kill()
            started[0].wait()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (JobState.SUCCEEDED, ""),
        (JobState.FAILED, "Job {job} (mine) is FAILED: no [data]\n"),
        (JobState.PAUSED, "Job {job} (mine) is PAUSED: no [data]\nContinue with: tune(train, resume='x')\n"),
    ],
)
def test_a_job_that_stops_says_why_and_how_it_goes_on(
    settings: Settings, ledger: Ledger, state: JobState, said: str
):
    job = stored(ledger, JobState.PAUSED)
    ledger.leases.release(ledger.leases.acquire(job, "me", 60.0), state, "no [data]")
    console = Console(file=io.StringIO(), markup=False, highlight=False)
    api._print_end(console, LedgerJobs(ledger, settings).job(job), "tune(train, resume='x')")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == said.format(job=job)


class Surroundings:
    """Surroundings of a job process: Ray's calls, and the lease from its daemon."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, early: bool, lease: Lease | None) -> None:
        self.happened: list[str] = []
        ray = types.SimpleNamespace(init=self.note("init"), shutdown=self.note("shutdown"))
        monkeypatch.setitem(sys.modules, "ray", ray)
        node = types.SimpleNamespace(Node=type("Node", (), {}))
        monkeypatch.setitem(sys.modules, "ray._private.node", node)
        monkeypatch.setattr(cluster, "load", self.note("load"))
        monkeypatch.setattr(processes, "is_assigned", lambda: early)
        monkeypatch.setattr(processes, "receive_lease", self.note("receive_lease", lease))
        monkeypatch.setattr(api, "run_job", self.note("run"))
        monkeypatch.setattr(api.os, "dup2", self.note("dup2"))

    def note(self, what: str, answer: Any = None) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            if what != "dup2":
                self.happened.append(what)
            return answer

        return call


@pytest.mark.usefixtures("own_temporary_folder")
@pytest.mark.parametrize(
    ("early", "job", "happens"),
    [
        (False, True, ["init", "load", "receive_lease", "run", "shutdown"]),
        (False, False, ["init", "load", "receive_lease", "shutdown"]),
        (True, True, ["receive_lease", "run"]),  # which starts Ray itself, its lease being renewed
    ],
)
def test_ray_is_started_before_there_is_a_job_and_not_when_there_is_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, early: bool, job: bool, happens: list[str]
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process = Surroundings(monkeypatch, early, Lease("j1", "me", 1, 15.0) if job else None)
    api.work_on_assigned_job(settings, 1)
    assert process.happened == happens
