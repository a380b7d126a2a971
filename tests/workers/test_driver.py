"""What the driver leaves behind when its work is over, without Ray."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anon_tune.errors import DependencyError, InputError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, Phase
from anon_tune.search.policy import Plan
from anon_tune.settings import Settings
from anon_tune.workers import driver
from anon_tune.workers.run import Run
from anon_tune.workers.watch import Watch
from tests import builders


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    job = ledger.create_job("x", builders.spec().model_dump(mode="json"), {})
    return ledger.acquire(job.id, "tests", 60.0)


def work_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def work(*_: Any) -> None:
        raise error

    monkeypatch.setattr(driver, "_work", work)


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
    assert driver.drive(ledger, lease, Settings()) is JobState.PAUSED
    job = ledger.job(lease.job)
    assert (job.state, job.reason, job.lease) == (JobState.PAUSED, reason, None)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(15)])
def test_an_interrupt_pauses_the_job_and_goes_on(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, interrupt: BaseException
):
    """While Ray starts, it answers SIGTERM with SystemExit."""
    work_raises(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        driver.drive(ledger, lease, Settings())
    job = ledger.job(lease.job)
    assert (job.state, job.reason, job.lease) == (JobState.PAUSED, "interrupted", None)


def test_a_job_that_was_taken_over_is_left_alone(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    work_raises(monkeypatch, LeaseLostError("taken"))
    with pytest.raises(LeaseLostError, match="taken over"):
        driver.drive(ledger, lease, Settings())
    assert ledger.job(lease.job).state is JobState.RUNNING


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that is taken; nothing answers at it until it listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_cluster_that_is_not_there_is_told_before_ray_looks_for_it(
    monkeypatch: pytest.MonkeyPatch, port: int
):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    said = rf"No Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:{port} \("
    with pytest.raises(DependencyError, match=said), driver._ray(Settings(), "j"):
        pass


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:{port}", "127.0.0.1", "127.0.0.1:x"])
def test_what_is_no_plain_address_is_left_to_ray(port: int, address: str):
    driver._check_address(address.format(port=port))


def test_a_cluster_that_answers_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        driver._check_address(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_was_raised_unheard_is_raised_again(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    """As in a destructor or a callback of C code, where Python ignores it."""

    def work(ledger: Ledger, lease: Lease, settings: Settings, watch: Watch) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        run = Run(ledger, lease, Plan(builders.spec(), {}, 0.0), watch=watch)
        run.guard(lambda: None, otherwise=None)
        pytest.fail("the work went on")

    monkeypatch.setattr(driver, "_work", work)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        driver.drive(ledger, lease, Settings())
    assert ledger.job(lease.job).state is JobState.PAUSED
    assert signal.getsignal(number) is before


def test_what_is_asked_for_decides_what_an_interrupt_leaves(ledger: Ledger, lease: Lease):
    """A cancel is an interrupt that ends well; a worker that is stopped leaves its job to others."""
    for ask, left in ((None, JobState.QUEUED), (ledger.pause, JobState.PAUSED), (ledger.cancel, None)):
        monkeypatch = pytest.MonkeyPatch()
        work_raises(monkeypatch, KeyboardInterrupt())
        if ask is not None:
            ask(lease.job)
        if left is None:
            assert driver.drive(ledger, lease, Settings()) is JobState.CANCELLED
        else:
            with pytest.raises(KeyboardInterrupt):
                driver.drive(ledger, lease, Settings(), interrupted=JobState.QUEUED)
            assert ledger.job(lease.job).state is left
            lease = ledger.acquire(lease.job, "again", 60.0)
        monkeypatch.undo()


@pytest.mark.parametrize("asked", [(), ("pause",), ("cancel",), ("pause", "cancel")])
def test_a_run_that_was_told_to_stop_is_not_at_its_end(ledger: Ledger, lease: Lease, asked: tuple[str, ...]):
    """Also where a cancel is heard, and its interrupt is still to come."""
    for request in asked:
        getattr(ledger, request)(lease.job)
    watch = Watch(ledger.heartbeat(lease))
    run = Run(ledger, lease, Plan(builders.spec(), {}, 0.0), watch=watch)
    ending = driver._cut_off(run, watch)
    if not asked:
        assert ending is None
        return
    assert ending is not None
    expected = {"pause": JobState.PAUSED, "cancel": JobState.CANCELLED}[asked[-1]]
    assert ledger.release(lease, *ending) is expected
    assert ledger.job(lease.job).reason == f"{asked[-1]} was asked for"


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
    for seed in (20, 21):
        for n, (source, value) in enumerate([(old, 90.0 + seed), (new, 0.1 * seed), (other, 0.1 * seed + 1)]):
            verdict = builders.trial(
                2 * seed + n, value=value, phase=Phase.VERDICT, seed=seed, arm=source.arm, source=source.id
            )
            trials.append(verdict)
    found = driver.summarize(spec, trials)
    assert found["winners"]["anon"]["trial"] == new.id
    (comparison,) = found["verdict"]
    assert comparison["anon"] == pytest.approx(2.05)
    assert comparison["difference"] == pytest.approx(-1.0)
