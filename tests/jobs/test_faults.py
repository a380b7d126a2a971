"""Jobs whose processes are stopped and killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections import Counter

import psutil
import pytest

from anon_tune.records import FINISHED, JobRecord, JobState, Phase, TrialState
from anon_tune.workers.trial.checkpoints import step_of
from tests.jobs.conftest import Home, descendants, until

pytestmark = pytest.mark.slow

# Long enough to be interrupted in the middle, short enough to be run.
OVERRIDES = ("--set", "budget.trials=6", "--set", "budget.epochs=6", "--set", "confirm.finalists=1")


@pytest.fixture
def running(home: Home) -> subprocess.Popen[str]:
    for job in home.ledger.overviews.jobs() if (home.folder / "ledger.db").exists() else []:
        assert job.state is not JobState.RUNNING
    return home.start("run", home.spec(), *OVERRIDES)


def finished(home: Home, state: JobState = JobState.RUNNING) -> int:
    job = home.newest()
    if job is None or job.state is not state:
        return 0
    return sum(trial.is_finished for trial in job.trials)


def is_running(job: JobRecord | None) -> bool:
    return job is not None and job.state is JobState.RUNNING


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=300)
    return not alive


def assert_exact(job: JobRecord) -> None:
    """The job ended with its budget, to the trial, and tried no configuration twice."""
    assert job.state is JobState.SUCCEEDED
    assert all(trial.state in FINISHED for trial in job.trials)
    search = [trial for trial in job.trials if trial.phase is Phase.SEARCH]
    assert Counter(trial.arm for trial in search) == {"anon": 6, "adamw": 6, "sgd": 6}
    assert len({(trial.arm, tuple(sorted(trial.params.items()))) for trial in search}) == len(search)
    reruns = Counter((trial.phase, trial.arm) for trial in job.trials if trial.phase is not Phase.SEARCH)
    assert set(reruns.values()) == {2, 3}
    for trial in job.trials:
        assert [report.step for report in trial.reports] == list(range(1, len(trial.reports) + 1))


def test_the_end_of_its_ray_pauses_a_job(home: Home) -> None:
    """Which Ray itself says a dozen seconds later, and ends the process."""
    running = home.start("run", home.spec(), "--set", "budget.trials=500")
    until(lambda: finished(home) >= 1, running)
    processes = descendants(running)
    next(process for process in processes if process.name() == "raylet").kill()
    out, message = running.communicate(timeout=300)
    job = home.newest()
    assert job is not None
    assert running.returncode == 1, message
    assert (job.state, job.lease) == (JobState.PAUSED, None)
    assert str(job.reason).startswith("Ray has ended: its raylet")
    assert f"anon-tune resume {job.id}" in out
    assert gone(processes)
    assert not list((home.folder / "ray").glob("*"))


def test_a_terminal_that_is_closed_pauses_a_job(home: Home) -> None:
    """As by an ssh connection that breaks: all processes in front get SIGHUP, and nobody reads what they write."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    running = subprocess.Popen(
        home.command("run", home.spec(), "--set", "budget.trials=500"),
        env=home.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        text=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # theirs is its terminal
    )
    os.close(theirs)
    seen = bytearray()

    def some_are_done() -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.extend(os.read(ours, 65536))
        return finished(home) >= 1

    until(some_are_done, running)
    assert b"phase" in seen
    processes = descendants(running)
    os.close(ours)
    assert running.wait(300) == 130
    job = home.newest()
    assert job is not None
    assert (job.state, job.reason, job.lease) == (JobState.PAUSED, "interrupted", None)
    assert gone(processes)
    assert not list((home.folder / "ray").glob("*"))
    assert home.call("cancel", job.id).returncode == 0


def test_interrupt_pauses_and_resume_goes_on(home: Home, running: subprocess.Popen[str]) -> None:
    until(lambda: is_running(home.newest()), running)
    job = home.newest()
    assert job is not None
    # While Ray starts: it takes seconds, in which the job could otherwise come to its end.
    refused = home.call("run", "--resume", job.id)
    assert refused.returncode == 4
    assert "is running in" in refused.stderr

    until(lambda: finished(home) >= 3, running)
    processes = descendants(running)
    os.killpg(running.pid, signal.SIGINT)
    _, message = running.communicate(timeout=300)
    assert running.returncode == 130
    assert f"run --resume {job.id}" in message
    assert "Traceback" not in message
    assert gone(processes)

    paused = home.newest()
    assert paused is not None
    assert paused.state is JobState.PAUSED
    assert paused.lease is None
    done = {trial.id: trial.attempts for trial in paused.trials if trial.is_finished}
    assert len(done) >= 3
    # The running ones wrote checkpoints before it ended, though none was due.
    cut = {t.id: len(t.reports) for t in paused.trials if t.state is TrialState.WAITING and t.reports}
    assert {t.id: step_of(t.checkpoints[0]) for t in paused.trials if t.id in cut} == cut

    resumed = home.call("run", "--resume", job.id)
    assert resumed.returncode == 0, resumed.stderr
    ended = home.newest()
    assert ended is not None
    assert_exact(ended)
    assert {t.id: t.attempts for t in ended.trials if t.id in done} == done, "a finished trial was run again"
    log = (home.folder / "jobs" / job.id / "job.log").read_text()
    assert all(f"trial {name}: attempt 2 continues after epoch {epoch}" in log for name, epoch in cut.items())


def test_termination_pauses_where_interrupts_are_ignored(home: Home) -> None:
    # As of a job that a shell script puts in the background.
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *home.command("run", home.spec(), *OVERRIDES)]
    process = subprocess.Popen(command, env=home.environment, stderr=subprocess.PIPE, text=True)
    until(lambda: finished(home) >= 1, process)
    processes = descendants(process)
    process.terminate()
    _, message = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Paused" in message
    assert gone(processes)
    paused = home.newest()
    assert paused is not None
    assert paused.state is JobState.PAUSED


def test_termination_while_ray_starts_pauses(home: Home) -> None:
    """Ray has a handler of its own for that time."""
    process = home.start("run", home.spec(), *OVERRIDES)
    until(lambda: any((home.folder / "ray").glob("*/ray/session_*")), process)
    job = home.newest()
    assert job is not None
    assert job.probe is None
    processes = descendants(process)
    process.terminate()
    _, message = process.communicate(timeout=300)
    assert process.returncode == 130
    assert f"Paused. Continue with: anon-tune run --resume {job.id}" in message
    assert gone(processes)
    paused = home.newest()
    assert paused is not None
    assert (paused.state, paused.reason) == (JobState.PAUSED, "interrupted")


def test_more_than_the_machine_has_pauses_at_once(home: Home) -> None:
    done = home.call("run", home.spec(), "--set", "resources.gpu=64")
    assert done.returncode == 1
    job = home.newest()
    assert job is not None
    assert job.state is JobState.PAUSED
    assert job.reason is not None
    assert job.reason.startswith("resources.gpu: a trial needs 64")
    assert not job.trials


def test_killed_driver_is_resumed_exactly(home: Home, running: subprocess.Popen[str]) -> None:
    until(lambda: finished(home) >= 5, running)
    job = home.newest()
    assert job is not None
    processes = descendants(running)
    running.kill()
    running.communicate()

    left = home.newest()
    assert left is not None
    assert left.state is JobState.RUNNING, "nobody could write that it died"
    done = {trial.id: trial.attempts for trial in left.trials if trial.is_finished}

    resumed = home.call("run", "--resume", job.id)
    assert resumed.returncode == 0, resumed.stderr
    ended = home.newest()
    assert ended is not None
    assert_exact(ended)
    assert {t.id: t.attempts for t in ended.trials if t.id in done} == done, "a finished trial was run again"
    assert any(trial.attempts == 2 for trial in ended.trials), "what was running got another attempt"
    assert gone(processes)

    # MLflow has each trial once, too, whoever wrote it. A busy machine may have left some for later.
    assert home.call("mlflow", "sync", job.id).returncode == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'anon_tune'")
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.mlflow.parentRunId = '{ended.mlflow_run}'", max_results=1000
    )
    assert Counter(run.data.tags["anon_tune.trial_id"] for run in runs) == Counter(t.id for t in ended.trials)


BROKEN_TRAINING = """
import importlib.util
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "anon_tune.workers.trial.training":
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        load = found.loader.exec_module

        def load_and_break(module):
            load(module)
            module.Training.run_epoch = run_epoch

        found.loader.exec_module = load_and_break
        return found


def run_epoch(self):
    raise ValueError("the data is not there")


sys.meta_path.insert(0, Finder())
"""


def test_three_failures_pause_the_job(home: Home) -> None:
    folder = home.folder / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BROKEN_TRAINING)
    done = home.call("run", home.spec(), *OVERRIDES, PYTHONPATH=str(folder))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    job = home.newest()
    assert job is not None
    assert job.state is JobState.PAUSED
    reason = "ValueError: the data is not there"
    assert job.reason == f"three trials in a row failed: {reason}"
    assert job.reason in done.stdout
    assert f"run --resume {job.id}" in done.stdout
    failed = [trial for trial in job.trials if trial.is_finished]
    assert len(failed) == 3, "what ran beside the third waits for the resume"
    assert {(trial.state, trial.reason) for trial in failed} == {(TrialState.FAILED, reason)}
    shown = home.call("logs", job.id).stdout
    for trial in failed:
        assert f"{trial.id}, attempt 1  FAILED: {reason}\n" in shown
    assert shown.count(f"  | {reason}\n") >= 3, "each attempt has the end of what its process wrote"
    assert "End of the job's log:" in shown
    assert not (home.folder / "jobs" / job.id / "output").exists()
