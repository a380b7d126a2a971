"""Deletion of jobs and of stored code, on every kind of database."""

from __future__ import annotations

import datetime

import pytest
import sqlalchemy as sa

from anon_tune.errors import NotFoundError, QuotaError, TransitionError
from anon_tune.ledger import Ledger, archives, jobs
from anon_tune.ledger.jobs import SubmissionKey
from anon_tune.ledger.tables import METADATA
from anon_tune.records import Deletion, JobState, NewTrial, Phase, TrialState
from tests.ledger.test_ledger import LONG

MOST = 10**6
A, B = "a" * 64, "b" * 64


def worked_on(ledger: Ledger, **options: object) -> str:
    """Return a PAUSED job with rows in every table."""
    job = ledger.jobs.create("x", {"budget": {}}, {}, **options).id  # type: ignore[arg-type]
    lease = ledger.leases.acquire(job, "me", LONG)
    trial = ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, 0, 0, {}, {})).id
    ledger.attempts.start(lease, trial)
    ledger.trials.report(lease, trial, 1, 1, 1.0, {})
    ledger.trials.finish(lease, trial, TrialState.COMPLETE, 1.0)
    ledger.projections.set(job, job, "run")
    ledger.projections.set(job, trial, "another run")
    with pytest.raises(TransitionError, match=f"anon-tune cancel {job}"):
        ledger.jobs.delete(job)
    ledger.leases.release(lease, JobState.PAUSED)
    return job


def rows(ledger: Ledger) -> dict[str, int]:
    with ledger._engine.connect() as connection:
        return {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for name, table in METADATA.tables.items()
        }


def test_a_job_goes_with_all_its_rows_and_leaves_others(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    ledger.archives.store(A, b"code", "me", MOST)
    kept = worked_on(ledger, code=A)
    before = rows(ledger)
    job = worked_on(ledger, code=A, owner="me", submission=SubmissionKey("me", "key", "digest"))
    with pytest.raises(TransitionError, match="is PAUSED"):
        ledger.jobs.delete(job, only_ended=True)
    assert ledger.jobs.delete(job) == Deletion(job, 1, False, "run")
    assert rows(ledger) == {**before, "deleted_jobs": 1, "audit": before["audit"] + 2}
    assert ledger.jobs.deleted() == {job}
    for again in (lambda: ledger.jobs.delete(job), lambda: ledger.jobs.get(job)):
        with pytest.raises(NotFoundError):
            again()
    for write in (lambda: ledger.projections.set(job, job, "run"), lambda: ledger.projections.announce(job)):
        with pytest.raises(NotFoundError):  # a projector that has not noticed yet
            write()
    ids = iter([job, "newnew"])
    monkeypatch.setattr(jobs, "short_id", lambda: next(ids))
    assert ledger.jobs.create("x", {}, {}).id == "newnew", (
        "its files would be deleted as those of the old one"
    )
    ledger.jobs.cancel(kept)
    assert ledger.jobs.delete(kept, only_ended=True).code
    with pytest.raises(NotFoundError, match="Send it first"):
        ledger.jobs.create("x", {}, {}, code=A)


def test_stored_code_has_a_quota(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    ledger.archives.store(A, b"1234", "me", 6)
    ledger.archives.store(A, b"1234", "me", 6)
    assert ledger.archives.size() == 4
    used = ledger.jobs.create("x", {}, {}, code=A).id
    with pytest.raises(QuotaError, match="anon-tune delete"):
        ledger.archives.store(B, b"123", "me", 6)
    ledger.archives.store(B, b"12", "me", 6)
    monkeypatch.setattr(archives, "_UNUSED", -datetime.timedelta(days=1))  # as if a day had passed
    ledger.archives.store("c" * 64, b"12", "me", 6)
    with pytest.raises(NotFoundError):
        ledger.archives.get(B)
    assert ledger.archives.get(A) == b"1234", "a job uses it"
    assert ledger.jobs.delete(used).code
    assert ledger.archives.size() == 2
    assert ledger.overviews.size() > 0
