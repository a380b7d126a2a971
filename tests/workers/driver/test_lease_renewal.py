"""Renewal of a lease, and what its holder learns from the ledger meanwhile."""

from __future__ import annotations

import threading
import time

import pytest

from anon_tune.errors import DatabaseUnavailableError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import ControlSignal, JobState
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from tests.workers.driver.watching import PATIENCE, Watched, wait_for_the_interrupt


def test_the_first_heartbeat_response_comes_at_once(ledger: Ledger, lease: Lease):
    ledger.jobs.pause(lease.job)
    renewal = LeaseRenewal(ledger, lease)
    with renewal.running():
        assert renewal.response.request is ControlSignal.PAUSE
        assert renewal.response.budget == {"trials": 3}


def test_a_pause_and_a_larger_budget_do_not_interrupt(ledger: Ledger, lease: Lease):
    watched = Watched(ledger, lease)
    with watched.running():
        ledger.jobs.extend(lease.job, 5)
        ledger.jobs.pause(lease.job)
        limit = time.monotonic() + PATIENCE
        while watched.renewal.response.request is None and time.monotonic() < limit:
            time.sleep(0.01)
        response = watched.renewal.response
        assert (response.request, response.budget) == (ControlSignal.PAUSE, {"trials": 5})
        assert response.spent > 0
        watched.shutdown.check()


def test_a_lease_that_is_lost_interrupts(ledger: Ledger, lease: Lease):
    watched = Watched(ledger, lease)
    with pytest.raises(KeyboardInterrupt), watched.running():
        wait_for_the_interrupt(lambda: ledger.leases.release(lease, JobState.QUEUED))
    assert watched.renewal.lost


def test_a_lease_that_was_lost_before_is_not_worked_under(ledger: Ledger, lease: Lease):
    ledger.leases.release(lease, JobState.QUEUED)
    with pytest.raises(LeaseLostError), LeaseRenewal(ledger, lease).running():
        pytest.fail("the work began")


def test_a_lease_is_renewed_no_more_once_its_holder_hangs(ledger: Ledger, lease: Lease):
    """Another process can take the job then."""
    renewal = LeaseRenewal(ledger, lease)
    with renewal.running():
        renewal.stop()
        limit = time.monotonic() + PATIENCE
        record = ledger.jobs.get(lease.job).lease
        while record is not None and record.alive and time.monotonic() < limit:
            time.sleep(0.05)
            record = ledger.jobs.get(lease.job).lease
        assert record is not None
        assert not record.alive
        ledger.leases.acquire(lease.job, "another", 60.0)
    assert not renewal.lost


def test_a_heartbeat_that_is_never_answered_ends_the_work_all_the_same(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    """As where the database is frozen: the thread that renews the lease waits, and another one notices."""
    watched, answered = Watched(ledger, lease), threading.Event()

    def freeze() -> None:
        monkeypatch.setattr(ledger.leases, "heartbeat", lambda _: answered.wait(PATIENCE))

    def wait_until_interrupted() -> None:
        try:
            wait_for_the_interrupt(freeze)
        finally:
            answered.set()  # `running` waits for that thread

    with pytest.raises(KeyboardInterrupt), watched.running():
        wait_until_interrupted()
    assert isinstance(watched.renewal.expired, DatabaseUnavailableError)
    assert "could not be renewed for 0.5 s" in str(watched.renewal.expired)


def test_a_lease_that_is_renewed_late_has_not_run_out(ledger: Ledger, lease: Lease):
    """A process that was suspended for longer than its lease first asks whether it still has it."""
    renewal = LeaseRenewal(ledger, lease)
    renewal.renew()
    for _ in range(3):
        for _ in range(20):
            assert renewal._look()
        renewal.renew()
    assert renewal.expired is None
