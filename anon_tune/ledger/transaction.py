"""Transactions: every operation of the ledger runs in one of its own or in one that the caller began."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa

from anon_tune.errors import LeaseLostError
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.rows import no_such_job
from anon_tune.ledger.tables import JOBS

__all__ = ["Lease", "LockedJob", "SeparateTransactions", "Transaction", "Transactions"]

# Executed for every report: building a statement takes longer than executing it.
_LEASE = (
    sa.select(JOBS.c.lease_token, JOBS.c.lease_holder)
    .where(JOBS.c.id == sa.bindparam("of_job"))
    .with_for_update()
)


@dataclass(frozen=True)
class Lease:
    """The right to write about a job, until `seconds` after the last heartbeat.

    Attributes:
        job: Id of the job.
        holder: Name of the process that holds it, for people.
        token: Fencing token. It grows by one each time the job is acquired; a write with an older one is refused.
        seconds: Time for which the lease lasts without a heartbeat.
    """

    job: str
    holder: str
    token: int
    seconds: float


@dataclass(frozen=True)
class LockedJob:
    """A job whose row is locked until the transaction ends.

    Attributes:
        row: Its row.
        now: The database's time (UTC), read after the lock was granted.
        is_held: Whether a process holds its lease and the lease has not run out.
    """

    row: sa.RowMapping
    now: datetime.datetime
    is_held: bool


class Transactions(Protocol):
    """Source of the transaction that an operation runs in."""

    def read(self) -> AbstractContextManager[Transaction]:
        """Return a transaction to read one snapshot of the database."""

    def write(self) -> AbstractContextManager[Transaction]:
        """Return a transaction to read and write in."""


class Transaction:
    """One open transaction. As `Transactions` it returns itself, so that operations become part of it.

    It is used by one thread at a time, as its connection is.

    Attributes:
        connection: Its connection.
        again: Whether it repeats one whose outcome is unknown: what that one stored stands. The holder of a lease
            knows that nobody else has written since; only operations that take the lease heed it.
    """

    def __init__(self, connection: sa.Connection, *, again: bool = False) -> None:
        self.connection = connection
        self.again = again
        self._checked: dict[Lease, datetime.datetime] = {}

    def read(self) -> AbstractContextManager[Transaction]:
        """Return this transaction."""
        return contextlib.nullcontext(self)

    def write(self) -> AbstractContextManager[Transaction]:
        """Return this transaction."""
        return contextlib.nullcontext(self)

    def check_lease(self, lease: Lease) -> datetime.datetime:
        """Lock the job's row, check the fencing token, and return the database's time (UTC).

        A lease is checked once per transaction: the lock keeps it valid until the end, and all its writes have the
        same time.

        Raises:
            LeaseLostError: Another process holds the job, or none does.
        """
        if lease not in self._checked:
            token, holder = self.connection.execute(_LEASE, {"of_job": lease.job}).first() or (None, None)
            if token != lease.token or holder is None:
                raise LeaseLostError(
                    f"The lease on job {lease.job} {f'was taken over by {holder}' if holder else 'has ended'}. "
                    "This process stops; no results are lost."
                )
            self._checked[lease] = database_time(self.connection)
        return self._checked[lease]

    def lock_job(self, job_id: str) -> LockedJob:
        """Lock a job's row and return it. Raises NotFoundError."""
        query = sa.select(JOBS).where(JOBS.c.id == job_id).with_for_update()
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise no_such_job(job_id)
        now = database_time(self.connection)
        return LockedJob(row, now, row["lease_expires"] is not None and row["lease_expires"] > now)


class SeparateTransactions:
    """Source of separate transactions, one for each operation."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """Begin a read-only transaction, and end it after the block."""
        with read(self._engine) as connection:
            yield Transaction(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """Begin a transaction, and commit it unless the block raises an error."""
        with write(self._engine) as connection:
            yield Transaction(connection)
