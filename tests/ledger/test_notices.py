"""Notices to webhooks in the ledger, on every kind of database."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from anon_tune.errors import DependencyError
from anon_tune.ledger import Ledger
from anon_tune.ledger.database import open_database
from anon_tune.ledger.tables import NOTICES, WEBHOOKS
from anon_tune.records import JobState
from tests.ledger.test_ledger import at_once

HOOK, OTHER = "a" * 64, "b" * 64

Age = Callable[[sa.Table, str, float], None]


@pytest.fixture
def age(database_url: str, ledger: Ledger) -> Iterator[Age]:
    """Sets a time of all rows of a table so many seconds back."""
    engine = open_database(database_url)

    def set_back(table: sa.Table, column: str, seconds: float) -> None:
        moment = ledger.overviews.time() - datetime.timedelta(seconds=seconds)
        with engine.begin() as connection:
            connection.execute(sa.update(table).values({column: moment}))

    yield set_back
    engine.dispose()


def end(ledger: Ledger, state: JobState = JobState.SUCCEEDED, reason: str | None = None) -> str:
    job = ledger.jobs.create("x", {}, {}).id
    ledger.leases.release(ledger.leases.acquire(job, "me", 60.0), state, reason)
    return job


def test_nothing_is_stored_for_nobody(ledger: Ledger):
    end(ledger)
    ledger.notices.expect([HOOK])
    assert ledger.notices.take([HOOK]) is None


def test_each_webhook_gets_a_notice_of_an_end_a_failure_and_a_pause_without_a_request(ledger: Ledger):
    ledger.notices.expect([HOOK, OTHER])
    wanted = [
        (end(ledger, JobState.SUCCEEDED), JobState.SUCCEEDED, None),
        (end(ledger, JobState.FAILED, "no data"), JobState.FAILED, "no data"),
        (end(ledger, JobState.PAUSED, "three trials failed"), JobState.PAUSED, "three trials failed"),
    ]
    cancelled = ledger.jobs.create("x", {}, {}).id
    ledger.jobs.cancel(cancelled)
    wanted.append((cancelled, JobState.CANCELLED, "cancel requested"))

    end(ledger, JobState.QUEUED, "its worker was stopped")
    ledger.jobs.pause(ledger.jobs.create("x", {}, {}).id)
    held = ledger.jobs.create("x", {}, {}).id
    lease = ledger.leases.acquire(held, "me", 60.0)
    ledger.jobs.pause(held)
    ledger.leases.release(lease, JobState.PAUSED, "pause requested")

    for webhook in (HOOK, OTHER):
        found = []
        while (notice := ledger.notices.take([webhook])) is not None:
            assert (notice.webhook, notice.tries) == (webhook, 1)
            found.append((notice.job, notice.state, notice.reason))
        assert sorted(found) == sorted(wanted)


def test_a_change_that_is_rolled_back_has_no_notice(ledger: Ledger):
    ledger.notices.expect([HOOK])
    job = ledger.jobs.create("x", {}, {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)

    def fail() -> None:
        with ledger.transaction() as transaction:
            transaction.leases.release(lease, JobState.SUCCEEDED)
            raise DependencyError("the disk is full")

    with pytest.raises(DependencyError):
        fail()
    assert ledger.notices.take([HOOK]) is None


def test_one_sender_takes_a_notice_and_another_one_after_it_has_died(ledger: Ledger, age: Age):
    ledger.notices.expect([HOOK])
    end(ledger)
    taken = [notice for notice in at_once(lambda _: ledger.notices.take([HOOK])) if notice is not None]
    assert len(taken) == 1
    age(NOTICES, "due", 0.0)  # a minute later
    again = ledger.notices.take([HOOK])
    assert again is not None
    assert (again.id, again.tries) == (taken[0].id, 2)
    ledger.notices.sent(again)
    age(NOTICES, "due", 0.0)
    assert ledger.notices.take([HOOK]) is None


def test_a_notice_that_nobody_takes_is_given_up_after_a_day(ledger: Ledger, age: Age):
    ledger.notices.expect([HOOK])
    end(ledger)
    notice = ledger.notices.take([HOOK])
    assert notice is not None
    assert ledger.notices.failed(notice, 0.0)
    age(NOTICES, "created", 24 * 3600 + 1.0)
    notice = ledger.notices.take([HOOK])
    assert notice is not None
    assert not ledger.notices.failed(notice, 0.0)
    assert ledger.notices.take([HOOK]) is None


def test_a_webhook_that_nobody_sends_to_is_forgotten(ledger: Ledger, age: Age):
    assert set(at_once(lambda _: ledger.notices.expect([HOOK]))) == {None}
    end(ledger)
    age(WEBHOOKS, "seen", 7 * 24 * 3600 + 1.0)
    ledger.notices.expect([OTHER])
    end(ledger)
    assert ledger.notices.take([HOOK]) is None
    assert ledger.notices.take([OTHER]) is not None
