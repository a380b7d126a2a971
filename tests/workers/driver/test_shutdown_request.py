"""Interrupts of the main thread: for which reasons, when, and what they wait for."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from anon_tune.errors import DependencyError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState
from anon_tune.workers.driver import shutdown_request
from anon_tune.workers.driver.shutdown_request import ShutdownRequest
from tests.workers.driver.watching import PATIENCE, Watched, wait_for_the_interrupt


def test_a_cancel_interrupts(ledger: Ledger, lease: Lease):
    watched = Watched(ledger, lease)
    ledger.jobs.cancel(lease.job)
    with pytest.raises(KeyboardInterrupt), watched.running():
        wait_for_the_interrupt()
    assert not watched.renewal.lost
    with pytest.raises(KeyboardInterrupt):
        watched.shutdown.check()
    assert ledger.leases.release(lease, JobState.PAUSED) is JobState.CANCELLED


def test_the_end_of_the_parent_process_interrupts(ledger: Ledger, lease: Lease):
    lives = threading.Event()
    lives.set()
    watched = Watched(ledger, lease, lives.is_set)
    with pytest.raises(KeyboardInterrupt), watched.running():
        wait_for_the_interrupt(lives.clear)
    assert not watched.renewal.lost


def test_the_end_of_a_dependency_interrupts(ledger: Ledger, lease: Lease):
    runs = threading.Event()
    runs.set()
    watched, failure = Watched(ledger, lease), DependencyError("it has ended")
    with (
        pytest.raises(KeyboardInterrupt),
        watched.running(),
        watched.shutdown.depending_on(runs.is_set, failure),
    ):
        wait_for_the_interrupt(runs.clear)
    assert watched.shutdown.failure is failure


def test_an_unknown_state_of_a_dependency_interrupts(ledger: Ledger, lease: Lease):
    watched, failure, wanted = Watched(ledger, lease), DependencyError("it has ended"), threading.Event()

    def runs() -> bool:
        if wanted.is_set():
            raise OSError("too many open files")
        return True

    with (
        pytest.raises(KeyboardInterrupt),
        watched.running(),
        watched.shutdown.depending_on(runs, failure),
    ):
        wait_for_the_interrupt(wanted.set)
    assert watched.shutdown.failure is failure


def test_one_failed_check_of_a_dependency_does_not_interrupt(ledger: Ledger, lease: Lease):
    runs, watched = Runs(runs=True), Watched(ledger, lease)

    def fails_once() -> bool:
        if runs.looks == 3:
            runs()
            raise OSError("too many open files")
        return runs()

    with (
        watched.running(),
        watched.shutdown.depending_on(fails_once, DependencyError("it has ended")),
    ):
        wait_for_looks(runs)
        watched.shutdown.check()
    assert watched.shutdown.failure is None


@pytest.mark.parametrize("before", [True, False])
def test_an_error_is_explained_by_the_end_of_a_dependency(before: bool):
    """Also one that comes before the next look; but not where it ends only when the work is over."""
    runs = threading.Event()
    runs.set()
    shutdown, failure = ShutdownRequest(), DependencyError("it has ended")
    with contextlib.suppress(ValueError), shutdown.depending_on(runs.is_set, failure):
        if before:
            runs.clear()
        raise ValueError
    runs.clear()
    assert shutdown.failure is (failure if before else None)


def wait_for_heartbeats(ledger: Ledger, lease: Lease) -> None:
    before, limit = ledger.jobs.get(lease.job).spent, time.monotonic() + PATIENCE
    while ledger.jobs.get(lease.job).spent < before + 0.5 and time.monotonic() < limit:
        time.sleep(0.01)


def wait_for_looks(runs: Runs) -> None:
    looks, limit = runs.looks, time.monotonic() + PATIENCE
    while runs.looks < looks + 10 and time.monotonic() < limit:
        time.sleep(0.01)
    assert runs.looks >= looks + 10


class Runs:
    """Something that is looked at, and how often it was."""

    def __init__(self, runs: bool) -> None:
        self.runs = runs
        self.looks = 0

    def __call__(self) -> bool:
        self.looks += 1
        return self.runs


def test_work_that_was_done_is_not_stopped_by_what_ended_then(ledger: Ledger, lease: Lease):
    runs, watched = Runs(runs=True), Watched(ledger, lease)
    with watched.running():
        with watched.shutdown.depending_on(runs, DependencyError("it has ended")):
            wait_for_looks(runs)
            runs.runs = False
        watched.shutdown.check()
        wait_for_heartbeats(ledger, lease)
        watched.shutdown.check()
    assert watched.shutdown.failure is None


def test_work_that_ends_with_an_error_is_not_interrupted_besides(ledger: Ledger, lease: Lease):
    watched, failure = Watched(ledger, lease), DependencyError("it has ended")
    with watched.running():
        with (
            pytest.raises(ValueError, match="it broke"),
            watched.shutdown.depending_on(lambda: False, failure),
        ):
            raise ValueError("it broke")
        wait_for_heartbeats(ledger, lease)
    assert watched.shutdown.failure is failure


def test_an_interrupt_that_is_not_heard_is_repeated_after_some_looks(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    """Ray answers SIGTERM itself while it starts and stops, where it must not be torn apart."""
    looks: list[None] = []
    raised: list[int] = []
    monkeypatch.setattr(shutdown_request._thread, "interrupt_main", lambda _number: raised.append(len(looks)))
    watched = Watched(ledger, lease)
    watched.shutdown._look_at_dependency = lambda: looks.append(None)
    ledger.jobs.cancel(lease.job)
    limit = time.monotonic() + PATIENCE
    with watched.running(signals=False):
        while len(raised) < 3 and time.monotonic() < limit:
            time.sleep(0.01)
    first, second, third = raised[:3]
    assert second - first == third - second == shutdown_request._LOOKS_PER_INTERRUPT


def test_in_another_thread_the_next_check_is_the_interrupt(ledger: Ledger, lease: Lease):
    """Nobody may interrupt the main thread, which does something else."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the main thread was interrupted"))
    ended = []

    def work() -> None:
        watched, limit = Watched(ledger, lease), time.monotonic() + PATIENCE
        with watched.running():
            ledger.jobs.cancel(lease.job)
            try:
                while time.monotonic() < limit:
                    watched.shutdown.check()
                    time.sleep(0.01)
            except KeyboardInterrupt:
                ended.append("interrupted")

    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == ["interrupted"]


@pytest.mark.parametrize("noticed", [True, False])
def test_a_dependency_that_ends_with_the_work_is_not_a_failure(noticed: bool):
    """Who stops a service signals all of its processes."""
    runs = threading.Event()
    runs.set()
    shutdown = ShutdownRequest()
    with (
        contextlib.suppress(KeyboardInterrupt),
        shutdown.signals(),
        shutdown.depending_on(runs.is_set, DependencyError("it has ended")),
        shutdown.notice(lambda: None) if noticed else contextlib.nullcontext(),
    ):
        runs.clear()
        signal.raise_signal(signal.SIGTERM)
    assert shutdown.failure is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_is_being_stored_is_finished_first(number: signal.Signals):
    shutdown = ShutdownRequest()
    before = signal.getsignal(number)
    stored = []

    def store() -> None:
        signal.raise_signal(number)
        stored.append(number)

    with shutdown.signals():
        with pytest.raises(KeyboardInterrupt), shutdown.undisturbed():
            store()
        with pytest.raises(KeyboardInterrupt), shutdown.undisturbed():
            pytest.fail("something was begun after the interrupt")
    assert stored
    assert signal.getsignal(number) is before


def test_a_signal_is_noticed_before_it_interrupts():
    shutdown = ShutdownRequest()
    left = []
    with shutdown.signals():
        with shutdown.notice(lambda: left.append(shutdown.leaving)):
            shutdown.check()
            assert not shutdown.leaving
            signal.raise_signal(signal.SIGTERM)
            assert (left, shutdown.leaving) == ([True], True)
            with shutdown.undisturbed():
                pass  # what comes in meanwhile is stored
        with pytest.raises(KeyboardInterrupt):
            shutdown.check()


def test_under_nohup_the_end_of_the_terminal_is_no_reason_to_stop():
    shutdown = ShutdownRequest()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with shutdown.signals():
            signal.raise_signal(signal.SIGHUP)
            shutdown.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_interrupts_at_once():
    shutdown = ShutdownRequest()
    with shutdown.signals(), shutdown.notice(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_notice_is_over_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutdown_request, "_NOTICE_SECONDS", -1.0)
    shutdown = ShutdownRequest()
    with shutdown.signals(), shutdown.notice(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            shutdown.check()


def test_an_urgent_reason_interrupts_during_a_notice(ledger: Ledger, lease: Lease):
    watched = Watched(ledger, lease)
    ledger.jobs.cancel(lease.job)
    with (
        pytest.raises(KeyboardInterrupt),
        watched.running(),
        watched.shutdown.notice(lambda: pytest.fail("it was told to leave in time")),
    ):
        wait_for_the_interrupt()


def test_a_notice_that_nobody_heeds_is_an_interrupt(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    """As where the main thread waits for something, and does not come by `check`."""
    monkeypatch.setattr(shutdown_request, "_NOTICE_SECONDS", 0.1)
    watched = Watched(ledger, lease)
    with (
        pytest.raises(KeyboardInterrupt),
        watched.running(),
        watched.shutdown.notice(lambda: None),
    ):
        wait_for_the_interrupt(lambda: signal.raise_signal(signal.SIGTERM))
