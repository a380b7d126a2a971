"""Deletion of jobs, and of code that no job uses; each function is part of the caller's transaction.

An id of a deleted job is kept: machines whose home has files of the job delete these later, and no new job gets it.
"""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from anon_tune.errors import NotFoundError
from anon_tune.ledger.tables import ATTEMPTS, CODE, DELETED, JOBS, PROJECTIONS, REPORTS, SUBMISSIONS, TRIALS
from anon_tune.records import Deletion

__all__ = ["delete_job", "is_deleted", "keep_code", "no_such_code", "remove_unused_code"]


def delete_job(connection: sa.Connection, row: sa.RowMapping, now: datetime.datetime) -> Deletion:
    """Delete a job whose row is locked, and its code unless another job uses it."""
    job_id, code = row["id"], row["code"]
    run = connection.execute(sa.select(PROJECTIONS.c.run).where(PROJECTIONS.c.subject == job_id)).scalar()
    trials = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id)
    for table in (REPORTS, ATTEMPTS):
        connection.execute(sa.delete(table).where(table.c.trial_id.in_(trials)))
    for table in (PROJECTIONS, SUBMISSIONS):
        connection.execute(sa.delete(table).where(table.c.job_id == job_id))
    count = connection.execute(sa.delete(TRIALS).where(TRIALS.c.job_id == job_id)).rowcount
    connection.execute(sa.delete(JOBS).where(JOBS.c.id == job_id))
    connection.execute(sa.insert(DELETED).values(id=job_id, deleted=now))
    removed = code is not None and remove_unused_code(connection, CODE.c.digest == code) > 0
    return Deletion(job_id, count, removed, run or None)


def is_deleted(connection: sa.Connection, job_id: str) -> bool:
    """Return whether a job of this id was deleted."""
    return connection.execute(sa.select(DELETED.c.id).where(DELETED.c.id == job_id)).first() is not None


def remove_unused_code(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
    """Delete those archives that no job uses, and return their number."""
    # Locked first, and looked for in the jobs by a later statement: `keep_code` waits, or is seen.
    query = sa.select(CODE.c.digest).where(which).with_for_update()
    found = connection.execute(query).scalars().all()
    used = sa.exists().where(JOBS.c.code == CODE.c.digest)
    return connection.execute(sa.delete(CODE).where(CODE.c.digest.in_(found), ~used)).rowcount


def keep_code(connection: sa.Connection, code: str) -> None:
    """Keep an archive from being deleted until the end of the transaction. Raises NotFoundError."""
    query = sa.select(CODE.c.digest).where(CODE.c.digest == code).with_for_update(read=True)
    if connection.execute(query).first() is None:
        raise no_such_code(code)


def no_such_code(code: str) -> NotFoundError:
    """Return the error for an unknown archive."""
    return NotFoundError(f"There is no code archive {code!r}. Send it first.")
