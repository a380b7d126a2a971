"""The composition root around a job."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anon_tune import api
from anon_tune.jobs.ledger import LedgerJobs, open_ledger
from anon_tune.ledger import Lease, Ledger
from anon_tune.ledger.leases import Leases
from anon_tune.records import JobState
from anon_tune.settings import Settings
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
