"""State of a job after the driver's work, without Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from anon_tune.advice.summary import summarize
from anon_tune.errors import DatabaseUnavailableError, DependencyError, InputError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, Phase, Report, Trial, TrialState
from anon_tune.search.policy import Decision, Plan
from anon_tune.search.rounds import rounds_of
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec, spaces_of
from anon_tune.spec.sections import Resources
from anon_tune.workers.driver import hang_watchdog
from anon_tune.workers.driver import job as driver
from anon_tune.workers.driver.job import JobDriver
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.trial.messages import Completed
from tests import builders
from tests.databases import Server, frozen
from tests.workers.runs import result


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {})
    return ledger.leases.acquire(job.id, "tests", 60.0)


def work_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def work(job: JobDriver) -> None:
        raise error

    monkeypatch.setattr(JobDriver, "work", work)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Traceback\n  File x\nValueError: no metric\n"), "RuntimeError: ValueError: no metric"),
        (RuntimeError("database is locked\n[SQL: BEGIN]\n"), "RuntimeError: database is locked"),
        (RuntimeError(), "RuntimeError: see job.log"),
        (InputError("The space is used up."), "The space is used up."),
    ],
)
def test_an_error_pauses_the_job_with_one_line(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
):
    work_raises(monkeypatch, error)
    assert driver.drive(ledger, lease, Settings.from_environment()) is JobState.PAUSED
    job = ledger.jobs.get(lease.job)
    assert (job.state, job.reason, job.lease) == (JobState.PAUSED, reason, None)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(15)])
def test_an_interrupt_pauses_the_job_and_goes_on(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, interrupt: BaseException
):
    """While Ray starts, it answers SIGTERM with SystemExit."""
    work_raises(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        driver.drive(ledger, lease, Settings.from_environment())
    job = ledger.jobs.get(lease.job)
    assert (job.state, job.reason, job.lease) == (JobState.PAUSED, "interrupted", None)


def test_a_job_that_was_taken_over_is_left_alone(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    work_raises(monkeypatch, LeaseLostError("taken"))
    with pytest.raises(LeaseLostError, match="taken over"):
        driver.drive(ledger, lease, Settings.from_environment())
    assert ledger.jobs.get(lease.job).state is JobState.RUNNING


def limit_pages(ledger: Ledger, pages: int) -> None:
    """Let the ledger's file have so many pages at most: what sqlite says then is what it says on a full disk."""
    engine = ledger._engine
    engine.dispose()

    def limit(connection: Any, _: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "connect", limit)


def forbid_writes(ledger: Ledger) -> None:
    engine = ledger._engine
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON"))


def reports_without_end(ledger: Ledger, lease: Lease) -> None:
    """Call the run as Tune does until it has an error, then raise it as `JobDriver` does."""
    run = JobRun(ledger, lease, plan())
    found = run.next()
    assert isinstance(found, Trial)
    step = 0
    while run.error is None:
        step += 1
        run.guard(lambda step=step: run.report(found.id, result(step, 0.5)), otherwise=True)
    assert run.guard(run.next, Decision.DONE) is Decision.DONE
    raise run.error


def plan() -> Plan:
    spec = builders.spec(budget={"trials": 2, "epochs": 4}, search={"sampler": "random", "pruner": "none"})
    return Plan(spec, spaces_of(spec), -9.0)


def test_a_full_disk_ends_in_one_line_and_the_job_goes_on_when_there_is_space(
    tmp_path: Path, ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    full = Ledger.open(url)
    limit_pages(full, 30)
    monkeypatch.setattr(JobDriver, "work", lambda *_: reports_without_end(full, lease))
    # This fits in the pages that are there.
    assert driver.drive(full, lease, Settings.from_environment()) is JobState.PAUSED
    full.close()
    before = ledger.jobs.get(lease.job, trials=True)
    assert before.reason == (
        f"The ledger at {url} cannot be written (database or disk is full); what was stored before is safe. "
        "Free space on its disk, or make it writable."
    )

    # There is space again: nothing that was committed is lost, and the trial that was cut off runs again.
    (trial,) = before.trials
    assert [report.step for report in trial.reports] == list(range(1, len(trial.reports) + 1))
    assert trial.reports
    run = JobRun(ledger, ledger.leases.acquire(lease.job, "again", 60.0), plan())
    again = run.next()
    assert isinstance(again, Trial)
    assert (again.id, again.attempts) == (trial.id, 2)
    run.report(again.id, result(4, 0.5, Completed(0.5)))
    assert ledger.jobs.get(lease.job, trials=True).trials[0].state is TrialState.COMPLETE


def test_a_database_that_may_only_be_read_ends_in_one_line(
    tmp_path: Path, ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    readable = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")

    def work(*_: Any) -> None:
        run = JobRun(readable, lease, plan())
        assert isinstance(run.next(), Trial)
        forbid_writes(readable)
        run.guard(lambda: run.lose(run.trials[0].id, "the worker process died"), otherwise=None)
        assert run.error is not None
        raise run.error

    monkeypatch.setattr(JobDriver, "work", work)
    with pytest.raises(DependencyError, match=r"attempt to write a readonly database.*run --resume"):
        driver.drive(readable, lease, Settings.from_environment())
    readable.close()
    assert ledger.jobs.get(lease.job).state is JobState.RUNNING


@pytest.mark.parametrize("left", [JobState.PAUSED, JobState.QUEUED])
def test_a_job_whose_database_was_away_is_left_as_after_an_interrupt(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, left: JobState
):
    """Nobody resumes a worker's job that is PAUSED."""
    work_raises(monkeypatch, DatabaseUnavailableError("the database was away"))
    assert driver.drive(ledger, lease, Settings.from_environment(), interrupted=left) is left
    job = ledger.jobs.get(lease.job)
    assert (job.state, job.reason, job.lease) == (left, "the database was away", None)


@pytest.mark.slow
@pytest.mark.parametrize("left", [JobState.PAUSED, JobState.QUEUED])
def test_a_driver_whose_database_is_frozen_ends_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    postgresql_programs: Server,
    left: JobState,
):
    with postgresql_programs("-c listen_addresses=''") as folder, contextlib.ExitStack() as until_the_end:
        ledger = Ledger.open(f"postgresql+psycopg://postgres@/postgres?host={folder}", 4.0)
        job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
        lease = ledger.leases.acquire(job, "tests", 3.0)

        def work(driven: JobDriver) -> None:
            run = JobRun(ledger, lease, plan(), None, driven.renewal, driven.shutdown)
            trial = run.next()
            assert isinstance(trial, Trial)
            until_the_end.enter_context(frozen(folder))
            for step in range(1, 5):
                run.guard(partial(run.report, trial.id, result(step, 0.5)), otherwise=True)
            raise run.error or AssertionError("it went on")

        monkeypatch.setattr(JobDriver, "work", work)
        with pytest.raises(DatabaseUnavailableError, match=f"run --resume {job}"):
            driver.drive(ledger, lease, Settings.from_environment(), interrupted=left)
        assert re.search(rf"job {job} stopped: The (ledger|lease) .* (cannot|could not) be", caplog.text)
        until_the_end.close()
        ledger.close()


def test_a_driver_that_cannot_renew_its_lease_stops_though_nothing_reports(
    tmp_path: Path, ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    """In the middle of an epoch of an hour: others may have the job by now."""
    readable = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    forbid_writes(readable)

    def work(*_: Any) -> None:
        for _ in range(6000):  # as Tune's loop, which looks for results again and again
            threading.Event().wait(0.05)
        pytest.fail("it went on")

    monkeypatch.setattr(JobDriver, "work", work)
    with pytest.raises(DependencyError, match=r"attempt to write a readonly database.*run --resume"):
        driver.drive(readable, dataclasses.replace(lease, seconds=0.5), Settings.from_environment())
    readable.close()


@pytest.mark.usefixtures("own_temporary_folder")
@pytest.mark.parametrize(
    ("state", "left"),
    [(JobState.SUCCEEDED, False), (JobState.FAILED, False), (JobState.PAUSED, True)],
)
def test_checkpoints_and_what_killed_drivers_left_go_when_a_job_has_ended(
    tmp_path: Path, ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, state: JobState, left: bool
):
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    settings = Settings.from_environment()
    (settings.checkpoints(lease.job) / "t" / "1").mkdir(parents=True)
    (settings.checkpoints(lease.job) / "t" / "1" / "2.pt").touch()
    abandoned = settings.ray_temp("killed")
    abandoned.mkdir(parents=True)
    monkeypatch.setattr(JobDriver, "work", lambda *_: driver._Ending(state, None))
    assert driver.drive(ledger, lease, settings) is state
    assert settings.checkpoints(lease.job).exists() is left
    assert abandoned.exists() is left
    assert settings.job_folder(lease.job).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_was_raised_unheard_is_raised_again(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    """As in a destructor or a callback of C code, where Python ignores it."""

    def work(job: JobDriver) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        run = JobRun(ledger, lease, Plan(builders.spec(), {}, 0.0), shutdown=job.shutdown)
        run.guard(lambda: None, otherwise=None)
        pytest.fail("the work went on")

    monkeypatch.setattr(JobDriver, "work", work)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        driver.drive(ledger, lease, Settings.from_environment())
    assert ledger.jobs.get(lease.job).state is JobState.PAUSED
    assert signal.getsignal(number) is before


def test_a_control_signal_decides_the_state_after_an_interrupt(ledger: Ledger, lease: Lease):
    """A cancel is an interrupt that ends well; a worker that is stopped leaves its job to others."""
    for ask, left in (
        (None, JobState.QUEUED),
        (ledger.jobs.pause, JobState.PAUSED),
        (ledger.jobs.cancel, None),
    ):
        monkeypatch = pytest.MonkeyPatch()
        work_raises(monkeypatch, KeyboardInterrupt())
        if ask is not None:
            ask(lease.job)
        if left is None:
            assert driver.drive(ledger, lease, Settings.from_environment()) is JobState.CANCELLED
        else:
            with pytest.raises(KeyboardInterrupt):
                driver.drive(ledger, lease, Settings.from_environment(), interrupted=JobState.QUEUED)
            assert ledger.jobs.get(lease.job).state is left
            lease = ledger.leases.acquire(lease.job, "again", 60.0)
        monkeypatch.undo()


@pytest.mark.parametrize("left", [JobState.PAUSED, JobState.QUEUED])
def test_a_job_whose_process_hangs_is_given_back(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, left: JobState
):
    """A worker's is not: it counts the deaths of its processes."""
    ended: list[JobState] = []

    def hang(job: JobDriver) -> None:
        job.shutdown.check()
        for _ in range(6000):
            if ended:
                raise KeyboardInterrupt
            threading.Event().wait(0.01)
        pytest.fail("nobody noticed")

    monkeypatch.setattr(JobDriver, "work", hang)
    monkeypatch.setattr(hang_watchdog, "_TURN_SECONDS", 0.1)
    with pytest.raises((LeaseLostError, KeyboardInterrupt)):
        driver.drive(
            ledger,
            dataclasses.replace(lease, seconds=0.5),
            Settings.from_environment(),
            interrupted=left,
            on_hang=lambda: ended.append(ledger.jobs.get(lease.job).state),
        )
    assert ended == [JobState.PAUSED if left is JobState.PAUSED else JobState.RUNNING]


@pytest.mark.parametrize("left", [JobState.PAUSED, JobState.QUEUED])
def test_a_job_whose_ray_has_ended_is_given_back(
    ledger: Ledger,
    lease: Lease,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    left: JobState,
):
    """A worker's is not: it counts the ends of its processes."""

    def end(job: JobDriver) -> None:
        with job.shutdown.depending_on(lambda: False, driver._ended()):
            raise KeyboardInterrupt

    monkeypatch.setattr(JobDriver, "work", end)
    if left is JobState.QUEUED:
        with pytest.raises(DependencyError, match="Ray has ended"):
            driver.drive(ledger, lease, Settings.from_environment(), interrupted=left)
        assert ledger.leases.heartbeat(lease) is not None, "it is still held"
        assert "stopped: Ray has ended" in caplog.text, "the job's log says why"
        return
    assert driver.drive(ledger, lease, Settings.from_environment(), interrupted=left) is JobState.PAUSED
    assert str(ledger.jobs.get(lease.job).reason).startswith("Ray has ended")


@pytest.mark.parametrize("asked", [(), ("pause",), ("cancel",), ("pause", "cancel")])
def test_a_stopped_run_is_not_done(ledger: Ledger, lease: Lease, asked: tuple[str, ...]):
    """Also where a cancel is heard, and its interrupt is still to come."""
    for request in asked:
        getattr(ledger.jobs, request)(lease.job)
    renewal = LeaseRenewal(ledger, lease)
    renewal.renew()
    run = JobRun(ledger, lease, Plan(builders.spec(), {}, 0.0), renewal=renewal)
    ending = driver._cut_off(run, renewal)
    if not asked:
        assert ending is None
        return
    assert ending is not None
    expected = {"pause": JobState.PAUSED, "cancel": JobState.CANCELLED}[asked[-1]]
    assert ledger.leases.release(lease, *ending) is expected
    assert ledger.jobs.get(lease.job).reason == f"{asked[-1]} requested"


@pytest.mark.parametrize("reported", [True, False])
def test_a_trial_that_diverged_does_not_make_a_verdict_untested(reported: bool):
    spec = builders.spec(arms=["anon"], confirm={"finalists": 1, "seeds": 1, "verdict_seeds": 2})
    best = builders.trial(0, value=1.0, hyperparameters={"gamma": 0.5})
    confirm = builders.trial(0, value=1.0, phase=Phase.CONFIRM, seed=9, source=best.id)
    metrics = {"test_loss": 1.0} if reported else {}
    whole, diverged = (
        dataclasses.replace(
            builders.trial(n, state, value, phase=Phase.VERDICT, seed=20 + n, source=best.id),
            reports=(Report(1, 1.0, found, builders.EPOCH),),
        )
        for n, (state, value, found) in enumerate(
            [(TrialState.COMPLETE, 1.0, metrics), (TrialState.DIVERGED, None, {})]
        )
    )
    plan = Plan(spec, spaces_of(spec), 0.0)
    assert summarize(plan, [best, confirm, whole, diverged]).tested is reported


def test_without_a_completed_verdict_run_nothing_of_a_training_function_is_called_a_test():
    function = {"name": "x", "task": "train:train", "folder": "/x", "arms": ["anon"]}
    spec = parse_spec({**function, "budget": {"trials": 1, "epochs": 1}})
    best = builders.trial(0, value=1.0, hyperparameters={"gamma": 0.5})
    confirm = builders.trial(0, value=1.0, phase=Phase.CONFIRM, seed=9, source=best.id)
    lost = builders.trial(0, TrialState.DIVERGED, phase=Phase.VERDICT, seed=20, source=best.id)
    assert not summarize(Plan(spec, spaces_of(spec), 0.0), [best, confirm, lost]).tested


def test_the_verdict_is_about_the_winner_that_stands():
    """A job that was given more trials has tested the winner before, too."""
    spec = builders.spec(arms=["anon", "sgd"], confirm={"finalists": 2, "seeds": 1, "verdict_seeds": 2})
    trials = [
        builders.trial(n, value=1.0, arm=arm, hyperparameters={"gamma": 0.5 * n})
        for arm in spec.arms
        for n in range(2)
    ]
    old, new, other, _ = trials
    trials += [
        builders.trial(n, value=value, phase=Phase.CONFIRM, seed=9, source=source.id)
        for n, (source, value) in enumerate([(old, 0.5), (new, 0.4)])
    ]
    trials.append(builders.trial(0, value=0.5, phase=Phase.CONFIRM, seed=9, arm="sgd", source=other.id))
    for seed, of_old, of_new, of_other in zip(
        rounds_of(spec)[0].seeds, (90.0, 91.0), (2.0, 2.1), (3.0, 3.1), strict=True
    ):
        for source, value in ((old, of_old), (new, of_new), (other, of_other)):
            verdict = builders.trial(
                len(trials), value=value, phase=Phase.VERDICT, seed=seed, arm=source.arm, source=source.id
            )
            trials.append(verdict)
    found = summarize(Plan(spec, spaces_of(spec), 0.0), trials)
    assert found.winners["anon"].trial == new.id
    configuration, optimizer = found.verdict
    assert configuration.anon == pytest.approx(math.sqrt(2.0 * 2.1))
    ratio = math.sqrt((2.0 / 3.0) * (2.1 / 3.1))
    assert configuration.difference == pytest.approx(ratio - 1)
    assert (optimizer.of, optimizer.outcome) == ("optimizer", "undecided")


@pytest.mark.parametrize(
    ("needs", "has", "fits"),
    [
        ({}, {"CPU": 4.0}, 4),
        ({"cpu": 2}, {"CPU": 3.0}, 1),
        ({"gpu": 0.4}, {"CPU": 16.0, "GPU": 2.0}, 4),
        ({"gpu": 0.25}, {"CPU": 16.0, "GPU": 1.0}, 4),
        ({"gpu": 0.1}, {"CPU": 16.0, "GPU": 1.0}, 10),
        ({"gpu": 2}, {"CPU": 16.0, "GPU": 3.0}, 1),
        ({"gpu": 1}, {"CPU": 16.0}, 0),
    ],
)
def test_a_trial_needs_all_it_has_on_one_node_and_a_share_of_one_gpu(
    needs: dict[str, Any], has: dict[str, float], fits: int
):
    assert driver._fits(Resources(**needs), has) == fits
