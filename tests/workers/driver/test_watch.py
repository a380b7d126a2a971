"""What the holder of a job hears while it works."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable

import pytest

from anon_tune.errors import DependencyError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, Request
from anon_tune.workers.driver import watch as watch_module
from anon_tune.workers.driver.watch import Watch

_PATIENCE = 60.0


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    """One that is renewed every 0.1 s."""
    job = ledger.jobs.create("x", {"budget": {"trials": 3}}, {}).id
    return dataclasses.replace(ledger.leases.acquire(job, "me", 60.0), seconds=0.5)


def wait_for_the_interrupt(cause: Callable[[], object] = lambda: None) -> None:
    cause()
    limit = time.monotonic() + _PATIENCE
    while time.monotonic() < limit:
        time.sleep(0.01)
    pytest.fail("nothing interrupted the work")


def test_the_first_orders_are_there_at_once(ledger: Ledger, lease: Lease):
    ledger.jobs.pause(lease.job)
    watch = Watch()
    with watch.heartbeats(ledger, lease):
        assert watch.orders.request is Request.PAUSE
        assert watch.orders.budget == {"trials": 3}


def test_a_pause_and_a_larger_budget_are_heard_and_interrupt_nothing(ledger: Ledger, lease: Lease):
    watch = Watch()
    with watch.heartbeats(ledger, lease), watch.signals():
        ledger.jobs.extend(lease.job, 5)
        ledger.jobs.pause(lease.job)
        limit = time.monotonic() + _PATIENCE
        while watch.orders.request is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert (watch.orders.request, watch.orders.budget) == (Request.PAUSE, {"trials": 5})
        assert watch.orders.spent > 0
        watch.check()


def test_a_cancel_interrupts(ledger: Ledger, lease: Lease):
    watch = Watch()
    ledger.jobs.cancel(lease.job)
    with pytest.raises(KeyboardInterrupt), watch.heartbeats(ledger, lease), watch.signals():
        wait_for_the_interrupt()
    assert not watch.lost
    with pytest.raises(KeyboardInterrupt):
        watch.check()
    assert ledger.leases.release(lease, JobState.PAUSED) is JobState.CANCELLED


def test_a_lease_that_is_lost_interrupts(ledger: Ledger, lease: Lease):
    watch = Watch()
    with pytest.raises(KeyboardInterrupt), watch.heartbeats(ledger, lease), watch.signals():
        wait_for_the_interrupt(lambda: ledger.leases.release(lease, JobState.QUEUED))
    assert watch.lost


def test_a_lease_that_was_lost_before_is_not_worked_under(ledger: Ledger, lease: Lease):
    ledger.leases.release(lease, JobState.QUEUED)
    with pytest.raises(LeaseLostError), Watch().heartbeats(ledger, lease):
        pytest.fail("the work began")


def test_the_end_of_who_started_this_interrupts(ledger: Ledger, lease: Lease):
    lives = threading.Event()
    lives.set()
    watch = Watch(is_wanted=lives.is_set)
    with pytest.raises(KeyboardInterrupt), watch.heartbeats(ledger, lease), watch.signals():
        wait_for_the_interrupt(lives.clear)
    assert not watch.lost


def test_the_end_of_what_the_work_depends_on_interrupts(ledger: Ledger, lease: Lease):
    runs = threading.Event()
    runs.set()
    watch, failure = Watch(), DependencyError("it has ended")
    with (
        pytest.raises(KeyboardInterrupt),
        watch.heartbeats(ledger, lease),
        watch.signals(),
        watch.depending_on(runs.is_set, failure),
    ):
        wait_for_the_interrupt(runs.clear)
    assert watch.failure is failure


def test_work_stops_where_nobody_can_tell_whether_what_it_depends_on_still_runs(ledger: Ledger, lease: Lease):
    watch, failure, wanted = Watch(), DependencyError("it has ended"), threading.Event()

    def runs() -> bool:
        if wanted.is_set():
            raise OSError("too many open files")
        return True

    with (
        pytest.raises(KeyboardInterrupt),
        watch.heartbeats(ledger, lease),
        watch.signals(),
        watch.depending_on(runs, failure),
    ):
        wait_for_the_interrupt(wanted.set)
    assert watch.failure is failure


def test_a_look_that_fails_once_is_no_end(ledger: Ledger, lease: Lease):
    runs, watch = Runs(runs=True), Watch()

    def fails_once() -> bool:
        if runs.looks == 3:
            runs()
            raise OSError("too many open files")
        return runs()

    with (
        watch.heartbeats(ledger, lease),
        watch.signals(),
        watch.depending_on(fails_once, DependencyError("it has ended")),
    ):
        wait_for_looks(runs)
        watch.check()
    assert watch.failure is None


@pytest.mark.parametrize("before", [True, False])
def test_an_error_has_a_cause_where_what_the_work_depends_on_has_ended(before: bool):
    """Also one that comes before the next look; but not where it ends only when the work is over."""
    runs = threading.Event()
    runs.set()
    watch, failure = Watch(), DependencyError("it has ended")
    with contextlib.suppress(ValueError), watch.depending_on(runs.is_set, failure):
        if before:
            runs.clear()
        raise ValueError
    runs.clear()
    assert watch.failure is (failure if before else None)


def wait_for_heartbeats(ledger: Ledger, lease: Lease) -> None:
    before, limit = ledger.jobs.get(lease.job).spent, time.monotonic() + _PATIENCE
    while ledger.jobs.get(lease.job).spent < before + 0.5 and time.monotonic() < limit:
        time.sleep(0.01)


def wait_for_looks(runs: Runs) -> None:
    looks, limit = runs.looks, time.monotonic() + _PATIENCE
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
    runs, watch = Runs(runs=True), Watch()
    with watch.heartbeats(ledger, lease), watch.signals():
        with watch.depending_on(runs, DependencyError("it has ended")):
            wait_for_looks(runs)
            runs.runs = False
        watch.check()
        wait_for_heartbeats(ledger, lease)
        watch.check()
    assert watch.failure is None


def test_work_that_ends_with_an_error_is_not_interrupted_besides(ledger: Ledger, lease: Lease):
    watch, failure = Watch(), DependencyError("it has ended")
    with watch.heartbeats(ledger, lease), watch.signals():
        with pytest.raises(ValueError, match="it broke"), watch.depending_on(lambda: False, failure):
            raise ValueError("it broke")
        wait_for_heartbeats(ledger, lease)
    assert watch.failure is failure


def test_an_interrupt_that_is_not_heard_is_repeated_with_the_heartbeats(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    """Ray answers SIGTERM itself while it starts and stops, where it must not be torn apart."""
    looks: list[None] = []
    raised: list[int] = []
    monkeypatch.setattr(watch_module._thread, "interrupt_main", lambda _number: raised.append(len(looks)))
    watch = Watch()
    watch._look = lambda: looks.append(None)
    ledger.jobs.cancel(lease.job)
    limit = time.monotonic() + _PATIENCE
    with watch.heartbeats(ledger, lease):
        while len(raised) < 3 and time.monotonic() < limit:
            time.sleep(0.01)
    first, second, third = raised[:3]
    assert second - first == third - second == watch_module._LOOKS_PER_HEARTBEAT


def test_in_another_thread_the_next_check_is_the_interrupt(ledger: Ledger, lease: Lease):
    """Nobody may interrupt the main thread, which does something else."""
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the main thread was interrupted"))
    ended = []

    def work() -> None:
        watch, limit = Watch(), time.monotonic() + _PATIENCE
        with watch.heartbeats(ledger, lease), watch.signals():
            ledger.jobs.cancel(lease.job)
            try:
                while time.monotonic() < limit:
                    watch.check()
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
def test_what_ends_with_the_work_is_no_cause(noticed: bool):
    """Who stops a service signals all of its processes."""
    runs = threading.Event()
    runs.set()
    watch = Watch()
    with (
        contextlib.suppress(KeyboardInterrupt),
        watch.signals(),
        watch.depending_on(runs.is_set, DependencyError("it has ended")),
        watch.notice(lambda: None) if noticed else contextlib.nullcontext(),
    ):
        runs.clear()
        signal.raise_signal(signal.SIGTERM)
    assert watch.failure is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_being_stored_is_finished_first(number: signal.Signals):
    watch = Watch()
    before = signal.getsignal(number)
    stored = []

    def store() -> None:
        signal.raise_signal(number)
        stored.append(number)

    with watch.signals():
        with pytest.raises(KeyboardInterrupt), watch.undisturbed():
            store()
        with pytest.raises(KeyboardInterrupt), watch.undisturbed():
            pytest.fail("something was begun after the interrupt")
    assert stored
    assert signal.getsignal(number) is before


def test_a_signal_is_noticed_before_it_interrupts():
    watch = Watch()
    left = []
    with watch.signals():
        with watch.notice(lambda: left.append(watch.leaving)):
            watch.check()
            assert not watch.leaving
            signal.raise_signal(signal.SIGTERM)
            assert (left, watch.leaving) == ([True], True)
            with watch.undisturbed():
                pass  # what comes in meanwhile is stored
        with pytest.raises(KeyboardInterrupt):
            watch.check()


def test_a_second_signal_interrupts_at_once():
    watch = Watch()
    with watch.signals(), watch.notice(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_notice_is_over_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch_module, "_NOTICE_SECONDS", -1.0)
    watch = Watch()
    with watch.signals(), watch.notice(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            watch.check()


def test_what_leaves_no_time_interrupts_in_spite_of_a_notice(ledger: Ledger, lease: Lease):
    watch = Watch()
    ledger.jobs.cancel(lease.job)
    with (
        pytest.raises(KeyboardInterrupt),
        watch.heartbeats(ledger, lease),
        watch.signals(),
        watch.notice(lambda: pytest.fail("it was told to leave in time")),
    ):
        wait_for_the_interrupt()


def test_a_main_thread_that_does_not_turn_is_noticed(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(watch_module, "_TURN_SECONDS", 0.5)
    noticed = threading.Event()
    watch = Watch(on_hang=noticed.set)
    with watch.heartbeats(ledger, lease):
        assert not noticed.wait(1.0), "Ray starts and the model is probed before the first turn"
        with watch.notice(lambda: None):
            assert noticed.wait(_PATIENCE)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert "MainThread" in message
    assert "noticed.wait(_PATIENCE)" in message


def test_one_that_turns_does_not_hang(ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch_module, "_TURN_SECONDS", 0.5)
    noticed = threading.Event()
    watch = Watch(on_hang=noticed.set)
    beats = ledger.jobs.get(lease.job).spent
    limit = time.monotonic() + _PATIENCE
    with watch.heartbeats(ledger, lease), watch.notice(lambda: None):
        while ledger.jobs.get(lease.job).spent < beats + 1.0 and time.monotonic() < limit:
            watch.check()
            time.sleep(0.01)
    assert not noticed.is_set()


def test_one_that_does_not_stop_is_noticed(ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch_module, "_STOP_SECONDS", 0.5)
    noticed = threading.Event()
    watch = Watch(on_hang=noticed.set)
    with watch.heartbeats(ledger, lease), watch.signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert noticed.wait(_PATIENCE)


def test_a_notice_that_nobody_heeds_is_an_interrupt(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    """As where the main thread waits for something, and does not come by `check`."""
    monkeypatch.setattr(watch_module, "_NOTICE_SECONDS", 0.1)
    watch = Watch()
    with (
        pytest.raises(KeyboardInterrupt),
        watch.heartbeats(ledger, lease),
        watch.signals(),
        watch.notice(lambda: None),
    ):
        wait_for_the_interrupt(lambda: signal.raise_signal(signal.SIGTERM))
